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
