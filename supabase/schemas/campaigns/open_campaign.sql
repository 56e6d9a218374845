-- The campaign that this key opens or has opened: the same for the same key. Null if the key was used for something else.
create or replace function whatsapp_internal.campaign_of_key(p_country text, p_key text, p_fingerprint text) returns uuid
language plpgsql volatile set search_path = ''
as $$
declare
  v_key whatsapp.idempotency_keys;
begin
  insert into whatsapp.idempotency_keys (country_id, scope, key, fingerprint, answer)
  values (p_country, 'campaign', p_key, p_fingerprint, jsonb_build_object('campaign_id', whatsapp_internal.uuid7()))
  on conflict do nothing;
  select * into v_key from whatsapp.idempotency_keys k where k.country_id = p_country and k.scope = 'campaign' and k.key = p_key;
  return case when v_key.fingerprint = p_fingerprint then (v_key.answer ->> 'campaign_id')::uuid end;
end
$$;

--   p_campaign  {country_id, actor?, campaign_id} to append, or {country_id, actor?, account_id?, name, template_name, template_language,
--               send_at?, valid_until?, draft?, key, fingerprint} for a new one
--   returns     {campaign_id, account_id, state, template_name, template_language, contract}  or  {code, field}
create or replace function whatsapp.open_campaign(p_campaign jsonb[]) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_in record;
  v_account whatsapp.accounts;
  v_template whatsapp.templates;
  v_campaign whatsapp.campaigns;
  v_code text;
begin
  select * into v_in from jsonb_to_record(p_campaign[1]) as r (
    country_id text, actor uuid, campaign_id uuid, account_id text, name text, template_name text, template_language text, send_at timestamptz,
    valid_until timestamptz, draft boolean, key text, fingerprint text);

  v_code := whatsapp_internal.refuse_actor(v_in.country_id, v_in.actor);
  if v_code is not null then
    return jsonb_build_object('code', v_code, 'field', 'country_id');
  end if;

  if v_in.campaign_id is null then
    select a.* into v_account from whatsapp.accounts a
    where a.country_id = v_in.country_id and (a.account_id = v_in.account_id or (v_in.account_id is null and a.is_default));
    if not found then
      return whatsapp_internal.refuse_account(v_in.country_id, v_in.account_id);
    end if;

    v_in.campaign_id := whatsapp_internal.campaign_of_key(v_in.country_id, v_in.key, v_in.fingerprint);
    if v_in.campaign_id is null then
      return jsonb_build_object('code', 'idempotency_key_reused', 'field', 'Idempotency-Key');
    end if;
  end if;

  select * into v_campaign from whatsapp.campaigns c
  where c.country_id = v_in.country_id and c.campaign_id = v_in.campaign_id for no key update;
  if not found and v_account.account_id is null then
    return jsonb_build_object('code', 'unknown_campaign', 'field', 'campaign_id');
  end if;

  select t.* into v_template from whatsapp.templates t
  where t.country_id = v_in.country_id and t.account_id = coalesce(v_campaign.account_id, v_account.account_id)
    and t.name = coalesce(v_campaign.template_name, v_in.template_name)
    and t.language = coalesce(v_campaign.template_language, v_in.template_language);
  v_code := case
    -- A repeated opening gets its old answer, whatever the template has become since.
    when v_campaign.campaign_id is not null and v_account.account_id is not null then null
    when v_account.state in ('stopped', 'disabled') then 'account_' || v_account.state
    when v_template.name is null then 'template_unknown'
    when v_template.status = 'PAUSED' and v_campaign.campaign_id is null then 'template_paused'
    when v_template.status not in ('APPROVED', 'PAUSED') then 'template_not_approved'
  end;
  if v_code is not null then
    -- Nothing was made: the key may be used again.
    delete from whatsapp.idempotency_keys k
    where v_campaign.campaign_id is null and k.country_id = v_in.country_id and k.scope = 'campaign' and k.key = v_in.key;
    return jsonb_build_object('code', v_code, 'field', case when v_code like 'account%' then 'account' else 'template' end);
  end if;

  if v_campaign.campaign_id is null then
    insert into whatsapp.campaigns (
      country_id, campaign_id, account_id, name, template_name, template_language, state, send_at, valid_until, created_by)
    values (
      v_in.country_id, v_in.campaign_id, v_account.account_id, v_in.name, v_in.template_name, v_in.template_language,
      case when v_in.draft then 'draft' when v_in.send_at > now() then 'scheduled' else 'running' end, v_in.send_at, v_in.valid_until, v_in.actor)
    returning * into v_campaign;
    insert into whatsapp.lanes (country_id, account_id, lane, priority, paused)
    values (
      v_campaign.country_id, v_campaign.account_id, whatsapp_internal.lane_of_campaign(v_campaign.campaign_id), 2, v_campaign.state = 'draft');
  end if;

  return jsonb_build_object(
    'campaign_id', v_campaign.campaign_id, 'account_id', v_campaign.account_id, 'state', v_campaign.state,
    'template_name', v_campaign.template_name, 'template_language', v_campaign.template_language, 'contract', v_template.contract);
end
$$;
