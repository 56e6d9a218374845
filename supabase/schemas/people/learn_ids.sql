-- Meta's answer may tell the WhatsApp id or BSUID of a person whose number we dialled. The acceptance it came with matters more: so this waits for
-- nobody, and whatever goes wrong here is left to the status that follows, which names both. Where two people turn out to be one they are joined.
-- A row whose number has changed since is told nothing: the answer speaks of the old one.
create or replace function whatsapp_internal.learn_ids(p_results whatsapp_internal.result[]) returns void
language plpgsql volatile set search_path = '' set lock_timeout = '100ms'
as $$
declare
  v_people whatsapp_internal.person[];
begin
  select array_agg(row(
      c.country_id, r.account_id, now(), false, false, c.match_key, case when c.bsuid is null then r.user_id end, r.wa_id, null, null, null, null,
      null, null)::whatsapp_internal.person)
  into v_people
  from (
    select distinct on (country_id, contact_id) country_id, account_id, contact_id, wa_id, user_id from unnest(p_results)
    where outcome = 'accepted' and (wa_id is not null or user_id is not null)
    order by country_id, contact_id
  ) r
  cross join lateral (
    select c.* from whatsapp.contacts c where c.country_id = r.country_id and c.contact_id = r.contact_id limit 1) c
  where c.phone is not null and c.match_key is not null and (c.wa_id is null or r.wa_id is null or c.wa_id = r.wa_id)
    and ((c.wa_id is null and r.wa_id is not null) or (c.bsuid is null and r.user_id is not null));
  if v_people is null then
    return;
  end if;
  -- Whoever joins people has their country alone; here that is taken if nobody else is at work in it.
  if whatsapp_internal.in_question(v_people) is not null and exists (
    select from (select distinct p.country_id from unnest(v_people) p) c
    where not pg_try_advisory_xact_lock(hashtextextended('whatsapp.names ' || c.country_id, 0)))
  then
    return;
  end if;
  perform whatsapp_internal.meet_contacts(v_people);
exception when others then
  raise warning 'what an answer told of a person was not kept: %', sqlerrm;
end
$$;
