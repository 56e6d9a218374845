-- Who is who. A person has a number and a BSUID, and we hear of them by either: callers dial the number, a webhook may name one or both, an
-- answer of Meta's may add the other. So one person may stand in two rows until something names both, and both then become one.
--
--   people_of        what the events of a batch tell of people that is not known yet: mostly nothing
--   lock_people      takes the locks of what is about to be joined, before anything else in the batch is locked
--   meet_contacts    makes the new known, learns what is told, and has in_question and meet_person see to what is not plain
--   contact_of       whose an event is, as of its own time
--   learn_ids        what an answer of Meta's tells: the same, but it never waits and never fails
--
-- The rules, in whatever order things become known:
--   * A BSUID is one person's for ever. A number passes from one person to another. A BSUID changes with the number, and Meta announces that
--     (user_changed_number, user_changed_user_id).
--   * An event that names the number of one row and the BSUID of another joins them. So does an announced change that names several. The oldest
--     row goes on; the others point to it (merged_into, never more than one step) and hold nothing any more: messages, queue, windows, consents
--     and former names go with the person (join_contacts).
--   * A new BSUID on a known number without an announcement is another person: the number was passed on. What it heard last as a wish to be left
--     alone stays with the number as well; opt-in and open window stay with the person who had it.
--   * Each portfolio has BSUIDs of its own: another portfolio's is another name of the same person.
--   * A name that was given up is kept with the time (former_names). Meta brings events late and out of order: one from before finds the person
--     who had the name then.
--
-- Nothing here costs more the more people a country has: every lookup is by one name through its own unique index. An `or` over two names makes
-- Postgres 16 and 17 read all of the country (18 ms an event among 300,000 contacts).

-- What an event tells of a person. `creates`: whoever is not known yet becomes a contact. `changed`: Meta announces new names, and the previous.
create type whatsapp_internal.person as (
  country_id text,
  account_id text,
  at timestamptz,
  creates boolean,
  changed boolean,
  match_key text,
  bsuid text,
  wa_id text,
  name text,
  username text,
  parent_bsuid text,
  identity_key_hash text,
  previous_match_key text,
  previous_bsuid text
);

-- Who has a name, or had it at a time (`former`: they gave it up). `match_key` and `bsuid` are what else they are called, of a former number the
-- BSUID it went with; null if that is not known.
create type whatsapp_internal.holder as (
  contact_id uuid,
  former boolean,
  match_key text,
  bsuid text,
  bound_at timestamptz
);

-- ── Finding ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

-- These three are inlined into the queries that use them, so they have no settings of their own; every name in them is qualified.

create or replace function whatsapp_internal.holder_of_number(p_country text, p_match_key text, p_at timestamptz)
returns setof whatsapp_internal.holder
language sql stable
as $$
  (select f.contact_id, true, p_match_key, f.bsuid, f.until from whatsapp.former_names f
   where f.country_id = p_country and f.name = p_match_key and f.until >= p_at
   order by f.until limit 1)
  union all
  select c.contact_id, false, c.match_key, c.bsuid, c.bound_at from whatsapp.contacts c
  where c.country_id = p_country and c.match_key = p_match_key
  limit 1
$$;

create or replace function whatsapp_internal.holder_of_bsuid(p_country text, p_bsuid text) returns setof whatsapp_internal.holder
language sql stable
as $$
  select c.contact_id, false, c.match_key, c.bsuid, c.bound_at from whatsapp.contacts c where c.country_id = p_country and c.bsuid = p_bsuid
  union all
  -- At infinity stands another portfolio's BSUID, which nobody gave up.
  (select f.contact_id, f.until < 'infinity', null, p_bsuid, f.until from whatsapp.former_names f
   where f.country_id = p_country and f.name = p_bsuid limit 1)
  limit 1
$$;

-- Whose an event is. The BSUID says who, the number only where.
create or replace function whatsapp_internal.contact_of(p_country text, p_match_key text, p_bsuid text, p_at timestamptz) returns table (contact_id uuid)
language sql stable
as $$
  select b.contact_id from whatsapp_internal.holder_of_bsuid(p_country, p_bsuid) b
  union all
  select n.contact_id from whatsapp_internal.holder_of_number(p_country, p_match_key, p_at) n
  limit 1
$$;

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

-- ── Meeting ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

-- Takes the locks of the rows that are about to become one, and of the messages the batch's statuses speak of, in the order of all verbs: whatever
-- is locked later in the batch is locked already. Only a batch with somebody in question pays for it.
create or replace function whatsapp_internal.lock_people(p_people whatsapp_internal.person[], p_events jsonb[]) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_question whatsapp_internal.person[];
  v_countries text[];
  v_contacts uuid[];
  v_joining boolean[];
begin
  if p_people is null then
    return;
  end if;
  v_question := whatsapp_internal.in_question(p_people);
  if v_question is null then
    return;
  end if;
  -- The oldest of each goes on; only what the others hold is moved.
  select array_agg(country_id), array_agg(contact_id), array_agg(joining) into v_countries, v_contacts, v_joining
  from (
    select p.country_id, h.contact_id, bool_or(h.n > 1) as joining
    from unnest(v_question) p
    cross join lateral (
      select contact_id, row_number() over (order by contact_id) as n
      from (
        select contact_id from whatsapp_internal.holder_of_number(p.country_id, p.match_key, p.at)
        union
        select contact_id from whatsapp_internal.holder_of_bsuid(p.country_id, p.bsuid)
        union
        select contact_id from whatsapp_internal.holder_of_number(p.country_id, p.previous_match_key, p.at)
        union
        select contact_id from whatsapp_internal.holder_of_bsuid(p.country_id, p.previous_bsuid)
      ) named
    ) h
    group by 1, 2
  ) each_once;
  perform whatsapp_internal.lock_messages(v_countries, v_contacts, v_joining, array(
    select i from unnest(p_events) i where i ->> 'kind' = 'status'));
  perform whatsapp_internal.hold_people(p_people, p_events);
  perform whatsapp_internal.lock_contacts(v_countries, v_contacts);
end
$$;

-- Everybody known whom the batch may change: whom its events come from or name, and to whom the messages went of which Meta tells more than a state.
create or replace function whatsapp_internal.hold_people(p_people whatsapp_internal.person[], p_events jsonb[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  perform whatsapp_internal.hold_contacts(array_agg(p.country_id), array_agg(p.contact_id))
  from (
    select n.country_id, h.contact_id
    from (
      select i ->> 'country_id' as country_id, i -> 'contact' ->> 'match_key' as match_key, i -> 'contact' ->> 'bsuid' as bsuid,
        whatsapp_internal.event_time((i ->> 'at')::double precision) as at
      from unnest(p_events) i where i ->> 'kind' in ('message', 'call', 'preference')
      union all
      select p.country_id, p.match_key, p.bsuid, p.at from unnest(p_people) p
      union all
      select p.country_id, p.previous_match_key, p.previous_bsuid, p.at from unnest(p_people) p where p.changed
    ) n
    cross join lateral (
      select h.contact_id from whatsapp_internal.holder_of_number(n.country_id, n.match_key, n.at) h
      union all
      select h.contact_id from whatsapp_internal.holder_of_bsuid(n.country_id, n.bsuid) h
    ) h
    union all
    select i ->> 'country_id', m.contact_id
    from unnest(p_events) i
    cross join lateral (
      (select m.contact_id from whatsapp.messages m
       where m.country_id = i ->> 'country_id' and m.message_id = (i ->> 'message_id')::uuid limit 1)
      union all
      (select m.contact_id from whatsapp.messages m
       where m.country_id = i ->> 'country_id' and m.account_id = i ->> 'account_id' and m.wamid = i ->> 'wamid' limit 1)
    ) m
    where i ->> 'kind' = 'status' and (i -> 'error' ->> 'effect' <> 'none' or i ->> 'window_until' is not null)
  ) p;
end
$$;

-- The messages of these contacts (of those with `p_wanted`) and the ones these statuses speak of, then their rows of the queue.
create or replace function whatsapp_internal.lock_messages(p_countries text[], p_contacts uuid[], p_wanted boolean[], p_statuses jsonb[]) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_countries text[];
  v_messages uuid[];
begin
  select array_agg(f.country_id order by f.country_id, f.message_id), array_agg(f.message_id order by f.country_id, f.message_id)
  into v_countries, v_messages
  from (
    select m.country_id, m.message_id
    from unnest(p_countries, p_contacts, p_wanted) as c (country_id, contact_id, wanted)
    cross join lateral (
      select v.* from whatsapp.conversations v where v.country_id = c.country_id and v.contact_id = c.contact_id offset 0) v
    cross join lateral (
      select m.country_id, m.message_id from whatsapp.messages m
      where m.country_id = v.country_id and m.account_id = v.account_id and m.contact_id = v.contact_id
      offset 0
    ) m
    where c.wanted
    union
    select m.country_id, m.message_id
    from unnest(p_statuses) i
    cross join lateral (
      select m.country_id, m.message_id from whatsapp.messages m
      where m.country_id = i ->> 'country_id' and m.message_id = (i ->> 'message_id')::uuid
      union all
      select m.country_id, m.message_id from whatsapp.messages m
      where m.country_id = i ->> 'country_id' and m.account_id = i ->> 'account_id' and m.wamid = i ->> 'wamid'
      limit 1
    ) m
  ) f;

  perform from unnest(v_countries, v_messages) as f (country_id, message_id)
  cross join lateral (
    select from whatsapp.messages m where m.country_id = f.country_id and m.message_id = f.message_id for no key update of m) m;
  perform from unnest(v_countries, v_messages) as f (country_id, message_id)
  cross join lateral (
    select from whatsapp.queue q where q.country_id = f.country_id and q.message_id = f.message_id for no key update of q) q;
end
$$;

-- Held so that nobody begins a conversation with them meanwhile.
create or replace function whatsapp_internal.lock_contacts(p_countries text[], p_contacts uuid[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  perform from (select * from unnest(p_countries, p_contacts) as c (country_id, contact_id) order by 1, 2) f
  cross join lateral (
    select from whatsapp.contacts c where c.country_id = f.country_id and c.contact_id = f.contact_id for update of c) c;
  perform from (
    select v.country_id, v.account_id, v.contact_id
    from unnest(p_countries, p_contacts) as c (country_id, contact_id)
    cross join lateral (
      select v.* from whatsapp.conversations v where v.country_id = c.country_id and v.contact_id = c.contact_id offset 0) v
    order by 1, 2, 3
  ) f
  cross join lateral (
    select from whatsapp.conversations v
    where v.country_id = f.country_id and v.account_id = f.account_id and v.contact_id = f.contact_id for update of v) v;
end
$$;

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
  v_now record;  -- the names that hold
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

  -- The names that hold: the latest that is known, and of an announced change not the old ones.
  select number.match_key, number.wa_id, number.phone, id.bsuid, id.portfolio, id.other into v_now
  from (select exists (
      select from unnest(v_rows) r where r.bsuid <> p.bsuid and r.bsuid_portfolio <> v_portfolio) as other) elsewhere
  left join lateral (
    select n.match_key, n.wa_id, (select max(r.phone) from unnest(v_rows) r where r.match_key = n.match_key) as phone
    from (
      select p.match_key as match_key, p.wa_id as wa_id, p.at as since, 1 as turn where v_number_holds
      union all
      select r.match_key, r.wa_id, coalesce(r.bound_at, '-infinity'), 2
      from unnest(v_rows) r
      where r.match_key is not null and (r.match_key <> coalesce(p.match_key, '') or v_number_holds or r.bound_at > p.at)
        and (not p.changed or r.contact_id = v_number.contact_id or r.contact_id = v_bsuid.contact_id or r.bound_at > p.at)
        and (r.match_key <> coalesce(p.previous_match_key, '') or r.bound_at > p.at)
    ) n
    order by n.since desc, n.turn limit 1
  ) number on true
  left join lateral (
    select b.bsuid, b.portfolio, elsewhere.other
    from (
      select p.bsuid as bsuid, v_portfolio as portfolio, p.at as since, 1 as turn where v_bsuid_holds and not elsewhere.other
      union all
      select r.bsuid, r.bsuid_portfolio, coalesce(r.bound_at, '-infinity'), 2
      from unnest(v_rows) r
      where r.bsuid is not null and (r.bsuid <> coalesce(p.bsuid, '') or v_bsuid_holds or r.bound_at > p.at)
        and (not p.changed or r.contact_id = v_number.contact_id or r.contact_id = v_bsuid.contact_id or r.bound_at > p.at)
        and (r.bsuid <> coalesce(p.previous_bsuid, '') or r.bound_at > p.at)
    ) b
    order by b.since desc, b.turn limit 1
  ) id on true;

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

  insert into whatsapp.former_names as f (country_id, name, contact_id, until, bsuid)
  select p.country_id, name, v_into, max(until), max(bsuid)
  from (
    select r.match_key as name, p.at as until, r.bsuid from unnest(v_rows) r where r.match_key is distinct from v_now.match_key
    union all
    select r.bsuid, case when v_now.other and r.bsuid_portfolio <> v_now.portfolio then 'infinity' else p.at end, null
    from unnest(v_rows) r where r.bsuid is distinct from v_now.bsuid
    union all
    select p.match_key, p.at, p.bsuid where p.match_key is distinct from v_now.match_key
    union all
    select p.bsuid, case when v_now.other then 'infinity' else p.at end, null where p.bsuid is distinct from v_now.bsuid
    union all
    select p.previous_match_key, p.at, coalesce(p.previous_bsuid, v_old_number.bsuid)
    union all
    select p.previous_bsuid, p.at, null where p.previous_bsuid is distinct from v_now.bsuid
  ) names
  where name is not null
  group by name
  on conflict (country_id, name, contact_id) do update
  set until = greatest(f.until, excluded.until), bsuid = coalesce(excluded.bsuid, f.bsuid);

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

-- ── Joining ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

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
      select m.* from whatsapp.messages m
      where m.country_id = p_country and m.campaign_id = t.campaign_id and m.contact_id = p_into and m.campaign_again is null
      limit 1
    ) m
  ),
  ranked as (
    select m.message_id, w.waits, row_number() over (
        partition by m.campaign_id
        -- Which of the two goes or went: what has left before what waits, and that before what never will.
        order by case when m.state in ('refused', 'cancelled', 'expired') then 2 when w.waits then 1 else 0 end, m.message_id) as n
    from (select * from theirs where campaign_id in (select campaign_id from ours) union all select * from ours) m
    cross join lateral (
      select exists (
        select from whatsapp.queue q
        where q.country_id = p_country and q.message_id = m.message_id and q.lease_id is null and q.unknown_until is null) as waits
    ) w
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

-- ── What answers tell ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

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

revoke all on all functions in schema whatsapp_internal from public, anon, authenticated, service_role;
grant execute on function whatsapp_internal.my_countries() to authenticated;
