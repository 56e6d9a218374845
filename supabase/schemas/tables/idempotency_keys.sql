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
