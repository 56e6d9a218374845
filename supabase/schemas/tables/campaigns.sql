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
