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
