create table whatsapp.conversations (
  country_id text not null,
  account_id text not null,
  contact_id uuid not null,
  window_until timestamptz,
  entry_point_until timestamptz,
  last_inbound_at timestamptz,
  last_message_at timestamptz not null default now(),
  pair_next_at timestamptz,
  sending_until timestamptz,
  primary key (country_id, account_id, contact_id),
  foreign key (country_id, account_id) references whatsapp.accounts (country_id, account_id),
  foreign key (country_id, contact_id) references whatsapp.contacts (country_id, contact_id)
) with (fillfactor = 60);
create index conversations_by_contact on whatsapp.conversations (country_id, contact_id);
comment on table whatsapp.conversations is 'One business number with one person: the 24-hour window, pair pacing, and the one message in flight.';
comment on column whatsapp.conversations.window_until is 'Free-form messages may be sent until then: 24 hours after the person''s last message or call.';
comment on column whatsapp.conversations.entry_point_until is 'Meta''s free entry point (click-to-WhatsApp), as told by status webhooks. Until then marketing passes though Meta holds it back.';
comment on column whatsapp.conversations.pair_next_at is 'Pair pacing: the theoretical arrival time of the next message (one per 6 s, 45 ahead).';
comment on column whatsapp.conversations.sending_until is 'A message to this person is in flight, at most until then (the end of its lease).';
