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
