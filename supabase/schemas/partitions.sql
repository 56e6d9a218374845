-- Partitions: what grows with every message lies by time. What is written now touches the youngest partition alone, and what is old is dropped: a month of
-- millions costs no more than one of ten.
--
--   messages, message_events, campaign_people   by month, on the UUIDv7 they begin with (of a message, of a campaign)
--   wamids                                      by week
--   webhook_events                              by day
--
-- They are made ahead by sweep (job `partitions`) and dropped by it (job `retention`). Each table has a partition `…_rest` for what fits no other: the
-- past of a country that moves in, an event without a time, a day that nobody made ahead. What lies there is found as everything else, and deleted
-- row by row.
--
-- Partitions live in whatsapp_internal, which the Data API does not expose, with row level security and without a grant: whoever may read, reads through
-- the table and its policies.
--
-- How long messages are kept is said in `retention`, a row a country; without a row, for ever. A month is dropped once every country's time is over for it.
-- Where a country keeps less than the longest, sweep deletes its rows one by one.

-- ── Keys ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

-- Meta's id of a message of an account, as wamids knows it.
create or replace function whatsapp_internal.digest_of(account_id text, wamid text) returns uuid
language sql immutable parallel safe
return md5(account_id || ' ' || wamid)::uuid;

-- The day of an event by Meta's clock: the same for each repetition, hence not cut at now(). What tells no time that can be is of no day.
create or replace function whatsapp_internal.day_of(seconds double precision) returns date
language sql stable parallel safe
return case when seconds between 1 and extract(epoch from now() + interval '1 day') then (to_timestamp(seconds) at time zone 'UTC')::date
  else date 'epoch' end;

create or replace function whatsapp_internal.today() returns date
language sql stable parallel safe
return (now() at time zone 'UTC')::date;

create or replace function whatsapp_internal.week_of(day date) returns date
language sql immutable parallel safe
return day - (extract(isodow from day)::integer - 1);

-- ── Partitions ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

-- The tables in partitions: by which column, in which steps, made how far ahead, and how a partition's pages are kept. A message is written once and
-- changed five times before it rests: a new version finds room on its page while the page is young, so no index hears of it (HOT).
create or replace function whatsapp_internal.log_tables(
  out name text, out key text, out step interval, out ahead interval, out storage text
) returns setof record
language sql immutable
as $$
  values
    ('messages', 'message_id', interval '1 month', interval '2 months', 'with (fillfactor = 45, autovacuum_vacuum_scale_factor = 0.02)'),
    ('message_events', 'message_id', '1 month', '2 months', ''),
    ('campaign_people', 'campaign_id', '1 month', '2 months', ''),
    ('wamids', 'week', '7 days', '14 days', ''),
    ('webhook_events', 'day', '1 day', '3 days', '')
$$;

-- The least UUIDv7 of a moment (ground.sql).
create or replace function whatsapp_internal.uuid7_from(at timestamptz) returns uuid
language sql stable parallel safe
return (
  overlay(lpad(to_hex(floor(extract(epoch from at) * 4096000)::bigint), 15, '0') placing '7' from 13 for 0) || '0000000000000000'
)::uuid;

-- The first day of the partition in which a moment lies.
create or replace function whatsapp_internal.first_day(step interval, at timestamptz) returns date
language sql immutable parallel safe
return case step when interval '1 month' then date_trunc('month', at at time zone 'UTC')::date when interval '7 days'
  then date_trunc('week', at at time zone 'UTC')::date else (at at time zone 'UTC')::date end;

-- Where a partition begins or ends, as its key has it.
create or replace function whatsapp_internal.bound(key text, day date) returns text
language sql stable parallel safe
return case when key like '%\_id' then whatsapp_internal.uuid7_from(day::timestamp at time zone 'UTC')::text else day::text end;

-- Makes the partitions that are missing from one moment to another, and `…_rest`. Answers how many. Where something of a partition lies in `…_rest`
-- already, it goes on lying there.
create or replace function whatsapp_internal.make_partitions(p_from timestamptz, p_until timestamptz default now()) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_table record;
  v_day date;
  v_name text;
  v_values text;
  v_taken boolean;
  v_made integer := 0;
begin
  for v_table in select * from whatsapp_internal.log_tables() loop
    v_day := null;
    loop
      v_name := v_table.name || coalesce(to_char(v_day, '_YYYY_MM_DD'), '_rest');
      if to_regclass('whatsapp_internal.' || v_name) is null then
        v_taken := false;
        v_values := 'default';
        if v_day is not null then
          v_values := format('for values from (%L) to (%L)',
            whatsapp_internal.bound(v_table.key, v_day), whatsapp_internal.bound(v_table.key, (v_day + v_table.step)::date));
          execute format('select exists (select from whatsapp_internal.%I where %I >= %L and %I < %L)', v_table.name || '_rest',
            v_table.key, whatsapp_internal.bound(v_table.key, v_day),
            v_table.key, whatsapp_internal.bound(v_table.key, (v_day + v_table.step)::date)) into v_taken;
        end if;
        if not v_taken then
          execute format('create table whatsapp_internal.%I partition of whatsapp.%I %s %s', v_name, v_table.name, v_values, v_table.storage);
          execute format('alter table whatsapp_internal.%I enable row level security', v_name);
          execute format('revoke all on whatsapp_internal.%I from public, anon, authenticated, service_role', v_name);
          v_made := v_made + 1;
        end if;
      end if;
      v_day := coalesce((v_day + v_table.step)::date, whatsapp_internal.first_day(v_table.step, p_from));
      exit when v_day > (p_until + v_table.ahead)::date;
    end loop;
  end loop;
  return v_made;
end
$$;

-- A new partition takes its table from everybody for a moment: what cannot have it at once comes again with the next sweep, long before it is needed.
create or replace function whatsapp_internal.sweep_partitions() returns integer
language plpgsql volatile set search_path = '' set lock_timeout = '500ms'
as $$
begin
  return whatsapp_internal.make_partitions(now());
end
$$;

-- How long the whole log is kept: as long as the country with the longest wish; null, for ever, if one wishes nothing.
create or replace function whatsapp_internal.longest_keep() returns interval
language sql stable set search_path = ''
as $$
  select case when bool_and(r.keep is not null) then max(r.keep) end
  from (select distinct a.country_id from whatsapp.accounts a where exists (select from whatsapp.retention)) a
  left join whatsapp.retention r on r.country_id = a.country_id
$$;

-- Drops the partitions whose time is over. A month of messages goes after that of their events; one of which something still waits to be sent stays.
create or replace function whatsapp_internal.drop_partitions(p_keep interval) returns integer
language plpgsql volatile set search_path = '' set lock_timeout = '500ms'
as $$
declare
  v_log constant interval := whatsapp_internal.longest_keep();
  v_partition record;
  v_dropped integer := 0;
begin
  for v_partition in
    select t.name as parent, c.relname as name, (t.step + to_date(right(c.relname, 10), 'YYYY_MM_DD'))::date as ends
    from whatsapp_internal.log_tables() t
    join pg_catalog.pg_inherits i on i.inhparent = format('whatsapp.%I', t.name)::regclass
    join pg_catalog.pg_class c on c.oid = i.inhrelid and c.relname not like '%\_rest'
    order by t.name = 'messages', c.relname
  loop
    continue when coalesce(v_partition.ends > (now() - case v_partition.parent
      when 'webhook_events' then p_keep when 'wamids' then interval '45 days' else v_log end)::date, true);
    if v_partition.parent = 'messages' then
      continue when exists (
        select from whatsapp.queue q where q.message_id < whatsapp_internal.uuid7_from(v_partition.ends::timestamp at time zone 'UTC'));
      -- What refers to messages refers to all of them: it lets go of a partition, not of its rows.
      execute format('alter table whatsapp.messages detach partition whatsapp_internal.%I', v_partition.name);
    end if;
    execute format('drop table whatsapp_internal.%I', v_partition.name);
    v_dropped := v_dropped + 1;
  end loop;
  return v_dropped;
end
$$;

-- Deletes messages that no drop takes along, the oldest first: of countries that keep less than the longest, and what lies in `…_rest`. What still waits to
-- be sent stays.
create or replace function whatsapp_internal.forget_messages(p_limit integer) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_longest constant interval := whatsapp_internal.longest_keep();
  v_country record;
  v_ids uuid[];
  v_removed integer := 0;
begin
  for v_country in
    select r.country_id, whatsapp_internal.uuid7_from(now() - r.keep) as before, r.keep is not distinct from v_longest as longest
    from whatsapp.retention r order by 1
  loop
    if v_country.longest then
      v_ids := array(
        select m.message_id from whatsapp_internal.messages_rest m
        where m.country_id = v_country.country_id and m.message_id < v_country.before
          and not exists (select from whatsapp.queue q where q.country_id = m.country_id and q.message_id = m.message_id)
        order by m.message_id limit p_limit for update of m skip locked);
    else
      v_ids := array(
        select m.message_id from whatsapp.messages m
        where m.country_id = v_country.country_id and m.message_id < v_country.before
          and not exists (select from whatsapp.queue q where q.country_id = m.country_id and q.message_id = m.message_id)
        order by m.message_id limit p_limit for update of m skip locked);
    end if;
    delete from whatsapp.message_events e where e.country_id = v_country.country_id and e.message_id = any (v_ids);
    delete from whatsapp.campaign_people p
    using unnest(v_ids) i
    cross join lateral (
      select m.campaign_id, m.contact_id from whatsapp.messages m where m.country_id = v_country.country_id and m.message_id = i limit 1
    ) m
    where p.country_id = v_country.country_id and p.campaign_id = m.campaign_id and p.contact_id = m.contact_id and p.message_id = i;
    delete from whatsapp.messages m where m.country_id = v_country.country_id and m.message_id = any (v_ids);
    v_removed := v_removed + cardinality(v_ids);
  end loop;
  return v_removed;
end
$$;

create or replace function whatsapp_internal.sweep_old(p_limit integer, p_keep interval) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_removed integer;
begin
  with events as (
    delete from whatsapp_internal.webhook_events_rest w
    where (w.country_id, w.event_key, w.day) in (
      select country_id, event_key, day from whatsapp_internal.webhook_events_rest where received_at < now() - p_keep
      order by received_at limit p_limit for update skip locked)
    returning 1
  ),
  statuses as (
    delete from whatsapp.parked_statuses p
    where (p.country_id, p.event_key) in (
      select country_id, event_key from whatsapp.parked_statuses where received_at < now() - p_keep
      order by received_at limit p_limit for update skip locked)
    returning 1
  ),
  names as (
    delete from whatsapp_internal.wamids_rest w
    where (w.country_id, w.digest, w.week) in (
      select country_id, digest, week from whatsapp_internal.wamids_rest where message_id < whatsapp_internal.uuid7_from(now() - interval '45 days')
      order by message_id limit p_limit for update skip locked)
    returning 1
  ),
  keys as (
    delete from whatsapp.idempotency_keys k
    where (k.country_id, k.scope, k.key) in (
      select country_id, scope, key from whatsapp.idempotency_keys where created_at < now() - interval '7 days'
      order by created_at limit p_limit for update skip locked)
    returning 1
  )
  select (select count(*) from events) + (select count(*) from statuses) + (select count(*) from names) + (select count(*) from keys) into v_removed;
  return v_removed + whatsapp_internal.forget_messages(p_limit) + whatsapp_internal.drop_partitions(p_keep);
end
$$;

select whatsapp_internal.make_partitions(now());
create index if not exists webhook_events_rest_age on whatsapp_internal.webhook_events_rest (received_at);
create index if not exists wamids_rest_age on whatsapp_internal.wamids_rest (message_id);
