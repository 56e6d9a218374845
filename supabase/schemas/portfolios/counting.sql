-- What is used of Meta's messaging limit, counted at the moment of the lease (tables/portfolios.sql).

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

-- Meta's word for a limit as a number: -1 is unlimited, null says nothing (TIER_NOT_SET, or a word not known here).
create or replace function whatsapp_internal.people_of_tier(tier text) returns integer
language sql immutable parallel safe
return case
  when tier in ('-1', 'UNLIMITED', 'TIER_UNLIMITED') then -1
  when tier ~ '^(TIER_)?[0-9]{1,6}$' then nullif(regexp_replace(tier, '\D', '', 'g')::integer, 0)
  when tier ~ '^TIER_[0-9]{1,6}K$' then regexp_replace(tier, '\D', '', 'g')::integer * 1000
end;
