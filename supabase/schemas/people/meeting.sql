-- The people of a batch become known, and what is told of them is learned.

-- The people of a batch: found by either name, made known if new, and told what Meta now calls them.
create or replace function whatsapp_internal.meet_contacts(p_people whatsapp_internal.person[]) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_person whatsapp_internal.person;
  v_question whatsapp_internal.person[];
  v_tries integer := 0;
begin
  if p_people is null then
    return;
  end if;
  loop
    begin
      v_question := whatsapp_internal.in_question(p_people);
      if v_question is not null then
        foreach v_person in array v_question loop
          perform whatsapp_internal.meet_person(v_person);
        end loop;
        -- An announced change may put in question what was plain before it.
        foreach v_person in array coalesce(whatsapp_internal.in_question(p_people, true), '{}') loop
          perform whatsapp_internal.meet_person(v_person);
        end loop;
      end if;
      perform whatsapp_internal.make_known(p_people);
      perform whatsapp_internal.learn_names(p_people);
      return;
    exception when unique_violation then
      -- Somebody else has just written one of these people. They are seen now.
      v_tries := v_tries + 1;
      if v_tries = 3 then
        raise;
      end if;
    end;
  end loop;
end
$$;

-- Contacts for those nobody has heard of.
create or replace function whatsapp_internal.make_known(p_people whatsapp_internal.person[]) returns void
language sql volatile set search_path = ''
as $$
  insert into whatsapp.contacts (country_id, wa_id, match_key, bsuid, bsuid_portfolio, bound_at)
  select distinct on (p.country_id, coalesce(p.match_key, p.bsuid))
    p.country_id, p.wa_id, p.match_key, p.bsuid, case when p.bsuid is not null then (
      select a.portfolio from whatsapp.accounts a where a.country_id = p.country_id and a.account_id = p.account_id) end,
    case when p.match_key is not null and p.bsuid is not null then p.at end
  from unnest(p_people) p
  where p.creates and not exists (select from whatsapp_internal.contact_of(p.country_id, p.match_key, p.bsuid, p.at))
  order by p.country_id, coalesce(p.match_key, p.bsuid), p.bsuid, p.at
  on conflict do nothing
$$;

-- What is told of people who are known: the name that was missing, where an event names both and the other one is theirs; and what they are called.
create or replace function whatsapp_internal.learn_names(p_people whatsapp_internal.person[]) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_people whatsapp.contacts[];
begin
  select array_agg(jsonb_populate_record(null::whatsapp.contacts, jsonb_build_object(
      'country_id', country_id, 'contact_id', contact_id, 'match_key', match_key, 'bsuid', bsuid, 'bsuid_portfolio', case when bsuid is not null then (
        select a.portfolio from whatsapp.accounts a where a.country_id = t.country_id and a.account_id = t.account_id) end, 'bound_at', bound_at,
      'wa_id', wa_id, 'name', name, 'username', username, 'parent_bsuid', parent_bsuid, 'identity_key_hash', identity_key_hash))
    order by country_id, contact_id)
  into v_people
  from (
    select c.country_id, c.contact_id, max(p.account_id) as account_id,
      max(p.match_key) filter (where learns.number) as match_key, max(p.bsuid) filter (where learns.id) as bsuid,
      min(p.at) filter (where p.match_key is not null and p.bsuid is not null) as bound_at,
      (array_agg(p.wa_id order by p.at desc) filter (where p.wa_id is not null and (c.match_key = p.match_key or learns.number)))[1] as wa_id,
      (array_agg(p.name order by p.at desc) filter (where p.name is not null))[1] as name,
      (array_agg(p.username order by p.at desc) filter (where p.username is not null))[1] as username,
      (array_agg(p.parent_bsuid order by p.at desc) filter (where p.parent_bsuid is not null))[1] as parent_bsuid,
      (array_agg(p.identity_key_hash order by p.at desc) filter (where p.identity_key_hash is not null))[1] as identity_key_hash
    from unnest(p_people) p
    cross join lateral whatsapp_internal.contact_of(p.country_id, p.match_key, p.bsuid, p.at) f
    cross join lateral (
      select c.* from whatsapp.contacts c where c.country_id = p.country_id and c.contact_id = f.contact_id limit 1) c
    cross join lateral (
      -- Only a name that is nobody's, nor was at that time.
      select case when c.match_key is null and c.bsuid = p.bsuid
          then not exists (select from whatsapp_internal.holder_of_number(p.country_id, p.match_key, p.at)) end as number,
        case when c.bsuid is null and c.match_key = p.match_key
          then not exists (select from whatsapp_internal.holder_of_bsuid(p.country_id, p.bsuid)) end as id
    ) learns
    group by c.country_id, c.contact_id
  ) t;

  perform whatsapp_internal.hold_contacts(array_agg(p.country_id), array_agg(p.contact_id)) from unnest(v_people) p;
  update whatsapp.contacts c
  set match_key = coalesce(c.match_key, p.match_key), bsuid = coalesce(c.bsuid, p.bsuid),
    bsuid_portfolio = case when c.bsuid is null or c.bsuid = p.bsuid then coalesce(p.bsuid_portfolio, c.bsuid_portfolio) else c.bsuid_portfolio end,
    bound_at = case when coalesce(p.match_key, p.bsuid) is not null then coalesce(c.bound_at, p.bound_at) else c.bound_at end,
    wa_id = coalesce(p.wa_id, c.wa_id), name = coalesce(p.name, c.name), username = coalesce(p.username, c.username),
    parent_bsuid = coalesce(p.parent_bsuid, c.parent_bsuid), identity_key_hash = coalesce(p.identity_key_hash, c.identity_key_hash)
  from unnest(v_people) p
  where c.country_id = p.country_id and c.contact_id = p.contact_id and (
    p.match_key is not null or p.bsuid is not null or p.wa_id <> coalesce(c.wa_id, '') or p.name <> coalesce(c.name, '')
    or p.username <> coalesce(c.username, '') or p.parent_bsuid <> coalesce(c.parent_bsuid, '')
    or p.identity_key_hash <> coalesce(c.identity_key_hash, ''));
end
$$;
