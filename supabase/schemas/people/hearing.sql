-- What a batch of events tells of people that is not known yet, and whether it is plain.

-- What a batch of events tells of people beyond what is known: null if nothing, as of nearly all statuses.
-- In plpgsql, as the two after it: an SQL function that is not inlined would be planned anew for each batch.
create or replace function whatsapp_internal.people_of(p_events jsonb[]) returns whatsapp_internal.person[]
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select array_agg(t.told order by (t.told).at)
    from (
      select row(
          i ->> 'country_id', i ->> 'account_id', whatsapp_internal.event_time((i ->> 'at')::double precision),
          i ->> 'kind' in ('message', 'call', 'preference') or coalesce(r.previous_match_key, r.previous_bsuid) is not null,
          coalesce(r.previous_match_key, r.previous_bsuid) is not null, r.match_key, r.bsuid, r.wa_id, r.name, r.username, r.parent_bsuid, r.identity_key_hash, r.previous_match_key,
          r.previous_bsuid)::whatsapp_internal.person as told
      from unnest(p_events) i
      cross join lateral jsonb_to_record(case jsonb_typeof(i -> 'contact') when 'object' then i -> 'contact' else '{}' end) as r (
        match_key text, bsuid text, wa_id text, name text, username text, parent_bsuid text, identity_key_hash text, previous_match_key text,
        previous_bsuid text)
      where i ->> 'kind' in ('message', 'call', 'preference', 'status', 'system') and coalesce(r.match_key, r.bsuid) is not null
    ) t
    left join lateral (
      select c.* from whatsapp.contacts c where c.country_id = (t.told).country_id and c.match_key = (t.told).match_key
      union all
      select c.* from whatsapp.contacts c
      where c.country_id = (t.told).country_id and c.bsuid = (t.told).bsuid and (t.told).match_key is null
      limit 1
    ) c on true
    left join lateral (
      select true as former from whatsapp.former_names f
      where f.country_id = (t.told).country_id and f.name = (t.told).match_key and f.until >= (t.told).at
      limit 1
    ) f on true
    where (t.told).changed or c.contact_id is null or f.former
      or (t.told).bsuid <> coalesce(c.bsuid, '') or (t.told).wa_id <> coalesce(c.wa_id, '') or (t.told).name <> coalesce(c.name, '')
      or (t.told).username <> coalesce(c.username, '') or (t.told).parent_bsuid <> coalesce(c.parent_bsuid, '')
      or (t.told).identity_key_hash <> coalesce(c.identity_key_hash, '')
  );
end
$$;

-- Those of them that are not plain: whose names belong to two rows, or go together otherwise than they did.
create or replace function whatsapp_internal.in_question(p_people whatsapp_internal.person[], p_again boolean default false)
returns whatsapp_internal.person[]
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select array_agg(p.told order by p.at)
    from (
      select p as told, p.*,
        min(p.bsuid) over (partition by p.country_id, p.match_key) <> max(p.bsuid) over (partition by p.country_id, p.match_key)
        or min(p.match_key) over (partition by p.country_id, p.bsuid) <> max(p.match_key) over (partition by p.country_id, p.bsuid) as at_odds
      from unnest(p_people) p
    ) p
    left join lateral whatsapp_internal.holder_of_number(p.country_id, p.match_key, p.at) a on true
    left join lateral whatsapp_internal.holder_of_bsuid(p.country_id, p.bsuid) b on true
    where (p.changed and not p_again)
      or (p.match_key is not null and p.bsuid is not null and (
        p.at_odds
        or a.contact_id <> b.contact_id
        or (b.contact_id is null and (a.bsuid is not null or a.former))
        or (a.contact_id is null and (b.match_key is not null or b.former))))
  );
end
$$;

-- Whether a batch makes people or may join some: what it does then, it does alone (hold_countries).
create or replace function whatsapp_internal.makes_people(p_people whatsapp_internal.person[]) returns boolean
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select p_people is not null and (
      exists (
        select from unnest(p_people) p
        where p.creates and not exists (select from whatsapp_internal.contact_of(p.country_id, p.match_key, p.bsuid, p.at)))
      or whatsapp_internal.in_question(p_people) is not null)
  );
end
$$;
