-- One person who is not plain: finds the rows their names belong to, decides which of them can be this person, makes them one, and gives the
-- one the names that hold now. What it no longer is called goes to former_names.
create or replace function whatsapp_internal.meet_person(p whatsapp_internal.person) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_portfolio text := (select a.portfolio from whatsapp.accounts a where a.country_id = p.country_id and a.account_id = p.account_id);
  v_number whatsapp_internal.holder;
  v_bsuid whatsapp_internal.holder;
  v_old_number whatsapp_internal.holder;
  v_old_bsuid whatsapp_internal.holder;
  v_number_holds boolean;
  v_bsuid_holds boolean;
  v_before uuid;  -- whose number it was until now
  v_ids uuid[];
  v_rows whatsapp.contacts[];
  v_into uuid;
  v_now whatsapp_internal.names;
begin
  for v_try in 1 .. 2 loop
    select h.* into v_number from whatsapp_internal.holder_of_number(p.country_id, p.match_key, p.at) h;
    select h.* into v_bsuid from whatsapp_internal.holder_of_bsuid(p.country_id, p.bsuid) h;
    select h.* into v_old_number from whatsapp_internal.holder_of_number(p.country_id, p.previous_match_key, p.at) h;
    select h.* into v_old_bsuid from whatsapp_internal.holder_of_bsuid(p.country_id, p.previous_bsuid) h;
    if v_try = 1 then
      -- Held from here on, and looked up again.
      perform whatsapp_internal.lock_contacts(
        array_fill(p.country_id, array[4]),
        array[v_number.contact_id, v_bsuid.contact_id, v_old_number.contact_id, v_old_bsuid.contact_id]);
    end if;
  end loop;

  v_number_holds := p.match_key is not null and not coalesce(v_number.former, false) and not coalesce(v_bsuid.former, false);
  v_bsuid_holds := p.bsuid is not null and not coalesce(v_bsuid.former, false)
    and not (coalesce(v_number.former, false) and v_number.bsuid is null);

  -- The number is known with another BSUID: it is, or was, another person's.
  if p.bsuid is not null and v_number.contact_id is distinct from v_bsuid.contact_id
    and v_number.contact_id is distinct from v_old_bsuid.contact_id
    and whatsapp_internal.are_two(p.country_id, v_number.contact_id, v_number.bsuid, array[p.bsuid, p.previous_bsuid], v_portfolio)
  then
    v_bsuid_holds := not coalesce(v_bsuid.former, false);
    v_number_holds := v_number_holds and p.at >= coalesce(v_number.bound_at, '-infinity');
    if v_number_holds then
      v_before := v_number.contact_id;
    end if;
    v_number := null;
  end if;
  -- So may the previous one be by now.
  if v_old_number.contact_id is distinct from v_old_bsuid.contact_id and v_old_number.contact_id is distinct from v_bsuid.contact_id
    and (whatsapp_internal.are_two(p.country_id, v_old_number.contact_id, v_old_number.bsuid, array[p.previous_bsuid, case when p.previous_bsuid is not null then p.bsuid end], v_portfolio)
      or (not v_old_number.former and v_old_number.bound_at > p.at))
  then
    v_old_number := null;
  end if;

  v_ids := array(
    select distinct id from unnest(array[v_number.contact_id, v_bsuid.contact_id, v_old_number.contact_id, v_old_bsuid.contact_id]) id
    where id is not null order by id);
  v_rows := array(
    select row_of.c from unnest(v_ids) id
    cross join lateral (select c from whatsapp.contacts c where c.country_id = p.country_id and c.contact_id = id limit 1) row_of
    order by id);

  v_now := whatsapp_internal.names_now(p, v_rows, v_portfolio, v_number.contact_id, v_bsuid.contact_id, v_number_holds, v_bsuid_holds);
  if v_before is not null then
    perform whatsapp_internal.let_go(p.country_id, v_before, p.match_key, p.at - interval '1 microsecond');
  end if;
  if cardinality(v_ids) = 0 then
    -- A number that passes on has an heir, whoever told.
    if coalesce(v_now.match_key, v_now.bsuid) is null or not (p.creates or v_before is not null) then
      return;
    end if;
    insert into whatsapp.contacts (country_id, match_key, bsuid) values (p.country_id, v_now.match_key, v_now.bsuid)
    returning contact_id into v_into;
  else
    v_into := v_ids[1];
    for v_other in 2 .. cardinality(v_ids) loop
      perform whatsapp_internal.join_contacts(p.country_id, v_into, v_ids[v_other]);
    end loop;
  end if;

  perform whatsapp_internal.keep_former_names(p, v_rows, v_now, v_into, v_old_number.bsuid);
  update whatsapp.contacts c
  set match_key = v_now.match_key, phone = v_now.phone, wa_id = v_now.wa_id, bsuid = v_now.bsuid, bsuid_portfolio = v_now.portfolio,
    bound_at = coalesce(
      (select min(r.bound_at) from unnest(v_rows) r
       where r.match_key is not distinct from v_now.match_key and r.bsuid is not distinct from v_now.bsuid),
      greatest(p.at, (select max(r.bound_at) from unnest(v_rows) r where r.match_key = v_now.match_key)))
  where c.country_id = p.country_id and c.contact_id = v_into;
  if v_before is not null then
    perform whatsapp_internal.inherit_wishes(p.country_id, v_before, v_into);
  end if;
end
$$;

-- The names that hold: the latest that is known, and of an announced change not the old ones. `p_rows` are this person's, of which `p_number` and
-- `p_bsuid` have what the event names; whether those two hold now, the caller knows.
create or replace function whatsapp_internal.names_now(
  p whatsapp_internal.person, p_rows whatsapp.contacts[], p_portfolio text, p_number uuid, p_bsuid uuid, p_number_holds boolean, p_bsuid_holds boolean
) returns whatsapp_internal.names
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select row(number.match_key, number.wa_id, number.phone, id.bsuid, id.portfolio, id.other)::whatsapp_internal.names
    from (select exists (
        select from unnest(p_rows) r where r.bsuid <> p.bsuid and r.bsuid_portfolio <> p_portfolio) as other) elsewhere
    left join lateral (
      select n.match_key, n.wa_id, (select max(r.phone) from unnest(p_rows) r where r.match_key = n.match_key) as phone
      from (
        select p.match_key as match_key, p.wa_id as wa_id, p.at as since, 1 as turn where p_number_holds
        union all
        select r.match_key, r.wa_id, coalesce(r.bound_at, '-infinity'), 2
        from unnest(p_rows) r
        where r.match_key is not null and (r.match_key <> coalesce(p.match_key, '') or p_number_holds or r.bound_at > p.at)
          and (not p.changed or r.contact_id = p_number or r.contact_id = p_bsuid or r.bound_at > p.at)
          and (r.match_key <> coalesce(p.previous_match_key, '') or r.bound_at > p.at)
      ) n
      order by n.since desc, n.turn limit 1
    ) number on true
    left join lateral (
      select b.bsuid, b.portfolio, elsewhere.other
      from (
        select p.bsuid as bsuid, p_portfolio as portfolio, p.at as since, 1 as turn where p_bsuid_holds and not elsewhere.other
        union all
        select r.bsuid, r.bsuid_portfolio, coalesce(r.bound_at, '-infinity'), 2
        from unnest(p_rows) r
        where r.bsuid is not null and (r.bsuid <> coalesce(p.bsuid, '') or p_bsuid_holds or r.bound_at > p.at)
          and (not p.changed or r.contact_id = p_number or r.contact_id = p_bsuid or r.bound_at > p.at)
          and (r.bsuid <> coalesce(p.previous_bsuid, '') or r.bound_at > p.at)
      ) b
      order by b.since desc, b.turn limit 1
    ) id on true
  );
end
$$;

-- What the person was called and no longer is. `p_old_bsuid`: the BSUID that went with the number they gave up.
create or replace function whatsapp_internal.keep_former_names(
  p whatsapp_internal.person, p_rows whatsapp.contacts[], p_now whatsapp_internal.names, p_into uuid, p_old_bsuid text
) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  insert into whatsapp.former_names as f (country_id, name, contact_id, until, bsuid)
  select p.country_id, name, p_into, max(until), max(bsuid)
  from (
    select r.match_key as name, p.at as until, r.bsuid from unnest(p_rows) r where r.match_key is distinct from p_now.match_key
    union all
    select r.bsuid, case when p_now.other and r.bsuid_portfolio <> p_now.portfolio then 'infinity' else p.at end, null
    from unnest(p_rows) r where r.bsuid is distinct from p_now.bsuid
    union all
    select p.match_key, p.at, p.bsuid where p.match_key is distinct from p_now.match_key
    union all
    select p.bsuid, case when p_now.other then 'infinity' else p.at end, null where p.bsuid is distinct from p_now.bsuid
    union all
    select p.previous_match_key, p.at, coalesce(p.previous_bsuid, p_old_bsuid)
    union all
    select p.previous_bsuid, p.at, null where p.previous_bsuid is distinct from p_now.bsuid
  ) names
  where name is not null
  group by name
  on conflict (country_id, name, contact_id) do update
  set until = greatest(f.until, excluded.until), bsuid = coalesce(excluded.bsuid, f.bsuid);
end
$$;

-- Whether a row that is known with one BSUID cannot be the person of these. BSUIDs of two portfolios say nothing about each other.
create or replace function whatsapp_internal.are_two(p_country text, p_contact uuid, p_bsuid text, p_others text[], p_portfolio text) returns boolean
language sql stable set search_path = ''
as $$
  select coalesce(p_bsuid <> all (array_remove(p_others, null)) and cardinality(array_remove(p_others, null)) > 0 and not exists (
    select from whatsapp.contacts c
    where c.country_id = p_country and c.contact_id = p_contact and c.bsuid = p_bsuid and c.bsuid_portfolio <> p_portfolio), false)
$$;

-- A person's number is another's after this time.
create or replace function whatsapp_internal.let_go(p_country text, p_contact uuid, p_match_key text, p_at timestamptz) returns void
language sql volatile set search_path = ''
as $$
  insert into whatsapp.former_names as f (country_id, name, contact_id, until, bsuid)
  select p_country, p_match_key, p_contact, p_at, c.bsuid
  from whatsapp.contacts c where c.country_id = p_country and c.contact_id = p_contact
  on conflict (country_id, name, contact_id) do update set until = greatest(f.until, excluded.until), bsuid = excluded.bsuid;
  update whatsapp.contacts c set match_key = null, phone = null, wa_id = null, bound_at = null
  where c.country_id = p_country and c.contact_id = p_contact;
$$;

-- The wish to be left alone stays with the number, for whoever asked for it may be the one who has it now. What they say themselves lifts it.
create or replace function whatsapp_internal.inherit_wishes(p_country text, p_from uuid, p_into uuid) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  update whatsapp.contacts n
  set opted_out_at = greatest(n.opted_out_at, o.opted_out_at),
    marketing_opted_out_at = greatest(n.marketing_opted_out_at, o.marketing_opted_out_at)
  from whatsapp.contacts o
  where o.country_id = p_country and o.contact_id = p_from and n.country_id = p_country and n.contact_id = p_into;
  perform whatsapp_internal.stand(array[p_country], array[p_into]);
end
$$;
