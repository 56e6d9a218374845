-- Lanes and slots: where a message waits, and how far apart messages leave.

-- The lane a message waits in and how urgent the lane is: a person's answer, then what they asked for, then marketing.
create or replace function whatsapp_internal.lane_of(kind text, category text) returns text
language sql immutable parallel safe
return case when kind <> 'template' then 'reply' when category in ('UTILITY', 'AUTHENTICATION') then 'utility' else 'marketing' end;

create or replace function whatsapp_internal.lane_priority(lane text) returns smallint
language sql immutable parallel safe
return (case lane when 'reply' then 0 when 'utility' then 1 else 2 end)::smallint;

-- Where a lane is read from. What was sent leaves dead entries at the head of its index; while a transaction elsewhere holds an old snapshot (a dump, a
-- forgotten session), no vacuum may clear them away, and a claim that began at the very beginning would read the whole day. So each claim notes what
-- it found first (move_heads). A message can come to lie before that: one whose transaction began earlier and took longer, so the mark stays ten seconds
-- behind the clock; one that is given back, whose giver moves the mark back (reopen_lanes); and whatever else, a queue changed by hand or a clock set
-- back, for which the lane is read from its beginning every half minute.
create or replace function whatsapp_internal.lane_start(head_at timestamptz, head_seen_at timestamptz) returns timestamptz
language sql stable parallel safe
return case when head_seen_at between now() - interval '30 seconds' and now() + interval '5 seconds' then head_at else '-infinity' end;

-- The head of a lane: when its next message may go, and which it is. Inlined, so it has no settings.
create or replace function whatsapp_internal.lane_head(p_country text, p_account text, p_lane text, p_from timestamptz, p_from_id uuid)
returns table (run_at timestamptz, message_id uuid)
language sql stable
as $$
  select q.run_at, q.message_id from whatsapp.queue q
  where q.country_id = p_country and q.account_id = p_account and q.lane = p_lane and q.lease_id is null and q.unknown_until is null
    and (q.run_at, q.message_id) >= (p_from, p_from_id)
  order by q.run_at, q.message_id limit 1
$$;

-- Notes what is first in these lanes now. The claim holds their rows.
create or replace function whatsapp_internal.move_heads(p_country text, p_account text, p_at timestamptz, p_read whatsapp_internal.read_lane[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  update whatsapp.lanes l
  set served_at = coalesce(r.served_at, l.served_at), head_at = r.head_at, head_id = r.head_id,
    head_seen_at = case r.from_at when '-infinity' then p_at else l.head_seen_at end
  from (
    select r.lane, r.served_at, r.from_at, least(h.run_at, p_at - interval '10 seconds') as head_at,
      case when h.run_at <= p_at - interval '10 seconds' then h.message_id else '00000000-0000-0000-0000-000000000000' end as head_id
    from unnest(p_read) r
    left join lateral whatsapp_internal.lane_head(p_country, p_account, r.lane, r.from_at, r.from_id) h on true
  ) r
  where l.country_id = p_country and l.account_id = p_account and l.lane = r.lane;
end
$$;

-- These messages were given back where they stood: their lanes are read from there.
create or replace function whatsapp_internal.reopen_lanes(p_countries text[], p_messages uuid[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  update whatsapp.lanes l set head_at = r.run_at, head_id = r.message_id
  from (
    select distinct on (q.country_id, q.account_id, q.lane) q.country_id, q.account_id, q.lane, q.run_at, q.message_id
    from unnest(p_countries, p_messages) as k (country_id, message_id)
    cross join lateral (
      select q.* from whatsapp.queue q where q.country_id = k.country_id and q.message_id = k.message_id limit 1) q
    order by q.country_id, q.account_id, q.lane, q.run_at, q.message_id
  ) r
  where l.country_id = r.country_id and l.account_id = r.account_id and l.lane = r.lane and (l.head_at, l.head_id) > (r.run_at, r.message_id);
end
$$;

-- How far apart the slots of a number lie. Meta counts arrivals, and what leaves evenly does not arrive evenly: the room for 50 ms of
-- difference on the way is what keeps any moving second within the rate. It costs a twentieth; one 130429 costs half for a minute.
create or replace function whatsapp_internal.slot_step(messages_per_second integer, rate_factor real) returns interval
language sql immutable parallel safe
return interval '1.05 seconds' / (messages_per_second * rate_factor);

-- The lane of a campaign: behind replies and utility, beside other campaigns and marketing.
create or replace function whatsapp_internal.lane_of_campaign(p_campaign uuid) returns text
language sql immutable parallel safe
return 'campaign:' || p_campaign;
