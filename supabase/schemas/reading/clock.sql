-- The clock by which ids are made.
create or replace function whatsapp.clock() returns jsonb
language sql volatile security definer set search_path = ''
as $$ select jsonb_build_object('now', clock_timestamp()) $$;
comment on function whatsapp.clock is 'The time of this database: its ids begin with it, whatever the clocks of the functions say.';
