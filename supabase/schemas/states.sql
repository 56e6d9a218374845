-- What is known of a message, and what follows from it.

-- The state of an outbound message is a function of what is known about it, never of the order in which it became known:
-- every permutation of Meta's status webhooks ends in the same state. A message that reached a device is delivered even
-- if another device of the same person failed; `fallback` is the state while Meta has said nothing.
create or replace function whatsapp_internal.state_of(
  accepted_at timestamptz, sent_at timestamptz, delivered_at timestamptz, read_at timestamptz, played_at timestamptz,
  failed_at timestamptz, fallback text
) returns text
language sql immutable parallel safe
return case
  when played_at is not null then 'played'
  when read_at is not null then 'read'
  when delivered_at is not null then 'delivered'
  when failed_at is not null then 'failed'
  when sent_at is not null then 'sent'
  when accepted_at is not null then 'accepted'
  else fallback
end;

-- Whether a message failed because we gave it up: nobody had said what became of it. That is a guess; any word of Meta's takes it back.
create or replace function whatsapp_internal.given_up(error_code integer, error_title text) returns boolean
language sql immutable parallel safe
return coalesce(error_title = 'outcome_unknown' and error_code is null, false);

-- Unix seconds from a webhook as a time that can be trusted: never in the future, now where Meta sent none.
create or replace function whatsapp_internal.event_time(seconds double precision) returns timestamptz
language sql stable parallel safe
return case
  when seconds between 1 and 32503680000 then least(to_timestamp(seconds), now())
  else now()
end;
