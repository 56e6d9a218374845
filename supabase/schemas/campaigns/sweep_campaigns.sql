-- Sweep's part in campaigns.

-- Ends the messages of cancelled campaigns, a piece at a time.
create or replace function whatsapp_internal.sweep_cancelled(p_limit integer) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_cancelled integer;
begin
  with gone as (
    delete from whatsapp.queue q
    where (q.country_id, q.message_id) in (
      select head.country_id, head.message_id
      from whatsapp.campaigns c
      -- The order makes it the lane's index: joined freely, Postgres may read the whole queue to find nothing cancelled.
      cross join lateral (
        select q.country_id, q.message_id from whatsapp.queue q
        cross join lateral (
          select from whatsapp.messages m where m.country_id = q.country_id and m.message_id = q.message_id for no key update skip locked
        ) m
        where q.country_id = c.country_id and q.account_id = c.account_id and q.lane = whatsapp_internal.lane_of_campaign(c.campaign_id)
          and q.lease_id is null and q.unknown_until is null
        order by q.run_at
        limit p_limit
        for update of q skip locked
      ) head
      where c.state = 'cancelled'
      limit p_limit)
    returning q.country_id, q.message_id
  ),
  moved as (
    update whatsapp.messages m set state = 'cancelled'
    from gone g where m.country_id = g.country_id and m.message_id = g.message_id
    returning m.country_id, m.message_id
  ),
  told as (
    insert into whatsapp.message_events (country_id, message_id, event) select country_id, message_id, 'message_cancelled' from moved
  )
  select count(*) into v_cancelled from moved;
  return v_cancelled;
end
$$;

-- Starts what is due, completes what has nothing left to send, pauses what fails too often, and folds counts together.
create or replace function whatsapp_internal.sweep_campaigns() returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_running uuid[];
begin
  -- Somebody may be changing several of them just now, as a template's word does: those come next time, and nobody is waited for.
  update whatsapp.campaigns c set state = 'running', state_since = now()
  where (c.country_id, c.campaign_id) in (
    select d.country_id, d.campaign_id from whatsapp.campaigns d where d.state = 'scheduled' and d.send_at <= now()
    for no key update skip locked);

  -- Locked first and looked at in a statement of its own, so that recipients a call has just added are seen.
  select array_agg(campaign_id) into v_running
  from (select c.campaign_id from whatsapp.campaigns c where c.state = 'running' for no key update skip locked) locked;
  perform whatsapp_internal.complete_campaigns(v_running);
  perform whatsapp_internal.pause_failing_campaigns(v_running);
  perform whatsapp_internal.fold_campaign_counts();
end
$$;

-- Completes those of these campaigns that have nothing left to send.
create or replace function whatsapp_internal.complete_campaigns(p_running uuid[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  with done as (
    update whatsapp.campaigns c set state = 'completed', state_since = now()
    where c.state = 'running' and c.campaign_id = any (p_running)
      -- One that nobody could be taken into is over, too, but not while its first recipients are still being written.
      and (c.created_at < now() - interval '1 minute'
        or exists (select from whatsapp.campaign_counts k where k.country_id = c.country_id and k.campaign_id = c.campaign_id))
      and not exists (
        select from whatsapp.queue q
        where q.country_id = c.country_id and q.account_id = c.account_id and q.lane = whatsapp_internal.lane_of_campaign(c.campaign_id)
          and q.unknown_until is null)
      and not exists (
        select from whatsapp.queue q
        where q.country_id = c.country_id and q.account_id = c.account_id and q.lane = whatsapp_internal.lane_of_campaign(c.campaign_id)
          and q.unknown_until is not null)
    returning c.country_id, c.account_id, c.campaign_id
  )
  -- A lane that has nothing to give costs a claim nothing.
  update whatsapp.lanes l set paused = true
  from done d
  where l.country_id = d.country_id and l.account_id = d.account_id and l.lane = whatsapp_internal.lane_of_campaign(d.campaign_id);
end
$$;

-- Pauses those of these campaigns of whose last messages too large a share has failed.
create or replace function whatsapp_internal.pause_failing_campaigns(p_running uuid[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  with seen as (
    -- What we gave up for lost, as after a crash of ours, says nothing of the campaign.
    select k.country_id, k.campaign_id, sum(case k.key when 'failed:unknown' then -k.n else k.n end) as settled,
      sum(case k.key when 'failed' then k.n when 'failed:unknown' then -k.n end) as failed
    from whatsapp.campaign_counts k
    join whatsapp.campaigns c on c.country_id = k.country_id and c.campaign_id = k.campaign_id and c.state = 'running'
    where k.key in ('accepted', 'sent', 'delivered', 'read', 'played', 'failed', 'failed:unknown')
    group by 1, 2
  ),
  judged as (
    update whatsapp.campaigns c
    set checked_settled = s.settled, checked_failed = coalesce(s.failed, 0),
      state = case when failing then 'paused' else c.state end,
      state_reason = case when failing then 'too_many_failures' else c.state_reason end,
      state_since = case when failing then now() else c.state_since end
    from seen s
    cross join lateral (
      select coalesce(s.failed, 0) - old.checked_failed > old.failure_share * (s.settled - old.checked_settled)
        -- Where nothing is left to send, nothing is left to stop.
        and exists (
          select from whatsapp.queue q
          where q.country_id = old.country_id and q.account_id = old.account_id and q.lane = whatsapp_internal.lane_of_campaign(old.campaign_id)
            and q.lease_id is null and q.unknown_until is null) as failing
      from whatsapp.campaigns old where old.country_id = s.country_id and old.campaign_id = s.campaign_id) f
    where c.country_id = s.country_id and c.campaign_id = s.campaign_id and c.campaign_id = any (p_running)
      and s.settled - c.checked_settled >= 200
    returning c.country_id, c.account_id, c.campaign_id, c.state
  )
  update whatsapp.lanes l set paused = true
  from judged j
  where j.state = 'paused' and l.country_id = j.country_id and l.account_id = j.account_id
    and l.lane = whatsapp_internal.lane_of_campaign(j.campaign_id);
end
$$;

-- Many small additions to one count become one.
create or replace function whatsapp_internal.fold_campaign_counts() returns void
language plpgsql volatile set search_path = ''
as $$
begin
  with sums as (
    select country_id, campaign_id, key, sum(n) as n, count(*) as parts, max(count_id) as last
    from whatsapp.campaign_counts group by 1, 2, 3 having count(*) > 20
  ),
  folded as (
    delete from whatsapp.campaign_counts k using sums s
    where k.country_id = s.country_id and k.campaign_id = s.campaign_id and k.key = s.key and k.count_id <= s.last
    returning k.country_id, k.campaign_id, k.key, k.n
  )
  insert into whatsapp.campaign_counts (country_id, campaign_id, key, n)
  select country_id, campaign_id, key, sum(n) from folded group by 1, 2, 3;
end
$$;
