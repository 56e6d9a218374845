-- The locks of a batch that may make people one, taken in the order of all verbs (locks.sql) before anything else in it is locked.

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
      select m.contact_id from whatsapp.messages m
      where m.country_id = i ->> 'country_id' and m.message_id = (i ->> 'message_id')::uuid limit 1
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
      where m.country_id = i ->> 'country_id' and m.message_id = (i ->> 'message_id')::uuid limit 1
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
