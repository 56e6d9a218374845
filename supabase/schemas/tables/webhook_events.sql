create table whatsapp.webhook_events (
  country_id text not null,
  event_key uuid not null,
  account_id text,
  field text not null,
  kind text not null,
  outcome text not null check (outcome in ('applied', 'recorded', 'parked', 'ignored', 'unroutable', 'unparsable')),
  wamid text,
  event jsonb,
  payload jsonb not null,
  received_at timestamptz not null default now(),
  look_again_at timestamptz,
  primary key (country_id, event_key)
);
create index webhook_events_parked on whatsapp.webhook_events (country_id, account_id, wamid) where outcome = 'parked';
create index webhook_events_look_again on whatsapp.webhook_events (look_again_at) where look_again_at is not null;

-- Not BRIN: freed pages are filled again, so that soon every block range holds something new and seems to hold something old.
create index webhook_events_age on whatsapp.webhook_events (received_at);
create index webhook_events_to_look_at on whatsapp.webhook_events (received_at) where country_id = 'ZZ' or outcome in ('unroutable', 'unparsable');
comment on table whatsapp.webhook_events is 'Every webhook event once: the idempotency store of ingest, with the raw payload (Meta ids removed). Country ZZ holds what nobody could be found for.';
comment on column whatsapp.webhook_events.outcome is
  'applied moved something; recorded was understood and changed nothing; parked waits for its message; ignored is not implemented.';
comment on column whatsapp.webhook_events.event is 'The parsed event of a parked status, kept until the message it speaks of is known.';
comment on column whatsapp.webhook_events.look_again_at is
  'When sweep looks once more whether the message of a parked status is known: settle, running at the same moment, may not have seen the status.';
