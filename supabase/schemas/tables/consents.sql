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
