-- What happened: one row a message with its current state and the time of each state, and append-only everything that happened to it.

create table whatsapp.messages (
  country_id text not null,
  message_id uuid not null default whatsapp_internal.uuid7(),
  account_id text not null,
  contact_id uuid not null,
  direction text not null check (direction in ('inbound', 'outbound')),
  kind text not null,
  state text not null check (state in (
    'scheduled', 'queued', 'sending', 'unknown', 'accepted', 'sent', 'delivered', 'read', 'played',
    'failed', 'refused', 'cancelled', 'expired', 'received')),
  content jsonb not null,
  template_name text,
  template_language text,
  category text,
  ref text,
  wamid text,
  error_code integer,
  error_title text,
  error_details text,
  refusal text,
  price jsonb,
  attempts smallint not null default 0,
  created_by uuid,
  created_at timestamptz not null default now(),
  send_at timestamptz,
  expires_at timestamptz,
  accepted_at timestamptz,
  sent_at timestamptz,
  delivered_at timestamptz,
  read_at timestamptz,
  played_at timestamptz,
  failed_at timestamptz,
  campaign_id uuid,
  campaign_again boolean,
  confirms_consent boolean,
  foreign key (country_id, account_id, contact_id) references whatsapp.conversations (country_id, account_id, contact_id)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
create unique index messages_by_wamid on whatsapp.messages (country_id, account_id, wamid) where wamid is not null;
create index messages_by_contact on whatsapp.messages (country_id, account_id, contact_id, message_id);
create index messages_by_ref on whatsapp.messages (country_id, ref, message_id) where ref is not null;
create index messages_inbound on whatsapp.messages (country_id, message_id) where direction = 'inbound';
alter table whatsapp.messages add primary key (country_id, message_id);
create unique index messages_once_a_campaign on whatsapp.messages (country_id, campaign_id, contact_id)
  where campaign_id is not null and campaign_again is null;
comment on table whatsapp.messages is 'The message log, inbound and outbound: one row a message, its state now and the time of each state.';
comment on column whatsapp.messages.message_id is 'Ours. Goes to Meta as biz_opaque_callback_data and comes back with every status webhook.';
comment on column whatsapp.messages.content is 'Meta''s own message object: {"type": …, "<type>": {…}}.';
comment on column whatsapp.messages.refusal is 'Why a gate refused it, as one of the codes of docs/whatsapp.md.';
-- No foreign key of its own: whatever puts a message into a campaign is counted in the same statement, and it is the count's that refuses a
-- campaign which is not there, once a statement instead of once a message.
comment on column whatsapp.messages.campaign_id is 'The campaign it belongs to; a person gets one message of a campaign.';
comment on column whatsapp.messages.campaign_again is 'The campaign''s second message to a person who stood in two contacts when both were written.';
comment on column whatsapp.messages.confirms_consent is 'The one answer to a stop word: claim does not ask it about the opt-out it confirms.';

create table whatsapp.message_events (
  country_id text not null,
  message_id uuid not null,
  event_id bigint generated always as identity,
  event text not null,
  at timestamptz not null default now(),
  recorded_at timestamptz not null default now(),
  code integer,
  title text,
  detail jsonb,
  primary key (country_id, message_id, event_id),
  foreign key (country_id, message_id) references whatsapp.messages (country_id, message_id)
);
comment on table whatsapp.message_events is 'Append-only: every thing that happened to a message, with Meta''s code and words.';
comment on column whatsapp.message_events.at is 'When it happened, by Meta''s clock where Meta told; recorded_at is when we wrote it down.';
