--   p_account  null: the country's default
--   p_action   pause | resume
--   returns    {country_id, account, state, reason, code, since, paused_until, templates_paused_until}  or  {"code", "field"}
-- The one call after Meta's stop codes: the cause is cleared at Meta, a person says so here, and everything that waited goes on. Disabled
-- accounts are enabled where they were disabled: in SQL.
create or replace function whatsapp.control_account(p_country text, p_account text, p_action text, p_actor uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_account whatsapp.accounts;
  v_code text := whatsapp_internal.refuse_actor(p_country, p_actor);
begin
  if v_code is not null then
    return jsonb_build_object('code', v_code, 'field', 'country_id');
  end if;
  select * into v_account from whatsapp.accounts a
  where a.country_id = p_country and (a.account_id = p_account or (p_account is null and a.is_default)) for no key update;
  if not found then
    return whatsapp_internal.refuse_account(p_country, p_account);
  end if;
  if v_account.state = 'disabled' then
    return jsonb_build_object('field', 'account', 'code', 'account_disabled');
  end if;

  if p_action = 'resume' then
    update whatsapp.accounts a
    set state = 'active', state_reason = null, state_code = null, paused_until = null, templates_paused_until = null,
      state_since = case when a.state = 'active' then a.state_since else now() end
    where a.country_id = p_country and a.account_id = v_account.account_id returning * into v_account;
    -- Meta's complaints of before are settled with it.
    update whatsapp.throttles t set held_until = null where t.country_id = p_country and t.account_id = v_account.account_id;
  elsif v_account.state <> 'stopped' then
    update whatsapp.accounts a
    set state = 'paused', state_reason = 'by_a_person', state_code = null, paused_until = null, state_since = now()
    where a.country_id = p_country and a.account_id = v_account.account_id returning * into v_account;
  end if;
  return jsonb_build_object(
    'country_id', v_account.country_id, 'account', v_account.account_id, 'state', v_account.state, 'reason', v_account.state_reason,
    'code', v_account.state_code, 'since', v_account.state_since, 'paused_until', v_account.paused_until,
    'templates_paused_until', v_account.templates_paused_until);
end
$$;
