-- The tables. Who is who: accounts, members, contacts, conversations, templates. What happened: messages (one row a message,
-- current state and the time of each state), message_events (append-only, everything that happened to a message),
-- webhook_events (every event once). What still has to be sent: queue, lanes, leases, throttles.
--
-- One lock order holds for everything that changes a row:
--
--   webhook_events, messages, queue, contacts, conversations, idempotency_keys, templates, accounts, campaigns, lanes, throttles
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
--   * A mutable column stands in no unique index but a partial one: changing it would be a change of key, for which every new reference waits.
--
-- The key of a large table comes after its other indexes. They all begin with the country, and where statistics are missing or say that a table is
-- empty, each seems as good as the key to find one row by: of equals Postgres takes the youngest.
--
-- Hot rows (messages, queue, conversations) keep free space in their pages and no mutable column in an index, so that
-- an update stays on its page (HOT) and writes no index entry.

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

create table whatsapp.members (
  country_id text not null check (country_id ~ '^[A-Z]{2}$'),
  user_id uuid not null,
  role text not null check (role in ('viewer', 'operator', 'admin')),
  created_at timestamptz not null default now(),
  primary key (country_id, user_id)
);
create index members_by_user on whatsapp.members (user_id);
comment on table whatsapp.members is 'Which user works for which country. A table and not a claim: taking the row away works at once.';

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
  foreign key (country_id, account_id, contact_id) references whatsapp.conversations (country_id, account_id, contact_id)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
create unique index messages_by_wamid on whatsapp.messages (country_id, account_id, wamid) where wamid is not null;
create index messages_by_contact on whatsapp.messages (country_id, account_id, contact_id, message_id);
create index messages_by_ref on whatsapp.messages (country_id, ref, message_id) where ref is not null;
create index messages_inbound on whatsapp.messages (country_id, message_id) where direction = 'inbound';
alter table whatsapp.messages add primary key (country_id, message_id);
comment on table whatsapp.messages is 'The message log, inbound and outbound: one row a message, its state now and the time of each state.';
comment on column whatsapp.messages.message_id is 'Ours. Goes to Meta as biz_opaque_callback_data and comes back with every status webhook.';
comment on column whatsapp.messages.content is 'Meta''s own message object: {"type": …, "<type>": {…}}.';
comment on column whatsapp.messages.refusal is 'Why a gate refused it, as one of the codes of docs/whatsapp.md.';

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

create table whatsapp.lanes (
  country_id text not null,
  account_id text not null,
  lane text not null,
  priority smallint not null,
  paused boolean not null default false,
  held_until timestamptz,
  held_reason text,
  served_at timestamptz not null default '-infinity',
  primary key (country_id, account_id, lane),
  foreign key (country_id, account_id) references whatsapp.accounts (country_id, account_id)
) with (fillfactor = 50);
comment on table whatsapp.lanes is 'The queue''s lanes: replies (0) before utility (1) before marketing (2); lanes of one priority take turns.';
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
comment on column whatsapp.queue.held_reason is 'A single message that waits until run_at for Meta''s messaging limit or for the end of quiet hours, or until sweep finds that it need not (portfolio.sql).';
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
  feed_since timestamptz not null default now(),
  swept_at timestamptz not null default now(),
  primary key (country_id, account_id),
  foreign key (country_id, account_id) references whatsapp.accounts (country_id, account_id)
) with (fillfactor = 50);
comment on table whatsapp.throttles is 'The hot row of a number. Whoever claims for the number holds it, so ten drainers together keep one number''s rate.';
comment on column whatsapp.throttles.next_slot_at is 'The next free slot of the token bucket: claims hand out slots slot_step apart; inbound messages use slots too.';
comment on column whatsapp.throttles.paced_at is 'When the two before were last moved. A clock that shows less has been moved back, and they are moved back with it.';
comment on column whatsapp.throttles.webhook_seen_at is 'When a webhook of this number last came, to the second.';
comment on column whatsapp.throttles.feed_since is 'Since when no gap is known in which its webhooks may have been missed: see sweep''s job unknowns.';
comment on column whatsapp.throttles.swept_at is 'Our own heartbeat: when sweep last looked at it. A long time ago means that we were away.';
comment on column whatsapp.throttles.next_overtake_at is 'Replies that went before slots already handed out: a tenth of the rate at the most, by a bucket of half a second.';

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

create table whatsapp.idempotency_keys (
  country_id text not null,
  scope text not null default 'send' check (scope in ('send', 'campaign', 'recipients', 'consents')),
  key text not null check (length(key) between 1 and 255),
  fingerprint text not null,
  message_id uuid not null,
  created_at timestamptz not null default now(),
  primary key (country_id, scope, key)
);
create index idempotency_keys_age on whatsapp.idempotency_keys (created_at);
comment on table whatsapp.idempotency_keys is 'A caller''s Idempotency-Key and the message it made. The same key with another body is refused.';
comment on column whatsapp.idempotency_keys.scope is 'What it is a key of: functions do not share keys, nor does a campaign''s opening with its chunks of recipients.';

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
revoke all on function whatsapp_internal.hold_countries(text[], boolean) from public, anon, authenticated, service_role;
revoke all on function whatsapp_internal.hold_contacts(text[], uuid[]) from public, anon, authenticated, service_role;
