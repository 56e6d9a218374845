-- Lanes and slots: where a message waits, and how far apart messages leave.

-- The lane a message waits in and how urgent the lane is: a person's answer, then what they asked for, then marketing.
create or replace function whatsapp_internal.lane_of(kind text, category text) returns text
language sql immutable parallel safe
return case when kind <> 'template' then 'reply' when category in ('UTILITY', 'AUTHENTICATION') then 'utility' else 'marketing' end;

create or replace function whatsapp_internal.lane_priority(lane text) returns smallint
language sql immutable parallel safe
return (case lane when 'reply' then 0 when 'utility' then 1 else 2 end)::smallint;

-- The head of a lane: when its next message may go. Inlined, so it has no settings.
create or replace function whatsapp_internal.lane_head(p_country text, p_account text, p_lane text) returns table (run_at timestamptz)
language sql stable
as $$
  select q.run_at from whatsapp.queue q
  where q.country_id = p_country and q.account_id = p_account and q.lane = p_lane and q.lease_id is null and q.unknown_until is null
  order by q.run_at limit 1
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
