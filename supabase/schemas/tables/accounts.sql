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
