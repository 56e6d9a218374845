create table whatsapp.retention (
  country_id text primary key check (country_id ~ '^[A-Z]{2}$'),
  keep interval not null check (keep >= interval '31 days')
);
comment on table whatsapp.retention is 'How long a country keeps its messages with their stories; without a row, for ever. Kept by the project''s owner in SQL.';
comment on column whatsapp.retention.keep is 'At least 31 days: Meta may still tell of a message after 30.';
