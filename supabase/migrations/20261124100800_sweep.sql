-- sweep: bring home what was left lying about. Each part is bounded, so a call is short; callers repeat it while it has work.
--
--   1. leases that ran out       what was posted nobody knows: unknown, unless a status webhook has already told
--   2. unknowns past deadline    no status came although the account's webhooks are alive since the attempt: proved unsent as well as it
--                                can be. A reply or a utility message goes back to the queue once (account.unknown_policy), everything
--                                else ends as failed: outcome_unknown, for a person to decide. If the feed is silent, it waits on, a day at
--                                the most
--   3. scheduled, now due        shown as queued
--   4. expired                   out of the queue, however long its lane is paused
--   5. parked statuses           whose message has become known since
--   6. accounts                  paused until a time that has come are active again; throttled numbers regain their rate
--   7. campaigns                 started, completed, paused for their failures; the cancelled ones' messages ended (…_campaigns.sql)
--   8. retention                 webhook events and idempotency keys too old to matter; people a portfolio no longer counts
--   9. statistics                of tables that have grown tenfold since the planner last heard of them
--
--   p_limit    rows a part takes at the most
--   p_keep     how long webhook events are kept; idempotency keys are kept for seven days
--   returns    jsonb  {"unknown", "requeued", "failed", "due", "expired", "cancelled", "released", "replayed", "removed"}

create function whatsapp_internal.sweep_leases(p_limit integer) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_unknown integer;
begin
  with gone as (
    delete from whatsapp.leases l
    where (l.country_id, l.lease_id) in (
      select country_id, lease_id from whatsapp.leases where leased_until < now() order by leased_until limit p_limit for update skip locked)
    returning l.country_id, l.lease_id, l.message_ids
  ),
  left_over as (
    select q.country_id, q.message_id, q.account_id,
      coalesce(m.sent_at, m.delivered_at, m.read_at, m.played_at, m.failed_at, m.accepted_at) is not null as settled
    from gone g
    cross join lateral unnest(g.message_ids) as i (message_id)
    join whatsapp.queue q on q.country_id = g.country_id and q.message_id = i.message_id and q.lease_id = g.lease_id and q.unknown_until is null
    join whatsapp.messages m on m.country_id = q.country_id and m.message_id = q.message_id
    order by q.country_id, q.message_id
    for no key update of m, q
  ),
  done as (
    delete from whatsapp.queue q using left_over o
    where o.settled and q.country_id = o.country_id and q.message_id = o.message_id
  ),
  held as (
    update whatsapp.queue q set unknown_until = now() + a.unknown_deadline
    from left_over o join whatsapp.accounts a on a.country_id = o.country_id and a.account_id = o.account_id
    where not o.settled and q.country_id = o.country_id and q.message_id = o.message_id
  ),
  moved as (
    update whatsapp.messages m set state = 'unknown'
    from left_over o
    where not o.settled and m.country_id = o.country_id and m.message_id = o.message_id
    returning m.country_id, m.message_id
  ),
  told as (
    insert into whatsapp.message_events (country_id, message_id, event, title)
    select country_id, message_id, 'message_unknown', 'lease_expired' from moved
  )
  select count(*) into v_unknown from moved;
  return v_unknown;
end
$$;

create function whatsapp_internal.sweep_unknowns(p_limit integer, out requeued integer, out failed integer)
language plpgsql volatile set search_path = ''
as $$
begin
  with due as materialized (
    select q.country_id, q.message_id, q.leased_at,
      coalesce(t.webhook_seen_at > q.leased_at, false) as feed_alive,
      a.unknown_policy = 'requeue_once' and q.unknown_requeues = 0
        and whatsapp_internal.lane_of(m.kind, m.category) in ('reply', 'utility') as again
    from whatsapp.queue q
    join whatsapp.messages m on m.country_id = q.country_id and m.message_id = q.message_id
    join whatsapp.accounts a on a.country_id = q.country_id and a.account_id = q.account_id
    left join whatsapp.throttles t on t.country_id = q.country_id and t.account_id = q.account_id
    where q.unknown_until <= now()
    order by q.country_id, q.message_id
    limit p_limit
    for no key update of m, q skip locked
  ),
  waiting as (
    update whatsapp.queue q set unknown_until = now() + interval '1 minute'
    from due d
    where not d.feed_alive and d.leased_at > now() - interval '1 day' and q.country_id = d.country_id and q.message_id = d.message_id
  ),
  again as (
    update whatsapp.queue q
    set lease_id = null, leased_until = null, unknown_until = null, run_at = now(), unknown_requeues = q.unknown_requeues + 1
    from due d
    where d.feed_alive and d.again and q.country_id = d.country_id and q.message_id = d.message_id
    returning q.country_id, q.message_id
  ),
  given_up as (
    delete from whatsapp.queue q using due d
    where ((d.feed_alive and not d.again) or (not d.feed_alive and d.leased_at <= now() - interval '1 day'))
      and q.country_id = d.country_id and q.message_id = d.message_id
    returning q.country_id, q.message_id
  ),
  moved as (
    update whatsapp.messages m
    set state = case when g.lost then 'failed' else 'queued' end,
      failed_at = case when g.lost then now() end,
      error_title = case when g.lost then 'outcome_unknown' else m.error_title end
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
end
$$;

create function whatsapp_internal.sweep_due(p_limit integer) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_due integer;
begin
  with due as (
    update whatsapp.queue q set scheduled = false
    where (q.country_id, q.message_id) in (
      select country_id, message_id from whatsapp.queue where scheduled and run_at <= now() limit p_limit for update skip locked)
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

create function whatsapp_internal.sweep_expired(p_limit integer) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_expired integer;
begin
  with late as (
    delete from whatsapp.queue q
    where (q.country_id, q.message_id) in (
      select country_id, message_id from whatsapp.queue
      where expires_at <= now() and lease_id is null limit p_limit for update skip locked)
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

create function whatsapp_internal.sweep_parked(p_limit integer) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_country text;
  v_replayed integer := 0;
begin
  for v_country in select distinct country_id from whatsapp.webhook_events where outcome = 'parked' order by 1 loop
    v_replayed := v_replayed + whatsapp_internal.replay_parked(v_country, p_limit);
  end loop;
  return v_replayed;
end
$$;

create function whatsapp_internal.sweep_accounts() returns void
language sql volatile set search_path = ''
as $$
  update whatsapp.accounts set state = 'active', state_reason = null, state_code = null, paused_until = null, state_since = now()
  where state = 'paused' and paused_until <= now();
  -- Additive increase: a tenth of the full rate for each sweep that finds the number at rest from Meta's complaints.
  update whatsapp.throttles set rate_factor = least(1, rate_factor + 0.1)
  where rate_factor < 1 and coalesce(held_until < now() - interval '10 seconds', true);
$$;

create function whatsapp_internal.sweep_old(p_limit integer, p_keep interval) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_removed integer;
begin
  with events as (
    delete from whatsapp.webhook_events w
    where (w.country_id, w.event_key) in (
      select country_id, event_key from whatsapp.webhook_events where received_at < now() - p_keep limit p_limit for update skip locked)
    returning 1
  ),
  keys as (
    delete from whatsapp.idempotency_keys k
    where (k.country_id, k.key) in (
      select country_id, key from whatsapp.idempotency_keys where created_at < now() - interval '7 days' limit p_limit for update skip locked)
    returning 1
  )
  select (select count(*) from events) + (select count(*) from keys) into v_removed;
  return v_removed;
end
$$;

-- The verbs keep their plans. In a new database, and when a first large campaign fills an empty queue, these would fit an empty table until
-- autovacuum comes by, a minute or more later (a claim of 200 among 10,000 took 224 ms instead of 20).
create function whatsapp_internal.sweep_statistics() returns void
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

create function whatsapp.sweep(p_limit integer default 500, p_keep interval default '30 days') returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_unknown integer;
  v_unknowns record;
begin
  v_unknown := whatsapp_internal.sweep_leases(p_limit);
  select * into v_unknowns from whatsapp_internal.sweep_unknowns(p_limit);
  perform whatsapp_internal.sweep_accounts();
  perform whatsapp_internal.sweep_campaigns();
  perform whatsapp_internal.sweep_statistics();
  return jsonb_build_object(
    'unknown', v_unknown, 'requeued', v_unknowns.requeued, 'failed', v_unknowns.failed,
    'due', whatsapp_internal.sweep_due(p_limit), 'expired', whatsapp_internal.sweep_expired(p_limit),
    'cancelled', whatsapp_internal.sweep_cancelled(p_limit),
    'released', whatsapp_internal.sweep_held(p_limit),
    'replayed', whatsapp_internal.sweep_parked(p_limit), 'removed', whatsapp_internal.sweep_old(p_limit, p_keep) + whatsapp_internal.sweep_portfolios(p_limit));
end
$$;
comment on function whatsapp.sweep is 'Verb 5 of 5. Expired leases, unknown outcomes, due and expired messages, parked statuses, retention. Safe to repeat.';

revoke all on all functions in schema whatsapp_internal from public, anon, authenticated, service_role;
grant execute on function whatsapp_internal.my_countries() to authenticated;
revoke all on function whatsapp.sweep(integer, interval) from public, anon, authenticated;
grant execute on function whatsapp.sweep(integer, interval) to service_role;
