-- Written by `make migrations` from supabase/schemas and supabase/changes: edit there.

-- schemas/ground.sql

-- The ground: two schemas, and the two functions that tables need.
--
-- `whatsapp` is exposed by the Data API: tables that members read under row level security, and the five verbs that
-- only `service_role` may call. `whatsapp_internal` is never exposed: helpers of the verbs and of the policies.
--
-- House rules of this folder
--   * `country_id` leads every primary key, unique key, foreign key and hot index. The database itself refuses a row that
--     points across countries, and a country can move to a project of its own.
--   * No Meta id and no token is ever stored: they live in the environment, keyed by (country_id, account_id).
--   * Who may do what stands in privileges.sql alone, and how the verbs are planned in planner.sql alone.
--   * Errors for callers are raised as PTnnn only. Everything runs on Postgres 15 to 18.
--   * The key of a large table comes after its other indexes. They all begin with the country, and where statistics are missing or say that a
--     table is empty, each seems as good as the key to find one row by: of equals Postgres takes the youngest.
--   * Hot rows (messages, queue, conversations) keep free space in their pages and no mutable column in an index, so that an update stays on its
--     page (HOT) and writes no index entry.
--
-- A file holds a noun (tables/, written once: a released table is changed by a migration) or a verb with its helpers (all others: each may be run
-- again, and a migration brings it whole).

create schema if not exists whatsapp;
create schema if not exists whatsapp_internal;

comment on schema whatsapp is 'WhatsApp messaging: the log, the queue and the five verbs (enqueue, claim, settle, ingest, sweep).';
comment on schema whatsapp_internal is 'Helpers of schema whatsapp. Never exposed by the Data API.';

-- Time-ordered ids (RFC 9562, version 7), with the microseconds in the twelve bits after the version so that ids made
-- one after the other in one transaction sort in the order they were made. Postgres has its own only from 18 on.
-- One expression that names its argument once, so that it is inlined: made for every row of a campaign.
create or replace function whatsapp_internal.uuid7(at timestamptz default clock_timestamp()) returns uuid
language sql volatile parallel safe
return (
  overlay(lpad(to_hex(floor(extract(epoch from at) * 4096000)::bigint), 15, '0') placing '7' from 13 for 0)
  || right(gen_random_uuid()::text, 17)
)::uuid;

-- A word by which spellings meet: without accents, in lower case, with one space where whitespace and punctuation stood. By code points, so
-- that it does not depend on the database's locale but for the case of letters beyond a to z.
create or replace function whatsapp_internal.plain_word(word text) returns text
language sql immutable parallel safe
return trim(regexp_replace(
  lower(regexp_replace(normalize(word, nfkd), '[\u0300-\u036f]', '', 'g')),
  '[\u0001-\u002f\u003a-\u0040\u005b-\u0060\u007b-\u00bf\u2000-\u206f\u3000-\u303f\ufe0f\ufeff]+', ' ', 'g'));


-- schemas/tables/accounts.sql

create table whatsapp.accounts (
  country_id text not null check (country_id ~ '^[A-Z]{2}$' and country_id <> 'ZZ'),
  account_id text not null check (account_id ~ '^[a-z0-9]+(-[a-z0-9]+)*$'),
  display_name text,
  is_default boolean not null default false,
  portfolio text not null default 'main',
  state text not null default 'active' check (state in ('active', 'paused', 'stopped', 'disabled')),
  state_reason text,
  state_code integer,
  state_since timestamptz not null default now(),
  paused_until timestamptz,
  templates_paused_until timestamptz,
  messages_per_second integer not null default 80 check (messages_per_second between 1 and 1000),
  coexistence boolean not null default false,
  messaging_limit integer check (messaging_limit > 0 or messaging_limit = -1),
  quality text,
  time_zone text not null default 'UTC',
  quiet_from time,
  quiet_until time,
  opt_in_required boolean not null default false,
  unknown_policy text not null default 'requeue_once' check (unknown_policy in ('requeue_once', 'fail')),
  unknown_deadline interval not null default interval '10 minutes' check (unknown_deadline >= interval '1 second'),
  created_at timestamptz not null default now(),
  primary key (country_id, account_id),
  check ((quiet_from is null) = (quiet_until is null)),
  -- A zone that Postgres does not know is an error here, and not in the middle of a claim.
  check ((timestamptz 'epoch' at time zone time_zone) is not null)
);
create unique index accounts_one_default on whatsapp.accounts (country_id) where is_default;
create index accounts_by_portfolio on whatsapp.accounts (portfolio);
comment on table whatsapp.accounts is 'One row per business number. Its Meta ids and tokens live in the environment, under WHATSAPP_<COUNTRY>_<ACCOUNT>_….';
comment on column whatsapp.accounts.portfolio is 'An alias of the business portfolio: numbers that share Meta''s messaging limit share this word.';
comment on column whatsapp.accounts.state is 'active sends; paused waits (until paused_until, if set); stopped waits for a person; disabled refuses.';
comment on column whatsapp.accounts.messages_per_second is 'Meta''s throughput of the number, inbound and outbound together: 80, 20 in coexistence, 1000 when upgraded.';
comment on column whatsapp.accounts.coexistence is 'Meta says that the number is used in the WhatsApp Business app, too: 20 a second are its own limit then.';
comment on column whatsapp.accounts.templates_paused_until is 'Meta has restricted what the business may begin: no template leaves until then; replies do.';
comment on column whatsapp.accounts.messaging_limit is
  'Different people the portfolio may write to first in 24 hours, as Meta tells it: -1 is unlimited, empty is not told yet. The lowest that was told to the portfolio''s accounts counts; 250 until then.';
comment on column whatsapp.accounts.quality is 'Meta''s quality rating of the number: GREEN, YELLOW, RED, UNKNOWN.';
comment on column whatsapp.accounts.quiet_from is 'Marketing rests from then until quiet_until by the clock of time_zone; over midnight if it is the later of the two.';
comment on column whatsapp.accounts.unknown_policy is 'What becomes of a reply or utility message whose outcome stayed unknown: sent again once, or failed.';

create table whatsapp.throttles (
  country_id text not null,
  account_id text not null,
  next_slot_at timestamptz not null default '-infinity',
  next_overtake_at timestamptz,
  paced_at timestamptz,
  inbound_at timestamptz,
  held_until timestamptz,
  rate_factor real not null default 1 check (rate_factor > 0 and rate_factor <= 1),
  webhook_seen_at timestamptz,
  told_until timestamptz,
  feed_since timestamptz not null default now(),
  gap_from timestamptz not null default now(),
  swept_at timestamptz not null default now(),
  primary key (country_id, account_id),
  foreign key (country_id, account_id) references whatsapp.accounts (country_id, account_id)
) with (fillfactor = 50);
comment on table whatsapp.throttles is 'The hot row of a number. Whoever claims for the number holds it, so ten drainers together keep one number''s rate.';
comment on column whatsapp.throttles.next_slot_at is 'The next free slot of the token bucket: claims hand out slots slot_step apart; inbound messages use slots too.';
comment on column whatsapp.throttles.paced_at is 'When the two before were last moved. A clock that shows less has been moved back, and they are moved back with it.';
comment on column whatsapp.throttles.webhook_seen_at is 'When a webhook of this number last came, to the second.';
comment on column whatsapp.throttles.told_until is 'How far its feed has come: the latest time, by Meta''s clock, of what its webhooks have told.';
comment on column whatsapp.throttles.feed_since is 'Since when no gap is known in which its webhooks may have been missed: see sweep''s job unknowns.';
comment on column whatsapp.throttles.gap_from is 'When the gap began that ended with feed_since, and any gap before it that was not yet made up for.';
comment on column whatsapp.throttles.swept_at is 'Our own heartbeat: when sweep last looked at it. A long time ago means that we were away.';
comment on column whatsapp.throttles.next_overtake_at is 'Replies that went before slots already handed out: a tenth of the rate at the most, by a bucket of half a second.';


-- schemas/tables/members.sql

create table whatsapp.members (
  country_id text not null check (country_id ~ '^[A-Z]{2}$'),
  user_id uuid not null,
  role text not null check (role in ('viewer', 'operator', 'admin')),
  created_at timestamptz not null default now(),
  primary key (country_id, user_id)
);
create index members_by_user on whatsapp.members (user_id);
comment on table whatsapp.members is 'Which user works for which country. A table and not a claim: taking the row away works at once.';


-- schemas/tables/contacts.sql

create table whatsapp.contacts (
  country_id text not null check (country_id ~ '^[A-Z]{2}$'),
  contact_id uuid not null default whatsapp_internal.uuid7(),
  phone text check (phone ~ '^\+[0-9]{5,15}$'),
  wa_id text,
  match_key text,
  bsuid text,
  bsuid_portfolio text,
  parent_bsuid text,
  bound_at timestamptz,
  name text,
  username text,
  identity_key_hash text,
  opted_in_at timestamptz,
  opted_out_at timestamptz,
  marketing_opted_out_at timestamptz,
  marketing_cooled_until timestamptz,
  merged_into uuid,
  created_at timestamptz not null default now(),
  primary key (country_id, contact_id),
  foreign key (country_id, merged_into) references whatsapp.contacts (country_id, contact_id),
  check (match_key is not null or bsuid is not null or merged_into is not null)
) with (fillfactor = 80);
create unique index contacts_by_match_key on whatsapp.contacts (country_id, match_key) where match_key is not null;
create unique index contacts_by_bsuid on whatsapp.contacts (country_id, bsuid) where bsuid is not null;
create index contacts_merged on whatsapp.contacts (country_id, merged_into) where merged_into is not null;
comment on table whatsapp.contacts is 'A person in a country, known by phone, WhatsApp id or business-scoped user id (BSUID), each of which may be missing.';
comment on column whatsapp.contacts.phone is 'E.164 as a caller gave it. Never rewritten.';
comment on column whatsapp.contacts.wa_id is 'Digits as Meta reported them. Never rewritten; may differ from phone (Mexico 521, Argentina 549, Brazil''s ninth digit).';
comment on column whatsapp.contacts.match_key is 'The canonical digits by which phone and wa_id of one person meet. Unique, hence so are phone and wa_id.';
comment on column whatsapp.contacts.bsuid_portfolio is 'Whose id the BSUID is: each business portfolio has its own for a person. Null where a caller gave it.';
comment on column whatsapp.contacts.bound_at is 'Since when, by Meta''s clock, these names are known to be this person''s: what is older does not move them.';
comment on column whatsapp.contacts.merged_into is 'It turned out to be the same person as that row, to which everything went. Never a row that is merged itself.';
comment on column whatsapp.contacts.identity_key_hash is 'Meta''s word for the identity behind the number, where the number has identity checks on.';

create table whatsapp.former_names (
  country_id text not null,
  name text not null,
  contact_id uuid not null,
  until timestamptz not null,
  bsuid text,
  primary key (country_id, name, contact_id),
  foreign key (country_id, contact_id) references whatsapp.contacts (country_id, contact_id)
);
create index former_names_by_contact on whatsapp.former_names (country_id, contact_id);
comment on table whatsapp.former_names is
  'Names that people gave up: match keys, which pass to others, and BSUIDs, which do not. What Meta brings late finds its person by them.';
comment on column whatsapp.former_names.until is 'When, by Meta''s clock. Infinity is a BSUID that is not given up but another portfolio''s.';
comment on column whatsapp.former_names.bsuid is 'Of a number: the BSUID the person had with it, where known.';


-- schemas/tables/consents.sql

-- Consent: who wants to hear from us, since when, and how we know.
--
--   consents          append-only: every opt-in and opt-out, whoever told it: a caller, a stop word, Meta
--   stop_words        words that opt a person out (or in) by themselves, a list per country; nothing is configured by default
--   record_consents   many at once, a verdict per row
--
-- What holds now stands in contacts (opted_in_at, opted_out_at, marketing_opted_out_at), where the gates read it, and is a function of the
-- facts, never of the order in which they became known:
--   * The later fact wins, by `at`: when the person said it. An old import does not undo a newer opt-out. At the same moment no wins.
--   * An opt-out of scope `all` sets opted_out_at, lifted by a later opt-in of scope `all`. An opt-in to marketing alone does not lift it.
--   * An opt-out of scope `marketing` sets marketing_opted_out_at, lifted by any later opt-in.
--   * opted_in_at is the latest opt-in of either scope. Meta's "resume" takes back a stop and is no opt-in where none was given before.
--   * A time that stands in contacts without a fact here (set by SQL, or carried over from another contact of the same person) counts as one.
--
-- A stop word is the whole message, text or quick reply of a template; case, accents, and whitespace and punctuation around it do not matter.
-- It is recorded with the word as written. Its reply, if one is configured, is queued in the same transaction, and only when the word
-- changed what holds: neither a repeated webhook nor a person who writes BAJA three times is answered twice. It is the one free-form message
-- that passes an opt-out (messages.confirms_consent); everything else waits until the person writes again.

create table whatsapp.consents (
  country_id text not null,
  contact_id uuid not null,
  consent_id bigint generated always as identity,
  what text not null check (what in ('opt_in', 'opt_out')),
  scope text not null check (scope in ('all', 'marketing')),
  at timestamptz not null,
  how text not null check (length(how) between 1 and 200),
  proof text check (length(proof) between 1 and 4096),
  recorded_by uuid,
  recorded_at timestamptz not null default now(),
  primary key (country_id, contact_id, consent_id),
  foreign key (country_id, contact_id) references whatsapp.contacts (country_id, contact_id)
);
comment on table whatsapp.consents is 'Append-only: every opt-in and opt-out, when, how and in which words. What holds now stands in contacts.';
comment on column whatsapp.consents.at is 'When the person said it; recorded_at is when we wrote it down.';
comment on column whatsapp.consents.how is 'Where it comes from. stop_word and meta are written by webhooks only.';
comment on column whatsapp.consents.recorded_by is 'The signed-in user who recorded it; null for servers and webhooks.';

create table whatsapp.stop_words (
  country_id text not null check (country_id ~ '^[A-Z]{2}$'),
  word text not null check (length(word) <= 100),
  key text not null generated always as (whatsapp_internal.plain_word(word)) stored check (key <> ''),
  action text not null default 'opt_out' check (action in ('opt_in', 'opt_out')),
  scope text not null default 'all' check (scope in ('all', 'marketing')),
  reply text check (length(reply) between 1 and 4096),
  primary key (country_id, key)
);
comment on table whatsapp.stop_words is 'Words that by themselves opt a person of the country out (or in). Kept by the project''s owner in SQL.';
comment on column whatsapp.stop_words.key is 'The word as messages are compared with it: case, accents and punctuation do not matter.';
comment on column whatsapp.stop_words.reply is 'Sent once, when the word changed what holds. Null: no answer.';


-- schemas/tables/conversations.sql

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


-- schemas/tables/templates.sql

create table whatsapp.templates (
  country_id text not null,
  account_id text not null,
  name text not null,
  language text not null,
  status text not null,
  category text not null,
  parameter_format text,
  components jsonb,
  contract jsonb,
  quality text,
  reason text,
  status_at timestamptz not null default now(),
  synced_at timestamptz not null default now(),
  primary key (country_id, account_id, name, language),
  foreign key (country_id, account_id) references whatsapp.accounts (country_id, account_id)
);
comment on table whatsapp.templates is 'Meta''s message templates as last synced. Only APPROVED may be sent; a status this code does not know may not.';
comment on column whatsapp.templates.contract is 'What must be supplied: {"parameters": [{"key", "type", "required", "max", "example"}]} or {"unsupported"}.';
comment on column whatsapp.templates.status_at is 'By Meta''s clock: when it was last told to have this status by a webhook, or found to have changed by a sync.';
comment on column whatsapp.templates.language is 'With an underscore (es_MX), however Meta spelled it.';


-- schemas/tables/messages.sql

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


-- schemas/tables/queue.sql

-- What still has to be sent.

create table whatsapp.lanes (
  country_id text not null,
  account_id text not null,
  lane text not null,
  priority smallint not null,
  paused boolean not null default false,
  held_until timestamptz,
  held_reason text,
  served_at timestamptz not null default '-infinity',
  head_at timestamptz not null default '-infinity',
  head_id uuid not null default '00000000-0000-0000-0000-000000000000',
  head_seen_at timestamptz not null default '-infinity',
  primary key (country_id, account_id, lane),
  foreign key (country_id, account_id) references whatsapp.accounts (country_id, account_id)
) with (fillfactor = 50);
comment on table whatsapp.lanes is 'The queue''s lanes: replies (0) before utility (1) before marketing (2); lanes of one priority take turns.';
comment on column whatsapp.lanes.head_at is 'With head_id, by run_at and message_id: no message before it can be claimed. Claims begin to read there (lanes.sql).';
comment on column whatsapp.lanes.head_seen_at is 'When the lane was last read from its very beginning.';
comment on column whatsapp.lanes.held_until is 'A whole campaign waits, for quiet_hours, the messaging_limit or a template_throttled by Meta: one row, however many messages stand in the lane.';

create table whatsapp.queue (
  country_id text not null,
  message_id uuid not null,
  account_id text not null,
  contact_id uuid not null,
  lane text not null,
  due_at timestamptz not null,
  run_at timestamptz not null,
  expires_at timestamptz,
  attempts smallint not null default 0,
  waits smallint not null default 0,
  scheduled boolean not null default false,
  blocked boolean not null default false,
  held_reason text check (held_reason in ('messaging_limit', 'quiet_hours')),
  lease_id uuid,
  leased_at timestamptz,
  leased_until timestamptz,
  unknown_until timestamptz,
  unknown_requeues smallint not null default 0,
  foreign key (country_id, message_id) references whatsapp.messages (country_id, message_id),
  foreign key (country_id, account_id, lane) references whatsapp.lanes (country_id, account_id, lane)
) with (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- What is unknown is no candidate: thousands of them at the head of a lane cost its claims nothing. A lease touches no column of it.
create index queue_by_lane on whatsapp.queue (country_id, account_id, lane, run_at, message_id) where unknown_until is null;
create index queue_unknown_by_lane on whatsapp.queue (country_id, account_id, lane) where unknown_until is not null;
create index queue_by_contact on whatsapp.queue (country_id, account_id, contact_id, lane, due_at, message_id);
create index queue_unknown on whatsapp.queue (country_id, unknown_until) where unknown_until is not null;
create index queue_scheduled on whatsapp.queue (country_id, run_at) where scheduled;
create index queue_held on whatsapp.queue (country_id, account_id, lane, held_reason, due_at) where held_reason is not null;
create index queue_expiring on whatsapp.queue (country_id, expires_at) where expires_at is not null;
alter table whatsapp.queue add primary key (country_id, message_id);
comment on table whatsapp.queue is 'Only what still has to be sent: small and hot, a row is deleted when its message is settled.';
comment on column whatsapp.queue.due_at is 'The message''s place in its person''s order; never changes. run_at is when it may next be tried.';
comment on column whatsapp.queue.waits is 'How often in a row it was sent back through no fault of its own (held): the pause grows with it, attempts do not.';
comment on column whatsapp.queue.blocked is 'Stepped aside because an earlier message to the same person is not done; settling that one wakes it.';
comment on column whatsapp.queue.held_reason is 'A single message that waits until run_at for Meta''s messaging limit or for the end of quiet hours, or until sweep finds that it need not (portfolios/holding.sql).';
comment on column whatsapp.queue.unknown_until is 'Set while nobody knows whether Meta took it: a status webhook decides, or sweep after this deadline.';

create table whatsapp.leases (
  country_id text not null,
  lease_id uuid not null,
  account_id text not null,
  claim_id uuid not null,
  leased_at timestamptz not null,
  leased_until timestamptz not null,
  slot_at timestamptz not null,
  slot_step interval not null,
  message_ids uuid[] not null,
  may_post integer not null,
  primary key (country_id, lease_id)
);
create index leases_by_claim on whatsapp.leases (country_id, claim_id);
create index leases_by_end on whatsapp.leases (country_id, leased_until);
comment on table whatsapp.leases is 'One row per claimed batch: a repeated claim gets the same batch, and what a dead drainer held is found without an index on the queue''s lease.';
comment on column whatsapp.leases.may_post is 'How many of its messages, in the order of their slots, its drainer has said it may post. The rest it never posts before saying so (announce).';
comment on column whatsapp.leases.claim_id is 'Made by the caller of claim; one claim may hold a lease of several numbers.';


-- schemas/tables/campaigns.sql

-- Campaigns: one approved template to very many people. A campaign is a lane of the queue, so that pausing it costs one row however many
-- messages wait in it, and a reply never stands behind it.
--
--   open_campaign      make a campaign, or find it again (same key, or by id), for a call that brings recipients
--   enqueue_campaign   judge and queue one chunk of recipients; the bulk form of enqueue, with one account and one template
--   control_campaign   start, pause, resume, cancel
--   control_account    pause a number, resume it: the same for everything a number sends
--   campaign_progress  how far it is: one cheap read however large it is
--
-- Free-form in bulk is impossible: the content of every message is built here from the campaign's own template and the row's components.
--
-- Progress is kept by one statement trigger on messages, in the transaction of each change, as small additions to campaign_counts that
-- sweep folds together. So it is right after any crash, whatever verb moved a message, and no hot counter row is fought over.

create table whatsapp.campaigns (
  country_id text not null,
  campaign_id uuid not null default whatsapp_internal.uuid7(),
  account_id text not null,
  name text not null,
  template_name text not null,
  template_language text not null,
  state text not null check (state in ('draft', 'scheduled', 'running', 'paused', 'completed', 'cancelled')),
  state_reason text,
  state_by uuid,
  state_since timestamptz not null default now(),
  send_at timestamptz,
  valid_until timestamptz,
  failure_share real not null default 0.3 check (failure_share > 0 and failure_share <= 1),
  checked_settled bigint not null default 0,
  checked_failed bigint not null default 0,
  created_by uuid,
  created_at timestamptz not null default now(),
  primary key (country_id, campaign_id),
  foreign key (country_id, account_id) references whatsapp.accounts (country_id, account_id)
);
create index campaigns_by_account on whatsapp.campaigns (country_id, account_id);
comment on table whatsapp.campaigns is 'One approved template to many people. draft waits for its start; paused tells by its reason who paused it: a person, or one of Meta''s verdicts.';
comment on column whatsapp.campaigns.state_by is 'Where state_reason is by_a_person: the signed-in user; null for a server with the secret key.';
comment on column whatsapp.campaigns.failure_share is 'It pauses itself when more than this share of the last 200 or more settled messages failed.';

create table whatsapp.campaign_counts (
  country_id text not null,
  campaign_id uuid not null,
  count_id bigint generated always as identity,
  key text not null,
  n bigint not null,
  primary key (country_id, campaign_id, count_id),
  foreign key (country_id, campaign_id) references whatsapp.campaigns (country_id, campaign_id)
);
comment on table whatsapp.campaign_counts is 'Additions to a campaign''s counts by key (a state, "failed:<code>", "refused:<code>", "cost:<category>"); their sum counts.';

-- That a person is in a campaign once. A unique index of messages could not say it: they lie in partitions by their own ids, and these by the campaign's.
create table whatsapp.campaign_people (
  country_id text not null,
  campaign_id uuid not null,
  contact_id uuid not null,
  message_id uuid not null,
  primary key (country_id, campaign_id, contact_id)
) partition by range (campaign_id);
comment on table whatsapp.campaign_people is 'Who is in a campaign, and by which message: a person once. The way from a campaign to its messages.';


-- schemas/tables/portfolios.sql

-- Meta's messaging limit: how many different people a business portfolio may write to first, that is outside an open 24-hour window, in any
-- rolling 24 hours (250, 2,000, 10,000, 100,000, unlimited). Meta counts over all numbers of the portfolio, whatever their country.
-- Source: M:messaging-limits.
--
-- Meta tells the limit (templates-sync, webhooks) but not how much of it is used, so it is counted here, at the moment of the lease:
--   portfolio_people   the minute in which each person was last written to
--   portfolio_minutes  how many people each minute stands for; their sum over 24 hours is what is used, without counting people one by one
-- A minute counts until it lies 24 hours back as a whole: up to a minute more careful than Meta, never less. Who was counted and then not
-- reached stays counted.
--
-- The one place where the house rule "country_id leads every key" cannot hold: the limit stands above countries. So that nothing of a person
-- crosses a border here, a person is a digest, and nobody reads these tables.

create table whatsapp_internal.portfolio_people (
  portfolio text not null,
  person uuid not null,
  minute timestamptz not null,
  primary key (portfolio, person)
) with (fillfactor = 80);
create index portfolio_people_age on whatsapp_internal.portfolio_people (minute);
comment on table whatsapp_internal.portfolio_people is 'When a portfolio last wrote first to a person (a digest), to the minute.';

create table whatsapp_internal.portfolio_minutes (
  portfolio text not null,
  minute timestamptz not null,
  people integer not null,
  primary key (portfolio, minute)
) with (fillfactor = 50);
comment on table whatsapp_internal.portfolio_minutes is 'How many people of portfolio_people a minute stands for.';


-- schemas/tables/idempotency_keys.sql

create table whatsapp.idempotency_keys (
  country_id text not null,
  scope text not null default 'send' check (scope in ('send', 'campaign', 'recipients', 'consents')),
  key text not null check (length(key) between 1 and 255),
  fingerprint text not null,
  message_id uuid,
  created_at timestamptz not null default now(),
  answer jsonb,
  primary key (country_id, scope, key)
);
create index idempotency_keys_age on whatsapp.idempotency_keys (created_at);
comment on table whatsapp.idempotency_keys is 'A caller''s Idempotency-Key and the message it made. The same key with another body is refused.';
comment on column whatsapp.idempotency_keys.scope is 'What it is a key of: functions do not share keys, nor does a campaign''s opening with its chunks of recipients.';


-- schemas/tables/webhook_events.sql

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


-- schemas/tables/retention.sql

create table whatsapp.retention (
  country_id text primary key check (country_id ~ '^[A-Z]{2}$'),
  keep interval not null check (keep >= interval '31 days')
);
comment on table whatsapp.retention is 'How long a country keeps its messages with their stories; without a row, for ever. Kept by the project''s owner in SQL.';
comment on column whatsapp.retention.keep is 'At least 31 days: Meta may still tell of a message after 30.';


-- schemas/tables/rows.sql

-- The rows that verbs and their helpers hand each other.

-- What an event tells of a person. `creates`: whoever is not known yet becomes a contact. `changed`: Meta announces new names, and the previous.
create type whatsapp_internal.person as (
  country_id text,
  account_id text,
  at timestamptz,
  creates boolean,
  changed boolean,
  match_key text,
  bsuid text,
  wa_id text,
  name text,
  username text,
  parent_bsuid text,
  identity_key_hash text,
  previous_match_key text,
  previous_bsuid text
);

-- Who has a name, or had it at a time (`former`: they gave it up). `match_key` and `bsuid` are what else they are called, of a former number the
-- BSUID it went with; null if that is not known.
create type whatsapp_internal.holder as (
  contact_id uuid,
  former boolean,
  match_key text,
  bsuid text,
  bound_at timestamptz
);

-- The names of a person that hold now. `other`: the BSUID is another portfolio's than the event's.
create type whatsapp_internal.names as (
  match_key text,
  wa_id text,
  phone text,
  bsuid text,
  portfolio text,
  other boolean
);

create type whatsapp_internal.consent as (
  country_id text,
  contact_id uuid,
  what text,
  scope text,
  at timestamptz,
  how text,
  proof text,
  recorded_by uuid
);

create type whatsapp_internal.draft as (
  n bigint,
  country_id text,
  account_id text,
  account_state text,
  opt_in_required boolean,
  actor uuid,
  phone text,
  match_key text,
  bsuid text,
  contact_id uuid,
  kind text,
  content jsonb,
  template_name text,
  template_language text,
  category text,
  key text,
  fingerprint text,
  send_at timestamptz,
  expires_at timestamptz,
  ref text,
  message_id uuid,
  status text,
  state text,
  code text,
  field text
);

-- The due head of one lane, each row judged: go, or refused with a code, or blocked until a time (`quiet` if by quiet hours). `person` is set
-- where Meta's messaging limit counts the message, `fresh` if the person is not counted yet.
create type whatsapp_internal.candidate as (
  message_id uuid,
  contact_id uuid,
  code text,
  blocked_until timestamptz,
  quiet boolean,
  person uuid,
  fresh boolean
);

-- A lane that a claim has read: from where, and when it counts as served, if something of it was taken.
create type whatsapp_internal.read_lane as (lane text, from_at timestamptz, from_id uuid, served_at timestamptz);

create type whatsapp_internal.result as (
  country_id text,
  message_id uuid,
  lease_id uuid,
  outcome text,
  wamid text,
  wa_id text,
  user_id text,
  code integer,
  title text,
  details text,
  effect text,
  wait_seconds double precision,
  max_attempts integer,
  detail jsonb,
  account_id text,
  contact_id uuid,
  template_name text,
  template_language text
);

-- A status, and what becomes of it (ingest.sql).
create type whatsapp_internal.heard as (event jsonb, verdict text, names boolean);

create type whatsapp_internal.parked as (country_id text, account_id text, event_key uuid, wamid text, message_id uuid);


-- schemas/states.sql

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


-- schemas/partitions.sql

-- Partitions: what grows with every message lies by time. What is written now touches the youngest partition alone, and what is old is dropped: a month of
-- millions costs no more than one of ten.
--
--   messages, message_events, campaign_people   by month, on the UUIDv7 they begin with (of a message, of a campaign)
--   wamids                                      by week
--   webhook_events                              by day
--
-- They are made ahead by sweep (job `partitions`) and dropped by it (job `retention`). Each table has a partition `…_rest` for what fits no other: the
-- past of a country that moves in, an event without a time, a day that nobody made ahead. What lies there is found as everything else, and deleted
-- row by row.
--
-- Partitions live in whatsapp_internal, which the Data API does not expose, with row level security and without a grant: whoever may read, reads through
-- the table and its policies.
--
-- How long messages are kept is said in `retention`, a row a country; without a row, for ever. A month is dropped once every country's time is over for it.
-- Where a country keeps less than the longest, sweep deletes its rows one by one.

-- ── Keys ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

-- Meta's id of a message of an account, as wamids knows it.
create or replace function whatsapp_internal.digest_of(account_id text, wamid text) returns uuid
language sql immutable parallel safe
return md5(account_id || ' ' || wamid)::uuid;

-- The day of an event by Meta's clock: the same for each repetition, hence not cut at now(). What tells no time that can be is of no day.
create or replace function whatsapp_internal.day_of(seconds double precision) returns date
language sql stable parallel safe
return case when seconds between 1 and extract(epoch from now() + interval '1 day') then (to_timestamp(seconds) at time zone 'UTC')::date
  else date 'epoch' end;

create or replace function whatsapp_internal.today() returns date
language sql stable parallel safe
return (now() at time zone 'UTC')::date;

create or replace function whatsapp_internal.week_of(day date) returns date
language sql immutable parallel safe
return day - (extract(isodow from day)::integer - 1);

-- ── Partitions ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

-- The tables in partitions: by which column, in which steps, made how far ahead, and how a partition's pages are kept. A message is written once and
-- changed five times before it rests: a new version finds room on its page while the page is young, so no index hears of it (HOT).
create or replace function whatsapp_internal.log_tables(
  out name text, out key text, out step interval, out ahead interval, out storage text
) returns setof record
language sql immutable
as $$
  values
    ('messages', 'message_id', interval '1 month', interval '2 months', 'with (fillfactor = 45, autovacuum_vacuum_scale_factor = 0.02)'),
    ('message_events', 'message_id', '1 month', '2 months', ''),
    ('campaign_people', 'campaign_id', '1 month', '2 months', ''),
    ('wamids', 'week', '7 days', '14 days', ''),
    ('webhook_events', 'day', '1 day', '3 days', '')
$$;

-- The least UUIDv7 of a moment (ground.sql).
create or replace function whatsapp_internal.uuid7_from(at timestamptz) returns uuid
language sql stable parallel safe
return (
  overlay(lpad(to_hex(floor(extract(epoch from at) * 4096000)::bigint), 15, '0') placing '7' from 13 for 0) || '0000000000000000'
)::uuid;

-- The first day of the partition in which a moment lies.
create or replace function whatsapp_internal.first_day(step interval, at timestamptz) returns date
language sql immutable parallel safe
return case step when interval '1 month' then date_trunc('month', at at time zone 'UTC')::date when interval '7 days'
  then date_trunc('week', at at time zone 'UTC')::date else (at at time zone 'UTC')::date end;

-- Where a partition begins or ends, as its key has it.
create or replace function whatsapp_internal.bound(key text, day date) returns text
language sql stable parallel safe
return case when key like '%\_id' then whatsapp_internal.uuid7_from(day::timestamp at time zone 'UTC')::text else day::text end;

-- Makes the partitions that are missing from one moment to another, and `…_rest`. Answers how many. Where something of a partition lies in `…_rest`
-- already, it goes on lying there.
create or replace function whatsapp_internal.make_partitions(p_from timestamptz, p_until timestamptz default now()) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_table record;
  v_day date;
  v_name text;
  v_values text;
  v_taken boolean;
  v_made integer := 0;
begin
  for v_table in select * from whatsapp_internal.log_tables() loop
    v_day := null;
    loop
      v_name := v_table.name || coalesce(to_char(v_day, '_YYYY_MM_DD'), '_rest');
      if to_regclass('whatsapp_internal.' || v_name) is null then
        v_taken := false;
        v_values := 'default';
        if v_day is not null then
          v_values := format('for values from (%L) to (%L)',
            whatsapp_internal.bound(v_table.key, v_day), whatsapp_internal.bound(v_table.key, (v_day + v_table.step)::date));
          execute format('select exists (select from whatsapp_internal.%I where %I >= %L and %I < %L)', v_table.name || '_rest',
            v_table.key, whatsapp_internal.bound(v_table.key, v_day),
            v_table.key, whatsapp_internal.bound(v_table.key, (v_day + v_table.step)::date)) into v_taken;
        end if;
        if not v_taken then
          execute format('create table whatsapp_internal.%I partition of whatsapp.%I %s %s', v_name, v_table.name, v_values, v_table.storage);
          execute format('alter table whatsapp_internal.%I enable row level security', v_name);
          execute format('revoke all on whatsapp_internal.%I from public, anon, authenticated, service_role', v_name);
          v_made := v_made + 1;
        end if;
      end if;
      v_day := coalesce((v_day + v_table.step)::date, whatsapp_internal.first_day(v_table.step, p_from));
      exit when v_day > (p_until + v_table.ahead)::date;
    end loop;
  end loop;
  return v_made;
end
$$;

-- A new partition takes its table from everybody for a moment: what cannot have it at once comes again with the next sweep, long before it is needed.
create or replace function whatsapp_internal.sweep_partitions() returns integer
language plpgsql volatile set search_path = '' set lock_timeout = '500ms'
as $$
begin
  return whatsapp_internal.make_partitions(now());
end
$$;

-- How long the whole log is kept: as long as the country with the longest wish; null, for ever, if one wishes nothing.
create or replace function whatsapp_internal.longest_keep() returns interval
language sql stable set search_path = ''
as $$
  select case when bool_and(r.keep is not null) then max(r.keep) end
  from (select distinct a.country_id from whatsapp.accounts a where exists (select from whatsapp.retention)) a
  left join whatsapp.retention r on r.country_id = a.country_id
$$;

-- Drops the partitions whose time is over. A month of messages goes after that of their events; one of which something still waits to be sent stays.
create or replace function whatsapp_internal.drop_partitions(p_keep interval) returns integer
language plpgsql volatile set search_path = '' set lock_timeout = '500ms'
as $$
declare
  v_log constant interval := whatsapp_internal.longest_keep();
  v_partition record;
  v_dropped integer := 0;
begin
  for v_partition in
    select t.name as parent, c.relname as name, (t.step + to_date(right(c.relname, 10), 'YYYY_MM_DD'))::date as ends
    from whatsapp_internal.log_tables() t
    join pg_catalog.pg_inherits i on i.inhparent = format('whatsapp.%I', t.name)::regclass
    join pg_catalog.pg_class c on c.oid = i.inhrelid and c.relname not like '%\_rest'
    order by t.name = 'messages', c.relname
  loop
    continue when coalesce(v_partition.ends > (now() - case v_partition.parent
      when 'webhook_events' then p_keep when 'wamids' then interval '45 days' else v_log end)::date, true);
    if v_partition.parent = 'messages' then
      continue when exists (
        select from whatsapp.queue q where q.message_id < whatsapp_internal.uuid7_from(v_partition.ends::timestamp at time zone 'UTC'));
      -- What refers to messages refers to all of them: it lets go of a partition, not of its rows.
      execute format('alter table whatsapp.messages detach partition whatsapp_internal.%I', v_partition.name);
    end if;
    execute format('drop table whatsapp_internal.%I', v_partition.name);
    v_dropped := v_dropped + 1;
  end loop;
  return v_dropped;
end
$$;

-- Deletes messages that no drop takes along, the oldest first: of countries that keep less than the longest, and what lies in `…_rest`. What still waits to
-- be sent stays.
create or replace function whatsapp_internal.forget_messages(p_limit integer) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_longest constant interval := whatsapp_internal.longest_keep();
  v_country record;
  v_ids uuid[];
  v_removed integer := 0;
begin
  for v_country in
    select r.country_id, whatsapp_internal.uuid7_from(now() - r.keep) as before, r.keep is not distinct from v_longest as longest
    from whatsapp.retention r order by 1
  loop
    if v_country.longest then
      v_ids := array(
        select m.message_id from whatsapp_internal.messages_rest m
        where m.country_id = v_country.country_id and m.message_id < v_country.before
          and not exists (select from whatsapp.queue q where q.country_id = m.country_id and q.message_id = m.message_id)
        order by m.message_id limit p_limit for update of m skip locked);
    else
      v_ids := array(
        select m.message_id from whatsapp.messages m
        where m.country_id = v_country.country_id and m.message_id < v_country.before
          and not exists (select from whatsapp.queue q where q.country_id = m.country_id and q.message_id = m.message_id)
        order by m.message_id limit p_limit for update of m skip locked);
    end if;
    delete from whatsapp.message_events e where e.country_id = v_country.country_id and e.message_id = any (v_ids);
    delete from whatsapp.campaign_people p
    using unnest(v_ids) i
    cross join lateral (
      select m.campaign_id, m.contact_id from whatsapp.messages m where m.country_id = v_country.country_id and m.message_id = i limit 1
    ) m
    where p.country_id = v_country.country_id and p.campaign_id = m.campaign_id and p.contact_id = m.contact_id and p.message_id = i;
    delete from whatsapp.messages m where m.country_id = v_country.country_id and m.message_id = any (v_ids);
    v_removed := v_removed + cardinality(v_ids);
  end loop;
  return v_removed;
end
$$;

create or replace function whatsapp_internal.sweep_old(p_limit integer, p_keep interval) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_removed integer;
begin
  with events as (
    delete from whatsapp_internal.webhook_events_rest w
    where (w.country_id, w.event_key, w.day) in (
      select country_id, event_key, day from whatsapp_internal.webhook_events_rest where received_at < now() - p_keep
      order by received_at limit p_limit for update skip locked)
    returning 1
  ),
  statuses as (
    delete from whatsapp.parked_statuses p
    where (p.country_id, p.event_key) in (
      select country_id, event_key from whatsapp.parked_statuses where received_at < now() - p_keep
      order by received_at limit p_limit for update skip locked)
    returning 1
  ),
  names as (
    delete from whatsapp_internal.wamids_rest w
    where (w.country_id, w.digest, w.week) in (
      select country_id, digest, week from whatsapp_internal.wamids_rest where message_id < whatsapp_internal.uuid7_from(now() - interval '45 days')
      order by message_id limit p_limit for update skip locked)
    returning 1
  ),
  keys as (
    delete from whatsapp.idempotency_keys k
    where (k.country_id, k.scope, k.key) in (
      select country_id, scope, key from whatsapp.idempotency_keys where created_at < now() - interval '7 days'
      order by created_at limit p_limit for update skip locked)
    returning 1
  )
  select (select count(*) from events) + (select count(*) from statuses) + (select count(*) from names) + (select count(*) from keys) into v_removed;
  return v_removed + whatsapp_internal.forget_messages(p_limit) + whatsapp_internal.drop_partitions(p_keep);
end
$$;

select whatsapp_internal.make_partitions(now());
create index if not exists webhook_events_rest_age on whatsapp_internal.webhook_events_rest (received_at);
create index if not exists wamids_rest_age on whatsapp_internal.wamids_rest (message_id);


-- schemas/lanes.sql

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


-- schemas/gates.sql

-- The gates: one function that says why a message may not go now, or nothing. `enqueue` asks it for a clear early answer,
-- `claim` asks it again in the transaction of the lease, so nothing gets past however long it waited.
-- It is pure: everything it needs is an argument. A gate that cannot decide says no.

create or replace function whatsapp_internal.refusal(
  account_state text,
  kind text,
  category text,
  template_status text,
  window_until timestamptz,
  entry_until timestamptz,
  last_inbound_at timestamptz,
  opted_in_at timestamptz,
  opt_in_required boolean,
  opted_out_at timestamptz,
  marketing_opted_out_at timestamptz,
  marketing_cooled_until timestamptz,
  expires_at timestamptz,
  at timestamptz
) returns text
-- Stable, not immutable: arithmetic with intervals is only stable, and only so can the planner fold it into a query.
language sql stable parallel safe
return case
  when account_state = 'disabled' then 'account_disabled'
  when account_state = 'stopped' then 'account_stopped'
  when account_state is null or account_state not in ('active', 'paused') then 'account_disabled'
  -- Whoever asked to be left alone is, until they write again themselves.
  when opted_out_at is not null and (kind = 'template' or coalesce(last_inbound_at <= opted_out_at, true)) then 'opted_out'
  when kind = 'template' and coalesce(category, 'MARKETING') not in ('UTILITY', 'AUTHENTICATION') and marketing_opted_out_at is not null
    then 'opted_out'
  when kind = 'template' and coalesce(category, 'MARKETING') not in ('UTILITY', 'AUTHENTICATION') and opt_in_required and opted_in_at is null
    then 'not_opted_in'
  -- What Meta holds back is marketing out of the blue. Whoever writes, or comes in through an advertisement (`entry_until`: the later of the
  -- window and the free entry point), has asked for it, and Meta lets it pass until then.
  when kind = 'template' and coalesce(category, 'MARKETING') not in ('UTILITY', 'AUTHENTICATION') and marketing_cooled_until > at
    and coalesce(entry_until - interval '1 minute' <= at, true)
    then 'contact_cooling'
  -- Meta counts the 24 hours from the person's message; a minute is kept for the way to Meta.
  when kind <> 'template' and coalesce(window_until - interval '1 minute' <= at, true) then 'window_closed'
  when kind = 'template' and template_status is null then 'template_unknown'
  when kind = 'template' and template_status = 'PAUSED' then 'template_paused'
  when kind = 'template' and template_status <> 'APPROVED' then 'template_not_approved'
  when expires_at <= at then 'message_expired'
end;
comment on function whatsapp_internal.refusal is 'Why a message may not go now, as a code of docs/whatsapp.md, or null.';

-- When the quiet hours that hold at `at` end, or null if none hold. The end is found on the account's own calendar, not by adding hours, so
-- a night in which the clocks change is no matter.
create or replace function whatsapp_internal.quiet_end(time_zone text, quiet_from time, quiet_until time, at timestamptz) returns timestamptz
language sql stable parallel safe
return case
  when quiet_from is null or quiet_from = quiet_until then null
  when quiet_from < quiet_until and (at at time zone time_zone)::time >= quiet_from and (at at time zone time_zone)::time < quiet_until
    then ((at at time zone time_zone)::date + quiet_until) at time zone time_zone
  when quiet_from > quiet_until and (at at time zone time_zone)::time >= quiet_from
    then ((at at time zone time_zone)::date + 1 + quiet_until) at time zone time_zone
  when quiet_from > quiet_until and (at at time zone time_zone)::time < quiet_until
    then ((at at time zone time_zone)::date + quiet_until) at time zone time_zone
end;
comment on function whatsapp_internal.quiet_end is 'The end of the quiet hours in force, or null. Marketing waits for it; nothing is refused.';


-- schemas/locks.sql

-- The one lock order, and who takes locks before all else.
--
-- One lock order holds for everything that changes a row:
--
--   messages, parked_statuses, webhook_events, wamids, queue, contacts, conversations, idempotency_keys, templates, accounts, campaigns, campaign_people,
--   lanes, throttles
--
-- each table's rows in the order of their keys. What people wait for (enqueue, settle, ingest, record_consents, enqueue_campaign, control_…)
-- takes its rows in this order and waits where another is first. What comes again anyway (claim, sweep) never waits for a row: it takes all but
-- its first by `skip locked`, before it changes them, and so may begin anywhere: claim with the throttle row that makes it the only one.
--   * Of contacts those that are known are locked first, all of a batch that may change at once (hold_contacts), then new ones are inserted, phones
--     before BSUIDs; then come conversations.
--   * Who makes people or joins them writes several names, and moves what is theirs in every table: ingest holds their country alone for it
--     (hold_countries), and no other verb that waits runs beside it. It is short.
--   * Rows are locked by `select … from (keys in order) k cross join lateral (select … where key = k.key for no key update)`: the order is kept,
--     and no plan is possible but a look into the key's index for each. `update … from` keeps neither.
--   * What people wrote comes after webhook_events: only ingest changes it, by events it has written.
--   * A mutable column stands in no unique index but a partial one: changing it would be a change of key, for which every new reference waits.

-- The contacts of a batch, in the order of their keys, before anything of theirs is changed.
create or replace function whatsapp_internal.hold_contacts(p_countries text[], p_ids uuid[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  perform from (
    select distinct u.country_id, u.contact_id from unnest(p_countries, p_ids) as u (country_id, contact_id) order by 1, 2
  ) k
  cross join lateral (
    select from whatsapp.contacts c where c.country_id = k.country_id and c.contact_id = k.contact_id for no key update
  ) c;
end
$$;

-- Before all else: a batch that makes people or may join them alone, what else moves their rows beside each other. claim and sweep, which wait for nobody, do
-- without.
create or replace function whatsapp_internal.hold_countries(p_countries text[], p_alone boolean) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_country text;
begin
  for v_country in select distinct c from unnest(p_countries) c where c is not null order by 1 loop
    if p_alone then
      perform pg_advisory_xact_lock(hashtextextended('whatsapp.names ' || v_country, 0));
    else
      perform pg_advisory_xact_lock_shared(hashtextextended('whatsapp.names ' || v_country, 0));
    end if;
  end loop;
end
$$;


-- schemas/callers.sql

-- Who calls, what they may, and what they were answered before.

-- The countries of the caller. Security definer because members itself is protected; run once per statement by the policies.
create or replace function whatsapp_internal.my_countries() returns setof text
language sql stable security definer parallel safe set search_path = ''
as $$
  select country_id from whatsapp.members where user_id = (select auth.uid())
$$;

-- Why a user may not run the country's campaigns, or nothing. Without a user the caller is a trusted server.
create or replace function whatsapp_internal.refuse_actor(p_country text, p_actor uuid) returns text
language sql stable set search_path = ''
as $$
  select case
    when p_actor is null then null
    when m.role is null then 'not_a_member'
    when m.role not in ('operator', 'admin') then 'role_too_low'
  end
  from (select 1) one
  left join whatsapp.members m on m.country_id = p_country and m.user_id = p_actor
$$;

-- Why there is no such account, or no default one where none was named.
create or replace function whatsapp_internal.refuse_account(p_country text, p_account text) returns jsonb
language sql stable set search_path = ''
as $$
  select jsonb_build_object('field', 'account', 'code', case
    when not exists (select from whatsapp.accounts a where a.country_id = p_country) then 'unknown_country'
    when p_account is null then 'no_default_account'
    else 'no_such_account'
  end)
$$;

-- A key of a bulk call: null if it is new and taken now, else what it was answered, or that it was used for something else. Of two calls with one
-- key the second waits here for the first.
create or replace function whatsapp_internal.answer_of_key(p_country text, p_scope text, p_key text, p_fingerprint text) returns jsonb
language plpgsql volatile set search_path = ''
as $$
declare
  v_key whatsapp.idempotency_keys;
begin
  insert into whatsapp.idempotency_keys (country_id, scope, key, fingerprint) values (p_country, p_scope, p_key, p_fingerprint)
  on conflict do nothing;
  if found then
    return null;
  end if;
  select * into v_key from whatsapp.idempotency_keys k where k.country_id = p_country and k.scope = p_scope and k.key = p_key;
  return case when v_key.fingerprint = p_fingerprint and v_key.answer is not null then v_key.answer
    else jsonb_build_object('code', 'idempotency_key_reused', 'field', 'Idempotency-Key') end;
end
$$;


-- schemas/accounts/control_account.sql

--   p_account  null: the country's default
--   p_action   pause | resume
--   returns    {country_id, account, state, reason, code, since, paused_until, templates_paused_until}  or  {"code", "field"}
-- The one call after Meta's stop codes: the cause is cleared at Meta, a person says so here, and everything that waited goes on. Disabled
-- accounts are enabled where they were disabled: in SQL.
create or replace function whatsapp.control_account(p_country text, p_account text, p_action text, p_actor uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_account whatsapp.accounts;
  v_code text := whatsapp_internal.refuse_actor(p_country, p_actor);
begin
  if v_code is not null then
    return jsonb_build_object('code', v_code, 'field', 'country_id');
  end if;
  select * into v_account from whatsapp.accounts a
  where a.country_id = p_country and (a.account_id = p_account or (p_account is null and a.is_default)) for no key update;
  if not found then
    return whatsapp_internal.refuse_account(p_country, p_account);
  end if;
  if v_account.state = 'disabled' then
    return jsonb_build_object('field', 'account', 'code', 'account_disabled');
  end if;

  if p_action = 'resume' then
    update whatsapp.accounts a
    set state = 'active', state_reason = null, state_code = null, paused_until = null, templates_paused_until = null,
      state_since = case when a.state = 'active' then a.state_since else now() end
    where a.country_id = p_country and a.account_id = v_account.account_id returning * into v_account;
    -- Meta's complaints of before are settled with it.
    update whatsapp.throttles t set held_until = null where t.country_id = p_country and t.account_id = v_account.account_id;
  elsif v_account.state <> 'stopped' then
    update whatsapp.accounts a
    set state = 'paused', state_reason = 'by_a_person', state_code = null, paused_until = null, state_since = now()
    where a.country_id = p_country and a.account_id = v_account.account_id returning * into v_account;
  end if;
  return jsonb_build_object(
    'country_id', v_account.country_id, 'account', v_account.account_id, 'state', v_account.state, 'reason', v_account.state_reason,
    'code', v_account.state_code, 'since', v_account.state_since, 'paused_until', v_account.paused_until,
    'templates_paused_until', v_account.templates_paused_until);
end
$$;


-- schemas/accounts/sync_number.sql

-- sync_number: what Meta says of one account's number, beside its templates.
--
--   p_number  jsonb[]  one {messaging_limit?, throughput?, coexistence?, quality?}, in Meta's words: TIER_2K, STANDARD or HIGH, true, GREEN
--   returns   jsonb    {"messaging_limit", "messages_per_second", "quality"} as they are now
--
-- The rate only follows Meta where it was Meta's: it falls to what Meta grants, rises to HIGH from the standard, and from the 20 of coexistence
-- with the WhatsApp Business app once Meta says that it has ended; never over a rate that was set lower on purpose. Source: M:throughput.
create or replace function whatsapp.sync_number(p_country text, p_account text, p_number jsonb[]) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_limit integer := whatsapp_internal.people_of_tier(p_number[1] ->> 'messaging_limit');
  v_number jsonb;
begin
  update whatsapp.accounts a
  set messaging_limit = coalesce(v_limit, a.messaging_limit), coexistence = coalesce((p_number[1] ->> 'coexistence')::boolean, a.coexistence),
    quality = coalesce(p_number[1] ->> 'quality', a.quality),
    messages_per_second = case
      when coalesce((p_number[1] ->> 'coexistence')::boolean, a.coexistence) then least(a.messages_per_second, 20)
      when p_number[1] ->> 'throughput' = 'STANDARD' then least(r.rate, 80)
      when p_number[1] ->> 'throughput' = 'HIGH' and r.rate = 80 then 1000
      else r.rate
    end
  from (
    select o.country_id, o.account_id, case when o.coexistence and o.messages_per_second = 20 then 80 else o.messages_per_second end as rate
    from whatsapp.accounts o where o.country_id = p_country and o.account_id = p_account
    for no key update
  ) r
  where a.country_id = r.country_id and a.account_id = r.account_id
  returning jsonb_build_object(
    'messaging_limit', a.messaging_limit, 'messages_per_second', a.messages_per_second, 'quality', a.quality) into v_number;
  if v_number is null then
    raise sqlstate 'PT404' using message = 'no such account', hint = 'Insert a row into whatsapp.accounts first.';
  end if;
  return v_number;
end
$$;
comment on function whatsapp.sync_number is 'Takes over what Meta grants a number: messaging limit, throughput, quality. Safe to repeat.';


-- schemas/templates/sync_templates.sql

-- sync_templates: make our copy of one account's templates what Meta's listing says. What a complete listing lacks, Meta has removed.
--
--   p_templates  jsonb[]  {name, language, status, category, parameter_format?, components?, contract?, quality?, reason?}
--   p_complete   false: part of the listing could not be read, so nothing is removed
--   returns      jsonb    {"stored": n, "removed": n}
--
-- Safe to repeat. Not one of the five verbs: it moves no message, it only refreshes what the gates look at.

create or replace function whatsapp.sync_templates(p_country text, p_account text, p_templates jsonb[], p_complete boolean default true) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_stored integer;
  v_removed integer;
begin
  if not exists (select from whatsapp.accounts where country_id = p_country and account_id = p_account) then
    raise sqlstate 'PT404' using message = 'no such account', hint = 'Insert a row into whatsapp.accounts first.';
  end if;

  insert into whatsapp.templates as t (
    country_id, account_id, name, language, status, category, parameter_format, components, contract, quality, reason)
  select distinct on (r.name, r.language)
    p_country, p_account, r.name, r.language, coalesce(r.status, 'UNKNOWN'), coalesce(r.category, 'UNKNOWN'), r.parameter_format, r.components,
    r.contract, r.quality, r.reason
  from unnest(p_templates) i,
    jsonb_to_record(i) as r (
      name text, language text, status text, category text, parameter_format text, components jsonb, contract jsonb, quality text, reason text)
  where r.name is not null and r.language is not null
  order by r.name, r.language
  on conflict (country_id, account_id, name, language) do update
  set status_at = case when t.status <> excluded.status then now() else t.status_at end, status = excluded.status, category = excluded.category, parameter_format = excluded.parameter_format,
    components = excluded.components, contract = excluded.contract, quality = excluded.quality, reason = excluded.reason, synced_at = now();
  get diagnostics v_stored = row_count;

  delete from whatsapp.templates t
  where p_complete and t.country_id = p_country and t.account_id = p_account and not exists (
    select from unnest(p_templates) i where i ->> 'name' = t.name and i ->> 'language' = t.language);
  get diagnostics v_removed = row_count;

  return jsonb_build_object('stored', v_stored, 'removed', v_removed);
end
$$;
comment on function whatsapp.sync_templates is 'Makes the copy of an account''s templates what Meta lists now. Safe to repeat.';


-- schemas/templates/template_contract.sql

-- The contract of one template, for the check before a message is enqueued; null where the template or its contract is not known
-- (the gates then have the word). Without an account, the country's default.
create or replace function whatsapp.template_contract(p_country text, p_account text, p_name text, p_language text) returns jsonb
language sql stable security definer set search_path = ''
as $$
  select t.contract
  from whatsapp.accounts a
  join whatsapp.templates t on t.country_id = a.country_id and t.account_id = a.account_id
  where a.country_id = p_country and (a.account_id = p_account or (p_account is null and a.is_default))
    and t.name = p_name and t.language = p_language
$$;


-- schemas/people/finding.sql

-- Who is who. A person has a number and a BSUID, and we hear of them by either: callers dial the number, a webhook may name one or both, an
-- answer of Meta's may add the other. So one person may stand in two rows until something names both, and both then become one.
--
--   people_of        what the events of a batch tell of people that is not known yet: mostly nothing
--   lock_people      takes the locks of what is about to be joined, before anything else in the batch is locked
--   meet_contacts    makes the new known, learns what is told, and has in_question and meet_person see to what is not plain
--   contact_of       whose an event is, as of its own time
--   learn_ids        what an answer of Meta's tells: the same, but it never waits and never fails
--
-- The rules, in whatever order things become known:
--   * A BSUID is one person's for ever. A number passes from one person to another. A BSUID changes with the number, and Meta announces that
--     (user_changed_number, user_changed_user_id).
--   * An event that names the number of one row and the BSUID of another joins them. So does an announced change that names several. The oldest
--     row goes on; the others point to it (merged_into, never more than one step) and hold nothing any more: messages, queue, windows, consents
--     and former names go with the person (join_contacts).
--   * A new BSUID on a known number without an announcement is another person: the number was passed on. What it heard last as a wish to be left
--     alone stays with the number as well; opt-in and open window stay with the person who had it.
--   * Each portfolio has BSUIDs of its own: another portfolio's is another name of the same person.
--   * A name that was given up is kept with the time (former_names). Meta brings events late and out of order: one from before finds the person
--     who had the name then.
--
-- Nothing here costs more the more people a country has: every lookup is by one name through its own unique index. An `or` over two names makes
-- Postgres 16 and 17 read all of the country (18 ms an event among 300,000 contacts).

-- These three are inlined into the queries that use them, so they have no settings of their own; every name in them is qualified.

create or replace function whatsapp_internal.holder_of_number(p_country text, p_match_key text, p_at timestamptz)
returns setof whatsapp_internal.holder
language sql stable
as $$
  (select f.contact_id, true, p_match_key, f.bsuid, f.until from whatsapp.former_names f
   where f.country_id = p_country and f.name = p_match_key and f.until >= p_at
   order by f.until limit 1)
  union all
  select c.contact_id, false, c.match_key, c.bsuid, c.bound_at from whatsapp.contacts c
  where c.country_id = p_country and c.match_key = p_match_key
  limit 1
$$;

create or replace function whatsapp_internal.holder_of_bsuid(p_country text, p_bsuid text) returns setof whatsapp_internal.holder
language sql stable
as $$
  select c.contact_id, false, c.match_key, c.bsuid, c.bound_at from whatsapp.contacts c where c.country_id = p_country and c.bsuid = p_bsuid
  union all
  -- At infinity stands another portfolio's BSUID, which nobody gave up.
  (select f.contact_id, f.until < 'infinity', null, p_bsuid, f.until from whatsapp.former_names f
   where f.country_id = p_country and f.name = p_bsuid limit 1)
  limit 1
$$;

-- Whose an event is. The BSUID says who, the number only where.
create or replace function whatsapp_internal.contact_of(p_country text, p_match_key text, p_bsuid text, p_at timestamptz) returns table (contact_id uuid)
language sql stable
as $$
  select b.contact_id from whatsapp_internal.holder_of_bsuid(p_country, p_bsuid) b
  union all
  select n.contact_id from whatsapp_internal.holder_of_number(p_country, p_match_key, p_at) n
  limit 1
$$;


-- schemas/people/hearing.sql

-- What a batch of events tells of people that is not known yet, and whether it is plain.

-- What a batch of events tells of people beyond what is known: null if nothing, as of nearly all statuses.
-- In plpgsql, as the two after it: an SQL function that is not inlined would be planned anew for each batch.
create or replace function whatsapp_internal.people_of(p_events jsonb[]) returns whatsapp_internal.person[]
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select array_agg(t.told order by (t.told).at)
    from (
      select row(
          i ->> 'country_id', i ->> 'account_id', whatsapp_internal.event_time((i ->> 'at')::double precision),
          i ->> 'kind' in ('message', 'call', 'preference') or coalesce(r.previous_match_key, r.previous_bsuid) is not null,
          coalesce(r.previous_match_key, r.previous_bsuid) is not null, r.match_key, r.bsuid, r.wa_id, r.name, r.username, r.parent_bsuid, r.identity_key_hash, r.previous_match_key,
          r.previous_bsuid)::whatsapp_internal.person as told
      from unnest(p_events) i
      cross join lateral jsonb_to_record(case jsonb_typeof(i -> 'contact') when 'object' then i -> 'contact' else '{}' end) as r (
        match_key text, bsuid text, wa_id text, name text, username text, parent_bsuid text, identity_key_hash text, previous_match_key text,
        previous_bsuid text)
      where i ->> 'kind' in ('message', 'call', 'preference', 'status', 'system') and coalesce(r.match_key, r.bsuid) is not null
    ) t
    left join lateral (
      select c.* from whatsapp.contacts c where c.country_id = (t.told).country_id and c.match_key = (t.told).match_key
      union all
      select c.* from whatsapp.contacts c
      where c.country_id = (t.told).country_id and c.bsuid = (t.told).bsuid and (t.told).match_key is null
      limit 1
    ) c on true
    left join lateral (
      select true as former from whatsapp.former_names f
      where f.country_id = (t.told).country_id and f.name = (t.told).match_key and f.until >= (t.told).at
      limit 1
    ) f on true
    where (t.told).changed or c.contact_id is null or f.former
      or (t.told).bsuid <> coalesce(c.bsuid, '') or (t.told).wa_id <> coalesce(c.wa_id, '') or (t.told).name <> coalesce(c.name, '')
      or (t.told).username <> coalesce(c.username, '') or (t.told).parent_bsuid <> coalesce(c.parent_bsuid, '')
      or (t.told).identity_key_hash <> coalesce(c.identity_key_hash, '')
  );
end
$$;

-- Those of them that are not plain: whose names belong to two rows, or go together otherwise than they did.
create or replace function whatsapp_internal.in_question(p_people whatsapp_internal.person[], p_again boolean default false)
returns whatsapp_internal.person[]
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select array_agg(p.told order by p.at)
    from (
      select p as told, p.*,
        min(p.bsuid) over (partition by p.country_id, p.match_key) <> max(p.bsuid) over (partition by p.country_id, p.match_key)
        or min(p.match_key) over (partition by p.country_id, p.bsuid) <> max(p.match_key) over (partition by p.country_id, p.bsuid) as at_odds
      from unnest(p_people) p
    ) p
    left join lateral whatsapp_internal.holder_of_number(p.country_id, p.match_key, p.at) a on true
    left join lateral whatsapp_internal.holder_of_bsuid(p.country_id, p.bsuid) b on true
    where (p.changed and not p_again)
      or (p.match_key is not null and p.bsuid is not null and (
        p.at_odds
        or a.contact_id <> b.contact_id
        or (b.contact_id is null and (a.bsuid is not null or a.former))
        or (a.contact_id is null and (b.match_key is not null or b.former))))
  );
end
$$;

-- Whether a batch makes people or may join some: what it does then, it does alone (hold_countries).
create or replace function whatsapp_internal.makes_people(p_people whatsapp_internal.person[]) returns boolean
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select p_people is not null and (
      exists (
        select from unnest(p_people) p
        where p.creates and not exists (select from whatsapp_internal.contact_of(p.country_id, p.match_key, p.bsuid, p.at)))
      or whatsapp_internal.in_question(p_people) is not null)
  );
end
$$;


-- schemas/people/joining.sql

-- Two rows are one person: everything of the one goes to the other, which is then judged, paced and shown as one. A message in flight keeps its
-- lease. The names are the caller's to set.
create or replace function whatsapp_internal.join_contacts(p_country text, p_into uuid, p_from uuid) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  perform whatsapp_internal.lock_messages(array[p_country], array[p_from], array[true], '{}');
  perform whatsapp_internal.lock_contacts(array[p_country, p_country], array[p_from, p_into]);

  insert into whatsapp.conversations as v (
    country_id, account_id, contact_id, window_until, entry_point_until, last_inbound_at, last_message_at, pair_next_at, sending_until)
  select country_id, account_id, p_into, window_until, entry_point_until, last_inbound_at, last_message_at, pair_next_at, sending_until
  from whatsapp.conversations o where o.country_id = p_country and o.contact_id = p_from
  on conflict (country_id, account_id, contact_id) do update
  set window_until = greatest(v.window_until, excluded.window_until),
    entry_point_until = greatest(v.entry_point_until, excluded.entry_point_until),
    last_inbound_at = greatest(v.last_inbound_at, excluded.last_inbound_at),
    last_message_at = greatest(v.last_message_at, excluded.last_message_at),
    pair_next_at = greatest(v.pair_next_at, excluded.pair_next_at), sending_until = greatest(v.sending_until, excluded.sending_until);

  perform whatsapp_internal.join_campaigns(p_country, p_into, p_from);
  update whatsapp.messages m set contact_id = p_into
  from whatsapp.conversations o
  where o.country_id = p_country and o.contact_id = p_from
    and m.country_id = p_country and m.account_id = o.account_id and m.contact_id = p_from;
  update whatsapp.queue q set contact_id = p_into
  from whatsapp.conversations o
  where o.country_id = p_country and o.contact_id = p_from
    and q.country_id = p_country and q.account_id = o.account_id and q.contact_id = p_from;
  delete from whatsapp.conversations o where o.country_id = p_country and o.contact_id = p_from;

  update whatsapp.consents k set contact_id = p_into where k.country_id = p_country and k.contact_id = p_from;
  insert into whatsapp.former_names as f (country_id, name, contact_id, until, bsuid)
  select country_id, name, p_into, until, bsuid from whatsapp.former_names o where o.country_id = p_country and o.contact_id = p_from
  on conflict (country_id, name, contact_id) do update
  set until = greatest(f.until, excluded.until), bsuid = coalesce(excluded.bsuid, f.bsuid);
  delete from whatsapp.former_names f where f.country_id = p_country and f.contact_id = p_from;

  update whatsapp.contacts n
  set name = coalesce(n.name, o.name), username = coalesce(n.username, o.username), parent_bsuid = coalesce(n.parent_bsuid, o.parent_bsuid),
    identity_key_hash = coalesce(n.identity_key_hash, o.identity_key_hash), opted_in_at = greatest(n.opted_in_at, o.opted_in_at),
    opted_out_at = greatest(n.opted_out_at, o.opted_out_at),
    marketing_opted_out_at = greatest(n.marketing_opted_out_at, o.marketing_opted_out_at),
    marketing_cooled_until = greatest(n.marketing_cooled_until, o.marketing_cooled_until)
  from whatsapp.contacts o
  where o.country_id = p_country and o.contact_id = p_from and n.country_id = p_country and n.contact_id = p_into;
  perform whatsapp_internal.stand(array[p_country], array[p_into]);
  update whatsapp.contacts c
  set merged_into = p_into, phone = null, wa_id = null, match_key = null, bsuid = null, bound_at = null, opted_in_at = null,
    opted_out_at = null, marketing_opted_out_at = null, marketing_cooled_until = null
  where c.country_id = p_country and c.contact_id = p_from;
  update whatsapp.contacts c set merged_into = p_into where c.country_id = p_country and c.merged_into = p_from;
end
$$;

-- A person gets one message of a campaign. Of two that both rows have, one that still waits is refused; what is on its way or was sent stays, and
-- the later of two sent is marked as the campaign's second.
create or replace function whatsapp_internal.join_campaigns(p_country text, p_into uuid, p_from uuid) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_again uuid[];
  v_waiting uuid[];
begin
  with theirs as materialized (
    select m.campaign_id, m.message_id, m.state
    from whatsapp.conversations o
    cross join lateral (
      select m.* from whatsapp.messages m
      where m.country_id = o.country_id and m.account_id = o.account_id and m.contact_id = o.contact_id
        and m.campaign_id is not null and m.campaign_again is null
      offset 0
    ) m
    where o.country_id = p_country and o.contact_id = p_from
  ),
  ours as materialized (
    select m.campaign_id, m.message_id, m.state
    from theirs t
    cross join lateral (
      select p.message_id from whatsapp.campaign_people p
      where p.country_id = p_country and p.campaign_id = t.campaign_id and p.contact_id = p_into limit 1
    ) p
    cross join lateral (
      select m.* from whatsapp.messages m where m.country_id = p_country and m.message_id = p.message_id limit 1
    ) m
  ),
  ranked as materialized (
    select m.campaign_id, m.message_id, w.waits, row_number() over (
        partition by m.campaign_id
        -- Which of the two goes or went: what has left before what waits, and that before what never will.
        order by case when m.state in ('refused', 'cancelled', 'expired') then 2 when w.waits then 1 else 0 end, m.message_id) as n
    from (select * from theirs union all select * from ours) m
    cross join lateral (
      select exists (
        select from whatsapp.queue q
        where q.country_id = p_country and q.message_id = m.message_id and q.lease_id is null and q.unknown_until is null) as waits
    ) w
  ),
  moved as (
    insert into whatsapp.campaign_people as p (country_id, campaign_id, contact_id, message_id)
    select p_country, campaign_id, p_into, message_id from ranked where n = 1
    order by campaign_id
    on conflict (country_id, campaign_id, contact_id) do update set message_id = excluded.message_id
  ),
  gone as (
    delete from whatsapp.campaign_people p using theirs t
    where p.country_id = p_country and p.campaign_id = t.campaign_id and p.contact_id = p_from
  )
  select array_agg(message_id), array_agg(message_id) filter (where waits) into v_again, v_waiting from ranked where n > 1;

  if v_again is not null then
    update whatsapp.messages m set campaign_again = true where m.country_id = p_country and m.message_id = any (v_again);
  end if;
  if v_waiting is not null then
    perform whatsapp_internal.refuse_claimed(p_country, v_waiting, array_fill('duplicate_recipient'::text, array[cardinality(v_waiting)]));
  end if;
end
$$;


-- schemas/people/learn_ids.sql

-- Meta's answer may tell the WhatsApp id or BSUID of a person whose number we dialled. The acceptance it came with matters more: so this waits for
-- nobody, and whatever goes wrong here is left to the status that follows, which names both. Where two people turn out to be one they are joined.
-- A row whose number has changed since is told nothing: the answer speaks of the old one.
create or replace function whatsapp_internal.learn_ids(p_results whatsapp_internal.result[]) returns void
language plpgsql volatile set search_path = '' set lock_timeout = '100ms'
as $$
declare
  v_people whatsapp_internal.person[];
begin
  select array_agg(row(
      c.country_id, r.account_id, now(), false, false, c.match_key, case when c.bsuid is null then r.user_id end, r.wa_id, null, null, null, null,
      null, null)::whatsapp_internal.person)
  into v_people
  from (
    select distinct on (country_id, contact_id) country_id, account_id, contact_id, wa_id, user_id from unnest(p_results)
    where outcome = 'accepted' and (wa_id is not null or user_id is not null)
    order by country_id, contact_id
  ) r
  cross join lateral (
    select c.* from whatsapp.contacts c where c.country_id = r.country_id and c.contact_id = r.contact_id limit 1) c
  where c.phone is not null and c.match_key is not null and (c.wa_id is null or r.wa_id is null or c.wa_id = r.wa_id)
    and ((c.wa_id is null and r.wa_id is not null) or (c.bsuid is null and r.user_id is not null));
  if v_people is null then
    return;
  end if;
  -- Whoever joins people has their country alone; here that is taken if nobody else is at work in it.
  if whatsapp_internal.in_question(v_people) is not null and exists (
    select from (select distinct p.country_id from unnest(v_people) p) c
    where not pg_try_advisory_xact_lock(hashtextextended('whatsapp.names ' || c.country_id, 0)))
  then
    return;
  end if;
  perform whatsapp_internal.meet_contacts(v_people);
exception when others then
  raise warning 'what an answer told of a person was not kept: %', sqlerrm;
end
$$;


-- schemas/people/locking.sql

-- The locks of a batch that may make people one, taken in the order of all verbs (locks.sql) before anything else in it is locked.

-- Takes the locks of the rows that are about to become one, and of the messages the batch's statuses speak of, in the order of all verbs: whatever
-- is locked later in the batch is locked already. Only a batch with somebody in question pays for it.
create or replace function whatsapp_internal.lock_people(p_people whatsapp_internal.person[], p_events jsonb[]) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_question whatsapp_internal.person[];
  v_countries text[];
  v_contacts uuid[];
  v_joining boolean[];
begin
  if p_people is null then
    return;
  end if;
  v_question := whatsapp_internal.in_question(p_people);
  if v_question is null then
    return;
  end if;
  -- The oldest of each goes on; only what the others hold is moved.
  select array_agg(country_id), array_agg(contact_id), array_agg(joining) into v_countries, v_contacts, v_joining
  from (
    select p.country_id, h.contact_id, bool_or(h.n > 1) as joining
    from unnest(v_question) p
    cross join lateral (
      select contact_id, row_number() over (order by contact_id) as n
      from (
        select contact_id from whatsapp_internal.holder_of_number(p.country_id, p.match_key, p.at)
        union
        select contact_id from whatsapp_internal.holder_of_bsuid(p.country_id, p.bsuid)
        union
        select contact_id from whatsapp_internal.holder_of_number(p.country_id, p.previous_match_key, p.at)
        union
        select contact_id from whatsapp_internal.holder_of_bsuid(p.country_id, p.previous_bsuid)
      ) named
    ) h
    group by 1, 2
  ) each_once;
  perform whatsapp_internal.lock_messages(v_countries, v_contacts, v_joining, array(
    select i from unnest(p_events) i where i ->> 'kind' = 'status'));
  perform whatsapp_internal.hold_people(p_people, p_events);
  perform whatsapp_internal.lock_contacts(v_countries, v_contacts);
end
$$;

-- Everybody known whom the batch may change: whom its events come from or name, and to whom the messages went of which Meta tells more than a state.
create or replace function whatsapp_internal.hold_people(p_people whatsapp_internal.person[], p_events jsonb[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  perform whatsapp_internal.hold_contacts(array_agg(p.country_id), array_agg(p.contact_id))
  from (
    select n.country_id, h.contact_id
    from (
      select i ->> 'country_id' as country_id, i -> 'contact' ->> 'match_key' as match_key, i -> 'contact' ->> 'bsuid' as bsuid,
        whatsapp_internal.event_time((i ->> 'at')::double precision) as at
      from unnest(p_events) i where i ->> 'kind' in ('message', 'call', 'preference')
      union all
      select p.country_id, p.match_key, p.bsuid, p.at from unnest(p_people) p
      union all
      select p.country_id, p.previous_match_key, p.previous_bsuid, p.at from unnest(p_people) p where p.changed
    ) n
    cross join lateral (
      select h.contact_id from whatsapp_internal.holder_of_number(n.country_id, n.match_key, n.at) h
      union all
      select h.contact_id from whatsapp_internal.holder_of_bsuid(n.country_id, n.bsuid) h
    ) h
    union all
    select i ->> 'country_id', m.contact_id
    from unnest(p_events) i
    cross join lateral (
      select m.contact_id from whatsapp.messages m
      where m.country_id = i ->> 'country_id' and m.message_id = (i ->> 'message_id')::uuid limit 1
    ) m
    where i ->> 'kind' = 'status' and (i -> 'error' ->> 'effect' <> 'none' or i ->> 'window_until' is not null)
  ) p;
end
$$;

-- The messages of these contacts (of those with `p_wanted`) and the ones these statuses speak of, then their rows of the queue.
create or replace function whatsapp_internal.lock_messages(p_countries text[], p_contacts uuid[], p_wanted boolean[], p_statuses jsonb[]) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_countries text[];
  v_messages uuid[];
begin
  select array_agg(f.country_id order by f.country_id, f.message_id), array_agg(f.message_id order by f.country_id, f.message_id)
  into v_countries, v_messages
  from (
    select m.country_id, m.message_id
    from unnest(p_countries, p_contacts, p_wanted) as c (country_id, contact_id, wanted)
    cross join lateral (
      select v.* from whatsapp.conversations v where v.country_id = c.country_id and v.contact_id = c.contact_id offset 0) v
    cross join lateral (
      select m.country_id, m.message_id from whatsapp.messages m
      where m.country_id = v.country_id and m.account_id = v.account_id and m.contact_id = v.contact_id
      offset 0
    ) m
    where c.wanted
    union
    select m.country_id, m.message_id
    from unnest(p_statuses) i
    cross join lateral (
      select m.country_id, m.message_id from whatsapp.messages m
      where m.country_id = i ->> 'country_id' and m.message_id = (i ->> 'message_id')::uuid limit 1
    ) m
  ) f;

  perform from unnest(v_countries, v_messages) as f (country_id, message_id)
  cross join lateral (
    select from whatsapp.messages m where m.country_id = f.country_id and m.message_id = f.message_id for no key update of m) m;
  perform from unnest(v_countries, v_messages) as f (country_id, message_id)
  cross join lateral (
    select from whatsapp.queue q where q.country_id = f.country_id and q.message_id = f.message_id for no key update of q) q;
end
$$;

-- Held so that nobody begins a conversation with them meanwhile.
create or replace function whatsapp_internal.lock_contacts(p_countries text[], p_contacts uuid[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  perform from (select * from unnest(p_countries, p_contacts) as c (country_id, contact_id) order by 1, 2) f
  cross join lateral (
    select from whatsapp.contacts c where c.country_id = f.country_id and c.contact_id = f.contact_id for update of c) c;
  perform from (
    select v.country_id, v.account_id, v.contact_id
    from unnest(p_countries, p_contacts) as c (country_id, contact_id)
    cross join lateral (
      select v.* from whatsapp.conversations v where v.country_id = c.country_id and v.contact_id = c.contact_id offset 0) v
    order by 1, 2, 3
  ) f
  cross join lateral (
    select from whatsapp.conversations v
    where v.country_id = f.country_id and v.account_id = f.account_id and v.contact_id = f.contact_id for update of v) v;
end
$$;


-- schemas/people/meet_person.sql

-- One person who is not plain: finds the rows their names belong to, decides which of them can be this person, makes them one, and gives the
-- one the names that hold now. What it no longer is called goes to former_names.
create or replace function whatsapp_internal.meet_person(p whatsapp_internal.person) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_portfolio text := (select a.portfolio from whatsapp.accounts a where a.country_id = p.country_id and a.account_id = p.account_id);
  v_number whatsapp_internal.holder;
  v_bsuid whatsapp_internal.holder;
  v_old_number whatsapp_internal.holder;
  v_old_bsuid whatsapp_internal.holder;
  v_number_holds boolean;
  v_bsuid_holds boolean;
  v_before uuid;  -- whose number it was until now
  v_ids uuid[];
  v_rows whatsapp.contacts[];
  v_into uuid;
  v_now whatsapp_internal.names;
begin
  for v_try in 1 .. 2 loop
    select h.* into v_number from whatsapp_internal.holder_of_number(p.country_id, p.match_key, p.at) h;
    select h.* into v_bsuid from whatsapp_internal.holder_of_bsuid(p.country_id, p.bsuid) h;
    select h.* into v_old_number from whatsapp_internal.holder_of_number(p.country_id, p.previous_match_key, p.at) h;
    select h.* into v_old_bsuid from whatsapp_internal.holder_of_bsuid(p.country_id, p.previous_bsuid) h;
    if v_try = 1 then
      -- Held from here on, and looked up again.
      perform whatsapp_internal.lock_contacts(
        array_fill(p.country_id, array[4]),
        array[v_number.contact_id, v_bsuid.contact_id, v_old_number.contact_id, v_old_bsuid.contact_id]);
    end if;
  end loop;

  v_number_holds := p.match_key is not null and not coalesce(v_number.former, false) and not coalesce(v_bsuid.former, false);
  v_bsuid_holds := p.bsuid is not null and not coalesce(v_bsuid.former, false)
    and not (coalesce(v_number.former, false) and v_number.bsuid is null);

  -- The number is known with another BSUID: it is, or was, another person's.
  if p.bsuid is not null and v_number.contact_id is distinct from v_bsuid.contact_id
    and v_number.contact_id is distinct from v_old_bsuid.contact_id
    and whatsapp_internal.are_two(p.country_id, v_number.contact_id, v_number.bsuid, array[p.bsuid, p.previous_bsuid], v_portfolio)
  then
    v_bsuid_holds := not coalesce(v_bsuid.former, false);
    v_number_holds := v_number_holds and p.at >= coalesce(v_number.bound_at, '-infinity');
    if v_number_holds then
      v_before := v_number.contact_id;
    end if;
    v_number := null;
  end if;
  -- So may the previous one be by now.
  if v_old_number.contact_id is distinct from v_old_bsuid.contact_id and v_old_number.contact_id is distinct from v_bsuid.contact_id
    and (whatsapp_internal.are_two(p.country_id, v_old_number.contact_id, v_old_number.bsuid, array[p.previous_bsuid, case when p.previous_bsuid is not null then p.bsuid end], v_portfolio)
      or (not v_old_number.former and v_old_number.bound_at > p.at))
  then
    v_old_number := null;
  end if;

  v_ids := array(
    select distinct id from unnest(array[v_number.contact_id, v_bsuid.contact_id, v_old_number.contact_id, v_old_bsuid.contact_id]) id
    where id is not null order by id);
  v_rows := array(
    select row_of.c from unnest(v_ids) id
    cross join lateral (select c from whatsapp.contacts c where c.country_id = p.country_id and c.contact_id = id limit 1) row_of
    order by id);

  v_now := whatsapp_internal.names_now(p, v_rows, v_portfolio, v_number.contact_id, v_bsuid.contact_id, v_number_holds, v_bsuid_holds);
  if v_before is not null then
    perform whatsapp_internal.let_go(p.country_id, v_before, p.match_key, p.at - interval '1 microsecond');
  end if;
  if cardinality(v_ids) = 0 then
    -- A number that passes on has an heir, whoever told.
    if coalesce(v_now.match_key, v_now.bsuid) is null or not (p.creates or v_before is not null) then
      return;
    end if;
    insert into whatsapp.contacts (country_id, match_key, bsuid) values (p.country_id, v_now.match_key, v_now.bsuid)
    returning contact_id into v_into;
  else
    v_into := v_ids[1];
    for v_other in 2 .. cardinality(v_ids) loop
      perform whatsapp_internal.join_contacts(p.country_id, v_into, v_ids[v_other]);
    end loop;
  end if;

  perform whatsapp_internal.keep_former_names(p, v_rows, v_now, v_into, v_old_number.bsuid);
  update whatsapp.contacts c
  set match_key = v_now.match_key, phone = v_now.phone, wa_id = v_now.wa_id, bsuid = v_now.bsuid, bsuid_portfolio = v_now.portfolio,
    bound_at = coalesce(
      (select min(r.bound_at) from unnest(v_rows) r
       where r.match_key is not distinct from v_now.match_key and r.bsuid is not distinct from v_now.bsuid),
      greatest(p.at, (select max(r.bound_at) from unnest(v_rows) r where r.match_key = v_now.match_key)))
  where c.country_id = p.country_id and c.contact_id = v_into;
  if v_before is not null then
    perform whatsapp_internal.inherit_wishes(p.country_id, v_before, v_into);
  end if;
end
$$;

-- The names that hold: the latest that is known, and of an announced change not the old ones. `p_rows` are this person's, of which `p_number` and
-- `p_bsuid` have what the event names; whether those two hold now, the caller knows.
create or replace function whatsapp_internal.names_now(
  p whatsapp_internal.person, p_rows whatsapp.contacts[], p_portfolio text, p_number uuid, p_bsuid uuid, p_number_holds boolean, p_bsuid_holds boolean
) returns whatsapp_internal.names
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select row(number.match_key, number.wa_id, number.phone, id.bsuid, id.portfolio, id.other)::whatsapp_internal.names
    from (select exists (
        select from unnest(p_rows) r where r.bsuid <> p.bsuid and r.bsuid_portfolio <> p_portfolio) as other) elsewhere
    left join lateral (
      select n.match_key, n.wa_id, (select max(r.phone) from unnest(p_rows) r where r.match_key = n.match_key) as phone
      from (
        select p.match_key as match_key, p.wa_id as wa_id, p.at as since, 1 as turn where p_number_holds
        union all
        select r.match_key, r.wa_id, coalesce(r.bound_at, '-infinity'), 2
        from unnest(p_rows) r
        where r.match_key is not null and (r.match_key <> coalesce(p.match_key, '') or p_number_holds or r.bound_at > p.at)
          and (not p.changed or r.contact_id = p_number or r.contact_id = p_bsuid or r.bound_at > p.at)
          and (r.match_key <> coalesce(p.previous_match_key, '') or r.bound_at > p.at)
      ) n
      order by n.since desc, n.turn limit 1
    ) number on true
    left join lateral (
      select b.bsuid, b.portfolio, elsewhere.other
      from (
        select p.bsuid as bsuid, p_portfolio as portfolio, p.at as since, 1 as turn where p_bsuid_holds and not elsewhere.other
        union all
        select r.bsuid, r.bsuid_portfolio, coalesce(r.bound_at, '-infinity'), 2
        from unnest(p_rows) r
        where r.bsuid is not null and (r.bsuid <> coalesce(p.bsuid, '') or p_bsuid_holds or r.bound_at > p.at)
          and (not p.changed or r.contact_id = p_number or r.contact_id = p_bsuid or r.bound_at > p.at)
          and (r.bsuid <> coalesce(p.previous_bsuid, '') or r.bound_at > p.at)
      ) b
      order by b.since desc, b.turn limit 1
    ) id on true
  );
end
$$;

-- What the person was called and no longer is. `p_old_bsuid`: the BSUID that went with the number they gave up.
create or replace function whatsapp_internal.keep_former_names(
  p whatsapp_internal.person, p_rows whatsapp.contacts[], p_now whatsapp_internal.names, p_into uuid, p_old_bsuid text
) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  insert into whatsapp.former_names as f (country_id, name, contact_id, until, bsuid)
  select p.country_id, name, p_into, max(until), max(bsuid)
  from (
    select r.match_key as name, p.at as until, r.bsuid from unnest(p_rows) r where r.match_key is distinct from p_now.match_key
    union all
    select r.bsuid, case when p_now.other and r.bsuid_portfolio <> p_now.portfolio then 'infinity' else p.at end, null
    from unnest(p_rows) r where r.bsuid is distinct from p_now.bsuid
    union all
    select p.match_key, p.at, p.bsuid where p.match_key is distinct from p_now.match_key
    union all
    select p.bsuid, case when p_now.other then 'infinity' else p.at end, null where p.bsuid is distinct from p_now.bsuid
    union all
    select p.previous_match_key, p.at, coalesce(p.previous_bsuid, p_old_bsuid)
    union all
    select p.previous_bsuid, p.at, null where p.previous_bsuid is distinct from p_now.bsuid
  ) names
  where name is not null
  group by name
  on conflict (country_id, name, contact_id) do update
  set until = greatest(f.until, excluded.until), bsuid = coalesce(excluded.bsuid, f.bsuid);
end
$$;

-- Whether a row that is known with one BSUID cannot be the person of these. BSUIDs of two portfolios say nothing about each other.
create or replace function whatsapp_internal.are_two(p_country text, p_contact uuid, p_bsuid text, p_others text[], p_portfolio text) returns boolean
language sql stable set search_path = ''
as $$
  select coalesce(p_bsuid <> all (array_remove(p_others, null)) and cardinality(array_remove(p_others, null)) > 0 and not exists (
    select from whatsapp.contacts c
    where c.country_id = p_country and c.contact_id = p_contact and c.bsuid = p_bsuid and c.bsuid_portfolio <> p_portfolio), false)
$$;

-- A person's number is another's after this time.
create or replace function whatsapp_internal.let_go(p_country text, p_contact uuid, p_match_key text, p_at timestamptz) returns void
language sql volatile set search_path = ''
as $$
  insert into whatsapp.former_names as f (country_id, name, contact_id, until, bsuid)
  select p_country, p_match_key, p_contact, p_at, c.bsuid
  from whatsapp.contacts c where c.country_id = p_country and c.contact_id = p_contact
  on conflict (country_id, name, contact_id) do update set until = greatest(f.until, excluded.until), bsuid = excluded.bsuid;
  update whatsapp.contacts c set match_key = null, phone = null, wa_id = null, bound_at = null
  where c.country_id = p_country and c.contact_id = p_contact;
$$;

-- The wish to be left alone stays with the number, for whoever asked for it may be the one who has it now. What they say themselves lifts it.
create or replace function whatsapp_internal.inherit_wishes(p_country text, p_from uuid, p_into uuid) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  update whatsapp.contacts n
  set opted_out_at = greatest(n.opted_out_at, o.opted_out_at),
    marketing_opted_out_at = greatest(n.marketing_opted_out_at, o.marketing_opted_out_at)
  from whatsapp.contacts o
  where o.country_id = p_country and o.contact_id = p_from and n.country_id = p_country and n.contact_id = p_into;
  perform whatsapp_internal.stand(array[p_country], array[p_into]);
end
$$;


-- schemas/people/meeting.sql

-- The people of a batch become known, and what is told of them is learned.

-- The people of a batch: found by either name, made known if new, and told what Meta now calls them.
create or replace function whatsapp_internal.meet_contacts(p_people whatsapp_internal.person[]) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_person whatsapp_internal.person;
  v_question whatsapp_internal.person[];
  v_tries integer := 0;
begin
  if p_people is null then
    return;
  end if;
  loop
    begin
      v_question := whatsapp_internal.in_question(p_people);
      if v_question is not null then
        foreach v_person in array v_question loop
          perform whatsapp_internal.meet_person(v_person);
        end loop;
        -- An announced change may put in question what was plain before it.
        foreach v_person in array coalesce(whatsapp_internal.in_question(p_people, true), '{}') loop
          perform whatsapp_internal.meet_person(v_person);
        end loop;
      end if;
      perform whatsapp_internal.make_known(p_people);
      perform whatsapp_internal.learn_names(p_people);
      return;
    exception when unique_violation then
      -- Somebody else has just written one of these people. They are seen now.
      v_tries := v_tries + 1;
      if v_tries = 3 then
        raise;
      end if;
    end;
  end loop;
end
$$;

-- Contacts for those nobody has heard of.
create or replace function whatsapp_internal.make_known(p_people whatsapp_internal.person[]) returns void
language sql volatile set search_path = ''
as $$
  insert into whatsapp.contacts (country_id, wa_id, match_key, bsuid, bsuid_portfolio, bound_at)
  select distinct on (p.country_id, coalesce(p.match_key, p.bsuid))
    p.country_id, p.wa_id, p.match_key, p.bsuid, case when p.bsuid is not null then (
      select a.portfolio from whatsapp.accounts a where a.country_id = p.country_id and a.account_id = p.account_id) end,
    case when p.match_key is not null and p.bsuid is not null then p.at end
  from unnest(p_people) p
  where p.creates and not exists (select from whatsapp_internal.contact_of(p.country_id, p.match_key, p.bsuid, p.at))
  order by p.country_id, coalesce(p.match_key, p.bsuid), p.bsuid, p.at
  on conflict do nothing
$$;

-- What is told of people who are known: the name that was missing, where an event names both and the other one is theirs; and what they are called.
create or replace function whatsapp_internal.learn_names(p_people whatsapp_internal.person[]) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_people whatsapp.contacts[];
begin
  select array_agg(jsonb_populate_record(null::whatsapp.contacts, jsonb_build_object(
      'country_id', country_id, 'contact_id', contact_id, 'match_key', match_key, 'bsuid', bsuid, 'bsuid_portfolio', case when bsuid is not null then (
        select a.portfolio from whatsapp.accounts a where a.country_id = t.country_id and a.account_id = t.account_id) end, 'bound_at', bound_at,
      'wa_id', wa_id, 'name', name, 'username', username, 'parent_bsuid', parent_bsuid, 'identity_key_hash', identity_key_hash))
    order by country_id, contact_id)
  into v_people
  from (
    select c.country_id, c.contact_id, max(p.account_id) as account_id,
      max(p.match_key) filter (where learns.number) as match_key, max(p.bsuid) filter (where learns.id) as bsuid,
      min(p.at) filter (where p.match_key is not null and p.bsuid is not null) as bound_at,
      (array_agg(p.wa_id order by p.at desc) filter (where p.wa_id is not null and (c.match_key = p.match_key or learns.number)))[1] as wa_id,
      (array_agg(p.name order by p.at desc) filter (where p.name is not null))[1] as name,
      (array_agg(p.username order by p.at desc) filter (where p.username is not null))[1] as username,
      (array_agg(p.parent_bsuid order by p.at desc) filter (where p.parent_bsuid is not null))[1] as parent_bsuid,
      (array_agg(p.identity_key_hash order by p.at desc) filter (where p.identity_key_hash is not null))[1] as identity_key_hash
    from unnest(p_people) p
    cross join lateral whatsapp_internal.contact_of(p.country_id, p.match_key, p.bsuid, p.at) f
    cross join lateral (
      select c.* from whatsapp.contacts c where c.country_id = p.country_id and c.contact_id = f.contact_id limit 1) c
    cross join lateral (
      -- Only a name that is nobody's, nor was at that time.
      select case when c.match_key is null and c.bsuid = p.bsuid
          then not exists (select from whatsapp_internal.holder_of_number(p.country_id, p.match_key, p.at)) end as number,
        case when c.bsuid is null and c.match_key = p.match_key
          then not exists (select from whatsapp_internal.holder_of_bsuid(p.country_id, p.bsuid)) end as id
    ) learns
    group by c.country_id, c.contact_id
  ) t;

  perform whatsapp_internal.hold_contacts(array_agg(p.country_id), array_agg(p.contact_id)) from unnest(v_people) p;
  update whatsapp.contacts c
  set match_key = coalesce(c.match_key, p.match_key), bsuid = coalesce(c.bsuid, p.bsuid),
    bsuid_portfolio = case when c.bsuid is null or c.bsuid = p.bsuid then coalesce(p.bsuid_portfolio, c.bsuid_portfolio) else c.bsuid_portfolio end,
    bound_at = case when coalesce(p.match_key, p.bsuid) is not null then coalesce(c.bound_at, p.bound_at) else c.bound_at end,
    wa_id = coalesce(p.wa_id, c.wa_id), name = coalesce(p.name, c.name), username = coalesce(p.username, c.username),
    parent_bsuid = coalesce(p.parent_bsuid, c.parent_bsuid), identity_key_hash = coalesce(p.identity_key_hash, c.identity_key_hash)
  from unnest(v_people) p
  where c.country_id = p.country_id and c.contact_id = p.contact_id and (
    p.match_key is not null or p.bsuid is not null or p.wa_id <> coalesce(c.wa_id, '') or p.name <> coalesce(c.name, '')
    or p.username <> coalesce(c.username, '') or p.parent_bsuid <> coalesce(c.parent_bsuid, '')
    or p.identity_key_hash <> coalesce(c.identity_key_hash, ''));
end
$$;


-- schemas/portfolios/counting.sql

-- What is used of Meta's messaging limit, counted at the moment of the lease (tables/portfolios.sql).

-- The last minute that no longer counts.
create or replace function whatsapp_internal.portfolio_horizon(p_at timestamptz) returns timestamptz
language sql stable parallel safe
return p_at - interval '24 hours 1 minute';

-- A person as portfolios know them.
create or replace function whatsapp_internal.person_of(match_key text, bsuid text) returns uuid
language sql immutable parallel safe
return md5(coalesce(match_key, bsuid))::uuid;

-- The limit of a portfolio; null is unlimited. The lowest that Meta told one of its accounts: an account that was told nothing, as one that has
-- just been added, says nothing of it. Where none was told, what Meta gives a new business.
create or replace function whatsapp_internal.portfolio_limit(p_portfolio text) returns integer
language sql stable parallel safe set search_path = ''
as $$
  select case when count(a.messaging_limit) = 0 then 250 else min(nullif(a.messaging_limit, -1)) end
  from whatsapp.accounts a where a.portfolio = p_portfolio
$$;

-- How many people may still be written to, and when the next one is freed; `room` is null where there is no limit. Whoever asks holds the
-- portfolio until the end of the transaction, so that claims for its numbers cannot spend the same room. Ask for portfolios in the order of
-- their names: no deadlocks.
create or replace function whatsapp_internal.portfolio_room(p_portfolio text, p_at timestamptz, out room bigint, out frees_at timestamptz)
language plpgsql volatile set search_path = ''
as $$
begin
  room := whatsapp_internal.portfolio_limit(p_portfolio);
  if room is null then
    return;
  end if;
  perform pg_advisory_xact_lock(hashtextextended('whatsapp.portfolio ' || p_portfolio, 0));
  select p.room, p.frees_at into room, frees_at from whatsapp_internal.portfolio_left(p_portfolio, p_at) p;
end
$$;

-- The same at a glance, for whoever spends nothing.
create or replace function whatsapp_internal.portfolio_left(p_portfolio text, p_at timestamptz, out room bigint, out frees_at timestamptz)
language plpgsql stable set search_path = ''
as $$
begin
  room := whatsapp_internal.portfolio_limit(p_portfolio);
  -- Where nothing is used yet, whoever has no room now is kept from it by those of this moment.
  select room - coalesce(sum(m.people), 0),
    coalesce(min(m.minute) filter (where m.people > 0), date_trunc('minute', p_at)) + interval '24 hours 1 minute'
  into room, frees_at
  from whatsapp_internal.portfolio_minutes m
  where m.portfolio = p_portfolio and m.minute > whatsapp_internal.portfolio_horizon(p_at);
end
$$;

-- These people are being written to. The caller holds the portfolio.
create or replace function whatsapp_internal.count_people(p_portfolio text, p_people uuid[], p_at timestamptz) returns void
language sql volatile set search_path = ''
as $$
  with known as materialized (
    select k.person, k.minute from whatsapp_internal.portfolio_people k
    where k.portfolio = p_portfolio and k.person = any (p_people)
  ),
  written as (
    insert into whatsapp_internal.portfolio_people as k (portfolio, person, minute)
    select p_portfolio, person, date_trunc('minute', p_at) from unnest(p_people) as p (person)
    on conflict (portfolio, person) do update set minute = excluded.minute where k.minute <> excluded.minute
  )
  insert into whatsapp_internal.portfolio_minutes as m (portfolio, minute, people)
  select p_portfolio, minute, sum(n)
  from (
    select date_trunc('minute', p_at) as minute, cardinality(p_people) as n
    union all
    select minute, -1 from known where minute > whatsapp_internal.portfolio_horizon(p_at)
  ) change
  group by minute having sum(n) <> 0
  on conflict (portfolio, minute) do update set people = m.people + excluded.people
$$;

-- Forgets who no longer counts, a piece at a time.
create or replace function whatsapp_internal.sweep_portfolios(p_limit integer) returns integer
language sql volatile set search_path = ''
as $$
  with people as (
    delete from whatsapp_internal.portfolio_people k
    where (k.portfolio, k.person) in (
      select portfolio, person from whatsapp_internal.portfolio_people
      where minute <= whatsapp_internal.portfolio_horizon(now()) limit p_limit for update skip locked)
    returning 1
  ),
  minutes as (
    delete from whatsapp_internal.portfolio_minutes m where m.minute <= whatsapp_internal.portfolio_horizon(now())
  )
  select count(*)::integer from people
$$;

-- Meta's word for a limit as a number: -1 is unlimited, null says nothing (TIER_NOT_SET, or a word not known here).
create or replace function whatsapp_internal.people_of_tier(tier text) returns integer
language sql immutable parallel safe
return case
  when tier in ('-1', 'UNLIMITED', 'TIER_UNLIMITED') then -1
  when tier ~ '^(TIER_)?[0-9]{1,6}$' then nullif(regexp_replace(tier, '\D', '', 'g')::integer, 0)
  when tier ~ '^TIER_[0-9]{1,6}K$' then regexp_replace(tier, '\D', '', 'g')::integer * 1000
end;


-- schemas/portfolios/holding.sql

-- What waits for Meta's messaging limit or for the end of quiet hours, and what lets it go.

-- Single messages that wait for the limit or for the end of quiet hours need not wait longer than these do: a limit that Meta raises, or quiet
-- hours that somebody changes, let them go. The most urgent first, as many as there is room for, and never more than p_limit at once.
create or replace function whatsapp_internal.sweep_held(p_limit integer) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_lane record;
  v_portfolio text;
  v_room bigint;
  v_freed integer;
  v_left integer := p_limit;
begin
  for v_lane in
    select a.portfolio, a.country_id, a.account_id, w.lane, w.reason,
      whatsapp_internal.quiet_end(a.time_zone, a.quiet_from, a.quiet_until, now()) is not null as quiet
    from whatsapp.accounts a
    cross join (values ('utility', 'messaging_limit'), ('marketing', 'messaging_limit'), ('marketing', 'quiet_hours')) as w (lane, reason)
    where exists (
      select from whatsapp.queue q
      where q.country_id = a.country_id and q.account_id = a.account_id and q.lane = w.lane and q.held_reason = w.reason)
    order by a.portfolio, w.lane desc, a.country_id, a.account_id
  loop
    exit when v_left < 1;
    if v_portfolio is distinct from v_lane.portfolio then
      v_portfolio := v_lane.portfolio;
      select coalesce(p.room, p_limit) into v_room from whatsapp_internal.portfolio_left(v_portfolio, now()) p;
    end if;
    continue when case v_lane.reason when 'quiet_hours' then v_lane.quiet else v_room < 1 end;
    update whatsapp.queue q set run_at = now(), held_reason = null
    where (q.country_id, q.message_id) in (
      select h.country_id, h.message_id from whatsapp.queue h
      where h.country_id = v_lane.country_id and h.account_id = v_lane.account_id and h.lane = v_lane.lane and h.held_reason = v_lane.reason
        and h.lease_id is null
      order by h.due_at
      limit case v_lane.reason when 'quiet_hours' then v_left else least(v_room, v_left) end
      for update skip locked);
    get diagnostics v_freed = row_count;
    v_left := v_left - v_freed;
    v_room := v_room - case v_lane.reason when 'quiet_hours' then 0 else v_freed end;
  end loop;
  return p_limit - v_left;
end
$$;

-- A campaign that waits for its limit or for the end of quiet hours is looked at anew when these are changed.
create or replace function whatsapp_internal.release_holds() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  -- A claim that still goes by what held before is waited for: it may be about to hold a lane.
  perform pg_advisory_xact_lock(hashtextextended('whatsapp.portfolio ' || p.portfolio, 0))
  from (
    select distinct c.portfolio
    from added n
    join removed o on o.country_id = n.country_id and o.account_id = n.account_id
    cross join lateral (values (n.portfolio), (o.portfolio)) as c (portfolio)
    where (n.messaging_limit, n.portfolio) is distinct from (o.messaging_limit, o.portfolio)
    order by 1
  ) p;
  update whatsapp.lanes l set held_until = null, held_reason = null
  from whatsapp.accounts a, added n, removed o
  where n.country_id = o.country_id and n.account_id = o.account_id and a.portfolio in (n.portfolio, o.portfolio)
    and (n.messaging_limit, n.portfolio, n.time_zone, n.quiet_from, n.quiet_until)
      is distinct from (o.messaging_limit, o.portfolio, o.time_zone, o.quiet_from, o.quiet_until)
    and l.country_id = a.country_id and l.account_id = a.account_id and l.held_until is not null;
  return null;
end
$$;
create or replace trigger lanes_follow after update on whatsapp.accounts
  referencing old table as removed new table as added for each statement execute function whatsapp_internal.release_holds();


-- schemas/enqueue.sql

-- enqueue: judge a batch of messages, write what may go to the log and the queue, answer a verdict for each.
--
--   p_items  jsonb[]  one object a message, any number of countries in one batch:
--     country_id, account_id?          the account; without account_id the country's default
--     actor?                           the signed-in user; must be operator or admin of the country. Absent for trusted servers
--     phone?, match_key?, bsuid?, contact_id?   the person, by one of them (match_key goes with phone)
--     kind, content, template_name?, template_language?    Meta's own object
--     key, fingerprint                 Idempotency-Key and a digest of the request
--     send_at?, expires_at?, ref?
--   returns  jsonb    an array in the order of p_items:
--     {"status": "accepted" | "replayed", "message_id", "state", "account_id"}  or  {"status": "refused", "code", "field"}
--
-- An item that could not be written (no phone number, no UUID, no time, too long) is refused as `invalid_item` and harms no other: callers of
-- every country share a batch.
--
-- Safe to repeat: a key is written in the same transaction as its message, so the same key answers with the same message,
-- however often and however concurrently it comes. A refusal leaves no message and no key (at most a new
-- contact) and may be tried again with the same key.
-- Rows shared by concurrent batches (contacts, conversations, keys) are touched in sorted order: no deadlocks.

-- Text as what it stands for, or null where it stands for nothing: a cast would fail the batch of everybody.
create or replace function whatsapp_internal.as_uuid(p_text text) returns uuid
language sql immutable parallel safe
return case when p_text ~* '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' then p_text::uuid end;

create or replace function whatsapp_internal.as_time(p_text text) returns timestamptz
language plpgsql stable set search_path = ''
as $$
begin
  -- A four-digit year leaves room for every sum the verbs make.
  return case when p_text ~ '^[0-9]{4}-' then p_text::timestamptz end;
exception
  when data_exception then return null;
end
$$;

-- What the columns of contacts take.
create or replace function whatsapp_internal.is_phone(p_phone text, p_match_key text) returns boolean
language sql immutable parallel safe
return coalesce(
  length(p_phone) between 6 and 16 and p_phone ~ '^\+[0-9]+$' and length(p_match_key) between 5 and 15 and p_match_key ~ '^[0-9]+$', false);

create or replace function whatsapp_internal.is_bsuid(p_bsuid text) returns boolean
language sql immutable parallel safe
return coalesce(p_bsuid ~ '^[!-~]{1,200}$', false);

-- Whether a person could be written as they are named: exactly one of phone (with its match key), bsuid and contact_id. Where not, which member.
create or replace function whatsapp_internal.unwritable_person(p_item jsonb) returns text
language sql immutable parallel safe
return case
  when num_nonnulls(p_item ->> 'phone', p_item ->> 'bsuid', p_item ->> 'contact_id') <> 1 then 'to'
  when p_item ->> 'phone' is not null and not whatsapp_internal.is_phone(p_item ->> 'phone', p_item ->> 'match_key') then 'to'
  when p_item ->> 'bsuid' is not null and not whatsapp_internal.is_bsuid(p_item ->> 'bsuid') then 'to.bsuid'
  when p_item ->> 'contact_id' is not null and whatsapp_internal.as_uuid(p_item ->> 'contact_id') is null then 'to.contact_id'
end;

-- Which member of an item could not be written, or null.
create or replace function whatsapp_internal.unwritable(p_item jsonb) returns text
language sql stable
return case
  when jsonb_typeof(p_item) is distinct from 'object' then 'item'
  when p_item ->> 'actor' is not null and whatsapp_internal.as_uuid(p_item ->> 'actor') is null then 'actor'
  when whatsapp_internal.unwritable_person(p_item) is not null then whatsapp_internal.unwritable_person(p_item)
  when coalesce(length(p_item ->> 'kind'), 0) not between 1 and 50 or coalesce(jsonb_typeof(p_item -> 'content'), '') <> 'object' then 'message'
  when length(p_item ->> 'template_name') > 512 or length(p_item ->> 'template_language') > 50 then 'message.template'
  when coalesce(length(p_item ->> 'key'), 0) not between 1 and 255 then 'Idempotency-Key'
  when coalesce(length(p_item ->> 'fingerprint'), 0) not between 1 and 200 then 'fingerprint'
  when p_item ->> 'send_at' is not null and whatsapp_internal.as_time(p_item ->> 'send_at') is null then 'send_at'
  when p_item ->> 'expires_at' is not null and whatsapp_internal.as_time(p_item ->> 'expires_at') is null then 'expires_at'
  when length(p_item ->> 'ref') > 200 then 'ref'
end;

-- Reads the items and finds each one's account; what could not be written, who may not use the account, or names one that is not there, is
-- refused here.
create or replace function whatsapp_internal.read_drafts(p_items jsonb[]) returns whatsapp_internal.draft[]
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select array_agg(row(
        i.n, i.country_id, a.account_id, a.state, a.opt_in_required, i.actor, i.phone, i.match_key, i.bsuid, i.contact_id, i.kind, i.content,
        i.template_name, i.template_language, null, i.key, i.fingerprint, i.send_at, i.expires_at, i.ref, i.message_id,
        case when judged.code is not null then 'refused' end, null, judged.code, judged.field
      )::whatsapp_internal.draft order by i.n)
    from (
      select u.n, u.unwritable, r.*, whatsapp_internal.uuid7() as message_id
      from (
        select n, item, whatsapp_internal.unwritable(item) as unwritable from unnest(p_items) with ordinality as u (item, n) offset 0
      ) u,
        -- Whom it concerns is judged before what is wrong with it: nobody learns anything of another country.
        jsonb_to_record(case when u.unwritable is null then u.item else jsonb_build_object(
          'country_id', u.item -> 'country_id', 'actor', whatsapp_internal.as_uuid(u.item ->> 'actor'), 'account_id', u.item -> 'account_id') end
        ) as r (
          country_id text, account_id text, actor uuid, phone text, match_key text, bsuid text, contact_id uuid, kind text, content jsonb,
          template_name text, template_language text, key text, fingerprint text, send_at timestamptz, expires_at timestamptz, ref text)
    ) i
    left join whatsapp.members m on m.country_id = i.country_id and m.user_id = i.actor
    left join whatsapp.accounts a
      on a.country_id = i.country_id and (a.account_id = i.account_id or (i.account_id is null and a.is_default))
    cross join lateral (
      select case
        when i.unwritable in ('item', 'actor') then 'invalid_item'
        when i.actor is not null and m.role is null then 'not_a_member'
        when i.actor is not null and m.role not in ('operator', 'admin') then 'role_too_low'
        when i.unwritable is not null then 'invalid_item'
        when a.account_id is not null then null
        when not exists (select from whatsapp.accounts c where c.country_id = i.country_id) then 'unknown_country'
        when i.account_id is null then 'no_default_account'
        else 'no_such_account'
      end as code
    ) verdict
    cross join lateral (
      select verdict.code, case
        when verdict.code = 'invalid_item' then i.unwritable
        when verdict.code = 'no_such_account' then 'account'
        when verdict.code is not null then 'country_id'
      end as field
    ) judged
  );
end
$$;

-- The draft with what is given; the rest stays as it was. Inlined, so it has no settings.
create or replace function whatsapp_internal.draft_with(
  d whatsapp_internal.draft, account_id text default null, contact_id uuid default null, category text default null, message_id uuid default null,
  status text default null, state text default null, code text default null, field text default null
) returns whatsapp_internal.draft
language sql immutable parallel safe
as $$
  select row(
    d.n, d.country_id, coalesce(account_id, d.account_id), d.account_state, d.opt_in_required, d.actor, d.phone, d.match_key, d.bsuid,
    coalesce(contact_id, d.contact_id), d.kind, d.content, d.template_name, d.template_language, coalesce(category, d.category), d.key,
    d.fingerprint, d.send_at, d.expires_at, d.ref, coalesce(message_id, d.message_id), coalesce(status, d.status), coalesce(state, d.state),
    coalesce(code, d.code), coalesce(field, d.field)
  )::whatsapp_internal.draft
$$;

-- Drafts whose key has been used get the answer of that time, or a refusal if the request was another one.
create or replace function whatsapp_internal.replay_drafts(p_drafts whatsapp_internal.draft[]) returns whatsapp_internal.draft[]
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select array_agg(whatsapp_internal.draft_with(
        d, account_id => m.account_id, contact_id => m.contact_id, message_id => m.message_id,
        status => case when k.fingerprint = d.fingerprint then 'replayed' when k.key is not null then 'refused' end,
        state => case when m.send_at > m.created_at then 'scheduled' when m.message_id is not null then 'queued' end,
        code => case when k.fingerprint <> d.fingerprint then 'idempotency_key_reused' end,
        field => case when k.fingerprint <> d.fingerprint then 'Idempotency-Key' end
      ) order by d.n)
    from unnest(p_drafts) d
    -- Each by its key: as plain joins, a plan made while the tables were empty read all of them for each draft.
    left join lateral (
      select k.* from whatsapp.idempotency_keys k
      where d.status is null and k.country_id = d.country_id and k.scope = 'send' and k.key = d.key limit 1
    ) k on true
    left join lateral (
      select m.* from whatsapp.messages m where m.country_id = k.country_id and m.message_id = k.message_id limit 1
    ) m on true
  );
end
$$;

-- Every undecided draft finds its person, or makes them known.
create or replace function whatsapp_internal.find_contacts(p_drafts whatsapp_internal.draft[]) returns whatsapp_internal.draft[]
language plpgsql volatile set search_path = ''
as $$
begin
  -- Somebody first met through a webhook gets the phone a caller knows them by.
  update whatsapp.contacts c set phone = d.phone
  from (
    select d.country_id, known.contact_id, min(d.phone) as phone
    from unnest(p_drafts) d
    cross join lateral (
      select k.contact_id, k.phone from whatsapp.contacts k where k.country_id = d.country_id and k.match_key = d.match_key limit 1
    ) known
    where d.status is null and known.phone is null
    group by 1, 2 order by 1, 2
  ) d
  where c.country_id = d.country_id and c.contact_id = d.contact_id and c.phone is null;

  insert into whatsapp.contacts (country_id, phone, match_key)
  select distinct on (d.country_id, d.match_key) d.country_id, d.phone, d.match_key
  from unnest(p_drafts) d
  where d.status is null and d.match_key is not null
    and not exists (select from whatsapp.contacts c where c.country_id = d.country_id and c.match_key = d.match_key)
  order by d.country_id, d.match_key
  on conflict do nothing;

  insert into whatsapp.contacts (country_id, bsuid)
  select distinct d.country_id, d.bsuid
  from unnest(p_drafts) d
  where d.status is null and d.bsuid is not null
    and not exists (select from whatsapp_internal.holder_of_bsuid(d.country_id, d.bsuid))
  order by d.country_id, d.bsuid
  on conflict do nothing;

  return (
    select array_agg(whatsapp_internal.draft_with(
        d, contact_id => c.contact_id,
        status => case when d.status is null and c.contact_id is null then 'refused' end,
        code => case when d.status is null and c.contact_id is null then 'unknown_contact' end,
        field => case when d.status is null and c.contact_id is null then 'to.contact_id' end
      ) order by d.n)
    from unnest(p_drafts) d
    left join lateral (
      select coalesce(c.merged_into, c.contact_id) as contact_id
      from whatsapp.contacts c where c.country_id = d.country_id and c.contact_id = d.contact_id
      union all
      select c.contact_id from whatsapp.contacts c where c.country_id = d.country_id and c.match_key = d.match_key
      union all
      select h.contact_id from whatsapp_internal.holder_of_bsuid(d.country_id, d.bsuid) h
      limit 1
    ) c on true
  );
end
$$;

-- The gates, for each undecided draft; sets the category the template has at Meta. A message for later is judged again at its time,
-- so the window is not asked of it now.
create or replace function whatsapp_internal.judge_drafts(p_drafts whatsapp_internal.draft[]) returns whatsapp_internal.draft[]
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select array_agg(whatsapp_internal.draft_with(
        d, category => t.category, code => gate.code,
        status => case when gate.code is not null then 'refused' end,
        field => case
          when gate.code like 'template%' then 'message.template'
          when gate.code = 'message_expired' then 'expires_at'
          when gate.code like 'account%' then 'account'
          when gate.code is not null then 'to'
        end
      ) order by d.n)
    from unnest(p_drafts) d
    left join whatsapp.contacts c on d.status is null and c.country_id = d.country_id and c.contact_id = d.contact_id
    left join whatsapp.conversations v
      on d.status is null and v.country_id = d.country_id and v.account_id = d.account_id and v.contact_id = d.contact_id
    left join whatsapp.templates t
      on d.status is null and t.country_id = d.country_id and t.account_id = d.account_id and t.name = d.template_name
      and t.language = d.template_language
    cross join lateral (
      select case when d.status is null then whatsapp_internal.refusal(
        d.account_state, d.kind, t.category, t.status,
        case when d.send_at > now() then d.send_at + interval '1 day' else v.window_until end,
        greatest(v.window_until, v.entry_point_until), v.last_inbound_at, c.opted_in_at, d.opt_in_required, c.opted_out_at, c.marketing_opted_out_at, c.marketing_cooled_until, d.expires_at, now()
      ) end as code
    ) gate
  );
end
$$;

-- Writes the keys of the drafts that may go. Of two callers with one key the second waits here for the first and then finds
-- its message; a draft that found its key taken is no longer undecided.
create or replace function whatsapp_internal.take_keys(p_drafts whatsapp_internal.draft[]) returns whatsapp_internal.draft[]
language plpgsql volatile set search_path = '' set enable_hashjoin = on
as $$
declare
  v_drafts whatsapp_internal.draft[];
begin
  with taken as (
    insert into whatsapp.idempotency_keys (country_id, key, fingerprint, message_id)
    select country_id, key, fingerprint, message_id
    from unnest(p_drafts) where status is null
    order by country_id, key, n
    on conflict do nothing
    returning country_id, message_id
  )
  select array_agg(whatsapp_internal.draft_with(
      d,
      status => case when t.message_id is not null then 'accepted' end,
      state => case when t.message_id is null then null when d.send_at > now() then 'scheduled' else 'queued' end
    ) order by d.n)
  into v_drafts
  from unnest(p_drafts) d
  left join taken t on t.country_id = d.country_id and t.message_id = d.message_id;
  return v_drafts;
end
$$;

-- Writes log and queue of the accepted drafts.
create or replace function whatsapp_internal.write_drafts(p_drafts whatsapp_internal.draft[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  insert into whatsapp.lanes (country_id, account_id, lane, priority)
  select distinct d.country_id, d.account_id, l.lane, whatsapp_internal.lane_priority(l.lane)
  from unnest(p_drafts) d, lateral (select whatsapp_internal.lane_of(d.kind, d.category) as lane) l
  where d.status = 'accepted'
    and not exists (
      select from whatsapp.lanes x where x.country_id = d.country_id and x.account_id = d.account_id and x.lane = l.lane)
  order by 1, 2, 3
  on conflict do nothing;

  insert into whatsapp.messages (
    country_id, message_id, account_id, contact_id, direction, kind, state, content, template_name, template_language, category, ref,
    created_by, send_at, expires_at)
  select country_id, message_id, account_id, contact_id, 'outbound', kind, state, content, template_name, template_language, category, ref,
    actor, send_at, expires_at
  from unnest(p_drafts) where status = 'accepted';

  insert into whatsapp.queue (country_id, message_id, account_id, contact_id, lane, due_at, run_at, expires_at, scheduled)
  select country_id, message_id, account_id, contact_id, whatsapp_internal.lane_of(kind, category),
    greatest(send_at, now()), greatest(send_at, now()), expires_at, state = 'scheduled'
  from unnest(p_drafts) where status = 'accepted'
  order by n;
end
$$;

create or replace function whatsapp.enqueue(p_items jsonb[]) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_drafts whatsapp_internal.draft[];
begin
  perform whatsapp_internal.hold_countries(array(select i ->> 'country_id' from unnest(p_items) i), false);
  v_drafts := whatsapp_internal.read_drafts(p_items);
  v_drafts := whatsapp_internal.replay_drafts(v_drafts);
  v_drafts := whatsapp_internal.find_contacts(v_drafts);
  v_drafts := whatsapp_internal.judge_drafts(v_drafts);

  insert into whatsapp.conversations (country_id, account_id, contact_id)
  select distinct country_id, account_id, contact_id from unnest(v_drafts) d
  where status is null and not exists (
    select from whatsapp.conversations v
    where v.country_id = d.country_id and v.account_id = d.account_id and v.contact_id = d.contact_id)
  order by 1, 2, 3
  on conflict do nothing;

  v_drafts := whatsapp_internal.take_keys(v_drafts);
  perform whatsapp_internal.write_drafts(v_drafts);
  -- Somebody else has just taken the keys of these.
  if exists (select from unnest(v_drafts) where status is null) then
    v_drafts := whatsapp_internal.replay_drafts(v_drafts);
  end if;

  return (
    select coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
      'status', status, 'message_id', case when status <> 'refused' then message_id end, 'state', state, 'account_id', account_id, 'code', code, 'field', field
    )) order by n), '[]'::jsonb)
    from unnest(v_drafts)
  );
end
$$;
comment on function whatsapp.enqueue is 'Verb 1 of 5. Judges a batch of messages, writes log and queue, answers a verdict per item. Safe to repeat.';


-- schemas/claim.sql

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


-- schemas/settle.sql

-- settle: record what became of the messages a drainer had leased.
--
--   p_results  jsonb[]  one object a message:
--     country_id, message_id, lease_id
--     outcome   accepted   Meta took it: wamid (and wa_id, user_id where Meta told them)
--               rejected   Meta refused it for good: failed
--               retry      Meta refused it for now: back to the queue after wait_seconds, failed once max_attempts are used up
--               held       Meta refused it because of its limits, the account or the template: as retry, but the attempt does not count
--               released   never written to the wire: as held
--               unknown    nobody knows: waits for a status webhook that carries our id, or for sweep
--     code?, title?, details?, effect?, wait_seconds?, max_attempts?, detail?   Meta's verdict (services/whatsapp/meta/errors.py)
--   returns    jsonb    {"settled": n, "stale": n}
--
-- Safe to repeat, and fenced: what is not leased under this lease any more is only changed by an answer that proves what happened.
-- An acceptance always counts, however late, and takes back that we gave the message up for lost. A `released` takes back even a message that
-- has become unknown under the same lease: the drainer that held it knows it was not sent. What cannot be stored of a result (a wamid that
-- another message holds, an id that is none) is left out, never the fact.
--
-- Locks: messages, queue, contacts, conversations and so on, in the one order of locks.sql.

-- An account stops for a person, or pauses until a time (or for a person). A pause does not undo a stop, nor a longer pause.
create or replace function whatsapp_internal.halt_account(
  p_country text, p_account text, p_state text, p_reason text, p_code integer, p_until timestamptz
) returns void
language sql volatile set search_path = ''
as $$
  update whatsapp.accounts a
  set state = p_state, state_reason = p_reason, state_code = p_code, state_since = now(),
    paused_until = case when p_state = 'paused' then p_until end
  where a.country_id = p_country and a.account_id = p_account
    and (a.state = 'active'
      or (a.state = 'paused' and (p_state = 'stopped' or a.paused_until < coalesce(p_until, 'infinity'))))
$$;

-- When Meta said so. An answer is of now; a webhook may come days later, and what it says was true then. Meta tells whole seconds.
create or replace function whatsapp_internal.said_at(p_country text, p_message uuid) returns timestamptz
language sql stable set search_path = ''
as $$
  select least(now(), (
    select m.failed_at + interval '1 second' from whatsapp.messages m where m.country_id = p_country and m.message_id = p_message))
$$;

-- What Meta's verdict means beyond the one message. Called by settle and by ingest with the same rows.
create or replace function whatsapp_internal.apply_effects(p_results whatsapp_internal.result[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  if not exists (select from unnest(p_results) where effect is not null and effect <> 'none') then
    return;
  end if;
  -- In the order of locks. refresh_template needs nothing here: the next templates-sync brings what Meta has.
  perform whatsapp_internal.apply_effects_to_people(p_results);
  perform whatsapp_internal.apply_effects_to_accounts(p_results);
  perform whatsapp_internal.apply_effects_to_pace(p_results);
end
$$;

-- The window is closed, a person wants no marketing for a while, or no more.
create or replace function whatsapp_internal.apply_effects_to_people(p_results whatsapp_internal.result[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  update whatsapp.conversations v set window_until = least(v.window_until, now())
  from (select country_id, account_id, contact_id, max(whatsapp_internal.said_at(country_id, message_id)) as said_at
        from unnest(p_results) where effect = 'close_window' group by 1, 2, 3) r
  where v.country_id = r.country_id and v.account_id = r.account_id and v.contact_id = r.contact_id
    -- Whoever has written since has opened it again.
    and coalesce(v.last_inbound_at <= r.said_at, true);

  update whatsapp.contacts c
  set marketing_cooled_until = greatest(c.marketing_cooled_until, r.until)
  from (select country_id, contact_id, max(whatsapp_internal.said_at(country_id, message_id)
            + coalesce(nullif(wait_seconds, 0), 86400) * interval '1 second') as until
        from unnest(p_results) where effect = 'cool_contact' group by 1, 2) r
  where c.country_id = r.country_id and c.contact_id = r.contact_id;

  if exists (select from unnest(p_results) where effect = 'opt_out') then
    perform whatsapp_internal.add_consents(array(
      select row(country_id, contact_id, 'opt_out', 'marketing', max(whatsapp_internal.said_at(country_id, message_id)), 'meta', 'Meta code ' || max(code), null)::whatsapp_internal.consent
      from unnest(p_results) where effect = 'opt_out' group by country_id, contact_id));
  end if;
end
$$;

-- A template, an account, or what an account may begin, rests or stops.
create or replace function whatsapp_internal.apply_effects_to_accounts(p_results whatsapp_internal.result[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  update whatsapp.templates t
  set status = case r.effect when 'disable_template' then 'DISABLED' else 'PAUSED' end, reason = 'Meta code ' || r.code, status_at = now()
  from (select distinct on (country_id, account_id, template_name, template_language) * from unnest(p_results)
        where effect in ('pause_template', 'disable_template')
        order by country_id, account_id, template_name, template_language, effect) r
  where t.country_id = r.country_id and t.account_id = r.account_id and t.name = r.template_name and t.language = r.template_language
    and t.status in ('APPROVED', 'PAUSED') and t.status_at <= whatsapp_internal.said_at(r.country_id, r.message_id)
    -- An answer to a message that was on its way when Meta approved the template anew says nothing of now; the next one would.
    and not exists (
      select from whatsapp.queue q where q.country_id = r.country_id and q.message_id = r.message_id and q.leased_at < t.status_at);

  perform whatsapp_internal.halt_account(
    r.country_id, r.account_id, case r.effect when 'stop_account' then 'stopped' else 'paused' end, r.title, r.code,
    case when r.effect = 'pause_account' and r.wait_seconds > 0 then now() + r.wait_seconds * interval '1 second' end)
  from (select distinct on (country_id, account_id) * from unnest(p_results) p
        where (effect in ('stop_account', 'pause_account') or (effect = 'policy_block' and message_id is not null and template_name is null))
          -- What was said before the account was started (again) has been seen to.
          and not exists (
            select from whatsapp.accounts a
            where a.country_id = p.country_id and a.account_id = p.account_id and a.state = 'active'
              and a.state_since > whatsapp_internal.said_at(p.country_id, p.message_id))
        order by country_id, account_id, effect = 'stop_account' desc,
          case effect when 'pause_account' then nullif(wait_seconds, 0) end desc nulls first) r;

  -- What the business begins rests, and ends its rest by itself; people are answered meanwhile.
  update whatsapp.accounts a
  set templates_paused_until = greatest(a.templates_paused_until, r.until)
  from (select country_id, account_id, max(whatsapp_internal.said_at(country_id, message_id)
            + coalesce(nullif(wait_seconds, 0), 86400) * interval '1 second') as until
        from unnest(p_results) where effect in ('pause_templates', 'policy_block') group by 1, 2 order by 1, 2) r
  where a.country_id = r.country_id and a.account_id = r.account_id;

  -- Enough of a template for now: its campaigns rest as a whole, or each of their messages would ask Meta for itself.
  update whatsapp.lanes l
  set held_until = greatest(l.held_until, r.until), held_reason = 'template_throttled'
  from (
    select c.country_id, c.account_id, whatsapp_internal.lane_of_campaign(c.campaign_id) as lane, now() + t.seconds * interval '1 second' as until
    from (select country_id, account_id, template_name, template_language, max(coalesce(nullif(wait_seconds, 0), 3600)) as seconds
          from unnest(p_results) where effect = 'rest_template' group by 1, 2, 3, 4) t
    join whatsapp.campaigns c
      on c.country_id = t.country_id and c.account_id = t.account_id and c.template_name = t.template_name
      and c.template_language = t.template_language and c.state in ('scheduled', 'running')
  ) r
  where l.country_id = r.country_id and l.account_id = r.account_id and l.lane = r.lane;
end
$$;

-- Too fast: the number goes on slower, a person gets their next message later.
create or replace function whatsapp_internal.apply_effects_to_pace(p_results whatsapp_internal.result[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  -- Throughput reached (130429): the number rests for a moment and goes on at half its rate; sweep raises it again.
  update whatsapp.throttles t
  set held_until = greatest(t.held_until, now() + r.seconds * interval '1 second'), rate_factor = greatest(t.rate_factor / 2, 0.05)
  from (select country_id, account_id, max(coalesce(nullif(wait_seconds, 0), 1)) as seconds from unnest(p_results)
        where effect = 'slow_down' group by 1, 2) r
  where t.country_id = r.country_id and t.account_id = r.account_id and coalesce(t.held_until <= now(), true);

  -- Pair rate reached (131056): this person waits, others do not.
  update whatsapp.conversations v
  set pair_next_at = greatest(v.pair_next_at, now() + interval '264 seconds' + r.seconds * interval '1 second')
  from (select country_id, account_id, contact_id, max(coalesce(wait_seconds, 6)) as seconds from unnest(p_results)
        where effect = 'pair_wait' group by 1, 2, 3) r
  where v.country_id = r.country_id and v.account_id = r.account_id and v.contact_id = r.contact_id;
end
$$;

-- Takes the statuses that were parked under these wamids: they are for apply_statuses, and speak of these messages. A failure is kept by its key, as
-- ingest does, and what is kept already is no news.
create or replace function whatsapp_internal.take_parked(p_countries text[], p_accounts text[], p_wamids text[], p_messages uuid[]) returns jsonb[]
language plpgsql volatile set search_path = ''
as $$
declare
  v_events jsonb[];
  v_kept uuid[];
begin
  select array_agg(p.event || jsonb_build_object('message_id', k.message_id)) into v_events
  from (
    select distinct on (country_id, account_id, wamid) *
    from unnest(p_countries, p_accounts, p_wamids, p_messages) as u (country_id, account_id, wamid, message_id) where u.wamid is not null
  ) k
  cross join lateral (
    select p.event from whatsapp.parked_statuses p
    where p.country_id = k.country_id and p.account_id = k.account_id and p.wamid = k.wamid
    for no key update skip locked
  ) p;
  if v_events is null then
    return null;
  end if;
  delete from whatsapp.parked_statuses p
  using unnest(v_events) i
  where p.country_id = i ->> 'country_id' and p.event_key = (i ->> 'key')::uuid;
  with kept as (
    insert into whatsapp.webhook_events (country_id, day, event_key, account_id, field, kind, outcome, payload)
    select i ->> 'country_id', whatsapp_internal.day_of((i ->> 'at')::double precision), (i ->> 'key')::uuid, i ->> 'account_id', i ->> 'field', i ->> 'kind',
      'applied', i -> 'payload'
    from unnest(v_events) i where i ->> 'state' = 'failed'
    order by 1, 3
    on conflict do nothing
    returning event_key
  )
  select array_agg(event_key) into v_kept from kept;
  return array(select i from unnest(v_events) i where i ->> 'state' <> 'failed' or (i ->> 'key')::uuid = any (v_kept));
end
$$;

-- Makes messages known by Meta's ids of them. One that another message holds is left out of its result, and told in its detail.
create or replace function whatsapp_internal.name_results(p_results whatsapp_internal.result[]) returns whatsapp_internal.result[]
language plpgsql volatile set search_path = ''
as $$
declare
  v_named uuid[];
begin
  with named as (
    insert into whatsapp.wamids (country_id, digest, week, message_id)
    select r.country_id, whatsapp_internal.digest_of(r.account_id, r.wamid), whatsapp_internal.week_of(whatsapp_internal.today()), r.message_id
    from unnest(p_results) r where r.wamid is not null
    order by 1, 2, 4
    on conflict do nothing
    returning message_id
  )
  select array_agg(message_id) into v_named from named;
  if cardinality(v_named) = cardinality(p_results) then
    return p_results;
  end if;
  return array(
    select jsonb_populate_record(r, case when other.message_id is null then '{}' else jsonb_build_object(
      'wamid', null, 'detail', coalesce(r.detail, '{}') || jsonb_build_object('wamid_of_another', r.wamid)) end)
    from unnest(p_results) r
    left join lateral (
      select w.message_id from whatsapp.wamids w
      where w.country_id = r.country_id and w.digest = whatsapp_internal.digest_of(r.account_id, r.wamid)
        and w.week = whatsapp_internal.week_of(whatsapp_internal.today()) and w.message_id <> r.message_id and r.message_id <> all (coalesce(v_named, '{}'))
    ) other on true
    order by r.country_id, r.message_id);
end
$$;

-- The results as what they stand for, one a message. The messages are locked here, in order.
create or replace function whatsapp_internal.read_results(p_results jsonb[]) returns whatsapp_internal.result[]
language plpgsql volatile set search_path = ''
as $$
begin
  return (
    select array_agg(row(
        r.country_id, r.message_id, r.lease_id, r.outcome, case when length(r.wamid) <= 512 then r.wamid end,
        case when r.wa_id ~ '^[0-9]{5,20}$' then r.wa_id end, case when length(r.user_id) <= 150 then r.user_id end,
        case when r.code ~ '^-?[0-9]{1,9}$' then r.code::integer end, r.title, r.details, r.effect, case when r.wait_seconds < 2592000 then r.wait_seconds when r.wait_seconds is not null then 2592000 end, r.max_attempts,
        r.detail, m.account_id, m.contact_id, m.template_name, m.template_language)::whatsapp_internal.result)
    from (
      select distinct on (country_id, message_id) r.*
      from unnest(p_results) i,
        jsonb_to_record(i) as r (
          country_id text, message_id uuid, lease_id uuid, outcome text, wamid text, wa_id text, user_id text, code text, title text,
          details text, effect text, wait_seconds double precision, max_attempts integer, detail jsonb)
      order by country_id, message_id
    ) r
    cross join lateral (
      select m.* from whatsapp.messages m
      where m.country_id = r.country_id and m.message_id = r.message_id
      for no key update of m
    ) m
  );
end
$$;

-- Those results that count: their lease still holds the row, or they prove what happened to it. In a statement of its own, which sees what whoever held
-- the messages before has done: the same call, when it is repeated.
create or replace function whatsapp_internal.results_that_count(p_results whatsapp_internal.result[]) returns whatsapp_internal.result[]
language plpgsql volatile set search_path = ''
as $$
begin
  return (
    select array_agg(row(
        r.country_id, r.message_id, r.lease_id,
        case
          -- A status webhook was faster, or the acceptance of an earlier try: whatever the answer was, the message is on its way and is not sent again.
          when coalesce(m.accepted_at, m.sent_at, m.delivered_at, m.read_at, m.played_at, m.failed_at) is not null then 'accepted'
          when r.outcome = 'retry' and q.attempts >= r.max_attempts then 'rejected'
          else r.outcome
        end,
        r.wamid, r.wa_id, r.user_id, r.code, r.title, r.details, r.effect, r.wait_seconds, r.max_attempts,
        r.detail,
        r.account_id, r.contact_id, r.template_name, r.template_language)::whatsapp_internal.result order by r.country_id, r.message_id)
    from unnest(p_results) r
    join whatsapp.messages m on m.country_id = r.country_id and m.message_id = r.message_id
    left join whatsapp.queue q on q.country_id = r.country_id and q.message_id = r.message_id
    where case r.outcome
      when 'accepted' then m.accepted_at is null or q.message_id is not null
      when 'unknown' then q.lease_id = r.lease_id and q.unknown_until is null
      else q.lease_id = r.lease_id
    end
  );
end
$$;

-- Writes the results to their messages, and to the story what the columns do not tell.
create or replace function whatsapp_internal.log_results(p_results whatsapp_internal.result[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  with moved as (
    update whatsapp.messages m
    set
      wamid = coalesce(r.wamid, m.wamid),
      accepted_at = case when r.outcome = 'accepted' then coalesce(m.accepted_at, now()) else m.accepted_at end,
      failed_at = case
        when r.outcome = 'rejected' then coalesce(m.failed_at, now())
        when not whatsapp_internal.given_up(m.error_code, m.error_title) then m.failed_at
      end,
      error_code = coalesce(r.code, m.error_code),
      error_title = coalesce(r.title, case when not whatsapp_internal.given_up(m.error_code, m.error_title) then m.error_title end),
      error_details = coalesce(r.details, m.error_details),
      attempts = case when r.outcome in ('held', 'released') then greatest(m.attempts - 1, 0) else m.attempts end,
      state = whatsapp_internal.state_of(
        case when r.outcome = 'accepted' then coalesce(m.accepted_at, now()) else m.accepted_at end,
        m.sent_at, m.delivered_at, m.read_at, m.played_at,
        case
          when r.outcome = 'rejected' then coalesce(m.failed_at, now())
          when not whatsapp_internal.given_up(m.error_code, m.error_title) then m.failed_at
        end,
        case when r.outcome = 'unknown' then 'unknown' else 'queued' end)
    from unnest(p_results) r
    where m.country_id = r.country_id and m.message_id = r.message_id
    returning r.*, m.accepted_at
  )
  -- That Meta took it, and nothing else, is told by accepted_at.
  insert into whatsapp.message_events (country_id, message_id, event, code, title, detail)
  select country_id, message_id,
    case outcome when 'rejected' then 'message_failed' when 'retry' then 'message_retry' else 'message_' || outcome end,
    code, title,
    nullif(jsonb_strip_nulls(coalesce(detail, '{}') || jsonb_build_object('details', details, 'wait_seconds', wait_seconds)), '{}')
  from moved
  where outcome <> 'accepted' or accepted_at < now() or coalesce(code::text, title, details, detail::text, wait_seconds::text) is not null;
end
$$;

-- Takes what is done out of the queue, and gives back what is not: when it goes again, and what it waits for.
create or replace function whatsapp_internal.requeue_results(p_results whatsapp_internal.result[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  delete from whatsapp.queue q
  using unnest(p_results) r
  where q.country_id = r.country_id and q.message_id = r.message_id and r.outcome in ('accepted', 'rejected')
    and (q.lease_id = r.lease_id or q.lease_id is null);

  update whatsapp.queue q
  set
    lease_id = case when r.outcome = 'unknown' then q.lease_id end,
    leased_until = case when r.outcome = 'unknown' then least(q.leased_until, now()) end,
    -- Looked up here and not joined: with a third table Postgres may begin with the queue, and read all of it for each result if it believes it empty.
    unknown_until = case when r.outcome = 'unknown' then now() + (
      select a.unknown_deadline from whatsapp.accounts a where a.country_id = r.country_id and a.account_id = r.account_id) end,
    attempts = case when r.outcome in ('held', 'released') then greatest(q.attempts - 1, 0) else q.attempts end,
    waits = case r.outcome when 'held' then q.waits + 1 when 'retry' then 0 else q.waits end,
    run_at = case
      -- Its campaign is paused with the template (apply_effects) and goes on when Meta approves it: a wait of its own would outlast that.
      when r.effect = 'pause_template' and q.lane like 'campaign:%' then q.run_at
      -- It rests with its lane.
      when r.effect = 'rest_template' and q.lane like 'campaign:%' then q.run_at
      -- These wait for the account (templates_paused_until, or until it is resumed), and go with it. A single reply that Meta refused does not.
      when r.effect = 'pause_templates' and q.lane = 'reply' then now() + least(power(2, q.waits), 60) * interval '1 minute'
      when r.effect in ('pause_templates', 'policy_block') then q.run_at
      when r.wait_seconds > 0 and r.outcome <> 'unknown' then now() + r.wait_seconds * interval '1 second'
      else q.run_at
    end
  from unnest(p_results) r
  where q.country_id = r.country_id and q.message_id = r.message_id and q.lease_id = r.lease_id
    and r.outcome in ('retry', 'held', 'released', 'unknown');
end
$$;

create or replace function whatsapp.settle(p_results jsonb[]) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_results whatsapp_internal.result[];
  v_parked jsonb[];
  v_effects whatsapp_internal.result[];
begin
  perform whatsapp_internal.hold_countries(array(select i ->> 'country_id' from unnest(p_results) i), false);

  v_results := whatsapp_internal.read_results(p_results);
  v_results := whatsapp_internal.results_that_count(v_results);
  if v_results is null then
    return jsonb_build_object('settled', 0, 'stale', coalesce(cardinality(p_results), 0));
  end if;
  v_results := whatsapp_internal.name_results(v_results);

  perform whatsapp_internal.log_results(v_results);
  perform whatsapp_internal.requeue_results(v_results);
  perform whatsapp_internal.wake_next(v_results);
  v_parked := whatsapp_internal.take_parked(
    array(select country_id from unnest(v_results)), array(select account_id from unnest(v_results)), array(select wamid from unnest(v_results)),
    array(select message_id from unnest(v_results)));
  v_effects := v_results || whatsapp_internal.apply_statuses(v_parked);
  perform whatsapp_internal.hold_contacts(array_agg(r.country_id), array_agg(r.contact_id))
  from unnest(v_effects) r
  where r.wa_id is not null or r.user_id is not null or r.effect <> 'none';
  perform whatsapp_internal.free_conversations(v_results);
  if v_parked is not null then
    perform whatsapp_internal.open_entry_points(v_parked);
  end if;
  perform whatsapp_internal.apply_effects(v_effects);
  if exists (select from unnest(v_results) r where r.outcome in ('retry', 'held', 'released')) then
    perform whatsapp_internal.reopen_lanes(array_agg(r.country_id), array_agg(r.message_id))
    from unnest(v_results) r where r.outcome in ('retry', 'held', 'released');
  end if;
  -- Last: it may find that one of these people is another, and everything above speaks of who they were.
  perform whatsapp_internal.learn_ids(v_results);

  return jsonb_build_object('settled', cardinality(v_results), 'stale', cardinality(p_results) - cardinality(v_results));
end
$$;
comment on function whatsapp.settle is 'Verb 3 of 5. Records what Meta answered: accepted, rejected, retry, held, released or unknown. Safe to repeat.';

-- The first message that had stepped aside for one that is settled now is due at once: the most urgent lane's, as claim does; what stands in a
-- paused or held lane is not what can go. One row of each kind of lane by its index, however many wait.
create or replace function whatsapp_internal.wake_next(p_results whatsapp_internal.result[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  update whatsapp.queue q
  set run_at = now(), blocked = false
  from (
    select r.country_id, next.message_id
    from (select distinct country_id, account_id, contact_id from unnest(p_results)) r
    -- Nearly always nothing waits.
    cross join lateral (
      select from whatsapp.queue n
      where n.country_id = r.country_id and n.account_id = r.account_id and n.contact_id = r.contact_id
      limit 1
    ) waiting
    cross join lateral (
      select head.message_id, head.blocked
      from (values (1, 'reply', 'reply'), (2, 'utility', 'utility'), (3, 'marketing', 'marketing'), (4, 'campaign:', 'campaign:g'))
        as kinds (n, first, last)
      cross join lateral (
        select n.message_id, n.blocked
        from whatsapp.queue n
        join whatsapp.lanes l on l.country_id = n.country_id and l.account_id = n.account_id and l.lane = n.lane
        where n.country_id = r.country_id and n.account_id = r.account_id and n.contact_id = r.contact_id
          and n.lane between kinds.first and kinds.last and n.lease_id is null and n.due_at <= now()
          and not l.paused and coalesce(l.held_until <= now(), true)
        order by n.lane, n.due_at, n.message_id
        limit 1
      ) head
      order by kinds.n
      limit 1
    ) next
    where next.blocked
    order by 1, 2
  ) next
  where q.country_id = next.country_id and q.message_id = next.message_id and q.blocked;
end
$$;

-- The people of settled messages may get their next one.
create or replace function whatsapp_internal.free_conversations(p_results whatsapp_internal.result[]) returns void
language sql volatile set search_path = ''
as $$
  update whatsapp.conversations v
  set sending_until = null, last_message_at = now()
  from (select distinct country_id, account_id, contact_id from unnest(p_results) order by 1, 2, 3) r
  where v.country_id = r.country_id and v.account_id = r.account_id and v.contact_id = r.contact_id
$$;


-- schemas/ingest.sql

-- ingest: store a batch of webhook events once, and let them move what they speak of.
--
--   p_events  jsonb[]  as services/whatsapp/meta/events.py makes them:
--     key, country_id, account_id, field, kind, at, payload and, by kind,
--     status    wamid, message_id?, state, error?, price?, window_until?, contact?
--     message   wamid, contact, content
--     call      contact                      (opens the window; the Calling API is not implemented)
--     system    contact with previous_…      (a person changed number or user id)
--     preference  contact, content           (marketing stop or resume)
--     template  content                      (status, quality or category of a template)
--     account   content, error?              (restrictions, bans, throughput, messaging limit)
--     ignored, unroutable, unparsable        stored, nothing moved
--   A contact is {wa_id, match_key, bsuid, parent_bsuid, identity_key_hash, name, username, previous_wa_id, previous_match_key, previous_bsuid}.
--   returns   jsonb    {"received": n, "applied": n, "parked": n}
--
-- Safe to repeat. Of a status the fact decides: what its message has been told already is no news, and what is news is applied and its raw payload kept,
-- those of one call in one row. Of all else, failures included, the insert into webhook_events decides what is new, and only that is applied, in the
-- same transaction. The order of statuses does not matter: each fact has its own column and the state is a function of the facts
-- (whatsapp_internal.state_of). The event of a message is its content: what Meta says anew in other words under a wamid we know is another event, and
-- goes to the message's story.
--
-- Locks: messages, parked statuses, events, queue, contacts and so on, in the one order of locks.sql; the throttle row last and shortest.

-- Free entry points, of which statuses tell. Apart from apply_statuses, for conversations come after people in the lock order.
create or replace function whatsapp_internal.open_entry_points(p_statuses jsonb[]) returns void
language sql volatile set search_path = ''
as $$
  update whatsapp.conversations v
  set entry_point_until = greatest(v.entry_point_until, w.until)
  from (
    select i ->> 'country_id' as country_id, m.account_id, m.contact_id, max(to_timestamp((i ->> 'window_until')::double precision)) as until
    from unnest(p_statuses) i
    cross join lateral (
      select m.account_id, m.contact_id from whatsapp.messages m
      where m.country_id = i ->> 'country_id' and m.message_id = (i ->> 'message_id')::uuid limit 1
    ) m
    where i ->> 'window_until' is not null
    group by 1, 2, 3 order by 1, 2, 3
  ) w
  where v.country_id = w.country_id and v.account_id = w.account_id and v.contact_id = w.contact_id
$$;

-- The statuses among these events, each with what becomes of it: `news` of a message of ours (its `message_id` is set to the one it speaks of, which
-- Meta names by our id or by its own), `told` already, `parked` because nobody knows its message yet, or `ignored`: only what we sent has a status.
-- A failure is always news, and its event's key decides. So is what was told before, where it brings the first price or a later end of a free entry
-- point. `names` where it is the first to tell Meta's id of its message.
-- The messages are locked from here on, in the order of their keys, so that of two that bring the same the second finds it told.
create or replace function whatsapp_internal.hear_statuses(p_events jsonb[]) returns whatsapp_internal.heard[]
language plpgsql volatile set search_path = ''
as $$
begin
  return (
    select array_agg(row(
      case when m.message_id is null or m.message_id = e.named then e.i else e.i || jsonb_build_object('message_id', m.message_id) end,
      case
        when m.message_id is null then 'parked'
        when m.direction <> 'outbound' then 'ignored'
        when case e.i ->> 'state'
          when 'sent' then m.sent_at when 'delivered' then m.delivered_at when 'read' then m.read_at when 'played' then m.played_at end is not null
          and not (m.price is null and e.i ->> 'price' is not null) and not (e.i ->> 'window_until' is not null and exists (
            select from whatsapp.conversations v
            where v.country_id = e.country_id and v.account_id = m.account_id and v.contact_id = m.contact_id
              and coalesce(v.entry_point_until < to_timestamp((e.i ->> 'window_until')::double precision), true)))
          then 'told'
        else 'news'
      end, m.wamid is null)::whatsapp_internal.heard)
    from (
      select e.*, coalesce(e.named, w.message_id) as message_id
      from (
        select i, i ->> 'country_id' as country_id, i ->> 'account_id' as account_id, (i ->> 'message_id')::uuid as named
        from unnest(p_events) i
        where i ->> 'kind' = 'status'
      ) e
      cross join lateral (select from whatsapp.accounts a where a.country_id = e.country_id and a.account_id = e.account_id limit 1) a
      left join lateral (
        select w.message_id from whatsapp.wamids w
        where e.named is null and w.country_id = e.country_id and w.digest = whatsapp_internal.digest_of(e.account_id, e.i ->> 'wamid')
        limit 1
      ) w on true
      order by e.country_id, message_id
    ) e
    left join lateral (
      select m.* from whatsapp.messages m
      where m.country_id = e.country_id and m.message_id = e.message_id and m.account_id = e.account_id
      for no key update
    ) k on true
    -- Our id, but not ours: another system's on the number, or another number's.
    left join lateral (
      select m.* from whatsapp.wamids w
      cross join lateral (select m.* from whatsapp.messages m where m.country_id = w.country_id and m.message_id = w.message_id for no key update) m
      where k.message_id is null and e.named is not null
        and w.country_id = e.country_id and w.digest = whatsapp_internal.digest_of(e.account_id, e.i ->> 'wamid')
      limit 1
    ) o on true
    cross join lateral (
      select coalesce(k.message_id, o.message_id) as message_id, coalesce(k.direction, o.direction) as direction, coalesce(k.wamid, o.wamid) as wamid,
        coalesce(k.sent_at, o.sent_at) as sent_at, coalesce(k.delivered_at, o.delivered_at) as delivered_at,
        coalesce(k.read_at, o.read_at) as read_at, coalesce(k.played_at, o.played_at) as played_at,
        coalesce(k.price, o.price) as price, coalesce(k.account_id, o.account_id) as account_id, coalesce(k.contact_id, o.contact_id) as contact_id
    ) m
  );
end
$$;

-- Moves messages by statuses that are news of them, each with our id of its message; the messages are locked. Statuses of one message are folded into one update of it. Answers
-- what Meta's errors among them mean beyond their messages, for apply_effects: its rows come later in the lock order.
create or replace function whatsapp_internal.apply_statuses(p_statuses jsonb[]) returns whatsapp_internal.result[]
language plpgsql volatile set search_path = ''
as $$
declare
  v_results whatsapp_internal.result[];
  v_tell boolean;
begin
  if coalesce(cardinality(p_statuses), 0) = 0 then
    return null;
  end if;
  with facts as materialized (
    select e.country_id, e.account_id, e.message_id, e.wamid, e.state, whatsapp_internal.event_time(e.at) as at, e.error, e.price, e.payload
    from unnest(p_statuses) i, jsonb_to_record(i) as e (
      country_id text, account_id text, message_id uuid, wamid text, state text, at double precision, error jsonb, price jsonb, payload jsonb)
  ),
  folded as materialized (
    select country_id, message_id, max(wamid) as wamid,
      min(at) filter (where state = 'sent') as sent_at,
      min(at) filter (where state = 'delivered') as delivered_at,
      min(at) filter (where state = 'read') as read_at,
      min(at) filter (where state = 'played') as played_at,
      min(at) filter (where state = 'failed') as failed_at,
      array_agg(error order by at) filter (where state = 'failed' and error is not null) as errors,
      (array_agg(price order by at) filter (where price is not null))[1] as price,
      bool_or(state = 'failed' or error is not null) or count(price) > 1 as odd
    from facts
    group by country_id, message_id
  ),
  moved as (
    update whatsapp.messages m
    set
      wamid = coalesce(m.wamid, f.wamid),
      sent_at = least(m.sent_at, f.sent_at),
      delivered_at = least(m.delivered_at, f.delivered_at),
      read_at = least(m.read_at, f.read_at),
      played_at = least(m.played_at, f.played_at),
      -- Whatever Meta tells takes back that we gave it up for lost.
      failed_at = least(case when not whatsapp_internal.given_up(m.error_code, m.error_title) then m.failed_at end, f.failed_at),
      error_code = coalesce(m.error_code, (f.errors[1] ->> 'code')::integer),
      error_title = coalesce(
        case when not whatsapp_internal.given_up(m.error_code, m.error_title) then m.error_title end, f.errors[1] ->> 'title'),
      error_details = coalesce(m.error_details, f.errors[1] ->> 'details'),
      price = coalesce(m.price, f.price),
      state = whatsapp_internal.state_of(
        m.accepted_at, least(m.sent_at, f.sent_at), least(m.delivered_at, f.delivered_at), least(m.read_at, f.read_at),
        least(m.played_at, f.played_at),
        least(case when not whatsapp_internal.given_up(m.error_code, m.error_title) then m.failed_at end, f.failed_at), m.state)
    from folded f
    where m.country_id = f.country_id and m.message_id = f.message_id
    returning m.country_id, m.message_id, m.account_id, m.contact_id, m.template_name, m.template_language, f.errors,
      f.odd or f.price <> m.price as tells
  ),
  -- A message Meta speaks of was sent. What waits in the queue without a lease in force must never go again.
  done as (
    delete from whatsapp.queue q
    using moved m
    where q.country_id = m.country_id and q.message_id = m.message_id
      and (q.lease_id is null or q.unknown_until is not null)
  ),
  kept as (
    insert into whatsapp.webhook_events (country_id, day, event_key, account_id, field, kind, outcome, payload)
    select country_id, whatsapp_internal.today(), whatsapp_internal.uuid7(), account_id, 'messages', 'status', 'applied', jsonb_agg(payload)
    from facts where state <> 'failed' group by country_id, account_id
  )
  select (
      select array_agg(row(
        m.country_id, m.message_id, null, 'rejected', null, null, null, (e ->> 'code')::integer, e ->> 'title', null,
        e ->> 'effect', (e ->> 'wait_seconds')::double precision, null, null, m.account_id, m.contact_id, m.template_name,
        m.template_language)::whatsapp_internal.result)
      from moved m cross join unnest(m.errors) e),
    bool_or(tells)
  into v_results, v_tell
  from moved;
  if v_tell then
    perform whatsapp_internal.tell_statuses(p_statuses);
  end if;
  return v_results;
end
$$;

-- Tells the story of statuses what the columns do not: failures, and a price that is not the one which was told first.
create or replace function whatsapp_internal.tell_statuses(p_statuses jsonb[]) returns void
language sql volatile set search_path = ''
as $$
  insert into whatsapp.message_events (country_id, message_id, event, at, code, title, detail)
  select e.country_id, e.message_id, 'message_' || e.state, whatsapp_internal.event_time(e.at), (e.error ->> 'code')::integer, e.error ->> 'title',
    nullif(jsonb_strip_nulls(jsonb_build_object('details', e.error ->> 'details', 'price', e.price)), '{}')
  from unnest(p_statuses) i, jsonb_to_record(i) as e (
    country_id text, message_id uuid, state text, at double precision, error jsonb, price jsonb)
  cross join lateral (
    select m.price from whatsapp.messages m where m.country_id = e.country_id and m.message_id = e.message_id limit 1
  ) m
  where e.state = 'failed' or e.error is not null or e.price <> m.price
  order by e.at
$$;

-- Makes messages known by the wamids that statuses are the first to tell. Answers the statuses that waited for these, for apply_statuses.
create or replace function whatsapp_internal.learn_wamids(p_statuses jsonb[]) returns jsonb[]
language plpgsql volatile set search_path = ''
as $$
begin
  insert into whatsapp.wamids (country_id, digest, week, message_id)
  select distinct i ->> 'country_id', whatsapp_internal.digest_of(i ->> 'account_id', i ->> 'wamid'),
    whatsapp_internal.week_of(whatsapp_internal.today()), (i ->> 'message_id')::uuid
  from unnest(p_statuses) i
  order by 1, 2, 4
  on conflict do nothing;
  return whatsapp_internal.take_parked(
    array(select i ->> 'country_id' from unnest(p_statuses) i), array(select i ->> 'account_id' from unnest(p_statuses) i),
    array(select i ->> 'wamid' from unnest(p_statuses) i), array(select (i ->> 'message_id')::uuid from unnest(p_statuses) i));
end
$$;

-- Whether a message says only that there was one: Meta could not show it (131051, 131060), or sent no body.
create or replace function whatsapp_internal.is_placeholder(content jsonb) returns boolean
language sql immutable parallel safe
return coalesce(content ->> 'type' in ('unsupported', 'unknown'), true) or content ? 'errors' or not content ? (content ->> 'type');

-- What Meta says anew of inbound messages we have: they are locked before any person. The same in another envelope is only recorded. Other
-- content goes to the message's story, and where the message was a placeholder, takes its place in the log; the story keeps what stood there.
-- Answers the events without those that say nothing new; those that do are marked: they are heard, but are no message of their own.
create or replace function whatsapp_internal.apply_repeats(p_events jsonb[]) returns jsonb[]
language plpgsql volatile set search_path = ''
as $$
declare
  v_old bigint[];
  v_other bigint[];
begin
  with known as materialized (
    select u.n, m.country_id, m.message_id, u.i -> 'content' as content, whatsapp_internal.event_time((u.i ->> 'at')::double precision) as at
    from unnest(p_events) with ordinality as u (i, n)
    cross join lateral (
      select w.country_id, w.message_id from whatsapp.wamids w
      where w.country_id = u.i ->> 'country_id' and w.digest = whatsapp_internal.digest_of(u.i ->> 'account_id', u.i ->> 'wamid')
      limit 1
    ) m
    where u.i ->> 'kind' = 'message'
  ),
  held as materialized (
    select k.*, m.content as former, m.direction = 'inbound' and m.content is distinct from k.content as other
    from (select * from known order by country_id, message_id, n) k
    cross join lateral (
      select m.direction, m.content from whatsapp.messages m
      where m.country_id = k.country_id and m.message_id = k.message_id
      for no key update of m
    ) m
  ),
  shown as (
    update whatsapp.messages m set content = h.content, kind = h.content ->> 'type'
    from (
      select distinct on (country_id, message_id) * from held
      where other and whatsapp_internal.is_placeholder(former) and not whatsapp_internal.is_placeholder(content)
      order by country_id, message_id, n
    ) h
    where m.country_id = h.country_id and m.message_id = h.message_id
    returning h.n
  ),
  told as (
    insert into whatsapp.message_events (country_id, message_id, event, at, detail)
    select h.country_id, h.message_id, case when s.n is null then 'message_repeated' else 'message_replaced' end, h.at,
      jsonb_build_object('content', case when s.n is null then h.content else h.former end)
    from held h left join shown s on s.n = h.n
    where h.other
    order by h.n
  )
  select array_agg(n) filter (where not other), array_agg(n) filter (where other) into v_old, v_other from held;

  if v_old is not null then
    update whatsapp.webhook_events w set outcome = 'recorded'
    from unnest(v_old) as o (n)
    where w.country_id = p_events[o.n] ->> 'country_id' and w.event_key = (p_events[o.n] ->> 'key')::uuid
      and w.day = whatsapp_internal.day_of((p_events[o.n] ->> 'at')::double precision);
  end if;
  return case
    when coalesce(v_old, v_other) is null then p_events
    else array(
      select case when n = any (v_other) then i || '{"repeated": true}' else i end
      from unnest(p_events) with ordinality as u (i, n) where n <> all (coalesce(v_old, '{}')) order by n)
  end;
end
$$;

-- Inbound messages and calls: the log, the story, the window of 24 hours from the person's own time stamp, and what they say of consent
-- (consents/hearing.sql).
create or replace function whatsapp_internal.apply_inbound(p_events jsonb[]) returns void
language plpgsql volatile set search_path = '' set enable_hashjoin = on
as $$
declare
  v_missed boolean;
begin
  with inbound as materialized (
    select n, i ->> 'country_id' as country_id, i ->> 'account_id' as account_id, i ->> 'kind' as kind, i ->> 'wamid' as wamid,
      i -> 'content' as content, i -> 'error' as error, t.at, p.contact_id,
      -- Meta does not say that a reaction, a correction or a deletion opens the window: what is not said is not relied upon.
      i ->> 'kind' = 'call' or coalesce(i -> 'content' ->> 'type', '') not in ('reaction', 'edit', 'revoke') as opens,
      i ? 'repeated' as repeated, whatsapp_internal.week_of(whatsapp_internal.day_of((i ->> 'at')::double precision)) as week
    from unnest(p_events) with ordinality as u (i, n)
    cross join lateral (select whatsapp_internal.event_time((i ->> 'at')::double precision) as at) t
    left join lateral whatsapp_internal.contact_of(i ->> 'country_id', i -> 'contact' ->> 'match_key', i -> 'contact' ->> 'bsuid', t.at) p on true
    where i ->> 'kind' in ('message', 'call')
  ),
  opened as (
    insert into whatsapp.conversations as v (country_id, account_id, contact_id, window_until, last_inbound_at, last_message_at)
    select country_id, account_id, contact_id, max(at) filter (where opens) + interval '24 hours', max(at) filter (where opens), max(at)
    from inbound where contact_id is not null
    group by country_id, account_id, contact_id
    order by country_id, account_id, contact_id
    on conflict (country_id, account_id, contact_id) do update
    set window_until = greatest(v.window_until, excluded.window_until),
      last_inbound_at = greatest(v.last_inbound_at, excluded.last_inbound_at),
      last_message_at = greatest(v.last_message_at, excluded.last_message_at)
  ),
  -- Of two contents of one new message, the one there is something to see in.
  first as materialized (
    select distinct on (country_id, account_id, wamid) whatsapp_internal.uuid7() as message_id, inbound.*
    from inbound
    where kind = 'message' and contact_id is not null and not repeated
    order by country_id, account_id, wamid, whatsapp_internal.is_placeholder(content), at, n
  ),
  named as (
    insert into whatsapp.wamids (country_id, digest, week, message_id)
    select country_id, whatsapp_internal.digest_of(account_id, wamid), week, message_id from first
    order by 1, 2
    on conflict do nothing
    returning country_id, message_id
  ),
  logged as (
    insert into whatsapp.messages (country_id, message_id, account_id, contact_id, direction, kind, state, content, wamid, created_at)
    select country_id, message_id, account_id, contact_id, 'inbound', coalesce(content ->> 'type', 'unknown'), 'received', content, wamid, at
    from first
    order by country_id, at, wamid
    returning country_id, message_id, account_id, wamid
  ),
  told as (
    insert into whatsapp.message_events (country_id, message_id, event, at, code, title, detail)
    select l.country_id, l.message_id, case when f.n is null then 'message_repeated' else 'message_received' end, i.at,
      (i.error ->> 'code')::integer, i.error ->> 'title', case when f.n is null then jsonb_build_object('content', i.content) end
    from logged l
    join inbound i on i.country_id = l.country_id and i.account_id = l.account_id and i.wamid = l.wamid and i.kind = 'message' and not i.repeated
    left join first f on f.n = i.n
    where f.n is null or i.error ->> 'title' is not null or i.error ->> 'code' is not null
    order by f.n is null, i.n
  )
  select (select count(*) from first) > (select count(*) from named) into v_missed;
  if v_missed then
    -- Another transaction has just logged one of them, perhaps in other words: tried again, it is a repeat.
    raise exception 'a message was logged meanwhile' using errcode = 'serialization_failure';
  end if;

  perform whatsapp_internal.hear_consents(p_events);
end
$$;

-- An event is not a status. What a template becomes by it, or nothing: FLAGGED is a warning, LOCKED stops edits, LIMIT_EXCEEDED speaks of the
-- account's number of templates, and what we have never heard of tells the sync that follows to look.
create or replace function whatsapp_internal.status_of_event(event text) returns text
language sql immutable parallel safe
return case
  when event in ('APPROVED', 'REINSTATED', 'UNARCHIVED') then 'APPROVED'
  when event in ('PENDING', 'REJECTED', 'PAUSED', 'DISABLED', 'PENDING_DELETION', 'DELETED', 'ARCHIVED', 'IN_APPEAL') then event
end;

-- Template webhooks: the status, quality or category Meta gives a template now. What its components became, the webhook does not tell in full:
-- the function syncs the account's templates after it.
create or replace function whatsapp_internal.apply_templates(p_events jsonb[]) returns void
language sql volatile set search_path = ''
as $$
  -- Whatever order they come in, the youngest word holds: an older one than a webhook or a sync has told changes nothing.
  update whatsapp.templates t
  set status = e.status, reason = e.reason, status_at = e.at
  from (
    select distinct on (told.country_id, told.account_id, told.name, told.language) told.*
    from (
      select i ->> 'country_id' as country_id, i ->> 'account_id' as account_id, c ->> 'message_template_name' as name,
        replace(c ->> 'message_template_language', '-', '_') as language, whatsapp_internal.status_of_event(c ->> 'event') as status,
        nullif(c ->> 'reason', 'NONE') as reason,
        -- Meta tells whole seconds: it has been so since the end of that second at the latest.
        least(whatsapp_internal.event_time((i ->> 'at')::double precision) + interval '1 second', now()) as at, n
      from unnest(p_events) with ordinality as u (i, n), lateral (select i -> 'content' as c) content
      where i ->> 'kind' = 'template' and i ->> 'field' = 'message_template_status_update'
    ) told
    where told.status is not null
    order by told.country_id, told.account_id, told.name, told.language, told.at desc, told.n desc
  ) e
  where t.country_id = e.country_id and t.account_id = e.account_id and t.name = e.name and t.language = e.language
    -- A listing takes its time to be read.
    and e.at >= greatest(t.status_at, t.synced_at - interval '1 minute');

  update whatsapp.templates t
  set quality = coalesce(e.quality, t.quality), category = coalesce(e.category, t.category)
  from (
    select country_id, account_id, name, language,
      (array_agg(quality order by at desc) filter (where quality is not null))[1] as quality,
      (array_agg(category order by at desc) filter (where category is not null))[1] as category
    from (
      select i ->> 'country_id' as country_id, i ->> 'account_id' as account_id, c ->> 'message_template_name' as name,
        replace(c ->> 'message_template_language', '-', '_') as language, coalesce((i ->> 'at')::double precision, 0) as at,
        case when i ->> 'field' = 'message_template_quality_update' then c ->> 'new_quality_score' end as quality,
        -- With a correct_category it is only announced; new_category is then the one it still has.
        case when i ->> 'field' = 'template_category_update' and c ->> 'correct_category' is null then c ->> 'new_category' end as category
      from unnest(p_events) i, lateral (select i -> 'content' as c) content
      where i ->> 'kind' = 'template'
    ) told
    group by 1, 2, 3, 4
  ) e
  where t.country_id = e.country_id and t.account_id = e.account_id and t.name = e.name and t.language = e.language
    and coalesce(e.quality, e.category) is not null
$$;

-- Account webhooks: what Meta allows the number to do now. Source: M:webhooks/reference/account_update and its neighbours. They come one by one,
-- so they are applied one by one. A number that Meta has given back goes on only when a person says so (control_account).
create or replace function whatsapp_internal.apply_accounts(p_events jsonb[]) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_event record;
  v_limit integer;
begin
  for v_event in
    select i ->> 'country_id' as country_id, i ->> 'account_id' as account_id, i ->> 'field' as field, i -> 'content' as content,
      i -> 'content' ->> 'event' as event, i -> 'error' as error
    from unnest(p_events) i
    where i ->> 'kind' = 'account'
    order by 1, 2, coalesce((i ->> 'at')::double precision, 0)
  loop
    if v_event.event in ('ACCOUNT_DELETED', 'PARTNER_REMOVED', 'PARTNER_APP_UNINSTALLED', 'ACCOUNT_OFFBOARDED')
      or (v_event.event = 'DISABLED_UPDATE' and v_event.content -> 'ban_info' ->> 'waba_ban_state' = 'DISABLE')
    then
      perform whatsapp_internal.halt_account(v_event.country_id, v_event.account_id, 'stopped', lower(v_event.event), null, null);
    elsif v_event.event = 'ACCOUNT_RESTRICTION' then
      perform whatsapp_internal.restrict_account(v_event.country_id, v_event.account_id, v_event.content -> 'restriction_info');
    elsif v_event.event = 'THROUGHPUT_UPGRADE' then
      -- A number that was held below the standard on purpose stays there.
      update whatsapp.accounts set messages_per_second = 1000
      where country_id = v_event.country_id and account_id = v_event.account_id
        and (messages_per_second >= 80 or (coexistence and messages_per_second = 20));
    elsif v_event.error ->> 'effect' in ('stop_account', 'pause_account', 'pause_templates', 'policy_block') then
      perform whatsapp_internal.apply_effects(array[jsonb_populate_record(
        null::whatsapp_internal.result,
        v_event.error || jsonb_build_object('country_id', v_event.country_id, 'account_id', v_event.account_id))]);
    end if;

    v_limit := whatsapp_internal.people_of_tier(v_event.content ->> 'max_daily_conversations_per_business');
    if v_limit is not null then
      update whatsapp.accounts set messaging_limit = v_limit
      where country_id = v_event.country_id and account_id = v_event.account_id;
    end if;
  end loop;
end
$$;

-- ACCOUNT_RESTRICTION: no templates, or nothing at all, until a time. Where Meta names none, 30 days: the longest block of its ladder.
create or replace function whatsapp_internal.restrict_account(p_country text, p_account text, p_restrictions jsonb) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_restriction record;
begin
  for v_restriction in
    select r ->> 'restriction_type' as kind, coalesce(
      case when r ->> 'expiration' ~ '^[0-9]{9,11}$' then to_timestamp((r ->> 'expiration')::bigint) end, now() + interval '30 days') as until
    from jsonb_array_elements(case jsonb_typeof(p_restrictions) when 'array' then p_restrictions else '[]' end) r
  loop
    if v_restriction.kind = 'RESTRICTED_BIZ_INITIATED_MESSAGING' then
      update whatsapp.accounts set templates_paused_until = greatest(templates_paused_until, v_restriction.until)
      where country_id = p_country and account_id = p_account;
    elsif v_restriction.kind = 'RESTRICTED_CUSTOMER_INITIATED_MESSAGING' and v_restriction.until > now() then
      perform whatsapp_internal.halt_account(p_country, p_account, 'paused', 'account_restriction', null, v_restriction.until);
    end if;
  end loop;
end
$$;

-- What Meta says of templates and accounts. What changed neither was only recorded.
create or replace function whatsapp_internal.apply_words(p_events jsonb[]) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_before jsonb[] := whatsapp_internal.standing_of(p_events);
begin
  if exists (select from unnest(p_events) i where i ->> 'kind' = 'template') then
    perform whatsapp_internal.apply_templates(p_events);
  end if;
  if exists (select from unnest(p_events) i where i ->> 'kind' = 'account') then
    perform whatsapp_internal.apply_accounts(p_events);
  end if;
  update whatsapp.webhook_events w set outcome = 'recorded'
  from unnest(p_events, v_before, whatsapp_internal.standing_of(p_events)) as u (i, before, after)
  where u.before is not distinct from u.after and w.country_id = u.i ->> 'country_id' and w.event_key = (u.i ->> 'key')::uuid
    and w.day = whatsapp_internal.day_of((u.i ->> 'at')::double precision);
end
$$;

-- The template or account that each of the events speaks of, as it stands.
create or replace function whatsapp_internal.standing_of(p_events jsonb[]) returns jsonb[]
language sql volatile set search_path = ''
as $$
  select array(
    select case i ->> 'kind'
      when 'template' then (
        select to_jsonb(t) from whatsapp.templates t
        where t.country_id = i ->> 'country_id' and t.account_id = i ->> 'account_id' and t.name = i -> 'content' ->> 'message_template_name'
          and t.language = replace(i -> 'content' ->> 'message_template_language', '-', '_'))
      else (
        select to_jsonb(a) from whatsapp.accounts a where a.country_id = i ->> 'country_id' and a.account_id = i ->> 'account_id')
    end
    from unnest(p_events) with ordinality as u (i, n) order by n)
$$;

-- Statuses of messages nobody knows (yet). Answers those that are new.
create or replace function whatsapp_internal.park_statuses(p_statuses jsonb[]) returns jsonb[]
language plpgsql volatile set search_path = ''
as $$
declare
  v_parked jsonb[];
begin
  with parked as (
    insert into whatsapp.parked_statuses (country_id, event_key, account_id, wamid, event)
    select distinct on (country_id, event_key) * from (
      select i ->> 'country_id' as country_id, (i ->> 'key')::uuid as event_key, i ->> 'account_id', i ->> 'wamid', i from unnest(p_statuses) i) e
    order by country_id, event_key
    on conflict do nothing
    returning event
  )
  select array_agg(event) into v_parked from parked;
  return v_parked;
end
$$;

-- Stores what has a key: all that is no status, statuses of nobody's, of inbound messages, and failures. Answers the keys of what is new and to be applied.
create or replace function whatsapp_internal.store_events(p_events jsonb[], p_heard whatsapp_internal.heard[]) returns uuid[]
language plpgsql volatile set search_path = ''
as $$
declare
  v_keys uuid[];
begin
  with arrived as materialized (
    select distinct on (country_id, event_key)
      case when a.account_id is null then 'ZZ' else i ->> 'country_id' end as country_id, (i ->> 'key')::uuid as event_key,
      whatsapp_internal.day_of((i ->> 'at')::double precision) as day,
      a.account_id, i ->> 'field' as field, i ->> 'kind' as kind, i -> 'payload' as payload,
      case
        when i ->> 'kind' in ('ignored', 'unparsable', 'unroutable') then i ->> 'kind'
        when a.account_id is null then 'unroutable'
        when i ->> 'kind' = 'preference' and coalesce(i -> 'content' ->> 'value', '') not in ('stop', 'resume') then 'recorded'
        when i ->> 'kind' = 'system' and not (
          i -> 'contact' ->> 'previous_match_key' is not null or i -> 'contact' ->> 'previous_bsuid' is not null
          or i -> 'contact' ->> 'identity_key_hash' is not null) then 'recorded'
        else coalesce(verdict, 'applied')
      end as outcome
    from (
      select i, null as verdict from unnest(p_events) i where i ->> 'kind' <> 'status'
      union all
      select i, null from unnest(p_events) i where i ->> 'kind' = 'status' and not exists (
        select from whatsapp.accounts a where a.country_id = i ->> 'country_id' and a.account_id = i ->> 'account_id')
      union all
      select h.event, nullif(h.verdict, 'news') from unnest(p_heard) h
      where h.verdict = 'ignored' or (h.verdict = 'news' and h.event ->> 'state' = 'failed')
    ) e
    left join whatsapp.accounts a on a.country_id = i ->> 'country_id' and a.account_id = i ->> 'account_id'
    order by country_id, event_key
  ),
  stored as (
    insert into whatsapp.webhook_events (country_id, day, event_key, account_id, field, kind, outcome, payload)
    select country_id, day, event_key, account_id, field, kind, outcome, payload
    from arrived
    on conflict do nothing
    returning event_key, outcome
  )
  select array_agg(event_key) filter (where outcome = 'applied') into v_keys from stored;
  return v_keys;
end
$$;

create or replace function whatsapp.ingest(p_events jsonb[]) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_heard whatsapp_internal.heard[];
  -- Nothing but statuses of messages we know, and no failure: as nearly always.
  v_plain boolean;
  v_names boolean;
  v_windows boolean;
  v_keys uuid[];
  v_new jsonb[];
  -- Nearly always nothing: asked once more only if it is something.
  v_people whatsapp_internal.person[] := whatsapp_internal.people_of(p_events);
  v_statuses jsonb[];
  v_parked jsonb[];
  v_taken jsonb[];
  v_inbound jsonb[];
  v_effects whatsapp_internal.result[];
  v_alone boolean := v_people is not null and whatsapp_internal.makes_people(v_people);
begin
  perform whatsapp_internal.hold_countries(array(select i ->> 'country_id' from unnest(p_events) i), v_alone);

  v_heard := whatsapp_internal.hear_statuses(p_events);
  select count(*) = cardinality(p_events) and bool_and(h.verdict in ('news', 'told') and h.event ->> 'state' <> 'failed'),
    bool_or(h.verdict = 'news' and h.names), bool_or(h.event ->> 'window_until' is not null)
  into v_plain, v_names, v_windows from unnest(v_heard) h;
  v_statuses := array(
    select distinct on (h.event ->> 'key') h.event from unnest(v_heard) with ordinality as h (event, verdict, names, n)
    where h.verdict = 'news' order by h.event ->> 'key', h.n);
  v_new := v_statuses;
  if not v_plain then
    v_parked := whatsapp_internal.park_statuses(array(select h.event from unnest(v_heard) h where h.verdict = 'parked'));
    v_keys := whatsapp_internal.store_events(p_events, v_heard);
    v_statuses := array(select i from unnest(v_statuses) i where i ->> 'state' <> 'failed' or (i ->> 'key')::uuid = any (v_keys));
    v_new := v_statuses || array(
      select distinct on (key) i from unnest(p_events) i, lateral (select (i ->> 'key')::uuid as key) k
      where i ->> 'kind' <> 'status' and key = any (v_keys) order by key);
  end if;

  -- A status tells who somebody is whether or not its message is known yet.
  if v_people is not null then
    v_people := whatsapp_internal.people_of(v_new || v_parked);
  end if;
  if not v_alone and v_people is not null and whatsapp_internal.makes_people(v_people) then
    raise exception 'somebody else has just written one of these people' using errcode = 'serialization_failure';
  end if;
  if v_alone then
    perform whatsapp_internal.lock_people(v_people, v_new);
  end if;
  v_effects := whatsapp_internal.apply_statuses(v_statuses);
  if v_names then
    -- A status that names our id is the first to tell the wamid, under which others may wait.
    v_taken := whatsapp_internal.learn_wamids(array(select h.event from unnest(v_heard) h where h.names and h.verdict = 'news'));
    v_effects := v_effects || whatsapp_internal.apply_statuses(v_taken);
    v_statuses := v_statuses || v_taken;
    v_windows := v_windows or v_taken is not null;
  end if;
  if not v_plain then
    v_inbound := array(select i from unnest(v_new) i where i ->> 'kind' in ('message', 'call', 'preference'));
    if cardinality(v_inbound) > 0 then
      v_inbound := whatsapp_internal.apply_repeats(v_inbound);
    end if;
  end if;
  if v_people is not null or v_windows or not v_plain then
    perform whatsapp_internal.hold_people(v_people, v_new);
    perform whatsapp_internal.meet_contacts(v_people);
  end if;
  if v_windows then
    perform whatsapp_internal.open_entry_points(v_statuses);
  end if;
  if not v_plain then
    if cardinality(v_inbound) > 0 then
      perform whatsapp_internal.apply_inbound(v_inbound);
    end if;
    if exists (select from unnest(v_new) i where i ->> 'kind' in ('template', 'account')) then
      perform whatsapp_internal.apply_words(array(select i from unnest(v_new) i where i ->> 'kind' in ('template', 'account')));
    end if;
  end if;
  if v_effects is not null then
    -- The person of a message may have turned out to be another.
    perform whatsapp_internal.apply_effects(array(
      select jsonb_populate_record(e, jsonb_build_object('contact_id', m.contact_id))
      from unnest(v_effects) e
      cross join lateral (
        select m.contact_id from whatsapp.messages m where m.country_id = e.country_id and m.message_id = e.message_id limit 1) m));
  end if;
  perform whatsapp_internal.see_webhooks(p_events, case when not v_plain then v_new end);

  return jsonb_build_object('received', cardinality(p_events), 'applied', cardinality(v_new), 'parked', coalesce(cardinality(v_parked), 0));
end
$$;
comment on function whatsapp.ingest is 'Verb 4 of 5. Stores webhook events once and applies what is new. Safe to repeat.';

-- The account's webhook feed is alive, and its inbound messages have used slots of the number's throughput (Meta counts both ways).
-- Comes last: it touches the row that claim holds. `p_new` is null where nobody wrote.
create or replace function whatsapp_internal.see_webhooks(p_events jsonb[], p_new jsonb[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  -- After a silence as long as the deadline of unknowns nobody can tell it from webhooks that did not reach us.
  insert into whatsapp.throttles as t (country_id, account_id, webhook_seen_at, told_until)
  select a.country_id, a.account_id, now(), i.told_until
  from (
    -- A thing without a time of its own tells nothing of how far the feed has come.
    select i ->> 'country_id' as country_id, i ->> 'account_id' as account_id,
      max(case when i ->> 'at' is not null then whatsapp_internal.event_time((i ->> 'at')::double precision) end) as told_until
    from unnest(p_events) i group by 1, 2
  ) i
  join whatsapp.accounts a on a.country_id = i.country_id and a.account_id = i.account_id
  where not exists (
    select from whatsapp.throttles t
    where t.country_id = a.country_id and t.account_id = a.account_id and t.webhook_seen_at > now() - interval '1 second'
      and coalesce(i.told_until <= t.told_until + interval '1 second', i.told_until is null))
  order by 1, 2
  on conflict (country_id, account_id) do update
  set webhook_seen_at = excluded.webhook_seen_at,
    told_until = greatest(t.told_until, excluded.told_until),
    (feed_since, gap_from) = (
      select case when gap.ended then now() else t.feed_since end,
        case when gap.ended then whatsapp_internal.gap_from(t.feed_since, t.gap_from, t.webhook_seen_at) else t.gap_from end
      from whatsapp.accounts a
      cross join lateral (select coalesce(t.webhook_seen_at < now() - interval '1 second' - a.unknown_deadline, true) as ended) gap
      where a.country_id = t.country_id and a.account_id = t.account_id);
  if p_new is null then
    return;
  end if;

  update whatsapp.throttles t
  set inbound_at = now(),
    -- Only claim sets the clock back, and the slots with it.
    paced_at = greatest(t.paced_at, clock_timestamp()),
    -- A second after the last of them no moving second holds any more what people wrote: more than that a flood does not take.
    next_slot_at = greatest(t.next_slot_at, least(
      greatest(t.next_slot_at, clock_timestamp()) + i.messages * whatsapp_internal.slot_step(a.messages_per_second, t.rate_factor),
      clock_timestamp() + interval '1 second'))
  from (
    select i ->> 'country_id' as country_id, i ->> 'account_id' as account_id, count(*) as messages
    from unnest(p_new) i
    -- What Meta brings late, after its webhooks or we were away, has used its share of a second long past.
    where i ->> 'kind' = 'message' and whatsapp_internal.event_time((i ->> 'at')::double precision) > now() - interval '5 seconds'
    group by 1, 2 order by 1, 2
  ) i
  join whatsapp.accounts a on a.country_id = i.country_id and a.account_id = i.account_id
  where t.country_id = i.country_id and t.account_id = i.account_id;
end
$$;


-- schemas/sweep.sql

-- sweep: bring home what was left lying about. It is a list of jobs, each bounded, so that a call is short; callers repeat it while it has
-- work. Each job stands by itself: one that fails is undone, named and told to Postgres' log, and stops no other. The drainer calls them one by
-- one, beside its claims, so that not even a slow one keeps anything waiting.
--
--   leases       that ran out: what was posted nobody knows. It is unknown, unless a status webhook has already told; what its drainer had not
--                announced goes back to the queue
--   unknowns     past their deadline: no status came although the account's webhooks are alive after it: proved unsent as well as it can be. A reply or a utility message goes back to the queue once (account.unknown_policy), everything else ends as
--                failed: outcome_unknown, for a person to decide. If the feed is silent, it waits on, a day at the most
--   accounts     paused until a time that has come are active again; throttled numbers regain their rate
--   campaigns    started, completed, paused for their failures (campaigns/sweep_campaigns.sql)
--   due          scheduled messages whose time has come are shown as queued
--   expired      out of the queue, however long their lane is paused
--   cancelled    the messages of campaigns that are (campaigns/sweep_campaigns.sql)
--   held         messages that waited for Meta's messaging limit, once there is room (portfolios/holding.sql)
--   parked       statuses whose message became known at the same moment
--   partitions   of the log, made ahead of its time (partitions.sql)
--   retention    what is too old to matter: partitions of the log are dropped, idempotency keys and the rest deleted (partitions.sql)
--   portfolios   people whom a portfolio no longer counts
--   statistics   of tables that have grown tenfold since the planner last heard of them
--
--   p_jobs     the jobs to do, in this order; null: all
--   p_limit    rows a job takes at the most
--   p_keep     how long webhook events are kept; idempotency keys are kept for seven days, messages as long as their countries wish (table retention)
--   returns    jsonb  the rows each job moved, by its name (null where it does not count them), and "failed": the names of those undone

create or replace function whatsapp_internal.sweep_leases(p_limit integer) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_unknown integer;
  v_countries text[];
  v_freed uuid[];
begin
  with gone as (
    delete from whatsapp.leases l
    where (l.country_id, l.lease_id) in (
      select country_id, lease_id from whatsapp.leases where leased_until < now() order by leased_until limit p_limit for update skip locked)
    returning l.country_id, l.lease_id, l.message_ids, l.may_post
  ),
  left_over as (
    select q.country_id, q.message_id, q.account_id, i.n > g.may_post as unsent,
      coalesce(m.sent_at, m.delivered_at, m.read_at, m.played_at, m.failed_at, m.accepted_at) is not null as settled
    from gone g
    cross join lateral unnest(g.message_ids) with ordinality as i (message_id, n)
    join whatsapp.queue q on q.country_id = g.country_id and q.message_id = i.message_id and q.lease_id = g.lease_id and q.unknown_until is null
    join whatsapp.messages m on m.country_id = q.country_id and m.message_id = q.message_id
    order by q.country_id, q.message_id
    for no key update of m, q
  ),
  done as (
    delete from whatsapp.queue q using left_over o
    where o.settled and q.country_id = o.country_id and q.message_id = o.message_id
  ),
  -- Its drainer would have said so before posting it.
  freed as (
    update whatsapp.queue q set lease_id = null, leased_until = null, attempts = greatest(q.attempts - 1, 0)
    from left_over o
    where not o.settled and o.unsent and q.country_id = o.country_id and q.message_id = o.message_id
  ),
  held as (
    update whatsapp.queue q set unknown_until = now() + a.unknown_deadline
    from left_over o join whatsapp.accounts a on a.country_id = o.country_id and a.account_id = o.account_id
    where not o.settled and not o.unsent and q.country_id = o.country_id and q.message_id = o.message_id
  ),
  moved as (
    update whatsapp.messages m
    set state = case when o.unsent then 'queued' else 'unknown' end,
      attempts = case when o.unsent then greatest(m.attempts - 1, 0) else m.attempts end
    from left_over o
    where not o.settled and m.country_id = o.country_id and m.message_id = o.message_id
    returning m.country_id, m.message_id, o.unsent
  ),
  told as (
    insert into whatsapp.message_events (country_id, message_id, event, title)
    select country_id, message_id, case when unsent then 'message_released' else 'message_unknown' end, 'lease_expired' from moved
  )
  select count(*), array_agg(country_id) filter (where unsent), array_agg(message_id) filter (where unsent)
  into v_unknown, v_countries, v_freed from moved;
  if v_freed is not null then
    perform whatsapp_internal.reopen_lanes(v_countries, v_freed);
  end if;
  return v_unknown;
end
$$;

-- Whether sweep has not looked at a number for so long that we were away until now.
create or replace function whatsapp_internal.was_away(swept_at timestamptz, unknown_deadline interval) returns boolean
language sql stable parallel safe
return swept_at < now() - least(unknown_deadline, interval '2 minutes');

-- When a gap of a number's feed began that ends now. One that came before the last was made up for is one with it: what Meta was about to bring
-- again may have met this one.
create or replace function whatsapp_internal.gap_from(feed_since timestamptz, gap_from timestamptz, began timestamptz) returns timestamptz
language sql immutable parallel safe
return case when began > feed_since + (feed_since - gap_from) then began else least(gap_from, began) end;

-- When is a message proved unsent? Had Meta taken it, its status would have come. So the proof is a webhook of the number that tells of something
-- after the deadline, counted from when nothing could be posted any more, while this one's status still had not come. A silent feed proves
-- nothing, nor does one that lags: what happened long ago may be told now, and what happened to this message later.
--
-- Nor does a living one, if there was a gap since the attempt in which the status may have been missed: Meta brings it again, but at growing
-- intervals, later than what is new. A gap is a time in which we were away (sweep did not run for two minutes, or for the deadline), or in
-- which no webhook came for as long as the deadline. It restarts the wait (feed_since), for as long again as it lasted since the attempt (gap_from),
-- or the deadline.
--
-- Whatever is not proved within a day of the attempt is given up.
create or replace function whatsapp_internal.sweep_unknowns(p_limit integer, out requeued integer, out failed integer)
language plpgsql volatile set search_path = ''
as $$
begin
  with due as materialized (
    select q.country_id, q.message_id, q.leased_at, coalesce(t.told_until >= provable.at, false) as proved,
      greatest(provable.at, now() + least(a.unknown_deadline, interval '1 minute')) as look_again_at,
      a.unknown_policy = 'requeue_once' and q.unknown_requeues = 0
        and whatsapp_internal.lane_of(m.kind, m.category) in ('reply', 'utility') as again
    from whatsapp.queue q
    join whatsapp.messages m on m.country_id = q.country_id and m.message_id = q.message_id
    join whatsapp.accounts a on a.country_id = q.country_id and a.account_id = q.account_id
    left join whatsapp.throttles t on t.country_id = q.country_id and t.account_id = q.account_id
    cross join lateral (select whatsapp_internal.was_away(t.swept_at, a.unknown_deadline) as until_now) away
    cross join lateral (
      select case when away.until_now then now() else t.feed_since end as since,
        case when away.until_now then whatsapp_internal.gap_from(t.feed_since, t.gap_from, t.swept_at) else t.gap_from end as gap_from
    ) feed
    cross join lateral (
      select greatest(q.leased_until + a.unknown_deadline, case
        when q.leased_at < feed.since then feed.since + greatest(a.unknown_deadline, feed.since - greatest(q.leased_at, feed.gap_from)) end) as at
    ) provable
    where q.unknown_until <= now()
    order by q.country_id, q.message_id
    limit p_limit
    for no key update of m, q skip locked
  ),
  waiting as (
    update whatsapp.queue q set unknown_until = least(d.look_again_at, d.leased_at + interval '1 day')
    from due d
    where not d.proved and d.leased_at > now() - interval '1 day' and q.country_id = d.country_id and q.message_id = d.message_id
  ),
  again as (
    update whatsapp.queue q
    set lease_id = null, leased_until = null, unknown_until = null, run_at = now(), unknown_requeues = q.unknown_requeues + 1
    from due d
    where d.proved and d.again and q.country_id = d.country_id and q.message_id = d.message_id
    returning q.country_id, q.message_id
  ),
  given_up as (
    delete from whatsapp.queue q using due d
    where ((d.proved and not d.again) or (not d.proved and d.leased_at <= now() - interval '1 day'))
      and q.country_id = d.country_id and q.message_id = d.message_id
    returning q.country_id, q.message_id
  ),
  moved as (
    update whatsapp.messages m
    set state = case when g.lost then 'failed' else 'queued' end,
      failed_at = case when g.lost then now() end,
      -- What an earlier answer said stays in its story: this is a guess of ours, and seen to be one (given_up).
      error_code = case when not g.lost then m.error_code end,
      error_title = case when g.lost then 'outcome_unknown' else m.error_title end,
      error_details = case when not g.lost then m.error_details end
    from (select *, false as lost from again union all select *, true from given_up) g
    where m.country_id = g.country_id and m.message_id = g.message_id
    returning m.country_id, m.message_id, g.lost
  ),
  told as (
    insert into whatsapp.message_events (country_id, message_id, event, title)
    select country_id, message_id, case when lost then 'message_failed' else 'message_queued' end,
      case when lost then 'outcome_unknown' else 'proved_unsent' end
    from moved
  )
  select count(*) filter (where not lost), count(*) filter (where lost) into requeued, failed from moved;

  with looked_at as (
    select t.country_id, t.account_id, whatsapp_internal.was_away(t.swept_at, a.unknown_deadline) as away
    from whatsapp.throttles t
    join whatsapp.accounts a on a.country_id = t.country_id and a.account_id = t.account_id
    for no key update of t skip locked
  )
  update whatsapp.throttles t
  set swept_at = now(),
    feed_since = case when l.away then now() else t.feed_since end,
    gap_from = case when l.away then whatsapp_internal.gap_from(t.feed_since, t.gap_from, t.swept_at) else t.gap_from end
  from looked_at l where t.country_id = l.country_id and t.account_id = l.account_id;
end
$$;

create or replace function whatsapp_internal.sweep_due(p_limit integer) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_due integer;
begin
  with held as materialized (
    select q.country_id, q.message_id
    from whatsapp.queue q
    cross join lateral (
      select from whatsapp.messages m where m.country_id = q.country_id and m.message_id = q.message_id for no key update skip locked
    ) m
    where q.scheduled and q.run_at <= now()
    limit p_limit
    for update of q skip locked
  ),
  due as (
    update whatsapp.queue q set scheduled = false
    from held h where q.country_id = h.country_id and q.message_id = h.message_id
    returning q.country_id, q.message_id
  ),
  moved as (
    update whatsapp.messages m set state = 'queued'
    from due d where m.country_id = d.country_id and m.message_id = d.message_id and m.state = 'scheduled'
    returning m.country_id, m.message_id
  ),
  told as (
    insert into whatsapp.message_events (country_id, message_id, event) select country_id, message_id, 'message_queued' from moved
  )
  select count(*) into v_due from moved;
  return v_due;
end
$$;

create or replace function whatsapp_internal.sweep_expired(p_limit integer) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_expired integer;
begin
  with held as materialized (
    select q.country_id, q.message_id
    from whatsapp.queue q
    cross join lateral (
      select from whatsapp.messages m where m.country_id = q.country_id and m.message_id = q.message_id for no key update skip locked
    ) m
    where q.expires_at <= now() and q.lease_id is null
    limit p_limit
    for update of q skip locked
  ),
  late as (
    delete from whatsapp.queue q using held h
    where q.country_id = h.country_id and q.message_id = h.message_id
    returning q.country_id, q.message_id
  ),
  moved as (
    update whatsapp.messages m set state = 'expired', refusal = 'message_expired'
    from late l where m.country_id = l.country_id and m.message_id = l.message_id
    returning m.country_id, m.message_id
  ),
  told as (
    insert into whatsapp.message_events (country_id, message_id, event, title)
    select country_id, message_id, 'message_expired', 'message_expired' from moved
  )
  select count(*) into v_expired from moved;
  return v_expired;
end
$$;

-- Parked statuses are taken by settle, or by a status that names our id too, as soon as their wamid is known. What is left for a sweep is what a
-- settle of the same moment could not see: each is looked at once, a minute later, and then left to wait at no cost.
create or replace function whatsapp_internal.sweep_parked(p_limit integer) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_due whatsapp_internal.parked[];
  v_statuses jsonb[];
  v_effects whatsapp_internal.result[];
begin
  select array_agg(row(p.country_id, p.account_id, p.event_key, p.wamid, known.message_id)::whatsapp_internal.parked) into v_due
  from (
    select p.country_id, p.account_id, p.event_key, p.wamid from whatsapp.parked_statuses p
    where p.look_again_at <= now()
    order by p.look_again_at limit p_limit for no key update skip locked
  ) p
  left join lateral (
    select m.message_id
    from whatsapp.wamids w
    join whatsapp.messages m on m.country_id = w.country_id and m.message_id = w.message_id
    where w.country_id = p.country_id and w.digest = whatsapp_internal.digest_of(p.account_id, p.wamid) and m.direction = 'outbound'
    limit 1
  ) known on true;
  if v_due is null then
    return 0;
  end if;

  update whatsapp.parked_statuses p set look_again_at = null
  from unnest(v_due) d
  where p.country_id = d.country_id and p.event_key = d.event_key;

  select whatsapp_internal.take_parked(array_agg(d.country_id), array_agg(d.account_id), array_agg(d.wamid), array_agg(d.message_id)) into v_statuses
  from (select distinct country_id, account_id, wamid, message_id from unnest(v_due) d where message_id is not null) d;
  perform from (
    select distinct i ->> 'country_id' as country_id, (i ->> 'message_id')::uuid as message_id from unnest(v_statuses) i order by 1, 2
  ) k
  cross join lateral (
    select from whatsapp.messages m where m.country_id = k.country_id and m.message_id = k.message_id for no key update
  ) m;
  v_effects := whatsapp_internal.apply_statuses(v_statuses);
  perform whatsapp_internal.open_entry_points(v_statuses);
  if v_effects is not null then
    perform whatsapp_internal.hold_contacts(array_agg(e.country_id), array_agg(e.contact_id)) from unnest(v_effects) e where e.effect <> 'none';
    perform whatsapp_internal.apply_effects(v_effects);
  end if;
  return coalesce(cardinality(v_statuses), 0);
end
$$;

create or replace function whatsapp_internal.sweep_accounts() returns void
language sql volatile set search_path = ''
as $$
  update whatsapp.accounts a set state = 'active', state_reason = null, state_code = null, paused_until = null, state_since = now()
  where (a.country_id, a.account_id) in (
    select country_id, account_id from whatsapp.accounts where state = 'paused' and paused_until <= now() for no key update skip locked);
  -- Additive increase: a tenth of the full rate for each sweep that finds the number at rest from Meta's complaints.
  update whatsapp.throttles t set rate_factor = least(1, t.rate_factor + 0.1)
  where (t.country_id, t.account_id) in (
    select country_id, account_id from whatsapp.throttles
    where rate_factor < 1 and coalesce(held_until < now() - interval '10 seconds', true) for no key update skip locked);
$$;

-- The verbs keep their plans. In a new database, and when a first large campaign fills an empty queue, these would fit an empty table until
-- autovacuum comes by, a minute or more later (a claim of 200 among 10,000 took 224 ms instead of 20).
create or replace function whatsapp_internal.sweep_statistics() returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_table regclass;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('whatsapp.statistics', 0)) then
    return;
  end if;
  for v_table in
    select c.oid
    from pg_catalog.pg_class c
    cross join lateral (select pg_catalog.pg_stat_get_live_tuples(c.oid) as live) s
    where c.relnamespace in ('whatsapp'::regnamespace, 'whatsapp_internal'::regnamespace) and c.relkind = 'r'
      and s.live > 1000 and s.live > 10 * greatest(c.reltuples, 0)
  loop
    execute format('analyze %s', v_table);
  end loop;
end
$$;

create or replace function whatsapp.sweep(p_jobs text[] default null, p_limit integer default 500, p_keep interval default '30 days') returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_all constant text[] := '{leases,unknowns,accounts,campaigns,due,expired,cancelled,held,parked,partitions,retention,portfolios,statistics}';
  v_job text;
  v_rows integer;
  v_swept jsonb := '{}';
  v_failed text[] := '{}';
begin
  if exists (select from unnest(p_jobs) as p (job) where job is null or job <> all (v_all)) then
    raise sqlstate 'PT400' using message = 'there is no such job', hint = 'The jobs are ' || array_to_string(v_all, ', ');
  end if;
  foreach v_job in array coalesce(p_jobs, v_all) loop
    begin
      v_rows := null;
      case v_job
        when 'leases' then v_rows := whatsapp_internal.sweep_leases(p_limit);
        when 'unknowns' then select u.requeued + u.failed into v_rows from whatsapp_internal.sweep_unknowns(p_limit) u;
        when 'accounts' then perform whatsapp_internal.sweep_accounts();
        when 'campaigns' then perform whatsapp_internal.sweep_campaigns();
        when 'due' then v_rows := whatsapp_internal.sweep_due(p_limit);
        when 'expired' then v_rows := whatsapp_internal.sweep_expired(p_limit);
        when 'cancelled' then v_rows := whatsapp_internal.sweep_cancelled(p_limit);
        when 'held' then v_rows := whatsapp_internal.sweep_held(p_limit);
        when 'parked' then v_rows := whatsapp_internal.sweep_parked(p_limit);
        when 'partitions' then v_rows := whatsapp_internal.sweep_partitions();
        when 'retention' then v_rows := whatsapp_internal.sweep_old(p_limit, p_keep);
        when 'portfolios' then v_rows := whatsapp_internal.sweep_portfolios(p_limit);
        when 'statistics' then perform whatsapp_internal.sweep_statistics();
      end case;
      v_swept := v_swept || jsonb_build_object(v_job, v_rows);
    exception when others then
      raise warning 'whatsapp.sweep: % failed: % (%)', v_job, sqlerrm, sqlstate;
      v_failed := v_failed || v_job;
    end;
  end loop;
  return v_swept || jsonb_build_object('failed', v_failed);
end
$$;
comment on function whatsapp.sweep is 'Verb 5 of 5. Expired leases, unknown outcomes, due and expired messages, parked statuses, retention. Safe to repeat.';


-- schemas/consents/hearing.sql

-- What people say themselves: Meta's marketing stop and resume, and stop words.

-- Ingest's part: Meta's marketing stop and resume, and stop words. Every event is new, and its person known.
create or replace function whatsapp_internal.hear_consents(p_events jsonb[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  if exists (select from unnest(p_events) i where i ->> 'kind' = 'preference') then
    perform whatsapp_internal.add_consents(array(
      select row(
          i ->> 'country_id', p.contact_id, case i -> 'content' ->> 'value' when 'stop' then 'opt_out' else 'opt_in' end, 'marketing',
          whatsapp_internal.event_time((i ->> 'at')::double precision), 'meta', left(nullif(i -> 'content' ->> 'detail', ''), 4096), null
        )::whatsapp_internal.consent
      from unnest(p_events) i
      cross join lateral whatsapp_internal.contact_of(
        i ->> 'country_id', i -> 'contact' ->> 'match_key', i -> 'contact' ->> 'bsuid', whatsapp_internal.event_time((i ->> 'at')::double precision)) p
      where i ->> 'kind' = 'preference' and i -> 'content' ->> 'value' in ('stop', 'resume')));
  end if;
  if exists (
    select from whatsapp.stop_words s
    where s.country_id in (select i ->> 'country_id' from unnest(p_events) i where i ->> 'kind' = 'message')
  ) then
    perform whatsapp_internal.hear_stop_words(p_events);
  end if;
end
$$;

create or replace function whatsapp_internal.hear_stop_words(p_events jsonb[]) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_replies whatsapp_internal.draft[];
begin
  with heard as materialized (
    select i ->> 'country_id' as country_id, i ->> 'account_id' as account_id, p.contact_id, s.action, s.scope, s.reply, m.written,
      whatsapp_internal.event_time((i ->> 'at')::double precision) as at
    from unnest(p_events) i
    cross join lateral (
      select case i -> 'content' ->> 'type'
          when 'text' then i -> 'content' -> 'text' ->> 'body'
          when 'button' then i -> 'content' -> 'button' ->> 'text'
          -- What a person taps: a button, or a row of a list, of a message of ours.
          when 'interactive' then
            coalesce(i #>> '{content,interactive,button_reply,title}', i #>> '{content,interactive,list_reply,title}')
        end as written
    ) m
    join whatsapp.stop_words s
      on s.country_id = i ->> 'country_id' and s.key = case when length(m.written) <= 100 then whatsapp_internal.plain_word(m.written) end
    cross join lateral whatsapp_internal.contact_of(
      i ->> 'country_id', i -> 'contact' ->> 'match_key', i -> 'contact' ->> 'bsuid', whatsapp_internal.event_time((i ->> 'at')::double precision)) p
    where i ->> 'kind' = 'message'
  ),
  changed as materialized (
    select c.country_id, c.contact_id
    from whatsapp_internal.add_consents(array(
      select row(country_id, contact_id, action, scope, at, 'stop_word', written, null)::whatsapp_internal.consent from heard)) c
  )
  select array_agg(jsonb_populate_record(null::whatsapp_internal.draft, jsonb_build_object(
      'n', 1, 'country_id', country_id, 'account_id', account_id, 'contact_id', contact_id, 'message_id', whatsapp_internal.uuid7(), 'kind', 'text',
      'content', jsonb_build_object('type', 'text', 'text', jsonb_build_object('body', reply)), 'status', 'accepted', 'state', 'queued')))
  into v_replies
  from (
    -- The word that decided: the last one, and of the same moment the no.
    select distinct on (h.country_id, h.contact_id) h.*
    from heard h join changed c on c.country_id = h.country_id and c.contact_id = h.contact_id
    order by h.country_id, h.contact_id, h.at desc, h.action desc
  ) decided
  where reply is not null;

  if v_replies is not null then
    perform whatsapp_internal.write_drafts(v_replies);
    update whatsapp.messages m set confirms_consent = true
    from unnest(v_replies) r where m.country_id = r.country_id and m.message_id = r.message_id;
  end if;
end
$$;


-- schemas/consents/record_consents.sql

-- Which member of a row could not be written, or null.
create or replace function whatsapp_internal.unwritable_consent(p_row jsonb) returns text
language sql stable
return case
  when jsonb_typeof(p_row) is distinct from 'object' then 'row'
  when whatsapp_internal.unwritable_person(p_row) is not null then whatsapp_internal.unwritable_person(p_row)
  when coalesce(p_row ->> 'what', '') not in ('opt_in', 'opt_out') then 'action'
  when coalesce(p_row ->> 'scope', '') not in ('all', 'marketing') then 'scope'
  when p_row ->> 'at' is not null and whatsapp_internal.as_time(p_row ->> 'at') is null then 'at'
  when coalesce(length(p_row ->> 'how'), 0) not between 1 and 200 then 'how'
  when p_row ->> 'proof' is not null and length(p_row ->> 'proof') not between 1 and 4096 then 'proof'
end;

-- The rows as drafts that find their people; what could not be written, or is said of the future, is refused here.
create or replace function whatsapp_internal.read_consents(p_country text, p_rows jsonb[]) returns whatsapp_internal.draft[]
language plpgsql stable set search_path = ''
as $$
begin
  -- A fact of the future would beat whatever the person says until then. Clocks may differ a little.
  return (
    select array_agg(jsonb_populate_record(null::whatsapp_internal.draft,
        case when r.unwritable is null then r.item else '{}' end || jsonb_strip_nulls(jsonb_build_object(
          'n', r.n, 'country_id', p_country, 'status', case when v.code is not null then 'refused' end, 'code', v.code,
          'field', case when v.code = 'invalid_item' then r.unwritable when v.code is not null then 'at' end))) order by r.n)
    from (
      select n, item, whatsapp_internal.unwritable_consent(item) as unwritable from unnest(p_rows) with ordinality as u (item, n) offset 0
    ) r
    cross join lateral (
      select case
        when r.unwritable is not null then 'invalid_item'
        when (r.item ->> 'at')::timestamptz > now() + interval '5 minutes' then 'consent_in_future'
      end as code
    ) v
  );
end
$$;

-- Whom the drafts name and we know, held in order before anybody new is made known.
create or replace function whatsapp_internal.hold_named(p_country text, p_drafts whatsapp_internal.draft[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  perform whatsapp_internal.hold_contacts(array_agg(p_country), array_agg(known.contact_id))
  from unnest(p_drafts) d
  cross join lateral (
    (select k.contact_id from whatsapp.contacts k where k.country_id = p_country and k.match_key = d.match_key limit 1)
    union all
    select h.contact_id from whatsapp_internal.holder_of_bsuid(p_country, d.bsuid) h
    union all
    (select coalesce(k.merged_into, k.contact_id) from whatsapp.contacts k where k.country_id = p_country and k.contact_id = d.contact_id limit 1)
  ) known
  where d.status is null;
end
$$;

--   p_key, p_fingerprint   of this call: repeated, it answers what it answered
--   p_rows     {row, phone?, match_key?, bsuid?, contact_id?, what, scope, at?, how, proof?}; without `at` it is said now
--   returns    {"recorded": n, "refused": [{"row", "code", "field"}]}  or  {"code", "field"}
-- People not known yet are made known. A row that could not be written is refused as `invalid_item`, alone.
create or replace function whatsapp.record_consents(p_country text, p_actor uuid, p_key text, p_fingerprint text, p_rows jsonb[]) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_code text := whatsapp_internal.refuse_actor(p_country, p_actor);
  v_drafts whatsapp_internal.draft[];
  v_facts whatsapp_internal.consent[];
  v_answer jsonb;
begin
  if v_code is null and not exists (select from whatsapp.accounts a where a.country_id = p_country) then
    v_code := 'unknown_country';
  end if;
  if v_code is not null then
    return jsonb_build_object('code', v_code, 'field', 'country_id');
  end if;

  v_answer := whatsapp_internal.answer_of_key(p_country, 'consents', p_key, p_fingerprint);
  if v_answer is not null then
    return v_answer;
  end if;

  v_drafts := whatsapp_internal.read_consents(p_country, p_rows);
  perform whatsapp_internal.hold_countries(array[p_country], false);
  perform whatsapp_internal.hold_named(p_country, v_drafts);
  v_drafts := whatsapp_internal.find_contacts(v_drafts);

  select array_agg(row(
      p_country, u.contact_id, u.item ->> 'what', u.item ->> 'scope', least(coalesce((u.item ->> 'at')::timestamptz, now()), now()),
      u.item ->> 'how', u.item ->> 'proof', p_actor)::whatsapp_internal.consent order by u.n) filter (where u.status is null),
    jsonb_build_object(
      'recorded', count(*) filter (where u.status is null),
      'refused', coalesce(
        jsonb_agg(jsonb_build_object('row', u.item -> 'row', 'code', u.code, 'field', u.field) order by u.n) filter (where u.status is not null),
        '[]'))
  into v_facts, v_answer
  from unnest(p_rows, v_drafts) as u (item);
  perform whatsapp_internal.add_consents(v_facts);

  update whatsapp.idempotency_keys k set answer = v_answer where k.country_id = p_country and k.scope = 'consents' and k.key = p_key;
  return v_answer;
end
$$;
comment on function whatsapp.record_consents is 'Records opt-ins and opt-outs with a verdict per row. Safe to repeat.';


-- schemas/consents/standing.sql

-- What people said, and what holds because of it (tables/consents.sql).

-- Writes the facts and what follows from them into contacts. Answers whose standing it changed.
create or replace function whatsapp_internal.add_consents(p_facts whatsapp_internal.consent[]) returns table (country_id text, contact_id uuid)
language plpgsql volatile set search_path = ''
as $$
#variable_conflict use_column
begin
  -- People first, in order: whoever else records for them waits here, and then looks at the facts in a statement of its own.
  perform from (select distinct f.country_id, f.contact_id from unnest(p_facts) f order by 1, 2) f
  cross join lateral (
    select from whatsapp.contacts c where c.country_id = f.country_id and c.contact_id = f.contact_id for no key update of c
  ) c;

  -- Joined with another while this waited: the wish goes where the person went.
  if exists (
    select from unnest(p_facts) f
    cross join lateral (
      select c.merged_into from whatsapp.contacts c where c.country_id = f.country_id and c.contact_id = f.contact_id limit 1) c
    where c.merged_into is not null)
  then
    return query select a.* from whatsapp_internal.add_consents(array(
      select row(f.country_id, coalesce(c.merged_into, c.contact_id), f.what, f.scope, f.at, f.how, f.proof, f.recorded_by)::whatsapp_internal.consent
      from unnest(p_facts) f join whatsapp.contacts c on c.country_id = f.country_id and c.contact_id = f.contact_id)) a;
    return;
  end if;

  insert into whatsapp.consents (country_id, contact_id, what, scope, at, how, proof, recorded_by)
  select f.* from unnest(p_facts) f order by f.at;

  return query
  select s.country_id, s.contact_id
  from (select array_agg(f.country_id) as countries, array_agg(f.contact_id) as contacts
        from (select distinct f.country_id, f.contact_id from unnest(p_facts) f) f) f,
    whatsapp_internal.stand(f.countries, f.contacts) s;
end
$$;

-- What holds for these people, by their facts and by what stands in their rows. Answers whose standing it changed. The caller holds the rows.
create or replace function whatsapp_internal.stand(p_countries text[], p_contacts uuid[]) returns table (country_id text, contact_id uuid)
language sql volatile set search_path = ''
as $$
  with told as materialized (
    select c.country_id, c.contact_id, c.opted_in_at is null as never_in, c.opted_out_at is null as not_out,
      c.marketing_opted_out_at is null as not_out_of_marketing,
      greatest(c.opted_in_at, k.opted_in) as opted_in,
      greatest(c.opted_out_at, k.out_of_all) as out_of_all, k.in_to_all,
      greatest(c.marketing_opted_out_at, k.out_of_marketing) as out_of_marketing, k.in_to_any
    from unnest(p_countries, p_contacts) as f (country_id, contact_id)
    cross join lateral (
      select c.* from whatsapp.contacts c where c.country_id = f.country_id and c.contact_id = f.contact_id limit 1) c
    cross join lateral (
      select
        max(k.at) filter (where k.what = 'opt_in' and k.how <> 'meta') as opted_in,
        max(k.at) filter (where k.what = 'opt_in') as in_to_any,
        max(k.at) filter (where k.what = 'opt_in' and k.scope = 'all') as in_to_all,
        max(k.at) filter (where k.what = 'opt_out' and k.scope = 'all') as out_of_all,
        max(k.at) filter (where k.what = 'opt_out' and k.scope = 'marketing') as out_of_marketing
      from whatsapp.consents k where k.country_id = c.country_id and k.contact_id = c.contact_id
    ) k
  ),
  standing as (
    update whatsapp.contacts c
    set opted_in_at = t.opted_in,
      opted_out_at = case when t.in_to_all > t.out_of_all then null else t.out_of_all end,
      marketing_opted_out_at = case when t.in_to_any > t.out_of_marketing then null else t.out_of_marketing end
    from told t
    where c.country_id = t.country_id and c.contact_id = t.contact_id
    returning c.country_id, c.contact_id, c.opted_in_at, c.opted_out_at, c.marketing_opted_out_at, t.never_in, t.not_out,
      t.not_out_of_marketing
  )
  select s.country_id, s.contact_id from standing s
  where (s.opted_in_at is null, s.opted_out_at is null, s.marketing_opted_out_at is null) <> (s.never_in, s.not_out, s.not_out_of_marketing)
$$;


-- schemas/campaigns/campaign_progress.sql

-- Runs as the caller: row level security decides whose campaign may be read.
create or replace function whatsapp.campaign_progress(p_country text, p_campaign uuid) returns jsonb
language sql stable set search_path = ''
as $$
  select jsonb_build_object(
    'country_id', c.country_id, 'campaign_id', c.campaign_id, 'account', c.account_id, 'name', c.name,
    'template', jsonb_build_object('name', c.template_name, 'language', c.template_language),
    'state', c.state, 'reason', c.state_reason, 'by', case when c.state_reason = 'by_a_person' then c.state_by end, 'since', c.state_since, 'send_at', c.send_at, 'valid_until', c.valid_until,
    'held', (
      -- Why nothing leaves although it is running, and until when; the account before the campaign itself.
      select case
        when a.state <> 'active' and coalesce(a.paused_until > now(), true) then jsonb_build_object('reason', 'account_' || a.state, 'until', a.paused_until)
        when a.templates_paused_until > now() then jsonb_build_object('reason', 'templates_restricted', 'until', a.templates_paused_until)
        when l.held_until > now() then jsonb_build_object('reason', l.held_reason, 'until', l.held_until)
      end
      from whatsapp.accounts a
      left join whatsapp.lanes l
        on l.country_id = c.country_id and l.account_id = c.account_id and l.lane = 'campaign:' || c.campaign_id
      where a.country_id = c.country_id and a.account_id = c.account_id and c.state = 'running'),
    'counts', (
      select coalesce(jsonb_object_agg(key, n), '{}') from (
        select key, sum(n) as n from whatsapp.campaign_counts k
        where k.country_id = c.country_id and k.campaign_id = c.campaign_id
        group by key having sum(n) <> 0) sums))
  from whatsapp.campaigns c
  where c.country_id = p_country and c.campaign_id = p_campaign
$$;


-- schemas/campaigns/control_campaign.sql

--   p_action   start (a draft) | pause | resume | cancel
--   returns    campaign_progress  or  {"code", "field"}
-- Takes effect with the next claim: what is not leased yet stays. A cancelled campaign's messages are ended by sweep, a piece at a time.
-- Whoever starts or resumes one whose template may not be sent now finds it paused for its template, and it goes on with that.
create or replace function whatsapp.control_campaign(p_country text, p_campaign uuid, p_action text, p_actor uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_campaign whatsapp.campaigns;
  v_template text;
  v_state text;
  v_reason text;
  v_code text := whatsapp_internal.refuse_actor(p_country, p_actor);
begin
  if v_code is not null then
    return jsonb_build_object('code', v_code, 'field', 'country_id');
  end if;
  select * into v_campaign from whatsapp.campaigns c where c.country_id = p_country and c.campaign_id = p_campaign for no key update;
  if not found then
    return jsonb_build_object('code', 'unknown_campaign', 'field', 'campaign_id');
  end if;
  if v_campaign.state = 'cancelled' and p_action <> 'cancel' then
    return jsonb_build_object('code', 'campaign_over', 'field', 'action');
  end if;
  select coalesce(t.status, 'UNKNOWN') into v_template
  from (select 1) one
  left join whatsapp.templates t on t.country_id = p_country and t.account_id = v_campaign.account_id
    and t.name = v_campaign.template_name and t.language = v_campaign.template_language;

  v_state := v_campaign.state;
  v_reason := v_campaign.state_reason;
  if p_action = 'cancel' then
    v_state := 'cancelled';
    v_reason := null;
  elsif p_action = 'pause' and v_state not in ('completed', 'draft') then
    v_state := 'paused';
    v_reason := 'by_a_person';
  elsif (p_action = 'resume' and v_state = 'paused') or (p_action = 'start' and v_state = 'draft') then
    v_state := case when v_template <> 'APPROVED' then 'paused' when v_campaign.send_at > now() then 'scheduled' else 'running' end;
    v_reason := case when v_template <> 'APPROVED' then 'template_' || lower(v_template) end;
  end if;

  update whatsapp.campaigns c set state = v_state, state_reason = v_reason, state_by = p_actor, state_since = now()
  where c.country_id = p_country and c.campaign_id = p_campaign
    and (c.state, c.state_reason) is distinct from (v_state, v_reason);
  update whatsapp.lanes l set paused = v_state not in ('scheduled', 'running')
  where l.country_id = p_country and l.account_id = v_campaign.account_id and l.lane = whatsapp_internal.lane_of_campaign(p_campaign);
  return whatsapp.campaign_progress(p_country, p_campaign);
end
$$;


-- schemas/campaigns/counting.sql

-- A campaign's counts, kept by one statement trigger on messages in the transaction of each change.

create or replace function whatsapp_internal.count_inserted() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  if not exists (select from added where campaign_id is not null) then
    return null;
  end if;
  insert into whatsapp.campaign_counts (country_id, campaign_id, key, n)
  select country_id, campaign_id, state, count(*) from added where campaign_id is not null group by 1, 2, 3;
  return null;
end
$$;

create or replace function whatsapp_internal.count_updated() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  if not exists (select from added where campaign_id is not null) then
    return null;
  end if;
  insert into whatsapp.campaign_counts (country_id, campaign_id, key, n)
  select m.country_id, m.campaign_id, k.key, sum(m.sign)
  from (
    select country_id, campaign_id, state, error_code, refusal, price, coalesce(delivered_at, read_at, played_at) as reached_at, 1 as sign
    from added where campaign_id is not null
    union all
    select country_id, campaign_id, state, error_code, refusal, price, coalesce(delivered_at, read_at, played_at), -1
    from removed where campaign_id is not null
  ) m
  cross join lateral (
    values (m.state),
      (case when m.state = 'failed' then 'failed:' || coalesce(m.error_code::text, 'unknown') end),
      (case when m.state in ('refused', 'expired') then 'refused:' || m.refusal end),
      -- Meta tells the price with the first status and charges on delivery: whichever of the two is known last counts it.
      (case when m.price ->> 'type' = 'regular' and m.reached_at is not null then 'cost:' || coalesce(m.price ->> 'category', 'unknown') end)
  ) k (key)
  where k.key is not null
  group by 1, 2, 3
  having sum(m.sign) <> 0;
  return null;
end
$$;
create or replace trigger campaign_inserted after insert on whatsapp.messages
  referencing new table as added for each statement execute function whatsapp_internal.count_inserted();
create or replace trigger campaign_updated after update on whatsapp.messages
  referencing old table as removed new table as added for each statement execute function whatsapp_internal.count_updated();


-- schemas/campaigns/enqueue_campaign.sql

-- Contacts for those nobody has heard of.
create or replace function whatsapp_internal.meet_recipients(p_country text, p_phones text[], p_match_keys text[], p_bsuids text[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  insert into whatsapp.contacts (country_id, phone, match_key)
  select distinct on (r.match_key) p_country, r.phone, r.match_key
  from unnest(p_phones, p_match_keys) as r (phone, match_key)
  left join lateral (
    select c.contact_id from whatsapp.contacts c where c.country_id = p_country and c.match_key = r.match_key limit 1) known on true
  where r.match_key is not null and known.contact_id is null and whatsapp_internal.is_phone(r.phone, r.match_key)
  order by r.match_key;
  insert into whatsapp.contacts (country_id, bsuid)
  select distinct p_country, r.bsuid
  from unnest(p_bsuids) as r (bsuid)
  left join lateral (select h.contact_id from whatsapp_internal.holder_of_bsuid(p_country, r.bsuid) h) known on true
  where r.bsuid is not null and known.contact_id is null and whatsapp_internal.is_bsuid(r.bsuid)
  order by r.bsuid;
end
$$;

-- Finds each recipient's person and judges them: what goes, as one array of each column, and what is refused.
create or replace function whatsapp_internal.judge_recipients(
  p_campaign whatsapp.campaigns, p_category text, p_rows integer[], p_match_keys text[], p_bsuids text[], p_contact_ids uuid[], p_components text[],
  p_refs text[], out ids uuid[], out people uuid[], out contents jsonb[], out refs text[], out accepted integer, out refused jsonb
)
language plpgsql volatile set search_path = ''
as $$
declare
  v_opt_in_required boolean := (
    select a.opt_in_required from whatsapp.accounts a
    where a.country_id = p_campaign.country_id and a.account_id = p_campaign.account_id);
  v_content jsonb := jsonb_build_object('type', 'template', 'template', jsonb_build_object(
    'name', p_campaign.template_name, 'language', jsonb_build_object('code', p_campaign.template_language)));
begin
  with rows as materialized (
    select r.row, r.components, r.ref, c.contact_id as person,
      row_number() over (partition by c.contact_id order by coalesce(length(r.ref) > 200, false), r.row) as turn,
      case
        when length(r.ref) > 200 or (c.contact_id is null and r.contact_id is null) then 'invalid_item'
        when c.contact_id is null then 'unknown_contact'
        else whatsapp_internal.refusal(
        'active', 'template', p_category, 'APPROVED', null, open.until, null, c.opted_in_at, v_opt_in_required, c.opted_out_at,
        c.marketing_opted_out_at, c.marketing_cooled_until, p_campaign.valid_until, now()) end as code
    from unnest(p_rows, p_match_keys, p_bsuids, p_contact_ids, p_components, p_refs)
      as r (row, match_key, bsuid, contact_id, components, ref)
    left join lateral (
      select living.*
      from (
        select k.contact_id from whatsapp.contacts k where k.country_id = p_campaign.country_id and k.match_key = r.match_key
        union all
        select k.contact_id from whatsapp_internal.holder_of_bsuid(p_campaign.country_id, r.bsuid) k
        union all
        select coalesce(k.merged_into, k.contact_id) from whatsapp.contacts k where k.country_id = p_campaign.country_id and k.contact_id = r.contact_id
        limit 1
      ) known
      join whatsapp.contacts living on living.country_id = p_campaign.country_id and living.contact_id = known.contact_id
    ) c on true
    left join lateral (
      -- Asked of the few only whom Meta holds marketing back from.
      select greatest(v.window_until, v.entry_point_until) as until from whatsapp.conversations v
      where v.country_id = p_campaign.country_id and v.account_id = p_campaign.account_id and v.contact_id = c.contact_id
        and c.marketing_cooled_until > now()
      limit 1
    ) open on true
  ),
  judged as materialized (
    select r.*, coalesce(r.code, case when r.turn > 1 or m.message_id is not null then 'duplicate_recipient' end) as verdict
    from rows r
    left join lateral (
      select m.message_id from whatsapp.campaign_people m
      where m.country_id = p_campaign.country_id and m.campaign_id = p_campaign.campaign_id and m.contact_id = r.person
      limit 1
    ) m on true
  ),
  good as (
    select person, ref, case when components is null then v_content
      else jsonb_set(v_content, '{template,components}', jsonb_strip_nulls(components::jsonb)) end as content
    from judged where verdict is null
    order by row
  )
  select array_agg(whatsapp_internal.uuid7()), array_agg(person), array_agg(content), array_agg(ref), count(*), (
    select coalesce(jsonb_agg(jsonb_build_object(
        'row', row, 'code', verdict, 'field', case when length(ref) > 200 then 'ref' else 'to' end) order by row), '[]')
    from judged where verdict is not null)
  into ids, people, contents, refs, accepted, refused
  from good;
end
$$;

-- Writes log and queue of those that go.
create or replace function whatsapp_internal.write_recipients(
  p_campaign whatsapp.campaigns, p_category text, p_ids uuid[], p_people uuid[], p_contents jsonb[], p_refs text[]
) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_lane text := whatsapp_internal.lane_of_campaign(p_campaign.campaign_id);
  v_start timestamptz := greatest(p_campaign.send_at, now());
  v_state text := case when v_start > now() then 'scheduled' else 'queued' end;
begin
  insert into whatsapp.conversations (country_id, account_id, contact_id)
  select p_campaign.country_id, p_campaign.account_id, g.person
  from unnest(p_people) as g (person)
  left join lateral (
    select v.contact_id from whatsapp.conversations v
    where v.country_id = p_campaign.country_id and v.account_id = p_campaign.account_id and v.contact_id = g.person
    limit 1
  ) known on true
  where known.contact_id is null
  order by g.person;
  insert into whatsapp.messages (
    country_id, message_id, account_id, contact_id, direction, kind, state, content, template_name, template_language, category, ref,
    created_by, send_at, expires_at, campaign_id)
  select p_campaign.country_id, g.message_id, p_campaign.account_id, g.person, 'outbound', 'template', v_state, g.content, p_campaign.template_name,
    p_campaign.template_language, p_category, g.ref, p_campaign.created_by, p_campaign.send_at, p_campaign.valid_until, p_campaign.campaign_id
  from unnest(p_ids, p_people, p_contents, p_refs) as g (message_id, person, content, ref);
  insert into whatsapp.campaign_people (country_id, campaign_id, contact_id, message_id)
  select p_campaign.country_id, p_campaign.campaign_id, g.person, g.message_id from unnest(p_ids, p_people) as g (message_id, person)
  order by g.person;
  insert into whatsapp.queue (country_id, message_id, account_id, contact_id, lane, due_at, run_at, expires_at, scheduled)
  select p_campaign.country_id, g.message_id, p_campaign.account_id, g.person, v_lane, v_start, v_start, p_campaign.valid_until, v_start > now()
  from unnest(p_ids, p_people) as g (message_id, person);
end
$$;

-- A campaign to which somebody was added runs until they have been sent to, even if it was completed.
create or replace function whatsapp_internal.keep_running(p_campaign whatsapp.campaigns) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  -- Chunks of one campaign are written side by side, and nobody completes it from here to the commit without seeing them.
  if p_campaign.state = 'completed' then
    perform from whatsapp.campaigns c where c.country_id = p_campaign.country_id and c.campaign_id = p_campaign.campaign_id for no key update;
    update whatsapp.campaigns c set state = 'running', state_reason = null, state_since = now()
    where c.country_id = p_campaign.country_id and c.campaign_id = p_campaign.campaign_id and c.state = 'completed';
    if found then
      update whatsapp.lanes l set paused = false
      where l.country_id = p_campaign.country_id and l.account_id = p_campaign.account_id and l.lane = whatsapp_internal.lane_of_campaign(p_campaign.campaign_id);
    end if;
  else
    perform from whatsapp.campaigns c where c.country_id = p_campaign.country_id and c.campaign_id = p_campaign.campaign_id and c.state <> 'completed' for share;
    if not found then
      raise exception 'the campaign was completed meanwhile' using errcode = 'serialization_failure';
    end if;
  end if;
end
$$;

--   p_key, p_fingerprint   of this chunk: repeated, it answers what it answered
--   p_rows …   one element of each array a recipient: the row's number, exactly one of phone (with its match key), bsuid and contact_id,
--              the template's components as JSON or null, and the caller's ref or null
--   returns    {"accepted": n, "refused": [{"row", "code", "field"}]}  or  {"code", "field"}
-- Arrays, because taking a jsonb object a row apart costs as much as writing the row's queue entry. Every lookup is a lateral with a limit:
-- it can only be made row by row through its index, so a chunk costs the same whatever the campaign and the country hold already.
-- A row that could not be written (no phone number, too long) is refused as `invalid_item`, alone.
create or replace function whatsapp.enqueue_campaign(
  p_country text, p_campaign uuid, p_key text, p_fingerprint text, p_rows integer[], p_phones text[], p_match_keys text[], p_bsuids text[],
  p_contact_ids uuid[], p_components text[], p_refs text[]
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_campaign whatsapp.campaigns;
  v_category text;
  v_judged record;
  v_answer jsonb;
begin
  select * into v_campaign from whatsapp.campaigns c where c.country_id = p_country and c.campaign_id = p_campaign;
  if not found then
    return jsonb_build_object('code', 'unknown_campaign', 'field', 'campaign_id');
  end if;
  perform whatsapp_internal.hold_countries(array[p_country], false);
  v_answer := whatsapp_internal.answer_of_key(p_country, 'recipients', p_key, p_fingerprint);
  if v_answer is not null then
    return v_answer;
  end if;
  if v_campaign.state = 'cancelled' then
    delete from whatsapp.idempotency_keys k where k.country_id = p_country and k.scope = 'recipients' and k.key = p_key;
    return jsonb_build_object('code', 'campaign_over', 'field', 'campaign_id');
  end if;
  -- A first large campaign fills tables that were empty a moment ago, and whoever drains it should plan for that.
  perform whatsapp_internal.sweep_statistics();

  select t.category into v_category from whatsapp.templates t
  where t.country_id = p_country and t.account_id = v_campaign.account_id and t.name = v_campaign.template_name
    and t.language = v_campaign.template_language;

  perform whatsapp_internal.meet_recipients(p_country, p_phones, p_match_keys, p_bsuids);
  select * into v_judged from whatsapp_internal.judge_recipients(
    v_campaign, v_category, p_rows, p_match_keys, p_bsuids, p_contact_ids, p_components, p_refs);
  perform whatsapp_internal.write_recipients(v_campaign, v_category, v_judged.ids, v_judged.people, v_judged.contents, v_judged.refs);
  if v_judged.accepted > 0 then
    perform whatsapp_internal.keep_running(v_campaign);
  end if;

  v_answer := jsonb_build_object('accepted', v_judged.accepted, 'refused', v_judged.refused);
  update whatsapp.idempotency_keys k set answer = v_answer where k.country_id = p_country and k.scope = 'recipients' and k.key = p_key;
  return v_answer;
exception
  -- Somebody else has just met one of these people, or taken them for the campaign. Tried again, it is seen. That is rare, and letting
  -- each insert look for it costs every row.
  when unique_violation then
    raise exception 'somebody else has just written one of these people' using errcode = 'serialization_failure';
end
$$;


-- schemas/campaigns/follow_templates.sql

-- A template that may not be sent pauses its running campaigns, whoever found out: a webhook, Meta's answer to a message, or a sync. So does
-- one that Meta lists no more, for nothing else would ever end the turns of its messages. When it may be sent again, they go on by themselves;
-- what a person paused stays paused.
create or replace function whatsapp_internal.follow_templates() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  with followed as (
    select t.country_id, t.account_id, t.name, t.language, case when tg_op = 'DELETE' then 'UNKNOWN' else t.status end as status from changed t
  ),
  moved as (
    update whatsapp.campaigns c
    set state = case when t.status <> 'APPROVED' then 'paused' when c.send_at > now() then 'scheduled' else 'running' end,
      state_reason = case when t.status <> 'APPROVED' then 'template_' || lower(t.status) end, state_since = now()
    from followed t
    where c.country_id = t.country_id and c.account_id = t.account_id and c.template_name = t.name and c.template_language = t.language
      and ((t.status <> 'APPROVED' and c.state in ('running', 'scheduled'))
        or (t.status = 'APPROVED' and c.state = 'paused' and c.state_reason like 'template\_%'))
    returning c.country_id, c.account_id, c.campaign_id, c.state
  )
  update whatsapp.lanes l set paused = m.state = 'paused'
  from moved m
  where l.country_id = m.country_id and l.account_id = m.account_id and l.lane = whatsapp_internal.lane_of_campaign(m.campaign_id);
  return null;
end
$$;
create or replace trigger campaigns_follow after update on whatsapp.templates
  referencing new table as changed for each statement execute function whatsapp_internal.follow_templates();
create or replace trigger campaigns_follow_back after insert on whatsapp.templates
  referencing new table as changed for each statement execute function whatsapp_internal.follow_templates();
create or replace trigger campaigns_follow_removed after delete on whatsapp.templates
  referencing old table as changed for each statement execute function whatsapp_internal.follow_templates();


-- schemas/campaigns/open_campaign.sql

-- The campaign that this key opens or has opened: the same for the same key. Null if the key was used for something else.
create or replace function whatsapp_internal.campaign_of_key(p_country text, p_key text, p_fingerprint text) returns uuid
language plpgsql volatile set search_path = ''
as $$
declare
  v_key whatsapp.idempotency_keys;
begin
  insert into whatsapp.idempotency_keys (country_id, scope, key, fingerprint, answer)
  values (p_country, 'campaign', p_key, p_fingerprint, jsonb_build_object('campaign_id', whatsapp_internal.uuid7()))
  on conflict do nothing;
  select * into v_key from whatsapp.idempotency_keys k where k.country_id = p_country and k.scope = 'campaign' and k.key = p_key;
  return case when v_key.fingerprint = p_fingerprint then (v_key.answer ->> 'campaign_id')::uuid end;
end
$$;

--   p_campaign  {country_id, actor?, campaign_id} to append, or {country_id, actor?, account_id?, name, template_name, template_language,
--               send_at?, valid_until?, draft?, key, fingerprint} for a new one
--   returns     {campaign_id, account_id, state, template_name, template_language, contract}  or  {code, field}
create or replace function whatsapp.open_campaign(p_campaign jsonb[]) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_in record;
  v_account whatsapp.accounts;
  v_template whatsapp.templates;
  v_campaign whatsapp.campaigns;
  v_code text;
begin
  select * into v_in from jsonb_to_record(p_campaign[1]) as r (
    country_id text, actor uuid, campaign_id uuid, account_id text, name text, template_name text, template_language text, send_at timestamptz,
    valid_until timestamptz, draft boolean, key text, fingerprint text);

  v_code := whatsapp_internal.refuse_actor(v_in.country_id, v_in.actor);
  if v_code is not null then
    return jsonb_build_object('code', v_code, 'field', 'country_id');
  end if;

  if v_in.campaign_id is null then
    select a.* into v_account from whatsapp.accounts a
    where a.country_id = v_in.country_id and (a.account_id = v_in.account_id or (v_in.account_id is null and a.is_default));
    if not found then
      return whatsapp_internal.refuse_account(v_in.country_id, v_in.account_id);
    end if;

    v_in.campaign_id := whatsapp_internal.campaign_of_key(v_in.country_id, v_in.key, v_in.fingerprint);
    if v_in.campaign_id is null then
      return jsonb_build_object('code', 'idempotency_key_reused', 'field', 'Idempotency-Key');
    end if;
  end if;

  select * into v_campaign from whatsapp.campaigns c
  where c.country_id = v_in.country_id and c.campaign_id = v_in.campaign_id for no key update;
  if not found and v_account.account_id is null then
    return jsonb_build_object('code', 'unknown_campaign', 'field', 'campaign_id');
  end if;

  select t.* into v_template from whatsapp.templates t
  where t.country_id = v_in.country_id and t.account_id = coalesce(v_campaign.account_id, v_account.account_id)
    and t.name = coalesce(v_campaign.template_name, v_in.template_name)
    and t.language = coalesce(v_campaign.template_language, v_in.template_language);
  v_code := case
    -- A repeated opening gets its old answer, whatever the template has become since.
    when v_campaign.campaign_id is not null and v_account.account_id is not null then null
    when v_account.state in ('stopped', 'disabled') then 'account_' || v_account.state
    when v_template.name is null then 'template_unknown'
    when v_template.status = 'PAUSED' and v_campaign.campaign_id is null then 'template_paused'
    when v_template.status not in ('APPROVED', 'PAUSED') then 'template_not_approved'
  end;
  if v_code is not null then
    -- Nothing was made: the key may be used again.
    delete from whatsapp.idempotency_keys k
    where v_campaign.campaign_id is null and k.country_id = v_in.country_id and k.scope = 'campaign' and k.key = v_in.key;
    return jsonb_build_object('code', v_code, 'field', case when v_code like 'account%' then 'account' else 'template' end);
  end if;

  if v_campaign.campaign_id is null then
    insert into whatsapp.campaigns (
      country_id, campaign_id, account_id, name, template_name, template_language, state, send_at, valid_until, created_by)
    values (
      v_in.country_id, v_in.campaign_id, v_account.account_id, v_in.name, v_in.template_name, v_in.template_language,
      case when v_in.draft then 'draft' when v_in.send_at > now() then 'scheduled' else 'running' end, v_in.send_at, v_in.valid_until, v_in.actor)
    returning * into v_campaign;
    insert into whatsapp.lanes (country_id, account_id, lane, priority, paused)
    values (
      v_campaign.country_id, v_campaign.account_id, whatsapp_internal.lane_of_campaign(v_campaign.campaign_id), 2, v_campaign.state = 'draft');
  end if;

  return jsonb_build_object(
    'campaign_id', v_campaign.campaign_id, 'account_id', v_campaign.account_id, 'state', v_campaign.state,
    'template_name', v_campaign.template_name, 'template_language', v_campaign.template_language, 'contract', v_template.contract);
end
$$;


-- schemas/campaigns/sweep_campaigns.sql

-- Sweep's part in campaigns.

-- Ends the messages of cancelled campaigns, a piece at a time.
create or replace function whatsapp_internal.sweep_cancelled(p_limit integer) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_cancelled integer;
begin
  with gone as (
    delete from whatsapp.queue q
    where (q.country_id, q.message_id) in (
      select head.country_id, head.message_id
      from whatsapp.campaigns c
      -- The order makes it the lane's index: joined freely, Postgres may read the whole queue to find nothing cancelled.
      cross join lateral (
        select q.country_id, q.message_id from whatsapp.queue q
        cross join lateral (
          select from whatsapp.messages m where m.country_id = q.country_id and m.message_id = q.message_id for no key update skip locked
        ) m
        where q.country_id = c.country_id and q.account_id = c.account_id and q.lane = whatsapp_internal.lane_of_campaign(c.campaign_id)
          and q.lease_id is null and q.unknown_until is null
        order by q.run_at
        limit p_limit
        for update of q skip locked
      ) head
      where c.state = 'cancelled'
      limit p_limit)
    returning q.country_id, q.message_id
  ),
  moved as (
    update whatsapp.messages m set state = 'cancelled'
    from gone g where m.country_id = g.country_id and m.message_id = g.message_id
    returning m.country_id, m.message_id
  ),
  told as (
    insert into whatsapp.message_events (country_id, message_id, event) select country_id, message_id, 'message_cancelled' from moved
  )
  select count(*) into v_cancelled from moved;
  return v_cancelled;
end
$$;

-- Starts what is due, completes what has nothing left to send, pauses what fails too often, and folds counts together.
create or replace function whatsapp_internal.sweep_campaigns() returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_running uuid[];
begin
  -- Somebody may be changing several of them just now, as a template's word does: those come next time, and nobody is waited for.
  update whatsapp.campaigns c set state = 'running', state_since = now()
  where (c.country_id, c.campaign_id) in (
    select d.country_id, d.campaign_id from whatsapp.campaigns d where d.state = 'scheduled' and d.send_at <= now()
    for no key update skip locked);

  -- Locked first and looked at in a statement of its own, so that recipients a call has just added are seen.
  select array_agg(campaign_id) into v_running
  from (select c.campaign_id from whatsapp.campaigns c where c.state = 'running' for no key update skip locked) locked;
  perform whatsapp_internal.complete_campaigns(v_running);
  perform whatsapp_internal.pause_failing_campaigns(v_running);
  perform whatsapp_internal.fold_campaign_counts();
end
$$;

-- Completes those of these campaigns that have nothing left to send.
create or replace function whatsapp_internal.complete_campaigns(p_running uuid[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  with done as (
    update whatsapp.campaigns c set state = 'completed', state_since = now()
    where c.state = 'running' and c.campaign_id = any (p_running)
      -- One that nobody could be taken into is over, too, but not while its first recipients are still being written.
      and (c.created_at < now() - interval '1 minute'
        or exists (select from whatsapp.campaign_counts k where k.country_id = c.country_id and k.campaign_id = c.campaign_id))
      and not exists (
        select from whatsapp.queue q
        where q.country_id = c.country_id and q.account_id = c.account_id and q.lane = whatsapp_internal.lane_of_campaign(c.campaign_id)
          and q.unknown_until is null)
      and not exists (
        select from whatsapp.queue q
        where q.country_id = c.country_id and q.account_id = c.account_id and q.lane = whatsapp_internal.lane_of_campaign(c.campaign_id)
          and q.unknown_until is not null)
    returning c.country_id, c.account_id, c.campaign_id
  )
  -- A lane that has nothing to give costs a claim nothing.
  update whatsapp.lanes l set paused = true
  from done d
  where l.country_id = d.country_id and l.account_id = d.account_id and l.lane = whatsapp_internal.lane_of_campaign(d.campaign_id);
end
$$;

-- Pauses those of these campaigns of whose last messages too large a share has failed.
create or replace function whatsapp_internal.pause_failing_campaigns(p_running uuid[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  with seen as (
    -- What we gave up for lost, as after a crash of ours, says nothing of the campaign.
    select k.country_id, k.campaign_id, sum(case k.key when 'failed:unknown' then -k.n else k.n end) as settled,
      sum(case k.key when 'failed' then k.n when 'failed:unknown' then -k.n end) as failed
    from whatsapp.campaign_counts k
    join whatsapp.campaigns c on c.country_id = k.country_id and c.campaign_id = k.campaign_id and c.state = 'running'
    where k.key in ('accepted', 'sent', 'delivered', 'read', 'played', 'failed', 'failed:unknown')
    group by 1, 2
  ),
  judged as (
    update whatsapp.campaigns c
    set checked_settled = s.settled, checked_failed = coalesce(s.failed, 0),
      state = case when failing then 'paused' else c.state end,
      state_reason = case when failing then 'too_many_failures' else c.state_reason end,
      state_since = case when failing then now() else c.state_since end
    from seen s
    cross join lateral (
      select coalesce(s.failed, 0) - old.checked_failed > old.failure_share * (s.settled - old.checked_settled)
        -- Where nothing is left to send, nothing is left to stop.
        and exists (
          select from whatsapp.queue q
          where q.country_id = old.country_id and q.account_id = old.account_id and q.lane = whatsapp_internal.lane_of_campaign(old.campaign_id)
            and q.lease_id is null and q.unknown_until is null) as failing
      from whatsapp.campaigns old where old.country_id = s.country_id and old.campaign_id = s.campaign_id) f
    where c.country_id = s.country_id and c.campaign_id = s.campaign_id and c.campaign_id = any (p_running)
      and s.settled - c.checked_settled >= 200
    returning c.country_id, c.account_id, c.campaign_id, c.state
  )
  update whatsapp.lanes l set paused = true
  from judged j
  where j.state = 'paused' and l.country_id = j.country_id and l.account_id = j.account_id
    and l.lane = whatsapp_internal.lane_of_campaign(j.campaign_id);
end
$$;

-- Many small additions to one count become one.
create or replace function whatsapp_internal.fold_campaign_counts() returns void
language plpgsql volatile set search_path = ''
as $$
begin
  with sums as (
    select country_id, campaign_id, key, sum(n) as n, count(*) as parts, max(count_id) as last
    from whatsapp.campaign_counts group by 1, 2, 3 having count(*) > 20
  ),
  folded as (
    delete from whatsapp.campaign_counts k using sums s
    where k.country_id = s.country_id and k.campaign_id = s.campaign_id and k.key = s.key and k.count_id <= s.last
    returning k.country_id, k.campaign_id, k.key, k.n
  )
  insert into whatsapp.campaign_counts (country_id, campaign_id, key, n)
  select country_id, campaign_id, key, sum(n) from folded group by 1, 2, 3;
end
$$;


-- schemas/reading/clock.sql

-- The clock by which ids are made.
create or replace function whatsapp.clock() returns jsonb
language sql volatile security definer set search_path = ''
as $$ select jsonb_build_object('now', clock_timestamp()) $$;
comment on function whatsapp.clock is 'The time of this database: its ids begin with it, whatever the clocks of the functions say.';


-- schemas/reading/find_messages.sql

-- Messages by their ids alone, for the server: in each country by the key. Without a country Postgres would read the log from end to end.
create or replace function whatsapp.find_messages(p_ids uuid[]) returns jsonb
language sql stable security definer set search_path = ''
as $$
  select coalesce(jsonb_agg(to_jsonb(m) - 'content'), '[]')
  from (select distinct a.country_id from whatsapp.accounts a) c
  cross join unnest(p_ids) as i (message_id)
  cross join lateral (
    select m.* from whatsapp.messages m where m.country_id = c.country_id and m.message_id = i.message_id limit 1
  ) m
$$;
comment on function whatsapp.find_messages is 'The messages with these ids, of all countries, without their content. What a member may see is read from the table.';


-- schemas/reading/message_story.sql

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


-- schemas/version.sql

-- The version of this schema, by which the functions know whether the database is the one they were written for. It goes up by one with each
-- release that changes anything here.
create or replace function whatsapp.schema_version() returns integer
language sql immutable security invoker set search_path = ''
as $$ select 1 $$;
comment on function whatsapp.schema_version is 'The version of the schema: what a release raises when it brings a migration.';


-- schemas/cron.sql

-- The clock: where pg_cron, pg_net and Vault are to be had (hosted Supabase), two jobs call our functions. Elsewhere this file does nothing but say
-- so, and any other scheduler can POST to the same addresses with a secret key. Nothing here may fail: a schedule is not worth a migration.
--
-- The address and the key come from Vault at each tick, so they can be changed without a migration. Until they are set, a tick does nothing:
--   select vault.create_secret('https://functions.example.com/functions/v1', 'whatsapp_functions_url');
--   select vault.create_secret('sb_secret_…', 'whatsapp_cron_key');
--
-- pg_net sends and forgets: a tick may be lost, doubled or overlap the one before. queue-drain is safe under all three.

do $$
begin
  create extension if not exists pg_cron;
  create extension if not exists pg_net with schema extensions;
  create extension if not exists supabase_vault;

  execute $sql$
    create or replace function whatsapp_internal.call_function(p_name text) returns void
    language sql volatile security definer set search_path = ''
    as $body$
      select net.http_post(
        url := address.decrypted_secret || '/' || p_name,
        body := '{}'::jsonb,
        headers := jsonb_build_object('Content-Type', 'application/json', 'apikey', key.decrypted_secret),
        timeout_milliseconds := 60000)
      from vault.decrypted_secrets address, vault.decrypted_secrets key
      where address.name = 'whatsapp_functions_url' and key.name = 'whatsapp_cron_key'
    $body$
  $sql$;

  begin
    perform cron.schedule('whatsapp-queue-drain', '15 seconds', $job$ select whatsapp_internal.call_function('queue-drain') $job$);
  exception when others then
    -- Seconds are known to pg_cron from 1.5 on.
    perform cron.schedule('whatsapp-queue-drain', '* * * * *', $job$ select whatsapp_internal.call_function('queue-drain') $job$);
    raise warning 'queue-drain is called once a minute only: %', sqlerrm;
  end;
  perform cron.schedule('whatsapp-templates-sync', '*/15 * * * *', $job$ select whatsapp_internal.call_function('templates-sync') $job$);
  perform cron.schedule('whatsapp-cron-history', '7 3 * * *',
    $job$ delete from cron.job_run_details where end_time < now() - interval '3 days' $job$);
exception when others then
  raise warning 'nothing is scheduled: call queue-drain and templates-sync by other means (%)', sqlerrm;
end
$$;


-- schemas/planner.sql

-- How the verbs are planned; run after them, as replacing a function forgets its settings.
--
-- Every lookup of a verb is by a full key, so plans that read whole tables are switched off and the plan made first is kept: it is right however
-- large the tables are and whatever statistics say. What a verb calls runs under its settings.

do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select oid from pg_catalog.pg_proc
    where pronamespace = 'whatsapp'::regnamespace
      and proname in ('enqueue', 'claim', 'settle', 'ingest', 'enqueue_campaign', 'record_consents')
  loop
    execute format(
      'alter function %s set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set join_collapse_limit = 1
        set jit = off set plan_cache_mode = force_generic_plan', v_function);
  end loop;
  -- These have no plans worth keeping, only lookups to hold to their indexes.
  alter function whatsapp.announce(jsonb[]) set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off;
  alter function whatsapp_internal.sweep_old(integer, interval) set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off;
  alter function whatsapp_internal.forget_messages(integer) set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off;
  alter function whatsapp_internal.sweep_parked(integer)
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set join_collapse_limit = 1;
end
$$;


-- schemas/privileges.sql

-- Who may see and do what: the last file, and the end of every migration.
--
-- A signed-in member reads the rows of their countries. Nobody writes a table through the API: the verbs do (they run as their owner), and only
-- service_role may execute them. Accounts and members are kept by the project's owner in SQL. Tables that concern no reader (keys, leases,
-- throttles, raw webhooks) have row level security and no policy.
--
-- All is taken from everybody first, as the catalogue lists it, and then granted: whatever is not named here gives nothing, whatever the project's
-- default privileges are. (Default privileges of our own could not do that: those of a schema only add to those of the role, which hold for
-- the project's other schemas as well.)

revoke all on schema whatsapp, whatsapp_internal from public, anon, authenticated, service_role;
revoke all on all tables in schema whatsapp, whatsapp_internal from public, anon, authenticated, service_role;
revoke all on all sequences in schema whatsapp, whatsapp_internal from public, anon, authenticated, service_role;
revoke all on all functions in schema whatsapp, whatsapp_internal from public, anon, authenticated, service_role;

grant usage on schema whatsapp to anon, authenticated, service_role;
grant usage on schema whatsapp_internal to authenticated;

-- The server reads every table and executes every verb.
grant select on all tables in schema whatsapp to service_role;
grant execute on all functions in schema whatsapp to service_role;

-- What policies ask, and a read that runs as its caller: row level security decides.
grant execute on function whatsapp_internal.my_countries() to authenticated;
grant execute on function whatsapp.campaign_progress(text, uuid) to authenticated;
grant select on whatsapp.message_story to authenticated;

do $$
declare
  v_table regclass;
begin
  -- Only where it is missing: it takes the whole table for a moment.
  for v_table in
    select oid from pg_catalog.pg_class
    where relnamespace in ('whatsapp'::regnamespace, 'whatsapp_internal'::regnamespace) and relkind in ('r', 'p') and not relrowsecurity
  loop
    execute format('alter table %s enable row level security', v_table);
  end loop;

  foreach v_table in array array[
    'whatsapp.accounts', 'whatsapp.contacts', 'whatsapp.consents', 'whatsapp.stop_words', 'whatsapp.conversations', 'whatsapp.templates',
    'whatsapp.messages', 'whatsapp.message_events', 'whatsapp.queue', 'whatsapp.lanes', 'whatsapp.campaigns', 'whatsapp.campaign_counts',
    'whatsapp.campaign_people']::regclass[]
  loop
    execute format('grant select on %s to authenticated', v_table);
    if not exists (select from pg_catalog.pg_policy where polrelid = v_table and polname = 'members_read') then
      execute format(
        'create policy members_read on %s for select to authenticated
           using (country_id = any (array(select whatsapp_internal.my_countries())))', v_table);
    end if;
  end loop;

  grant select on whatsapp.members to authenticated;
  if not exists (select from pg_catalog.pg_policy where polrelid = 'whatsapp.members'::regclass and polname = 'own_memberships') then
    create policy own_memberships on whatsapp.members for select to authenticated using (user_id = (select auth.uid()));
  end if;
end
$$;
