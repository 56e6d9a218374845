-- Who may see and do what.
--
-- A signed-in member reads the rows of their countries. Nobody writes a table through the API: the verbs do (they run as
-- their owner), and only service_role may execute them. Accounts and members are kept by the project's owner in SQL.
-- Tables that concern no reader (keys, leases, throttles, raw webhooks) have row level security and no policy.

-- The countries of the caller. Security definer because members itself is protected; run once per statement by the policies.
create or replace function whatsapp_internal.my_countries() returns setof text
language sql stable security definer parallel safe set search_path = ''
as $$
  select country_id from whatsapp.members where user_id = (select auth.uid())
$$;
revoke all on function whatsapp_internal.my_countries() from public, anon, authenticated, service_role;
grant execute on function whatsapp_internal.my_countries() to authenticated;

-- Opens a table to members: they read the rows of their countries, the server reads all, nobody writes.
create or replace function whatsapp_internal.let_members_read(p_table text) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  execute format('alter table whatsapp.%I enable row level security', p_table);
  execute format('revoke all on whatsapp.%I from public, anon, authenticated, service_role', p_table);
  execute format('grant select on whatsapp.%I to authenticated, service_role', p_table);
  execute format(
    'create policy members_read on whatsapp.%I for select to authenticated
       using (country_id = any (array(select whatsapp_internal.my_countries())))', p_table);
end
$$;
revoke all on function whatsapp_internal.let_members_read(text) from public, anon, authenticated, service_role;

do $$
declare
  name text;
begin
  for name in select tablename from pg_catalog.pg_tables where schemaname = 'whatsapp' loop
    execute format('alter table whatsapp.%I enable row level security', name);
    execute format('revoke all on whatsapp.%I from public, anon, authenticated, service_role', name);
    execute format('grant select on whatsapp.%I to service_role', name);
  end loop;
  foreach name in array array['accounts', 'contacts', 'conversations', 'templates', 'messages', 'message_events', 'queue', 'lanes'] loop
    perform whatsapp_internal.let_members_read(name);
  end loop;
end
$$;

grant select on whatsapp.members to authenticated;
create policy own_memberships on whatsapp.members for select to authenticated using (user_id = (select auth.uid()));

revoke all on all sequences in schema whatsapp from public, anon, authenticated, service_role;

-- Messages by their ids alone, for the server: in each country by the key. Without a country Postgres would read the log from end to end.
create or replace function whatsapp.find_messages(p_ids uuid[]) returns jsonb
language sql stable security definer set search_path = ''
as $$
  select coalesce(jsonb_agg(to_jsonb(m) - 'content'), '[]')
  from (select distinct a.country_id from whatsapp.accounts a) c
  cross join unnest(p_ids) as i (message_id)
  cross join lateral (
    select m.* from whatsapp.messages m where m.country_id = c.country_id and m.message_id = i.message_id limit 1
  ) m
$$;
comment on function whatsapp.find_messages is 'The messages with these ids, of all countries, without their content. What a member may see is read from the table.';
revoke all on function whatsapp.find_messages(uuid[]) from public, anon, authenticated;
grant execute on function whatsapp.find_messages(uuid[]) to service_role;

-- The clock by which ids are made.
create or replace function whatsapp.clock() returns jsonb
language sql volatile security definer set search_path = ''
as $$ select jsonb_build_object('now', clock_timestamp()) $$;
comment on function whatsapp.clock is 'The time of this database: its ids begin with it, whatever the clocks of the functions say.';
revoke all on function whatsapp.clock() from public, anon, authenticated;
grant execute on function whatsapp.clock() to service_role;
