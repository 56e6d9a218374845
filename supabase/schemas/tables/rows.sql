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
