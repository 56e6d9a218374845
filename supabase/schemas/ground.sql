-- The ground: two schemas and the few pure functions everything else stands on.
--
-- `whatsapp` is exposed by the Data API: tables that members read under row level security, and the five verbs that
-- only `service_role` may call. `whatsapp_internal` is never exposed: helpers of the verbs and of the policies.
--
-- House rules of this folder
--   * `country_id` leads every primary key, unique key, foreign key and hot index. The database itself refuses a row that
--     points across countries, and a country can move to a project of its own.
--   * No Meta id and no token is ever stored: they live in the environment, keyed by (country_id, account_id).
--   * Every object is revoked from everybody and then granted precisely, whatever the project's default privileges are.
--   * Errors for callers are raised as PTnnn only. Everything runs on Postgres 16, 17 and 18.

create schema if not exists whatsapp;
create schema if not exists whatsapp_internal;

comment on schema whatsapp is 'WhatsApp messaging: the log, the queue and the five verbs (enqueue, claim, settle, ingest, sweep).';
comment on schema whatsapp_internal is 'Helpers of schema whatsapp. Never exposed by the Data API.';

revoke all on schema whatsapp, whatsapp_internal from public;
grant usage on schema whatsapp to anon, authenticated, service_role;
grant usage on schema whatsapp_internal to authenticated;

-- Time-ordered ids (RFC 9562, version 7), with the microseconds in the twelve bits after the version so that ids made
-- one after the other in one transaction sort in the order they were made. Postgres has its own only from 18 on.
-- One expression that names its argument once, so that it is inlined: made for every row of a campaign.
create or replace function whatsapp_internal.uuid7(at timestamptz default clock_timestamp()) returns uuid
language sql volatile parallel safe
return (
  overlay(lpad(to_hex(floor(extract(epoch from at) * 4096000)::bigint), 15, '0') placing '7' from 13 for 0)
  || right(gen_random_uuid()::text, 17)
)::uuid;

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

revoke all on all functions in schema whatsapp_internal from public, anon, authenticated, service_role;
