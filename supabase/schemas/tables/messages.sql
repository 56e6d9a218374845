-- What happened: one row a message with its current state and the time of each state, append-only what else happened to it, and the messages by Meta's ids.
--
-- What grows with every message lies in partitions by time (partitions.sql): what is written now touches the youngest, and what is old is dropped.
-- No fact is written twice: what went as it goes stands in the columns of messages, and the view message_story tells it beside message_events.

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
  sending_at timestamptz,
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
) partition by range (message_id);
create index messages_by_contact on whatsapp.messages (country_id, account_id, contact_id, message_id);
create index messages_by_ref on whatsapp.messages (country_id, ref, message_id) where ref is not null;
create index messages_inbound on whatsapp.messages (country_id, message_id) where direction = 'inbound';
alter table whatsapp.messages add primary key (country_id, message_id);
comment on table whatsapp.messages is 'The message log, inbound and outbound: one row a message, its state now and the time of each state.';
comment on column whatsapp.messages.message_id is 'Ours. Goes to Meta as biz_opaque_callback_data and comes back with every status webhook.';
comment on column whatsapp.messages.content is 'Meta''s own message object: {"type": …, "<type>": {…}}.';
comment on column whatsapp.messages.wamid is 'Meta''s id. A message is found by it through wamids: an index here would make a new entry in every other one when Meta accepts.';
comment on column whatsapp.messages.sending_at is 'When it was first leased; later attempts are in message_events.';
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
) partition by range (message_id);
comment on table whatsapp.message_events is
  'Append-only: what happened to a message and does not stand in its columns, with Meta''s code and words. message_story tells both.';
comment on column whatsapp.message_events.at is 'When it happened, by Meta''s clock where Meta told; recorded_at is when we wrote it down.';

-- A message by Meta's id of it, in a table of its own: no index of a table in partitions by our ids can say that Meta's are unique. Inbound messages
-- stand under the week in which Meta says they were written, which is the same however often and however late Meta brings them; outbound ones under
-- the week in which Meta accepted them. A status that does not name our id may come 30 days later: it looks through the weeks there are.
create table whatsapp.wamids (
  country_id text not null,
  digest uuid not null,
  week date not null,
  message_id uuid not null,
  primary key (country_id, digest, week)
) partition by range (week);
comment on table whatsapp.wamids is 'The message of a Meta id (a digest of account and wamid), while Meta may still speak of it: kept for 45 days.';
