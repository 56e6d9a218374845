-- The story of a message, every step of it. What went as it goes stands in the message's columns and is written nowhere else; what did not stands in
-- message_events. This is both.
--
-- Runs as whoever asks: row level security of the two tables decides.

create or replace view whatsapp.message_story with (security_invoker = true) as
  select m.country_id, m.message_id, s.event, s.at, null::integer as code, null::text as title, null::jsonb as detail, s.step
  from whatsapp.messages m
  cross join lateral (values
    (1::bigint, case when m.direction = 'inbound' then 'message_received' when m.send_at > m.created_at then 'message_scheduled' else 'message_queued' end, m.created_at),
    (2, 'message_sending', m.sending_at),
    (3, 'message_accepted', m.accepted_at),
    (4, 'message_sent', m.sent_at),
    (5, 'message_delivered', m.delivered_at),
    (6, 'message_read', m.read_at),
    (7, 'message_played', m.played_at)
  ) as s (step, event, at)
  where s.at is not null
    -- Where there was more to tell of the step than its time, the event tells it.
    and not exists (
      select from whatsapp.message_events e
      where e.country_id = m.country_id and e.message_id = m.message_id and e.event = s.event and e.at = s.at)
  union all
  select e.country_id, e.message_id, e.event, e.at, e.code, e.title, e.detail, 7 + e.event_id
  from whatsapp.message_events e;
comment on view whatsapp.message_story is
  'Everything that happened to a message, to be read by country_id and message_id, in the order of at and step: its columns and its message_events together.';
