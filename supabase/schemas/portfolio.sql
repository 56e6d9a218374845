-- Meta's messaging limit: how many different people a business portfolio may write to first, that is outside an open 24-hour window, in any
-- rolling 24 hours (250, 2,000, 10,000, 100,000, unlimited). Meta counts over all numbers of the portfolio, whatever their country.
-- Source: M:messaging-limits.
--
-- Meta tells the limit (templates-sync, webhooks) but not how much of it is used, so it is counted here, at the moment of the lease:
--   portfolio_people   the minute in which each person was last written to
--   portfolio_minutes  how many people each minute stands for; their sum over 24 hours is what is used, without counting people one by one
-- A minute counts until it lies 24 hours back as a whole: up to a minute more careful than Meta, never less. Who was counted and then not
-- reached stays counted.
--
-- The one place where the house rule "country_id leads every key" cannot hold: the limit stands above countries. So that nothing of a person
-- crosses a border here, a person is a digest, and nobody reads these tables.

create table whatsapp_internal.portfolio_people (
  portfolio text not null,
  person uuid not null,
  minute timestamptz not null,
  primary key (portfolio, person)
) with (fillfactor = 80);
create index portfolio_people_age on whatsapp_internal.portfolio_people (minute);
alter table whatsapp_internal.portfolio_people enable row level security;
comment on table whatsapp_internal.portfolio_people is 'When a portfolio last wrote first to a person (a digest), to the minute.';

create table whatsapp_internal.portfolio_minutes (
  portfolio text not null,
  minute timestamptz not null,
  people integer not null,
  primary key (portfolio, minute)
) with (fillfactor = 50);
alter table whatsapp_internal.portfolio_minutes enable row level security;
comment on table whatsapp_internal.portfolio_minutes is 'How many people of portfolio_people a minute stands for.';

revoke all on whatsapp_internal.portfolio_people, whatsapp_internal.portfolio_minutes from public, anon, authenticated, service_role;

-- The last minute that no longer counts.
create or replace function whatsapp_internal.portfolio_horizon(p_at timestamptz) returns timestamptz
language sql stable parallel safe
return p_at - interval '24 hours 1 minute';

-- A person as portfolios know them.
create or replace function whatsapp_internal.person_of(match_key text, bsuid text) returns uuid
language sql immutable parallel safe
return md5(coalesce(match_key, bsuid))::uuid;

-- The limit of a portfolio; null is unlimited. The lowest that Meta told one of its accounts: an account that was told nothing, as one that has
-- just been added, says nothing of it. Where none was told, what Meta gives a new business.
create or replace function whatsapp_internal.portfolio_limit(p_portfolio text) returns integer
language sql stable parallel safe set search_path = ''
as $$
  select case when count(a.messaging_limit) = 0 then 250 else min(nullif(a.messaging_limit, -1)) end
  from whatsapp.accounts a where a.portfolio = p_portfolio
$$;

-- How many people may still be written to, and when the next one is freed; `room` is null where there is no limit. Whoever asks holds the
-- portfolio until the end of the transaction, so that claims for its numbers cannot spend the same room. Ask for portfolios in the order of
-- their names: no deadlocks.
create or replace function whatsapp_internal.portfolio_room(p_portfolio text, p_at timestamptz, out room bigint, out frees_at timestamptz)
language plpgsql volatile set search_path = ''
as $$
begin
  room := whatsapp_internal.portfolio_limit(p_portfolio);
  if room is null then
    return;
  end if;
  perform pg_advisory_xact_lock(hashtextextended('whatsapp.portfolio ' || p_portfolio, 0));
  select p.room, p.frees_at into room, frees_at from whatsapp_internal.portfolio_left(p_portfolio, p_at) p;
end
$$;

-- The same at a glance, for whoever spends nothing.
create or replace function whatsapp_internal.portfolio_left(p_portfolio text, p_at timestamptz, out room bigint, out frees_at timestamptz)
language plpgsql stable set search_path = ''
as $$
begin
  room := whatsapp_internal.portfolio_limit(p_portfolio);
  -- Where nothing is used yet, whoever has no room now is kept from it by those of this moment.
  select room - coalesce(sum(m.people), 0),
    coalesce(min(m.minute) filter (where m.people > 0), date_trunc('minute', p_at)) + interval '24 hours 1 minute'
  into room, frees_at
  from whatsapp_internal.portfolio_minutes m
  where m.portfolio = p_portfolio and m.minute > whatsapp_internal.portfolio_horizon(p_at);
end
$$;

-- These people are being written to. The caller holds the portfolio.
create or replace function whatsapp_internal.count_people(p_portfolio text, p_people uuid[], p_at timestamptz) returns void
language sql volatile set search_path = ''
as $$
  with known as materialized (
    select k.person, k.minute from whatsapp_internal.portfolio_people k
    where k.portfolio = p_portfolio and k.person = any (p_people)
  ),
  written as (
    insert into whatsapp_internal.portfolio_people as k (portfolio, person, minute)
    select p_portfolio, person, date_trunc('minute', p_at) from unnest(p_people) as p (person)
    on conflict (portfolio, person) do update set minute = excluded.minute where k.minute <> excluded.minute
  )
  insert into whatsapp_internal.portfolio_minutes as m (portfolio, minute, people)
  select p_portfolio, minute, sum(n)
  from (
    select date_trunc('minute', p_at) as minute, cardinality(p_people) as n
    union all
    select minute, -1 from known where minute > whatsapp_internal.portfolio_horizon(p_at)
  ) change
  group by minute having sum(n) <> 0
  on conflict (portfolio, minute) do update set people = m.people + excluded.people
$$;

-- Forgets who no longer counts, a piece at a time.
create or replace function whatsapp_internal.sweep_portfolios(p_limit integer) returns integer
language sql volatile set search_path = ''
as $$
  with people as (
    delete from whatsapp_internal.portfolio_people k
    where (k.portfolio, k.person) in (
      select portfolio, person from whatsapp_internal.portfolio_people
      where minute <= whatsapp_internal.portfolio_horizon(now()) limit p_limit for update skip locked)
    returning 1
  ),
  minutes as (
    delete from whatsapp_internal.portfolio_minutes m where m.minute <= whatsapp_internal.portfolio_horizon(now())
  )
  select count(*)::integer from people
$$;

-- Single messages that wait for the limit or for the end of quiet hours need not wait longer than these do: a limit that Meta raises, or quiet
-- hours that somebody changes, let them go. The most urgent first, as many as there is room for, and never more than p_limit at once.
create or replace function whatsapp_internal.sweep_held(p_limit integer) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_lane record;
  v_portfolio text;
  v_room bigint;
  v_freed integer;
  v_left integer := p_limit;
begin
  for v_lane in
    select a.portfolio, a.country_id, a.account_id, w.lane, w.reason,
      whatsapp_internal.quiet_end(a.time_zone, a.quiet_from, a.quiet_until, now()) is not null as quiet
    from whatsapp.accounts a
    cross join (values ('utility', 'messaging_limit'), ('marketing', 'messaging_limit'), ('marketing', 'quiet_hours')) as w (lane, reason)
    where exists (
      select from whatsapp.queue q
      where q.country_id = a.country_id and q.account_id = a.account_id and q.lane = w.lane and q.held_reason = w.reason)
    order by a.portfolio, w.lane desc, a.country_id, a.account_id
  loop
    exit when v_left < 1;
    if v_portfolio is distinct from v_lane.portfolio then
      v_portfolio := v_lane.portfolio;
      select coalesce(p.room, p_limit) into v_room from whatsapp_internal.portfolio_left(v_portfolio, now()) p;
    end if;
    continue when case v_lane.reason when 'quiet_hours' then v_lane.quiet else v_room < 1 end;
    update whatsapp.queue q set run_at = now(), held_reason = null
    where (q.country_id, q.message_id) in (
      select h.country_id, h.message_id from whatsapp.queue h
      where h.country_id = v_lane.country_id and h.account_id = v_lane.account_id and h.lane = v_lane.lane and h.held_reason = v_lane.reason
        and h.lease_id is null
      order by h.due_at
      limit case v_lane.reason when 'quiet_hours' then v_left else least(v_room, v_left) end
      for update skip locked);
    get diagnostics v_freed = row_count;
    v_left := v_left - v_freed;
    v_room := v_room - case v_lane.reason when 'quiet_hours' then 0 else v_freed end;
  end loop;
  return p_limit - v_left;
end
$$;

-- A campaign that waits for its limit or for the end of quiet hours is looked at anew when these are changed.
create or replace function whatsapp_internal.release_holds() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  -- A claim that still goes by what held before is waited for: it may be about to hold a lane.
  perform pg_advisory_xact_lock(hashtextextended('whatsapp.portfolio ' || p.portfolio, 0))
  from (
    select distinct c.portfolio
    from added n
    join removed o on o.country_id = n.country_id and o.account_id = n.account_id
    cross join lateral (values (n.portfolio), (o.portfolio)) as c (portfolio)
    where (n.messaging_limit, n.portfolio) is distinct from (o.messaging_limit, o.portfolio)
    order by 1
  ) p;
  update whatsapp.lanes l set held_until = null, held_reason = null
  from whatsapp.accounts a, added n, removed o
  where n.country_id = o.country_id and n.account_id = o.account_id and a.portfolio in (n.portfolio, o.portfolio)
    and (n.messaging_limit, n.portfolio, n.time_zone, n.quiet_from, n.quiet_until)
      is distinct from (o.messaging_limit, o.portfolio, o.time_zone, o.quiet_from, o.quiet_until)
    and l.country_id = a.country_id and l.account_id = a.account_id and l.held_until is not null;
  return null;
end
$$;
create or replace trigger lanes_follow after update on whatsapp.accounts
  referencing old table as removed new table as added for each statement execute function whatsapp_internal.release_holds();

-- Meta's word for a limit as a number: -1 is unlimited, null says nothing (TIER_NOT_SET, or a word not known here).
create or replace function whatsapp_internal.people_of_tier(tier text) returns integer
language sql immutable parallel safe
return case
  when tier in ('-1', 'UNLIMITED', 'TIER_UNLIMITED') then -1
  when tier ~ '^(TIER_)?[0-9]{1,6}$' then nullif(regexp_replace(tier, '\D', '', 'g')::integer, 0)
  when tier ~ '^TIER_[0-9]{1,6}K$' then regexp_replace(tier, '\D', '', 'g')::integer * 1000
end;

revoke all on all functions in schema whatsapp_internal from public, anon, authenticated, service_role;
grant execute on function whatsapp_internal.my_countries() to authenticated;
