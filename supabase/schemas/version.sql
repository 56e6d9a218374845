-- The version of this schema, by which the functions know whether the database is the one they were written for. It goes up by one with each
-- release that changes anything here.
create or replace function whatsapp.schema_version() returns integer
language sql immutable security invoker set search_path = ''
as $$ select 1 $$;
comment on function whatsapp.schema_version is 'The version of the schema: what a release raises when it brings a migration.';
