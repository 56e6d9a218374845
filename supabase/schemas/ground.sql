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
