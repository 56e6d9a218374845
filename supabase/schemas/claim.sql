-- claim: hand out what may be sent now. For each number the caller has credentials for: take the number's throttle row, spend
-- its slots, pick lanes by priority and turn, judge every message again, lease the rest as one batch.
--
--   p_claim_id   uuid     made by the caller; a claim repeated under the same id (its answer was lost) gets the same batch again
--   p_accounts   text[]   "COUNTRY/account" of the numbers the caller can send for
--   p_limit      int      messages at the most, over all numbers
--   p_lease      interval how long the batch is the caller's; nothing may be posted after it
--   p_horizon    interval how far ahead slots are handed out
--   p_ahead      interval how far ahead of their slots the caller may post without announcing it; null: it announces nothing, and may post all
--   returns      jsonb    {"leases": [{"lease_id", "country_id", "account_id", "seconds", "step_ms", "may_post", "messages": [
--                           {"place", "message_id", "contact_id", "to" | "recipient", "content", "kind", "category", "attempts", "in_ms"}]}],
--                          "refused": n, "next_ms": when it is worth asking again, or null}
--
-- Whoever holds a number's throttle row is the only one claiming for it; others skip it and serve other numbers. So ten drainers
-- together keep one number's rate, and no row is claimed twice.
--
-- The token bucket is kept as the time of the next free slot: n messages take n slots (slot_step apart), and the caller posts each
-- at its slot. That spaces messages evenly however many processes send, and needs no refill.
--
-- Slots are handed out ahead, so a campaign may hold those of the next half second. A reply does not wait behind them: it goes at once and
-- what it takes is paid by the slots not handed out yet. So that the second in between does not exceed the rate, a number to which somebody
-- wrote within the hour leaves room: what is no reply takes 1.1 slots, and a tenth of the rate may overtake, half a second's worth at once.
-- More replies than that stand first in line for the next slots.
--
-- Candidates are read from the head of a lane by its index. A variable limit can tempt the planner away from that index, so sorts and
-- bitmaps are switched off for that statement and the plan is kept. Measured with fresh statistics: claiming 200 takes about 20 ms with
-- 10,000 as with 500,000 messages in the lane, judging and leasing included; planning anew each time is no faster (19.9 against 20.0 ms).

-- A campaign that must wait as a whole, for the end of quiet hours or for Meta's messaging limit, is held by its lane (held_until): its
-- messages stay untouched. Single messages wait one by one.

create or replace function whatsapp_internal.judge_lane(
  p_country text, p_account text, p_lane text, p_from timestamptz, p_from_id uuid, p_want integer, p_at timestamptz, p_portfolio text
)
returns setof whatsapp_internal.candidate
language plpgsql volatile set search_path = '' set enable_sort = off set enable_bitmapscan = off
as $$
begin
  return query
  with head as materialized (
    select q.country_id, q.account_id, q.message_id, q.contact_id, q.due_at, q.expires_at
    from whatsapp.queue q
    where q.country_id = p_country and q.account_id = p_account and q.lane = p_lane and q.run_at <= p_at and q.lease_id is null
      and q.unknown_until is null and (q.run_at, q.message_id) >= (p_from, p_from_id)
    order by q.run_at, q.message_id
    limit p_want
    for update of q skip locked
  )
  select h.message_id, h.contact_id,
    whatsapp_internal.refusal(
      'active', m.kind, coalesce(t.category, m.category), t.status, v.window_until, greatest(v.window_until, v.entry_point_until),
      v.last_inbound_at, c.opted_in_at, a.opt_in_required, case when m.confirms_consent then null else c.opted_out_at end, c.marketing_opted_out_at, c.marketing_cooled_until, h.expires_at, p_at),
    -- One message per person at a time, in order; and one per six seconds once 45 have been sent ahead (Meta: pair rate limit).
    case
      when earlier.found or v.sending_until > p_at then p_at + interval '1 second'
      when v.pair_next_at > p_at + interval '264 seconds' then v.pair_next_at - interval '264 seconds'
      else quiet.until
    end,
    quiet.until is not null,
    counted.person,
    coalesce((
      select k.minute from whatsapp_internal.portfolio_people k where k.portfolio = p_portfolio and k.person = counted.person
    ) <= whatsapp_internal.portfolio_horizon(p_at), true)
  from head h
  -- Each looked up for itself, which can only be by its key: as plain joins, the people of a whole country were read for each candidate where
  -- the planner took countries for small. A message or conversation that somebody changes just now, as a webhook does, is left for the next
  -- claim: whoever holds the throttle row waits for no other (lock order: locks.sql).
  cross join lateral (
    select m.* from whatsapp.messages m where m.country_id = h.country_id and m.message_id = h.message_id for no key update skip locked
  ) m
  cross join lateral (
    select a.* from whatsapp.accounts a where a.country_id = h.country_id and a.account_id = h.account_id limit 1
  ) a
  cross join lateral (
    select c.* from whatsapp.contacts c where c.country_id = h.country_id and c.contact_id = h.contact_id limit 1
  ) c
  cross join lateral (
    select v.* from whatsapp.conversations v
    where v.country_id = h.country_id and v.account_id = h.account_id and v.contact_id = h.contact_id
    for no key update skip locked
  ) v
  left join lateral (
    select t.status, t.category from whatsapp.templates t
    where t.country_id = h.country_id and t.account_id = h.account_id and t.name = m.template_name and t.language = m.template_language
    limit 1
  ) t on true
  left join lateral (
    select true as found
    from whatsapp.queue q
    where q.country_id = h.country_id and q.account_id = h.account_id and q.contact_id = h.contact_id and q.lane = p_lane
      and (q.due_at, q.message_id) < (h.due_at, h.message_id) and q.unknown_until is null
    order by q.due_at, q.message_id
    limit 1
  ) earlier on true
  cross join lateral (
    select case when m.kind = 'template' and coalesce(t.category, m.category, 'MARKETING') not in ('UTILITY', 'AUTHENTICATION')
      then whatsapp_internal.quiet_end(a.time_zone, a.quiet_from, a.quiet_until, p_at) end as until
  ) quiet
  cross join lateral (
    -- What is free-form answers the person; a template does so too while their window is open.
    select case when p_portfolio is not null and m.kind = 'template' and coalesce(v.window_until - interval '1 minute' <= p_at, true)
      then whatsapp_internal.person_of(c.match_key, c.bsuid) end as person
  ) counted
  order by h.due_at, h.message_id;
end
$$;

-- Ends messages a gate refused: state, event, and out of the queue.
create or replace function whatsapp_internal.refuse_claimed(p_country text, p_ids uuid[], p_codes text[]) returns void
language sql volatile set search_path = ''
as $$
  with gone as (
    update whatsapp.messages m
    set state = case when r.code = 'message_expired' then 'expired' else 'refused' end, refusal = r.code
    from unnest(p_ids, p_codes) as r (message_id, code)
    where m.country_id = p_country and m.message_id = r.message_id
    returning m.message_id, m.state, r.code
  ),
  told as (
    insert into whatsapp.message_events (country_id, message_id, event, title)
    select p_country, message_id, 'message_' || state, code from gone
  )
  delete from whatsapp.queue q where q.country_id = p_country and q.message_id = any (p_ids)
$$;

-- A lease as the caller sees it: what to post, to whom, and in how many milliseconds.
create or replace function whatsapp_internal.lease_answer(p_country text, p_lease uuid) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
  v_now timestamptz := clock_timestamp();
begin
  return (select jsonb_build_object(
    'lease_id', l.lease_id, 'country_id', l.country_id, 'account_id', l.account_id,
    'seconds', greatest(0, extract(epoch from l.leased_until - v_now)), 'step_ms', extract(epoch from l.slot_step) * 1000,
    'may_post', l.may_post,
    'messages', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'place', i.n, 'message_id', m.message_id, 'contact_id', m.contact_id, 'kind', m.kind, 'category', m.category, 'content', m.content,
        'attempts', q.attempts, 'waits', q.waits, 'to', coalesce(c.phone, '+' || c.wa_id), 'recipient', c.bsuid,
        'in_ms', greatest(0, round(extract(epoch from l.slot_at + (i.n - 1) * l.slot_step - v_now) * 1000))
      ) order by i.n), '[]'::jsonb)
      from unnest(l.message_ids) with ordinality as i (message_id, n)
      cross join lateral (
        select q.* from whatsapp.queue q where q.country_id = l.country_id and q.message_id = i.message_id and q.lease_id = l.lease_id limit 1
      ) q
      cross join lateral (
        select m.* from whatsapp.messages m where m.country_id = l.country_id and m.message_id = i.message_id limit 1
      ) m
      cross join lateral (
        select c.* from whatsapp.contacts c where c.country_id = l.country_id and c.contact_id = m.contact_id limit 1
      ) c))
  from whatsapp.leases l
  where l.country_id = p_country and l.lease_id = p_lease);
end
$$;

-- Leases the picked messages of one number. Slots start at p_slot and lie p_step apart.
create or replace function whatsapp_internal.lease(
  p_claim uuid, p_country text, p_account text, p_ids uuid[], p_lease interval, p_at timestamptz, p_slot timestamptz, p_step interval,
  p_ahead interval
) returns jsonb
language plpgsql volatile set search_path = ''
as $$
declare
  v_lease uuid := whatsapp_internal.uuid7();
  v_until timestamptz := p_at + p_lease;
begin
  insert into whatsapp.leases (country_id, lease_id, account_id, claim_id, leased_at, leased_until, slot_at, slot_step, message_ids, may_post)
  values (
    p_country, v_lease, p_account, p_claim, p_at, v_until, p_slot, p_step, p_ids, case when p_ahead is null then cardinality(p_ids) else
      least(greatest(floor(extract(epoch from p_at + p_ahead - p_slot) / extract(epoch from p_step)) + 1, 0), cardinality(p_ids)) end);

  with picked as materialized (
    select p_country as country_id, i.message_id from unnest(p_ids) as i (message_id)
  ),
  leased as (
    update whatsapp.queue q
    set lease_id = v_lease, leased_at = p_at, leased_until = v_until, attempts = q.attempts + 1, blocked = false, held_reason = null,
      unknown_until = null
    from picked p
    where q.country_id = p.country_id and q.message_id = p.message_id
    returning q.country_id, q.account_id, q.contact_id
  )
  -- Meta counts from a message's arrival, which is later than this by its slot and its way: within a second.
  update whatsapp.conversations v
  set sending_until = v_until, pair_next_at = greatest(v.pair_next_at, p_at + interval '1 second') + interval '6 seconds'
  from leased l
  where v.country_id = l.country_id and v.account_id = l.account_id and v.contact_id = l.contact_id;

  with picked as materialized (
    select p_country as country_id, i.message_id from unnest(p_ids) as i (message_id)
  ),
  sending as (
    update whatsapp.messages m
    set state = whatsapp_internal.state_of(m.accepted_at, m.sent_at, m.delivered_at, m.read_at, m.played_at, m.failed_at, 'sending'),
      -- What an earlier try met is in message_events; here it would pass for the reason of a later failure.
      error_code = null, error_title = null, error_details = null,
      attempts = m.attempts + 1, sending_at = coalesce(m.sending_at, p_at)
    from picked p
    where m.country_id = p.country_id and m.message_id = p.message_id
    returning m.message_id, m.attempts, m.sending_at
  )
  insert into whatsapp.message_events (country_id, message_id, event, at, detail)
  select p_country, message_id, 'message_sending', p_at, jsonb_build_object('attempt', attempts) from sending where sending_at < p_at;

  return whatsapp_internal.lease_answer(p_country, v_lease);
end
$$;

-- The head of one lane, judged and sorted: what goes, what is refused, what waits and until when.
--
--   p_campaign              whether the lane is a campaign's
--   p_people, p_frees       how many people the portfolio may still write to first, and when the next one is freed
--   held_reason, quiet_until   what would stop a campaign as a whole
create or replace function whatsapp_internal.sort_lane(
  p_country text, p_account text, p_lane text, p_from timestamptz, p_from_id uuid, p_campaign boolean, p_want integer, p_at timestamptz, p_portfolio text, p_people bigint, p_frees timestamptz,
  out go whatsapp_internal.candidate[], out refused uuid[], out codes text[], out late uuid[], out late_until timestamptz[], out late_reason text[],
  out held_reason text, out quiet_until timestamptz
)
language plpgsql volatile set search_path = ''
as $$
begin
  select
    array_agg(row(message_id, contact_id, null, null, null, person, fresh)::whatsapp_internal.candidate order by n)
      filter (where why = 'go'),
    array_agg(message_id) filter (where why = 'refused'),
    array_agg(code) filter (where why = 'refused'),
    array_agg(message_id) filter (where why in ('blocked', 'quiet_hours', 'messaging_limit')),
    array_agg(coalesce(case when why = 'messaging_limit' then p_frees else blocked_until end, p_at + interval '1 minute'))
      filter (where why in ('blocked', 'quiet_hours', 'messaging_limit')),
    array_agg(nullif(why, 'blocked')) filter (where why in ('blocked', 'quiet_hours', 'messaging_limit')),
    -- What stops a campaign as a whole.
    max(why) filter (where why in ('quiet_hours', 'messaging_limit')),
    max(blocked_until) filter (where why = 'quiet_hours')
  into go, refused, codes, late, late_until, late_reason, held_reason, quiet_until
  from (
    select j.*, case
        -- A campaign's messages wait for its template: the campaign is paused with it, and must lose nobody between the two.
        when j.code like 'template\_%' and p_campaign then 'blocked'
        when j.code is not null then 'refused'
        when j.blocked_until is not null then case when j.quiet then 'quiet_hours' else 'blocked' end
        when j.person is not null and j.fresh and count(*) filter (
          where j.code is null and j.blocked_until is null and j.person is not null and j.fresh) over (order by j.n) > p_people
          then 'messaging_limit'
        else 'go'
      end as why
    from whatsapp_internal.judge_lane(p_country, p_account, p_lane, p_from, p_from_id, p_want, p_at, case when p_people is not null then p_portfolio end)
      with ordinality as j (message_id, contact_id, code, blocked_until, quiet, person, fresh, n)
  ) j;
end
$$;

-- Claims for one number whose throttle row the caller holds. Goes through the lanes by priority; lanes of one priority share what
-- is left equally, the longest unserved first.
--
--   p_replies     only replies may go: Meta has restricted the account's templates
--   p_headroom    share of a slot that a message which is no reply takes beyond its own
--   p_portfolio   whose messaging limit is spent, if it has one
--   step          how far apart the slots of the lease lie
create or replace function whatsapp_internal.claim_account(
  p_claim uuid, p_country text, p_account text, p_limit integer, p_lease interval, p_at timestamptz, p_slot timestamptz, p_step interval,
  p_replies boolean, p_headroom numeric, p_portfolio text, p_ahead interval, out lease jsonb, out claimed integer, out refused integer, out step interval
)
language plpgsql volatile set search_path = ''
as $$
declare
  v_lane record;
  v_judged record;
  v_share integer;
  v_people bigint;
  v_frees timestamptz;
  v_ids uuid[] := '{}';
  v_counted uuid[] := '{}';
  v_replies integer := 0;
  v_go whatsapp_internal.candidate[];
  v_read whatsapp_internal.read_lane[] := '{}';
begin
  refused := 0;
  select room, frees_at into v_people, v_frees from whatsapp_internal.portfolio_room(p_portfolio, p_at);
  for v_lane in
    select lane, priority, lane like 'campaign:%' as campaign, count(*) over (partition by priority) as peers,
      row_number() over (partition by priority order by served_at) as turn, from_at, head_id
    from (
      select l.lane, l.priority, l.served_at, whatsapp_internal.lane_start(l.head_at, l.head_seen_at) as from_at, l.head_id
      from whatsapp.lanes l
      where l.country_id = p_country and l.account_id = p_account and not l.paused and coalesce(l.held_until <= p_at, true)
        and (l.priority = 0 or not p_replies)
      for no key update skip locked
    ) open
    order by priority, served_at
  loop
    exit when cardinality(v_ids) >= p_limit;
    v_share := ceil((p_limit - cardinality(v_ids))::numeric / (v_lane.peers - v_lane.turn + 1));

    select * into v_judged from whatsapp_internal.sort_lane(
      p_country, p_account, v_lane.lane, v_lane.from_at, v_lane.head_id, v_lane.campaign, v_share, p_at, p_portfolio, v_people, v_frees);
    if v_judged.refused is not null then
      perform whatsapp_internal.refuse_claimed(p_country, v_judged.refused, v_judged.codes);
      refused := refused + cardinality(v_judged.refused);
    end if;
    if v_lane.campaign and v_judged.held_reason is not null then
      update whatsapp.lanes
      set held_reason = v_judged.held_reason,
        held_until = case v_judged.held_reason when 'quiet_hours' then v_judged.quiet_until else v_frees end
      where country_id = p_country and account_id = p_account and lane = v_lane.lane;
    elsif v_judged.late is not null then
      update whatsapp.queue q set run_at = l.until, blocked = true, held_reason = l.reason
      from unnest(v_judged.late, v_judged.late_until, v_judged.late_reason) as l (message_id, until, reason)
      where q.country_id = p_country and q.message_id = l.message_id;
    end if;
    if v_judged.go is not null then
      v_go := v_judged.go;
      -- A person may stand in two lanes: only the more urgent message goes now.
      if cardinality(v_ids) > 0 then
        v_go := array(
          select row(g.message_id, g.contact_id, null, null, null, g.person, g.fresh)::whatsapp_internal.candidate
          from unnest(v_go) with ordinality as g (message_id, contact_id, code, blocked_until, quiet, person, fresh, n)
          where g.contact_id not in (
            select o.contact_id from unnest(v_ids) as i (message_id)
            join whatsapp.queue o on o.country_id = p_country and o.message_id = i.message_id)
          order by g.n);
      end if;
      v_ids := v_ids || array(select message_id from unnest(v_go) with ordinality order by ordinality);
      v_replies := v_replies + case v_lane.priority when 0 then cardinality(v_go) else 0 end;
      v_counted := v_counted || array(select person from unnest(v_go) where person is not null);
      v_people := v_people - (select count(*) from unnest(v_go) where person is not null and fresh);
    end if;
    -- Who came first had the larger half of an odd number, and comes last next time.
    v_read := v_read || row(v_lane.lane, v_lane.from_at, v_lane.head_id, case when v_judged.go is not null then
      p_at + (v_lane.peers - v_lane.turn) * interval '1 microsecond' end)::whatsapp_internal.read_lane;
  end loop;

  claimed := cardinality(v_ids);
  if claimed > 0 then
    step := p_step * (1 + p_headroom * (claimed - v_replies) / claimed);
    lease := whatsapp_internal.lease(p_claim, p_country, p_account, v_ids, p_lease, p_at, p_slot, step, p_ahead);
    if cardinality(v_counted) > 0 then
      perform whatsapp_internal.count_people(p_portfolio, v_counted, p_at);
    end if;
  end if;
  perform whatsapp_internal.move_heads(p_country, p_account, p_at, v_read);
end
$$;

-- Claims for one number, if nobody else does just now: holds its throttle row, hands out its slots, and lets replies overtake.
--
--   p_left, p_left_to_serve   how many messages may still be claimed, and by how many numbers, this one included
--   next_at                   when its next slot is, where it has none to give
create or replace function whatsapp_internal.claim_number(
  p_claim uuid, p_country text, p_account text, p_rate integer, p_portfolio text, p_templates_paused_until timestamptz, p_left integer,
  p_left_to_serve bigint, p_lease interval, p_horizon interval, p_ahead interval,
  out leases jsonb, out claimed integer, out refused integer, out next_at timestamptz
)
language plpgsql volatile set search_path = ''
as $$
declare
  v_at timestamptz;
  v_slot timestamptz;
  v_overtake timestamptz;
  v_clock_back interval;
  v_step interval;
  v_talking boolean;
  v_slots integer;
  v_got record;
begin
  leases := '[]';
  claimed := 0;
  refused := 0;
  select clock_timestamp(), t.next_slot_at, t.next_overtake_at, t.paced_at - clock_timestamp(),
    whatsapp_internal.slot_step(p_rate, t.rate_factor), coalesce(t.inbound_at > now() - interval '1 hour', false)
  into v_at, v_slot, v_overtake, v_clock_back, v_step, v_talking
  from whatsapp.throttles t
  where t.country_id = p_country and t.account_id = p_account and coalesce(t.held_until <= now(), true)
  for no key update of t skip locked;
  if not found then
    return;
  end if;
  if v_clock_back > interval '1 second' then
    v_slot := v_slot - v_clock_back;
    v_overtake := v_overtake - v_clock_back;
    update whatsapp.throttles set next_slot_at = v_slot, next_overtake_at = v_overtake, paced_at = v_at
    where country_id = p_country and account_id = p_account;
  end if;
  v_slot := greatest(v_slot, v_at);
  v_overtake := greatest(v_overtake, v_at);

  -- Replies go before what is handed out already.
  if v_talking and v_slot > v_at + v_step and exists (
    select from whatsapp.lanes l
    cross join lateral whatsapp_internal.lane_head(
      l.country_id, l.account_id, l.lane, whatsapp_internal.lane_start(l.head_at, l.head_seen_at), l.head_id) head
    where l.country_id = p_country and l.account_id = p_account and l.priority = 0 and not l.paused
      and head.run_at <= v_at)
  then
    v_slots := floor(extract(epoch from v_at + greatest(interval '0.5 seconds', v_step * 10) - v_overtake) / extract(epoch from v_step * 10));
    if v_slots > 0 then
      select * into v_got from whatsapp_internal.claim_account(
        p_claim, p_country, p_account, least(v_slots, p_left), p_lease, v_at, v_at, v_step, true, 0, p_portfolio, p_ahead);
      refused := v_got.refused;
      if v_got.claimed > 0 then
        leases := leases || v_got.lease;
        claimed := v_got.claimed;
        v_slot := v_slot + v_got.claimed * v_step;
        update whatsapp.throttles set next_slot_at = v_slot, next_overtake_at = v_overtake + v_got.claimed * v_step * 10, paced_at = v_at
        where country_id = p_country and account_id = p_account;
        if claimed = p_left then
          return;
        end if;
      end if;
    end if;
  end if;

  v_slots := floor(extract(epoch from v_at + p_horizon - v_slot) / extract(epoch from v_step)) + 1;
  if v_slots < 1 then
    next_at := v_slot;
    return;
  end if;

  select * into v_got from whatsapp_internal.claim_account(
    p_claim, p_country, p_account, least(v_slots, ceil((p_left - claimed)::numeric / p_left_to_serve)::integer), p_lease, v_at, v_slot, v_step,
    coalesce(p_templates_paused_until > v_at, false), case when v_talking then 0.1 else 0 end, p_portfolio, p_ahead);
  refused := refused + v_got.refused;
  if v_got.claimed > 0 then
    leases := leases || v_got.lease;
    claimed := claimed + v_got.claimed;
    update whatsapp.throttles set next_slot_at = v_slot + v_got.claimed * v_got.step, paced_at = v_at
    where country_id = p_country and account_id = p_account;
  end if;
end
$$;

-- The numbers for which something is due. Whose turn it is is drawn by lot; who has a turn is served in the order of portfolios, which portfolio_room
-- asks for.
create or replace function whatsapp_internal.numbers_due(p_accounts text[], p_limit integer)
returns table (
  country_id text, account_id text, messages_per_second integer, portfolio text, templates_paused_until timestamptz, left_to_serve bigint
)
language plpgsql volatile set search_path = ''
as $$
#variable_conflict use_column
begin
  return query
  select due.country_id, due.account_id, due.messages_per_second, due.portfolio, due.templates_paused_until,
    row_number() over (order by due.portfolio collate "C" desc, due.lot) as left_to_serve
  from (
    select a.country_id, a.account_id, a.messages_per_second, a.portfolio, a.templates_paused_until, random() as lot
    from whatsapp.accounts a
    where a.country_id || '/' || a.account_id = any (p_accounts)
      and (a.state = 'active' or (a.state = 'paused' and a.paused_until <= now()))
      -- The head of each lane by its index. As a plain exists Postgres may turn the search round and read the whole queue: 340 ms
      -- beside a paused campaign of 1,000,000.
      and exists (
        select from whatsapp.lanes l
        cross join lateral whatsapp_internal.lane_head(
      l.country_id, l.account_id, l.lane, whatsapp_internal.lane_start(l.head_at, l.head_seen_at), l.head_id) head
        where l.country_id = a.country_id and l.account_id = a.account_id and not l.paused and coalesce(l.held_until <= now(), true)
          and head.run_at <= now())
    order by lot
    limit p_limit
  ) due
  order by left_to_serve desc;
end
$$;

-- When the next row of these numbers falls due and has a slot, so that a drainer can wait for it rather than ask again and again.
create or replace function whatsapp_internal.next_due(p_accounts text[], p_horizon interval) returns timestamptz
language plpgsql volatile set search_path = ''
as $$
begin
  return (
    select min(greatest(
      head.run_at, t.held_until, l.held_until, case when l.priority > 0 then a.templates_paused_until end, t.next_slot_at - p_horizon))
    from whatsapp.lanes l
    join whatsapp.accounts a on a.country_id = l.country_id and a.account_id = l.account_id and a.state = 'active'
    left join whatsapp.throttles t on t.country_id = l.country_id and t.account_id = l.account_id
    cross join lateral whatsapp_internal.lane_head(
      l.country_id, l.account_id, l.lane, whatsapp_internal.lane_start(l.head_at, l.head_seen_at), l.head_id) head
    where not l.paused and l.country_id || '/' || l.account_id = any (p_accounts)
  );
end
$$;

create or replace function whatsapp.claim(
  p_claim_id uuid, p_accounts text[], p_limit integer default 200, p_lease interval default '60 seconds', p_horizon interval default '1 second',
  p_ahead interval default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_number record;
  v_left integer := p_limit;
  v_refused integer := 0;
  v_leases jsonb;
  v_next timestamptz;
  v_got record;
begin
  if p_limit is null or p_limit not between 1 and 1000 then
    raise sqlstate 'PT400' using message = 'p_limit must be between 1 and 1000';
  end if;

  -- Repeated while the first call still runs, it waits for that one and then finds what it leased.
  perform pg_advisory_xact_lock(hashtextextended('whatsapp.claim ' || p_claim_id, 0));
  select jsonb_agg(whatsapp_internal.lease_answer(l.country_id, l.lease_id)) into v_leases
  from whatsapp.leases l
  where l.country_id in (select split_part(a, '/', 1) from unnest(p_accounts) a) and l.claim_id = p_claim_id;
  if v_leases is not null then
    return jsonb_build_object('leases', v_leases, 'refused', 0, 'next_ms', 0);
  end if;
  v_leases := '[]';

  insert into whatsapp.throttles (country_id, account_id)
  select a.country_id, a.account_id from whatsapp.accounts a
  where a.country_id || '/' || a.account_id = any (p_accounts)
    and not exists (select from whatsapp.throttles t where t.country_id = a.country_id and t.account_id = a.account_id)
  order by 1, 2
  on conflict do nothing;

  for v_number in select * from whatsapp_internal.numbers_due(p_accounts, p_limit) loop
    exit when v_left < 1;
    select * into v_got from whatsapp_internal.claim_number(
      p_claim_id, v_number.country_id, v_number.account_id, v_number.messages_per_second, v_number.portfolio, v_number.templates_paused_until,
      v_left, v_number.left_to_serve, p_lease, p_horizon, p_ahead);
    v_leases := v_leases || v_got.leases;
    v_left := v_left - v_got.claimed;
    v_refused := v_refused + v_got.refused;
    v_next := least(v_next, v_got.next_at);
  end loop;

  v_next := least(v_next, whatsapp_internal.next_due(p_accounts, p_horizon));
  return jsonb_build_object(
    'leases', v_leases, 'refused', v_refused,
    'next_ms', case when v_next is not null then greatest(0, round(extract(epoch from v_next - clock_timestamp()) * 1000)) end);
end
$$;
comment on function whatsapp.claim is 'Verb 2 of 5. Judges again, spends the limits, leases a batch and hands out what to post.';

-- announce: the caller may now post so many messages of its leases, in the order of their slots. What was never announced is certainly unsent
-- when its drainer dies, and goes back to the queue instead of being unknown.
--
--   p_leases   jsonb[]  {country_id, lease_id, may_post}
--   returns    jsonb    the ids of the leases for which that holds: those that are still the caller's
create or replace function whatsapp.announce(p_leases jsonb[]) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_held jsonb;
begin
  with held as (
    select l.country_id, l.lease_id, i.may_post
    from (
      select r.country_id, r.lease_id, max(r.may_post) as may_post
      from unnest(p_leases) p, jsonb_to_record(p) as r (country_id text, lease_id uuid, may_post integer)
      group by 1, 2 order by 1, 2
    ) i
    cross join lateral (
      select l.country_id, l.lease_id from whatsapp.leases l
      where l.country_id = i.country_id and l.lease_id = i.lease_id and l.leased_until > clock_timestamp()
      for no key update
    ) l
  ),
  told as (
    update whatsapp.leases l set may_post = greatest(l.may_post, h.may_post)
    from held h where l.country_id = h.country_id and l.lease_id = h.lease_id
    returning l.lease_id
  )
  select coalesce(jsonb_agg(lease_id), '[]') into v_held from told;
  return v_held;
end
$$;
comment on function whatsapp.announce is 'A drainer says how many messages of its leases it may post from now on. Safe to repeat.';
