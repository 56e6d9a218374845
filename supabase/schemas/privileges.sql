-- Who may see and do what: the last file, and the end of every migration.
--
-- A signed-in member reads the rows of their countries. Nobody writes a table through the API: the verbs do (they run as their owner), and only
-- service_role may execute them. Accounts and members are kept by the project's owner in SQL. Tables that concern no reader (keys, leases,
-- throttles, raw webhooks) have row level security and no policy.
--
-- All is taken from everybody first, as the catalogue lists it, and then granted: whatever is not named here gives nothing, whatever the project's
-- default privileges are. (Default privileges of our own could not do that: those of a schema only add to those of the role, which hold for
-- the project's other schemas as well.)

revoke all on schema whatsapp, whatsapp_internal from public, anon, authenticated, service_role;
revoke all on all tables in schema whatsapp, whatsapp_internal from public, anon, authenticated, service_role;
revoke all on all sequences in schema whatsapp, whatsapp_internal from public, anon, authenticated, service_role;
revoke all on all functions in schema whatsapp, whatsapp_internal from public, anon, authenticated, service_role;

grant usage on schema whatsapp to anon, authenticated, service_role;
grant usage on schema whatsapp_internal to authenticated;

-- The server reads every table and executes every verb.
grant select on all tables in schema whatsapp to service_role;
grant execute on all functions in schema whatsapp to service_role;

-- What policies ask, and a read that runs as its caller: row level security decides.
grant execute on function whatsapp_internal.my_countries() to authenticated;
grant execute on function whatsapp.campaign_progress(text, uuid) to authenticated;
grant select on whatsapp.message_story to authenticated;

do $$
declare
  v_table regclass;
begin
  -- Only where it is missing: it takes the whole table for a moment.
  for v_table in
    select oid from pg_catalog.pg_class
    where relnamespace in ('whatsapp'::regnamespace, 'whatsapp_internal'::regnamespace) and relkind in ('r', 'p') and not relrowsecurity
  loop
    execute format('alter table %s enable row level security', v_table);
  end loop;

  foreach v_table in array array[
    'whatsapp.accounts', 'whatsapp.contacts', 'whatsapp.consents', 'whatsapp.stop_words', 'whatsapp.conversations', 'whatsapp.templates',
    'whatsapp.messages', 'whatsapp.message_events', 'whatsapp.queue', 'whatsapp.lanes', 'whatsapp.campaigns', 'whatsapp.campaign_counts',
    'whatsapp.campaign_people']::regclass[]
  loop
    execute format('grant select on %s to authenticated', v_table);
    if not exists (select from pg_catalog.pg_policy where polrelid = v_table and polname = 'members_read') then
      execute format(
        'create policy members_read on %s for select to authenticated
           using (country_id = any (array(select whatsapp_internal.my_countries())))', v_table);
    end if;
  end loop;

  grant select on whatsapp.members to authenticated;
  if not exists (select from pg_catalog.pg_policy where polrelid = 'whatsapp.members'::regclass and polname = 'own_memberships') then
    create policy own_memberships on whatsapp.members for select to authenticated using (user_id = (select auth.uid()));
  end if;
end
$$;
