-- sweep: bring home what was left lying about. It is a list of jobs, each bounded, so that a call is short; callers repeat it while it has
-- work. Each job stands by itself: one that fails is undone, named and told to Postgres' log, and stops no other. The drainer calls them one by
-- one, beside its claims, so that not even a slow one keeps anything waiting.
--
--   leases       that ran out: what was posted nobody knows. It is unknown, unless a status webhook has already told; what its drainer had not
--                announced goes back to the queue
--   unknowns     past their deadline: no status came although the account's webhooks are alive after it: proved unsent as well as it can be. A reply or a utility message goes back to the queue once (account.unknown_policy), everything else ends as
--                failed: outcome_unknown, for a person to decide. If the feed is silent, it waits on, a day at the most
--   accounts     paused until a time that has come are active again; throttled numbers regain their rate
--   campaigns    started, completed, paused for their failures (campaigns/sweep_campaigns.sql)
--   due          scheduled messages whose time has come are shown as queued
--   expired      out of the queue, however long their lane is paused
--   cancelled    the messages of campaigns that are (campaigns/sweep_campaigns.sql)
--   held         messages that waited for Meta's messaging limit, once there is room (portfolios/holding.sql)
--   parked       statuses whose message became known at the same moment
--   partitions   of the log, made ahead of its time (partitions.sql)
--   retention    what is too old to matter: partitions of the log are dropped, idempotency keys and the rest deleted (partitions.sql)
--   portfolios   people whom a portfolio no longer counts
--   statistics   of tables that have grown tenfold since the planner last heard of them
--
--   p_jobs     the jobs to do, in this order; null: all
--   p_limit    rows a job takes at the most
--   p_keep     how long webhook events are kept; idempotency keys are kept for seven days, messages as long as their countries wish (table retention)
--   returns    jsonb  the rows each job moved, by its name (null where it does not count them), and "failed": the names of those undone

create or replace function whatsapp_internal.sweep_leases(p_limit integer) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_unknown integer;
  v_countries text[];
  v_freed uuid[];
begin
  with gone as (
    delete from whatsapp.leases l
    where (l.country_id, l.lease_id) in (
      select country_id, lease_id from whatsapp.leases where leased_until < now() order by leased_until limit p_limit for update skip locked)
    returning l.country_id, l.lease_id, l.message_ids, l.may_post
  ),
  left_over as (
    select q.country_id, q.message_id, q.account_id, i.n > g.may_post as unsent,
      coalesce(m.sent_at, m.delivered_at, m.read_at, m.played_at, m.failed_at, m.accepted_at) is not null as settled
    from gone g
    cross join lateral unnest(g.message_ids) with ordinality as i (message_id, n)
    join whatsapp.queue q on q.country_id = g.country_id and q.message_id = i.message_id and q.lease_id = g.lease_id and q.unknown_until is null
    join whatsapp.messages m on m.country_id = q.country_id and m.message_id = q.message_id
    order by q.country_id, q.message_id
    for no key update of m, q
  ),
  done as (
    delete from whatsapp.queue q using left_over o
    where o.settled and q.country_id = o.country_id and q.message_id = o.message_id
  ),
  -- Its drainer would have said so before posting it.
  freed as (
    update whatsapp.queue q set lease_id = null, leased_until = null, attempts = greatest(q.attempts - 1, 0)
    from left_over o
    where not o.settled and o.unsent and q.country_id = o.country_id and q.message_id = o.message_id
  ),
  held as (
    update whatsapp.queue q set unknown_until = now() + a.unknown_deadline
    from left_over o join whatsapp.accounts a on a.country_id = o.country_id and a.account_id = o.account_id
    where not o.settled and not o.unsent and q.country_id = o.country_id and q.message_id = o.message_id
  ),
  moved as (
    update whatsapp.messages m
    set state = case when o.unsent then 'queued' else 'unknown' end,
      attempts = case when o.unsent then greatest(m.attempts - 1, 0) else m.attempts end
    from left_over o
    where not o.settled and m.country_id = o.country_id and m.message_id = o.message_id
    returning m.country_id, m.message_id, o.unsent
  ),
  told as (
    insert into whatsapp.message_events (country_id, message_id, event, title)
    select country_id, message_id, case when unsent then 'message_released' else 'message_unknown' end, 'lease_expired' from moved
  )
  select count(*), array_agg(country_id) filter (where unsent), array_agg(message_id) filter (where unsent)
  into v_unknown, v_countries, v_freed from moved;
  if v_freed is not null then
    perform whatsapp_internal.reopen_lanes(v_countries, v_freed);
  end if;
  return v_unknown;
end
$$;

-- Whether sweep has not looked at a number for so long that we were away until now.
create or replace function whatsapp_internal.was_away(swept_at timestamptz, unknown_deadline interval) returns boolean
language sql stable parallel safe
return swept_at < now() - least(unknown_deadline, interval '2 minutes');

-- When a gap of a number's feed began that ends now. One that came before the last was made up for is one with it: what Meta was about to bring
-- again may have met this one.
create or replace function whatsapp_internal.gap_from(feed_since timestamptz, gap_from timestamptz, began timestamptz) returns timestamptz
language sql immutable parallel safe
return case when began > feed_since + (feed_since - gap_from) then began else least(gap_from, began) end;

-- When is a message proved unsent? Had Meta taken it, its status would have come. So the proof is a webhook of the number that tells of something
-- after the deadline, counted from when nothing could be posted any more, while this one's status still had not come. A silent feed proves
-- nothing, nor does one that lags: what happened long ago may be told now, and what happened to this message later.
--
-- Nor does a living one, if there was a gap since the attempt in which the status may have been missed: Meta brings it again, but at growing
-- intervals, later than what is new. A gap is a time in which we were away (sweep did not run for two minutes, or for the deadline), or in
-- which no webhook came for as long as the deadline. It restarts the wait (feed_since), for as long again as it lasted since the attempt (gap_from),
-- or the deadline.
--
-- Whatever is not proved within a day of the attempt is given up.
create or replace function whatsapp_internal.sweep_unknowns(p_limit integer, out requeued integer, out failed integer)
language plpgsql volatile set search_path = ''
as $$
begin
  with due as materialized (
    select q.country_id, q.message_id, q.leased_at, coalesce(t.told_until >= provable.at, false) as proved,
      greatest(provable.at, now() + least(a.unknown_deadline, interval '1 minute')) as look_again_at,
      a.unknown_policy = 'requeue_once' and q.unknown_requeues = 0
        and whatsapp_internal.lane_of(m.kind, m.category) in ('reply', 'utility') as again
    from whatsapp.queue q
    join whatsapp.messages m on m.country_id = q.country_id and m.message_id = q.message_id
    join whatsapp.accounts a on a.country_id = q.country_id and a.account_id = q.account_id
    left join whatsapp.throttles t on t.country_id = q.country_id and t.account_id = q.account_id
    cross join lateral (select whatsapp_internal.was_away(t.swept_at, a.unknown_deadline) as until_now) away
    cross join lateral (
      select case when away.until_now then now() else t.feed_since end as since,
        case when away.until_now then whatsapp_internal.gap_from(t.feed_since, t.gap_from, t.swept_at) else t.gap_from end as gap_from
    ) feed
    cross join lateral (
      select greatest(q.leased_until + a.unknown_deadline, case
        when q.leased_at < feed.since then feed.since + greatest(a.unknown_deadline, feed.since - greatest(q.leased_at, feed.gap_from)) end) as at
    ) provable
    where q.unknown_until <= now()
    order by q.country_id, q.message_id
    limit p_limit
    for no key update of m, q skip locked
  ),
  waiting as (
    update whatsapp.queue q set unknown_until = least(d.look_again_at, d.leased_at + interval '1 day')
    from due d
    where not d.proved and d.leased_at > now() - interval '1 day' and q.country_id = d.country_id and q.message_id = d.message_id
  ),
  again as (
    update whatsapp.queue q
    set lease_id = null, leased_until = null, unknown_until = null, run_at = now(), unknown_requeues = q.unknown_requeues + 1
    from due d
    where d.proved and d.again and q.country_id = d.country_id and q.message_id = d.message_id
    returning q.country_id, q.message_id
  ),
  given_up as (
    delete from whatsapp.queue q using due d
    where ((d.proved and not d.again) or (not d.proved and d.leased_at <= now() - interval '1 day'))
      and q.country_id = d.country_id and q.message_id = d.message_id
    returning q.country_id, q.message_id
  ),
  moved as (
    update whatsapp.messages m
    set state = case when g.lost then 'failed' else 'queued' end,
      failed_at = case when g.lost then now() end,
      -- What an earlier answer said stays in its story: this is a guess of ours, and seen to be one (given_up).
      error_code = case when not g.lost then m.error_code end,
      error_title = case when g.lost then 'outcome_unknown' else m.error_title end,
      error_details = case when not g.lost then m.error_details end
    from (select *, false as lost from again union all select *, true from given_up) g
    where m.country_id = g.country_id and m.message_id = g.message_id
    returning m.country_id, m.message_id, g.lost
  ),
  told as (
    insert into whatsapp.message_events (country_id, message_id, event, title)
    select country_id, message_id, case when lost then 'message_failed' else 'message_queued' end,
      case when lost then 'outcome_unknown' else 'proved_unsent' end
    from moved
  )
  select count(*) filter (where not lost), count(*) filter (where lost) into requeued, failed from moved;

  with looked_at as (
    select t.country_id, t.account_id, whatsapp_internal.was_away(t.swept_at, a.unknown_deadline) as away
    from whatsapp.throttles t
    join whatsapp.accounts a on a.country_id = t.country_id and a.account_id = t.account_id
    for no key update of t skip locked
  )
  update whatsapp.throttles t
  set swept_at = now(),
    feed_since = case when l.away then now() else t.feed_since end,
    gap_from = case when l.away then whatsapp_internal.gap_from(t.feed_since, t.gap_from, t.swept_at) else t.gap_from end
  from looked_at l where t.country_id = l.country_id and t.account_id = l.account_id;
end
$$;

create or replace function whatsapp_internal.sweep_due(p_limit integer) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_due integer;
begin
  with held as materialized (
    select q.country_id, q.message_id
    from whatsapp.queue q
    cross join lateral (
      select from whatsapp.messages m where m.country_id = q.country_id and m.message_id = q.message_id for no key update skip locked
    ) m
    where q.scheduled and q.run_at <= now()
    limit p_limit
    for update of q skip locked
  ),
  due as (
    update whatsapp.queue q set scheduled = false
    from held h where q.country_id = h.country_id and q.message_id = h.message_id
    returning q.country_id, q.message_id
  ),
  moved as (
    update whatsapp.messages m set state = 'queued'
    from due d where m.country_id = d.country_id and m.message_id = d.message_id and m.state = 'scheduled'
    returning m.country_id, m.message_id
  ),
  told as (
    insert into whatsapp.message_events (country_id, message_id, event) select country_id, message_id, 'message_queued' from moved
  )
  select count(*) into v_due from moved;
  return v_due;
end
$$;

create or replace function whatsapp_internal.sweep_expired(p_limit integer) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_expired integer;
begin
  with held as materialized (
    select q.country_id, q.message_id
    from whatsapp.queue q
    cross join lateral (
      select from whatsapp.messages m where m.country_id = q.country_id and m.message_id = q.message_id for no key update skip locked
    ) m
    where q.expires_at <= now() and q.lease_id is null
    limit p_limit
    for update of q skip locked
  ),
  late as (
    delete from whatsapp.queue q using held h
    where q.country_id = h.country_id and q.message_id = h.message_id
    returning q.country_id, q.message_id
  ),
  moved as (
    update whatsapp.messages m set state = 'expired', refusal = 'message_expired'
    from late l where m.country_id = l.country_id and m.message_id = l.message_id
    returning m.country_id, m.message_id
  ),
  told as (
    insert into whatsapp.message_events (country_id, message_id, event, title)
    select country_id, message_id, 'message_expired', 'message_expired' from moved
  )
  select count(*) into v_expired from moved;
  return v_expired;
end
$$;

-- Parked statuses are taken by settle, or by a status that names our id too, as soon as their wamid is known. What is left for a sweep is what a
-- settle of the same moment could not see: each is looked at once, a minute later, and then left to wait at no cost.
create or replace function whatsapp_internal.sweep_parked(p_limit integer) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_due whatsapp_internal.parked[];
  v_statuses jsonb[];
  v_effects whatsapp_internal.result[];
begin
  select array_agg(row(p.country_id, p.account_id, p.event_key, p.wamid, known.message_id)::whatsapp_internal.parked) into v_due
  from (
    select p.country_id, p.account_id, p.event_key, p.wamid from whatsapp.parked_statuses p
    where p.look_again_at <= now()
    order by p.look_again_at limit p_limit for no key update skip locked
  ) p
  left join lateral (
    select m.message_id
    from whatsapp.wamids w
    join whatsapp.messages m on m.country_id = w.country_id and m.message_id = w.message_id
    where w.country_id = p.country_id and w.digest = whatsapp_internal.digest_of(p.account_id, p.wamid) and m.direction = 'outbound'
    limit 1
  ) known on true;
  if v_due is null then
    return 0;
  end if;

  update whatsapp.parked_statuses p set look_again_at = null
  from unnest(v_due) d
  where p.country_id = d.country_id and p.event_key = d.event_key;

  select whatsapp_internal.take_parked(array_agg(d.country_id), array_agg(d.account_id), array_agg(d.wamid), array_agg(d.message_id)) into v_statuses
  from (select distinct country_id, account_id, wamid, message_id from unnest(v_due) d where message_id is not null) d;
  perform from (
    select distinct i ->> 'country_id' as country_id, (i ->> 'message_id')::uuid as message_id from unnest(v_statuses) i order by 1, 2
  ) k
  cross join lateral (
    select from whatsapp.messages m where m.country_id = k.country_id and m.message_id = k.message_id for no key update
  ) m;
  v_effects := whatsapp_internal.apply_statuses(v_statuses);
  perform whatsapp_internal.open_entry_points(v_statuses);
  if v_effects is not null then
    perform whatsapp_internal.hold_contacts(array_agg(e.country_id), array_agg(e.contact_id)) from unnest(v_effects) e where e.effect <> 'none';
    perform whatsapp_internal.apply_effects(v_effects);
  end if;
  return coalesce(cardinality(v_statuses), 0);
end
$$;

create or replace function whatsapp_internal.sweep_accounts() returns void
language sql volatile set search_path = ''
as $$
  update whatsapp.accounts a set state = 'active', state_reason = null, state_code = null, paused_until = null, state_since = now()
  where (a.country_id, a.account_id) in (
    select country_id, account_id from whatsapp.accounts where state = 'paused' and paused_until <= now() for no key update skip locked);
  -- Additive increase: a tenth of the full rate for each sweep that finds the number at rest from Meta's complaints.
  update whatsapp.throttles t set rate_factor = least(1, t.rate_factor + 0.1)
  where (t.country_id, t.account_id) in (
    select country_id, account_id from whatsapp.throttles
    where rate_factor < 1 and coalesce(held_until < now() - interval '10 seconds', true) for no key update skip locked);
$$;

-- The verbs keep their plans. In a new database, and when a first large campaign fills an empty queue, these would fit an empty table until
-- autovacuum comes by, a minute or more later (a claim of 200 among 10,000 took 224 ms instead of 20).
create or replace function whatsapp_internal.sweep_statistics() returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_table regclass;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('whatsapp.statistics', 0)) then
    return;
  end if;
  for v_table in
    select c.oid
    from pg_catalog.pg_class c
    cross join lateral (select pg_catalog.pg_stat_get_live_tuples(c.oid) as live) s
    where c.relnamespace in ('whatsapp'::regnamespace, 'whatsapp_internal'::regnamespace) and c.relkind = 'r'
      and s.live > 1000 and s.live > 10 * greatest(c.reltuples, 0)
  loop
    execute format('analyze %s', v_table);
  end loop;
end
$$;

create or replace function whatsapp.sweep(p_jobs text[] default null, p_limit integer default 500, p_keep interval default '30 days') returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_all constant text[] := '{leases,unknowns,accounts,campaigns,due,expired,cancelled,held,parked,partitions,retention,portfolios,statistics}';
  v_job text;
  v_rows integer;
  v_swept jsonb := '{}';
  v_failed text[] := '{}';
begin
  if exists (select from unnest(p_jobs) as p (job) where job is null or job <> all (v_all)) then
    raise sqlstate 'PT400' using message = 'there is no such job', hint = 'The jobs are ' || array_to_string(v_all, ', ');
  end if;
  foreach v_job in array coalesce(p_jobs, v_all) loop
    begin
      v_rows := null;
      case v_job
        when 'leases' then v_rows := whatsapp_internal.sweep_leases(p_limit);
        when 'unknowns' then select u.requeued + u.failed into v_rows from whatsapp_internal.sweep_unknowns(p_limit) u;
        when 'accounts' then perform whatsapp_internal.sweep_accounts();
        when 'campaigns' then perform whatsapp_internal.sweep_campaigns();
        when 'due' then v_rows := whatsapp_internal.sweep_due(p_limit);
        when 'expired' then v_rows := whatsapp_internal.sweep_expired(p_limit);
        when 'cancelled' then v_rows := whatsapp_internal.sweep_cancelled(p_limit);
        when 'held' then v_rows := whatsapp_internal.sweep_held(p_limit);
        when 'parked' then v_rows := whatsapp_internal.sweep_parked(p_limit);
        when 'partitions' then v_rows := whatsapp_internal.sweep_partitions();
        when 'retention' then v_rows := whatsapp_internal.sweep_old(p_limit, p_keep);
        when 'portfolios' then v_rows := whatsapp_internal.sweep_portfolios(p_limit);
        when 'statistics' then perform whatsapp_internal.sweep_statistics();
      end case;
      v_swept := v_swept || jsonb_build_object(v_job, v_rows);
    exception when others then
      raise warning 'whatsapp.sweep: % failed: % (%)', v_job, sqlerrm, sqlstate;
      v_failed := v_failed || v_job;
    end;
  end loop;
  return v_swept || jsonb_build_object('failed', v_failed);
end
$$;
comment on function whatsapp.sweep is 'Verb 5 of 5. Expired leases, unknown outcomes, due and expired messages, parked statuses, retention. Safe to repeat.';
