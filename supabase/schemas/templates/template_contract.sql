-- The contract of one template, for the check before a message is enqueued; null where the template or its contract is not known
-- (the gates then have the word). Without an account, the country's default.
create or replace function whatsapp.template_contract(p_country text, p_account text, p_name text, p_language text) returns jsonb
language sql stable security definer set search_path = ''
as $$
  select t.contract
  from whatsapp.accounts a
  join whatsapp.templates t on t.country_id = a.country_id and t.account_id = a.account_id
  where a.country_id = p_country and (a.account_id = p_account or (p_account is null and a.is_default))
    and t.name = p_name and t.language = p_language
$$;
