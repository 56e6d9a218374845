-- A campaign's counts, kept by one statement trigger on messages in the transaction of each change.

create or replace function whatsapp_internal.count_inserted() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  if not exists (select from added where campaign_id is not null) then
    return null;
  end if;
  insert into whatsapp.campaign_counts (country_id, campaign_id, key, n)
  select country_id, campaign_id, state, count(*) from added where campaign_id is not null group by 1, 2, 3;
  return null;
end
$$;

create or replace function whatsapp_internal.count_updated() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  if not exists (select from added where campaign_id is not null) then
    return null;
  end if;
  insert into whatsapp.campaign_counts (country_id, campaign_id, key, n)
  select m.country_id, m.campaign_id, k.key, sum(m.sign)
  from (
    select country_id, campaign_id, state, error_code, refusal, price, coalesce(delivered_at, read_at, played_at) as reached_at, 1 as sign
    from added where campaign_id is not null
    union all
    select country_id, campaign_id, state, error_code, refusal, price, coalesce(delivered_at, read_at, played_at), -1
    from removed where campaign_id is not null
  ) m
  cross join lateral (
    values (m.state),
      (case when m.state = 'failed' then 'failed:' || coalesce(m.error_code::text, 'unknown') end),
      (case when m.state in ('refused', 'expired') then 'refused:' || m.refusal end),
      -- Meta tells the price with the first status and charges on delivery: whichever of the two is known last counts it.
      (case when m.price ->> 'type' = 'regular' and m.reached_at is not null then 'cost:' || coalesce(m.price ->> 'category', 'unknown') end)
  ) k (key)
  where k.key is not null
  group by 1, 2, 3
  having sum(m.sign) <> 0;
  return null;
end
$$;
create or replace trigger campaign_inserted after insert on whatsapp.messages
  referencing new table as added for each statement execute function whatsapp_internal.count_inserted();
create or replace trigger campaign_updated after update on whatsapp.messages
  referencing old table as removed new table as added for each statement execute function whatsapp_internal.count_updated();
