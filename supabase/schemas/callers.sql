-- Who calls, what they may, and what they were answered before.

-- The countries of the caller. Security definer because members itself is protected; run once per statement by the policies.
create or replace function whatsapp_internal.my_countries() returns setof text
language sql stable security definer parallel safe set search_path = ''
as $$
  select country_id from whatsapp.members where user_id = (select auth.uid())
$$;

-- Why a user may not run the country's campaigns, or nothing. Without a user the caller is a trusted server.
create or replace function whatsapp_internal.refuse_actor(p_country text, p_actor uuid) returns text
language sql stable set search_path = ''
as $$
  select case
    when p_actor is null then null
    when m.role is null then 'not_a_member'
    when m.role not in ('operator', 'admin') then 'role_too_low'
  end
  from (select 1) one
  left join whatsapp.members m on m.country_id = p_country and m.user_id = p_actor
$$;

-- Why there is no such account, or no default one where none was named.
create or replace function whatsapp_internal.refuse_account(p_country text, p_account text) returns jsonb
language sql stable set search_path = ''
as $$
  select jsonb_build_object('field', 'account', 'code', case
    when not exists (select from whatsapp.accounts a where a.country_id = p_country) then 'unknown_country'
    when p_account is null then 'no_default_account'
    else 'no_such_account'
  end)
$$;

-- A key of a bulk call: null if it is new and taken now, else what it was answered, or that it was used for something else. Of two calls with one
-- key the second waits here for the first.
create or replace function whatsapp_internal.answer_of_key(p_country text, p_scope text, p_key text, p_fingerprint text) returns jsonb
language plpgsql volatile set search_path = ''
as $$
declare
  v_key whatsapp.idempotency_keys;
begin
  insert into whatsapp.idempotency_keys (country_id, scope, key, fingerprint) values (p_country, p_scope, p_key, p_fingerprint)
  on conflict do nothing;
  if found then
    return null;
  end if;
  select * into v_key from whatsapp.idempotency_keys k where k.country_id = p_country and k.scope = p_scope and k.key = p_key;
  return case when v_key.fingerprint = p_fingerprint and v_key.answer is not null then v_key.answer
    else jsonb_build_object('code', 'idempotency_key_reused', 'field', 'Idempotency-Key') end;
end
$$;
