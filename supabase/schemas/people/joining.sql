-- Two rows are one person: everything of the one goes to the other, which is then judged, paced and shown as one. A message in flight keeps its
-- lease. The names are the caller's to set.
create or replace function whatsapp_internal.join_contacts(p_country text, p_into uuid, p_from uuid) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  perform whatsapp_internal.lock_messages(array[p_country], array[p_from], array[true], '{}');
  perform whatsapp_internal.lock_contacts(array[p_country, p_country], array[p_from, p_into]);

  insert into whatsapp.conversations as v (
    country_id, account_id, contact_id, window_until, entry_point_until, last_inbound_at, last_message_at, pair_next_at, sending_until)
  select country_id, account_id, p_into, window_until, entry_point_until, last_inbound_at, last_message_at, pair_next_at, sending_until
  from whatsapp.conversations o where o.country_id = p_country and o.contact_id = p_from
  on conflict (country_id, account_id, contact_id) do update
  set window_until = greatest(v.window_until, excluded.window_until),
    entry_point_until = greatest(v.entry_point_until, excluded.entry_point_until),
    last_inbound_at = greatest(v.last_inbound_at, excluded.last_inbound_at),
    last_message_at = greatest(v.last_message_at, excluded.last_message_at),
    pair_next_at = greatest(v.pair_next_at, excluded.pair_next_at), sending_until = greatest(v.sending_until, excluded.sending_until);

  perform whatsapp_internal.join_campaigns(p_country, p_into, p_from);
  update whatsapp.messages m set contact_id = p_into
  from whatsapp.conversations o
  where o.country_id = p_country and o.contact_id = p_from
    and m.country_id = p_country and m.account_id = o.account_id and m.contact_id = p_from;
  update whatsapp.queue q set contact_id = p_into
  from whatsapp.conversations o
  where o.country_id = p_country and o.contact_id = p_from
    and q.country_id = p_country and q.account_id = o.account_id and q.contact_id = p_from;
  delete from whatsapp.conversations o where o.country_id = p_country and o.contact_id = p_from;

  update whatsapp.consents k set contact_id = p_into where k.country_id = p_country and k.contact_id = p_from;
  insert into whatsapp.former_names as f (country_id, name, contact_id, until, bsuid)
  select country_id, name, p_into, until, bsuid from whatsapp.former_names o where o.country_id = p_country and o.contact_id = p_from
  on conflict (country_id, name, contact_id) do update
  set until = greatest(f.until, excluded.until), bsuid = coalesce(excluded.bsuid, f.bsuid);
  delete from whatsapp.former_names f where f.country_id = p_country and f.contact_id = p_from;

  update whatsapp.contacts n
  set name = coalesce(n.name, o.name), username = coalesce(n.username, o.username), parent_bsuid = coalesce(n.parent_bsuid, o.parent_bsuid),
    identity_key_hash = coalesce(n.identity_key_hash, o.identity_key_hash), opted_in_at = greatest(n.opted_in_at, o.opted_in_at),
    opted_out_at = greatest(n.opted_out_at, o.opted_out_at),
    marketing_opted_out_at = greatest(n.marketing_opted_out_at, o.marketing_opted_out_at),
    marketing_cooled_until = greatest(n.marketing_cooled_until, o.marketing_cooled_until)
  from whatsapp.contacts o
  where o.country_id = p_country and o.contact_id = p_from and n.country_id = p_country and n.contact_id = p_into;
  perform whatsapp_internal.stand(array[p_country], array[p_into]);
  update whatsapp.contacts c
  set merged_into = p_into, phone = null, wa_id = null, match_key = null, bsuid = null, bound_at = null, opted_in_at = null,
    opted_out_at = null, marketing_opted_out_at = null, marketing_cooled_until = null
  where c.country_id = p_country and c.contact_id = p_from;
  update whatsapp.contacts c set merged_into = p_into where c.country_id = p_country and c.merged_into = p_from;
end
$$;

-- A person gets one message of a campaign. Of two that both rows have, one that still waits is refused; what is on its way or was sent stays, and
-- the later of two sent is marked as the campaign's second.
create or replace function whatsapp_internal.join_campaigns(p_country text, p_into uuid, p_from uuid) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_again uuid[];
  v_waiting uuid[];
begin
  with theirs as materialized (
    select m.campaign_id, m.message_id, m.state
    from whatsapp.conversations o
    cross join lateral (
      select m.* from whatsapp.messages m
      where m.country_id = o.country_id and m.account_id = o.account_id and m.contact_id = o.contact_id
        and m.campaign_id is not null and m.campaign_again is null
      offset 0
    ) m
    where o.country_id = p_country and o.contact_id = p_from
  ),
  ours as materialized (
    select m.campaign_id, m.message_id, m.state
    from theirs t
    cross join lateral (
      select p.message_id from whatsapp.campaign_people p
      where p.country_id = p_country and p.campaign_id = t.campaign_id and p.contact_id = p_into limit 1
    ) p
    cross join lateral (
      select m.* from whatsapp.messages m where m.country_id = p_country and m.message_id = p.message_id limit 1
    ) m
  ),
  ranked as materialized (
    select m.campaign_id, m.message_id, w.waits, row_number() over (
        partition by m.campaign_id
        -- Which of the two goes or went: what has left before what waits, and that before what never will.
        order by case when m.state in ('refused', 'cancelled', 'expired') then 2 when w.waits then 1 else 0 end, m.message_id) as n
    from (select * from theirs union all select * from ours) m
    cross join lateral (
      select exists (
        select from whatsapp.queue q
        where q.country_id = p_country and q.message_id = m.message_id and q.lease_id is null and q.unknown_until is null) as waits
    ) w
  ),
  moved as (
    insert into whatsapp.campaign_people as p (country_id, campaign_id, contact_id, message_id)
    select p_country, campaign_id, p_into, message_id from ranked where n = 1
    order by campaign_id
    on conflict (country_id, campaign_id, contact_id) do update set message_id = excluded.message_id
  ),
  gone as (
    delete from whatsapp.campaign_people p using theirs t
    where p.country_id = p_country and p.campaign_id = t.campaign_id and p.contact_id = p_from
  )
  select array_agg(message_id), array_agg(message_id) filter (where waits) into v_again, v_waiting from ranked where n > 1;

  if v_again is not null then
    update whatsapp.messages m set campaign_again = true where m.country_id = p_country and m.message_id = any (v_again);
  end if;
  if v_waiting is not null then
    perform whatsapp_internal.refuse_claimed(p_country, v_waiting, array_fill('duplicate_recipient'::text, array[cardinality(v_waiting)]));
  end if;
end
$$;
