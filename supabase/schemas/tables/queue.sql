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
