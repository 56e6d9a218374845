-- sync_templates: make our copy of one account's templates what Meta's listing says. What a complete listing lacks, Meta has removed.
--
--   p_templates  jsonb[]  {name, language, status, category, parameter_format?, components?, contract?, quality?, reason?}
--   p_complete   false: part of the listing could not be read, so nothing is removed
--   returns      jsonb    {"stored": n, "removed": n}
--
-- Safe to repeat. Not one of the five verbs: it moves no message, it only refreshes what the gates look at.

create or replace function whatsapp.sync_templates(p_country text, p_account text, p_templates jsonb[], p_complete boolean default true) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_stored integer;
  v_removed integer;
begin
  if not exists (select from whatsapp.accounts where country_id = p_country and account_id = p_account) then
    raise sqlstate 'PT404' using message = 'no such account', hint = 'Insert a row into whatsapp.accounts first.';
  end if;

  insert into whatsapp.templates as t (
    country_id, account_id, name, language, status, category, parameter_format, components, contract, quality, reason)
  select distinct on (r.name, r.language)
    p_country, p_account, r.name, r.language, coalesce(r.status, 'UNKNOWN'), coalesce(r.category, 'UNKNOWN'), r.parameter_format, r.components,
    r.contract, r.quality, r.reason
  from unnest(p_templates) i,
    jsonb_to_record(i) as r (
      name text, language text, status text, category text, parameter_format text, components jsonb, contract jsonb, quality text, reason text)
  where r.name is not null and r.language is not null
  order by r.name, r.language
  on conflict (country_id, account_id, name, language) do update
  set status_at = case when t.status <> excluded.status then now() else t.status_at end, status = excluded.status, category = excluded.category, parameter_format = excluded.parameter_format,
    components = excluded.components, contract = excluded.contract, quality = excluded.quality, reason = excluded.reason, synced_at = now();
  get diagnostics v_stored = row_count;

  delete from whatsapp.templates t
  where p_complete and t.country_id = p_country and t.account_id = p_account and not exists (
    select from unnest(p_templates) i where i ->> 'name' = t.name and i ->> 'language' = t.language);
  get diagnostics v_removed = row_count;

  return jsonb_build_object('stored', v_stored, 'removed', v_removed);
end
$$;
comment on function whatsapp.sync_templates is 'Makes the copy of an account''s templates what Meta lists now. Safe to repeat.';
revoke all on function whatsapp.sync_templates(text, text, jsonb[], boolean) from public, anon, authenticated;
grant execute on function whatsapp.sync_templates(text, text, jsonb[], boolean) to service_role;

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
revoke all on function whatsapp.template_contract(text, text, text, text) from public, anon, authenticated;
grant execute on function whatsapp.template_contract(text, text, text, text) to service_role;

-- sync_number: what Meta says of one account's number, beside its templates.
--
--   p_number  jsonb[]  one {messaging_limit?, throughput?, coexistence?, quality?}, in Meta's words: TIER_2K, STANDARD or HIGH, true, GREEN
--   returns   jsonb    {"messaging_limit", "messages_per_second", "quality"} as they are now
--
-- The rate only follows Meta where it was Meta's: it falls to what Meta grants, rises to HIGH from the standard, and from the 20 of coexistence
-- with the WhatsApp Business app once Meta says that it has ended; never over a rate that was set lower on purpose. Source: M:throughput.
create or replace function whatsapp.sync_number(p_country text, p_account text, p_number jsonb[]) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_limit integer := whatsapp_internal.people_of_tier(p_number[1] ->> 'messaging_limit');
  v_number jsonb;
begin
  update whatsapp.accounts a
  set messaging_limit = coalesce(v_limit, a.messaging_limit), coexistence = coalesce((p_number[1] ->> 'coexistence')::boolean, a.coexistence),
    quality = coalesce(p_number[1] ->> 'quality', a.quality),
    messages_per_second = case
      when coalesce((p_number[1] ->> 'coexistence')::boolean, a.coexistence) then least(a.messages_per_second, 20)
      when p_number[1] ->> 'throughput' = 'STANDARD' then least(r.rate, 80)
      when p_number[1] ->> 'throughput' = 'HIGH' and r.rate = 80 then 1000
      else r.rate
    end
  from (
    select o.country_id, o.account_id, case when o.coexistence and o.messages_per_second = 20 then 80 else o.messages_per_second end as rate
    from whatsapp.accounts o where o.country_id = p_country and o.account_id = p_account
    for no key update
  ) r
  where a.country_id = r.country_id and a.account_id = r.account_id
  returning jsonb_build_object(
    'messaging_limit', a.messaging_limit, 'messages_per_second', a.messages_per_second, 'quality', a.quality) into v_number;
  if v_number is null then
    raise sqlstate 'PT404' using message = 'no such account', hint = 'Insert a row into whatsapp.accounts first.';
  end if;
  return v_number;
end
$$;
comment on function whatsapp.sync_number is 'Takes over what Meta grants a number: messaging limit, throughput, quality. Safe to repeat.';
revoke all on function whatsapp.sync_number(text, text, jsonb[]) from public, anon, authenticated;
grant execute on function whatsapp.sync_number(text, text, jsonb[]) to service_role;
