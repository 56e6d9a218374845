create table whatsapp.members (
  country_id text not null check (country_id ~ '^[A-Z]{2}$'),
  user_id uuid not null,
  role text not null check (role in ('viewer', 'operator', 'admin')),
  created_at timestamptz not null default now(),
  primary key (country_id, user_id)
);
create index members_by_user on whatsapp.members (user_id);
comment on table whatsapp.members is 'Which user works for which country. A table and not a claim: taking the row away works at once.';
