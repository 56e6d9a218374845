-- What Meta told: webhooks as they came, and statuses that wait for their message.

create table whatsapp.webhook_events (
  country_id text not null,
  day date not null,
  event_key uuid not null,
  account_id text,
  field text not null,
  kind text not null,
  outcome text not null check (outcome in ('applied', 'recorded', 'ignored', 'unroutable', 'unparsable')),
  payload jsonb not null,
  received_at timestamptz not null default now(),
  primary key (country_id, event_key, day)
) partition by range (day);
create index webhook_events_to_look_at on whatsapp.webhook_events (received_at) where country_id = 'ZZ' or outcome in ('unroutable', 'unparsable');
comment on table whatsapp.webhook_events is
  'What webhooks told, raw (Meta ids removed), each event once. Country ZZ holds what nobody could be found for. Statuses of one call lie in one row: their fact is in messages.';
comment on column whatsapp.webhook_events.day is
  'The event''s own day by Meta''s clock, so that what Meta repeats on another day meets what is stored; of statuses the day they came.';
comment on column whatsapp.webhook_events.outcome is
  'applied moved something; recorded was understood and changed nothing; ignored is not implemented.';

create table whatsapp.parked_statuses (
  country_id text not null,
  event_key uuid not null,
  account_id text not null,
  wamid text not null,
  event jsonb not null,
  received_at timestamptz not null default now(),
  look_again_at timestamptz default now() + interval '1 minute',
  primary key (country_id, event_key)
);
create index parked_statuses_by_wamid on whatsapp.parked_statuses (country_id, account_id, wamid);
create index parked_statuses_look_again on whatsapp.parked_statuses (look_again_at) where look_again_at is not null;
create index parked_statuses_age on whatsapp.parked_statuses (received_at);
comment on table whatsapp.parked_statuses is 'Statuses of messages that nobody here knows (yet): applied when their message becomes known, else forgotten after 30 days.';
comment on column whatsapp.parked_statuses.look_again_at is
  'When sweep looks once more whether its message is known: settle, running at the same moment, may not have seen the status.';
