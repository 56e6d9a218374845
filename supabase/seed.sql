-- Development data: an account in each of two countries. Their Meta ids and tokens are in the environment (.env.example).
insert into whatsapp.accounts (country_id, account_id, display_name, is_default, time_zone) values
  ('MX', 'main', 'México', true, 'America/Mexico_City'),
  ('CO', 'main', 'Colombia', true, 'America/Bogota')
on conflict do nothing;
