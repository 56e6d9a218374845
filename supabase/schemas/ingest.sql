-- ingest: store a batch of webhook events once, and let them move what they speak of.
--
--   p_events  jsonb[]  as services/whatsapp/meta/events.py makes them:
--     key, country_id, account_id, field, kind, at, payload and, by kind,
--     status    wamid, message_id?, state, error?, price?, window_until?, contact?
--     message   wamid, contact, content
--     call      contact                      (opens the window; the Calling API is not implemented)
--     system    contact with previous_…      (a person changed number or user id)
--     preference  contact, content           (marketing stop or resume)
--     template  content                      (status, quality or category of a template)
--     account   content, error?              (restrictions, bans, throughput, messaging limit)
--     ignored, unroutable, unparsable        stored, nothing moved
--   A contact is {wa_id, match_key, bsuid, parent_bsuid, identity_key_hash, name, username, previous_wa_id, previous_match_key, previous_bsuid}.
--   returns   jsonb    {"received": n, "applied": n, "parked": n}
--
-- Safe to repeat. Of a status the fact decides: what its message has been told already is no news, and what is news is applied and its raw payload kept,
-- those of one call in one row. Of all else, failures included, the insert into webhook_events decides what is new, and only that is applied, in the
-- same transaction. The order of statuses does not matter: each fact has its own column and the state is a function of the facts
-- (whatsapp_internal.state_of). The event of a message is its content: what Meta says anew in other words under a wamid we know is another event, and
-- goes to the message's story.
--
-- Locks: messages, parked statuses, events, queue, contacts and so on, in the one order of locks.sql; the throttle row last and shortest.

-- Free entry points, of which statuses tell. Apart from apply_statuses, for conversations come after people in the lock order.
create or replace function whatsapp_internal.open_entry_points(p_statuses jsonb[]) returns void
language sql volatile set search_path = ''
as $$
  update whatsapp.conversations v
  set entry_point_until = greatest(v.entry_point_until, w.until)
  from (
    select i ->> 'country_id' as country_id, m.account_id, m.contact_id, max(to_timestamp((i ->> 'window_until')::double precision)) as until
    from unnest(p_statuses) i
    cross join lateral (
      select m.account_id, m.contact_id from whatsapp.messages m
      where m.country_id = i ->> 'country_id' and m.message_id = (i ->> 'message_id')::uuid limit 1
    ) m
    where i ->> 'window_until' is not null
    group by 1, 2, 3 order by 1, 2, 3
  ) w
  where v.country_id = w.country_id and v.account_id = w.account_id and v.contact_id = w.contact_id
$$;

-- The statuses among these events, each with what becomes of it: `news` of a message of ours (its `message_id` is set to the one it speaks of, which
-- Meta names by our id or by its own), `told` already, `parked` because nobody knows its message yet, or `ignored`: only what we sent has a status.
-- A failure is always news, and its event's key decides. So is what was told before, where it brings the first price or a later end of a free entry
-- point. `names` where it is the first to tell Meta's id of its message.
-- The messages are locked from here on, in the order of their keys, so that of two that bring the same the second finds it told.
create or replace function whatsapp_internal.hear_statuses(p_events jsonb[]) returns whatsapp_internal.heard[]
language plpgsql volatile set search_path = ''
as $$
begin
  return (
    select array_agg(row(
      case when m.message_id is null or m.message_id = e.named then e.i else e.i || jsonb_build_object('message_id', m.message_id) end,
      case
        when m.message_id is null then 'parked'
        when m.direction <> 'outbound' then 'ignored'
        when case e.i ->> 'state'
          when 'sent' then m.sent_at when 'delivered' then m.delivered_at when 'read' then m.read_at when 'played' then m.played_at end is not null
          and not (m.price is null and e.i ->> 'price' is not null) and not (e.i ->> 'window_until' is not null and exists (
            select from whatsapp.conversations v
            where v.country_id = e.country_id and v.account_id = m.account_id and v.contact_id = m.contact_id
              and coalesce(v.entry_point_until < to_timestamp((e.i ->> 'window_until')::double precision), true)))
          then 'told'
        else 'news'
      end, m.wamid is null)::whatsapp_internal.heard)
    from (
      select e.*, coalesce(e.named, w.message_id) as message_id
      from (
        select i, i ->> 'country_id' as country_id, i ->> 'account_id' as account_id, (i ->> 'message_id')::uuid as named
        from unnest(p_events) i
        where i ->> 'kind' = 'status'
      ) e
      cross join lateral (select from whatsapp.accounts a where a.country_id = e.country_id and a.account_id = e.account_id limit 1) a
      left join lateral (
        select w.message_id from whatsapp.wamids w
        where e.named is null and w.country_id = e.country_id and w.digest = whatsapp_internal.digest_of(e.account_id, e.i ->> 'wamid')
        limit 1
      ) w on true
      order by e.country_id, message_id
    ) e
    left join lateral (
      select m.* from whatsapp.messages m
      where m.country_id = e.country_id and m.message_id = e.message_id and m.account_id = e.account_id
      for no key update
    ) k on true
    -- Our id, but not ours: another system's on the number, or another number's.
    left join lateral (
      select m.* from whatsapp.wamids w
      cross join lateral (select m.* from whatsapp.messages m where m.country_id = w.country_id and m.message_id = w.message_id for no key update) m
      where k.message_id is null and e.named is not null
        and w.country_id = e.country_id and w.digest = whatsapp_internal.digest_of(e.account_id, e.i ->> 'wamid')
      limit 1
    ) o on true
    cross join lateral (
      select coalesce(k.message_id, o.message_id) as message_id, coalesce(k.direction, o.direction) as direction, coalesce(k.wamid, o.wamid) as wamid,
        coalesce(k.sent_at, o.sent_at) as sent_at, coalesce(k.delivered_at, o.delivered_at) as delivered_at,
        coalesce(k.read_at, o.read_at) as read_at, coalesce(k.played_at, o.played_at) as played_at,
        coalesce(k.price, o.price) as price, coalesce(k.account_id, o.account_id) as account_id, coalesce(k.contact_id, o.contact_id) as contact_id
    ) m
  );
end
$$;

-- Moves messages by statuses that are news of them, each with our id of its message; the messages are locked. Statuses of one message are folded into one update of it. Answers
-- what Meta's errors among them mean beyond their messages, for apply_effects: its rows come later in the lock order.
create or replace function whatsapp_internal.apply_statuses(p_statuses jsonb[]) returns whatsapp_internal.result[]
language plpgsql volatile set search_path = ''
as $$
declare
  v_results whatsapp_internal.result[];
  v_tell boolean;
begin
  if coalesce(cardinality(p_statuses), 0) = 0 then
    return null;
  end if;
  with facts as materialized (
    select e.country_id, e.account_id, e.message_id, e.wamid, e.state, whatsapp_internal.event_time(e.at) as at, e.error, e.price, e.payload
    from unnest(p_statuses) i, jsonb_to_record(i) as e (
      country_id text, account_id text, message_id uuid, wamid text, state text, at double precision, error jsonb, price jsonb, payload jsonb)
  ),
  folded as materialized (
    select country_id, message_id, max(wamid) as wamid,
      min(at) filter (where state = 'sent') as sent_at,
      min(at) filter (where state = 'delivered') as delivered_at,
      min(at) filter (where state = 'read') as read_at,
      min(at) filter (where state = 'played') as played_at,
      min(at) filter (where state = 'failed') as failed_at,
      array_agg(error order by at) filter (where state = 'failed' and error is not null) as errors,
      (array_agg(price order by at) filter (where price is not null))[1] as price,
      bool_or(state = 'failed' or error is not null) or count(price) > 1 as odd
    from facts
    group by country_id, message_id
  ),
  moved as (
    update whatsapp.messages m
    set
      wamid = coalesce(m.wamid, f.wamid),
      sent_at = least(m.sent_at, f.sent_at),
      delivered_at = least(m.delivered_at, f.delivered_at),
      read_at = least(m.read_at, f.read_at),
      played_at = least(m.played_at, f.played_at),
      -- Whatever Meta tells takes back that we gave it up for lost.
      failed_at = least(case when not whatsapp_internal.given_up(m.error_code, m.error_title) then m.failed_at end, f.failed_at),
      error_code = coalesce(m.error_code, (f.errors[1] ->> 'code')::integer),
      error_title = coalesce(
        case when not whatsapp_internal.given_up(m.error_code, m.error_title) then m.error_title end, f.errors[1] ->> 'title'),
      error_details = coalesce(m.error_details, f.errors[1] ->> 'details'),
      price = coalesce(m.price, f.price),
      state = whatsapp_internal.state_of(
        m.accepted_at, least(m.sent_at, f.sent_at), least(m.delivered_at, f.delivered_at), least(m.read_at, f.read_at),
        least(m.played_at, f.played_at),
        least(case when not whatsapp_internal.given_up(m.error_code, m.error_title) then m.failed_at end, f.failed_at), m.state)
    from folded f
    where m.country_id = f.country_id and m.message_id = f.message_id
    returning m.country_id, m.message_id, m.account_id, m.contact_id, m.template_name, m.template_language, f.errors,
      f.odd or f.price <> m.price as tells
  ),
  -- A message Meta speaks of was sent. What waits in the queue without a lease in force must never go again.
  done as (
    delete from whatsapp.queue q
    using moved m
    where q.country_id = m.country_id and q.message_id = m.message_id
      and (q.lease_id is null or q.unknown_until is not null)
  ),
  kept as (
    insert into whatsapp.webhook_events (country_id, day, event_key, account_id, field, kind, outcome, payload)
    select country_id, whatsapp_internal.today(), whatsapp_internal.uuid7(), account_id, 'messages', 'status', 'applied', jsonb_agg(payload)
    from facts where state <> 'failed' group by country_id, account_id
  )
  select (
      select array_agg(row(
        m.country_id, m.message_id, null, 'rejected', null, null, null, (e ->> 'code')::integer, e ->> 'title', null,
        e ->> 'effect', (e ->> 'wait_seconds')::double precision, null, null, m.account_id, m.contact_id, m.template_name,
        m.template_language)::whatsapp_internal.result)
      from moved m cross join unnest(m.errors) e),
    bool_or(tells)
  into v_results, v_tell
  from moved;
  if v_tell then
    perform whatsapp_internal.tell_statuses(p_statuses);
  end if;
  return v_results;
end
$$;

-- Tells the story of statuses what the columns do not: failures, and a price that is not the one which was told first.
create or replace function whatsapp_internal.tell_statuses(p_statuses jsonb[]) returns void
language sql volatile set search_path = ''
as $$
  insert into whatsapp.message_events (country_id, message_id, event, at, code, title, detail)
  select e.country_id, e.message_id, 'message_' || e.state, whatsapp_internal.event_time(e.at), (e.error ->> 'code')::integer, e.error ->> 'title',
    nullif(jsonb_strip_nulls(jsonb_build_object('details', e.error ->> 'details', 'price', e.price)), '{}')
  from unnest(p_statuses) i, jsonb_to_record(i) as e (
    country_id text, message_id uuid, state text, at double precision, error jsonb, price jsonb)
  cross join lateral (
    select m.price from whatsapp.messages m where m.country_id = e.country_id and m.message_id = e.message_id limit 1
  ) m
  where e.state = 'failed' or e.error is not null or e.price <> m.price
  order by e.at
$$;

-- Makes messages known by the wamids that statuses are the first to tell. Answers the statuses that waited for these, for apply_statuses.
create or replace function whatsapp_internal.learn_wamids(p_statuses jsonb[]) returns jsonb[]
language plpgsql volatile set search_path = ''
as $$
begin
  insert into whatsapp.wamids (country_id, digest, week, message_id)
  select distinct i ->> 'country_id', whatsapp_internal.digest_of(i ->> 'account_id', i ->> 'wamid'),
    whatsapp_internal.week_of(whatsapp_internal.today()), (i ->> 'message_id')::uuid
  from unnest(p_statuses) i
  order by 1, 2, 4
  on conflict do nothing;
  return whatsapp_internal.take_parked(
    array(select i ->> 'country_id' from unnest(p_statuses) i), array(select i ->> 'account_id' from unnest(p_statuses) i),
    array(select i ->> 'wamid' from unnest(p_statuses) i), array(select (i ->> 'message_id')::uuid from unnest(p_statuses) i));
end
$$;

-- Whether a message says only that there was one: Meta could not show it (131051, 131060), or sent no body.
create or replace function whatsapp_internal.is_placeholder(content jsonb) returns boolean
language sql immutable parallel safe
return coalesce(content ->> 'type' in ('unsupported', 'unknown'), true) or content ? 'errors' or not content ? (content ->> 'type');

-- What Meta says anew of inbound messages we have: they are locked before any person. The same in another envelope is only recorded. Other
-- content goes to the message's story, and where the message was a placeholder, takes its place in the log; the story keeps what stood there.
-- Answers the events without those that say nothing new; those that do are marked: they are heard, but are no message of their own.
create or replace function whatsapp_internal.apply_repeats(p_events jsonb[]) returns jsonb[]
language plpgsql volatile set search_path = ''
as $$
declare
  v_old bigint[];
  v_other bigint[];
begin
  with known as materialized (
    select u.n, m.country_id, m.message_id, u.i -> 'content' as content, whatsapp_internal.event_time((u.i ->> 'at')::double precision) as at
    from unnest(p_events) with ordinality as u (i, n)
    cross join lateral (
      select w.country_id, w.message_id from whatsapp.wamids w
      where w.country_id = u.i ->> 'country_id' and w.digest = whatsapp_internal.digest_of(u.i ->> 'account_id', u.i ->> 'wamid')
      limit 1
    ) m
    where u.i ->> 'kind' = 'message'
  ),
  held as materialized (
    select k.*, m.content as former, m.direction = 'inbound' and m.content is distinct from k.content as other
    from (select * from known order by country_id, message_id, n) k
    cross join lateral (
      select m.direction, m.content from whatsapp.messages m
      where m.country_id = k.country_id and m.message_id = k.message_id
      for no key update of m
    ) m
  ),
  shown as (
    update whatsapp.messages m set content = h.content, kind = h.content ->> 'type'
    from (
      select distinct on (country_id, message_id) * from held
      where other and whatsapp_internal.is_placeholder(former) and not whatsapp_internal.is_placeholder(content)
      order by country_id, message_id, n
    ) h
    where m.country_id = h.country_id and m.message_id = h.message_id
    returning h.n
  ),
  told as (
    insert into whatsapp.message_events (country_id, message_id, event, at, detail)
    select h.country_id, h.message_id, case when s.n is null then 'message_repeated' else 'message_replaced' end, h.at,
      jsonb_build_object('content', case when s.n is null then h.content else h.former end)
    from held h left join shown s on s.n = h.n
    where h.other
    order by h.n
  )
  select array_agg(n) filter (where not other), array_agg(n) filter (where other) into v_old, v_other from held;

  if v_old is not null then
    update whatsapp.webhook_events w set outcome = 'recorded'
    from unnest(v_old) as o (n)
    where w.country_id = p_events[o.n] ->> 'country_id' and w.event_key = (p_events[o.n] ->> 'key')::uuid
      and w.day = whatsapp_internal.day_of((p_events[o.n] ->> 'at')::double precision);
  end if;
  return case
    when coalesce(v_old, v_other) is null then p_events
    else array(
      select case when n = any (v_other) then i || '{"repeated": true}' else i end
      from unnest(p_events) with ordinality as u (i, n) where n <> all (coalesce(v_old, '{}')) order by n)
  end;
end
$$;

-- Inbound messages and calls: the log, the story, the window of 24 hours from the person's own time stamp, and what they say of consent
-- (consents/hearing.sql).
create or replace function whatsapp_internal.apply_inbound(p_events jsonb[]) returns void
language plpgsql volatile set search_path = '' set enable_hashjoin = on
as $$
declare
  v_missed boolean;
begin
  with inbound as materialized (
    select n, i ->> 'country_id' as country_id, i ->> 'account_id' as account_id, i ->> 'kind' as kind, i ->> 'wamid' as wamid,
      i -> 'content' as content, i -> 'error' as error, t.at, p.contact_id,
      -- Meta does not say that a reaction, a correction or a deletion opens the window: what is not said is not relied upon.
      i ->> 'kind' = 'call' or coalesce(i -> 'content' ->> 'type', '') not in ('reaction', 'edit', 'revoke') as opens,
      i ? 'repeated' as repeated, whatsapp_internal.week_of(whatsapp_internal.day_of((i ->> 'at')::double precision)) as week
    from unnest(p_events) with ordinality as u (i, n)
    cross join lateral (select whatsapp_internal.event_time((i ->> 'at')::double precision) as at) t
    left join lateral whatsapp_internal.contact_of(i ->> 'country_id', i -> 'contact' ->> 'match_key', i -> 'contact' ->> 'bsuid', t.at) p on true
    where i ->> 'kind' in ('message', 'call')
  ),
  opened as (
    insert into whatsapp.conversations as v (country_id, account_id, contact_id, window_until, last_inbound_at, last_message_at)
    select country_id, account_id, contact_id, max(at) filter (where opens) + interval '24 hours', max(at) filter (where opens), max(at)
    from inbound where contact_id is not null
    group by country_id, account_id, contact_id
    order by country_id, account_id, contact_id
    on conflict (country_id, account_id, contact_id) do update
    set window_until = greatest(v.window_until, excluded.window_until),
      last_inbound_at = greatest(v.last_inbound_at, excluded.last_inbound_at),
      last_message_at = greatest(v.last_message_at, excluded.last_message_at)
  ),
  -- Of two contents of one new message, the one there is something to see in.
  first as materialized (
    select distinct on (country_id, account_id, wamid) whatsapp_internal.uuid7() as message_id, inbound.*
    from inbound
    where kind = 'message' and contact_id is not null and not repeated
    order by country_id, account_id, wamid, whatsapp_internal.is_placeholder(content), at, n
  ),
  named as (
    insert into whatsapp.wamids (country_id, digest, week, message_id)
    select country_id, whatsapp_internal.digest_of(account_id, wamid), week, message_id from first
    order by 1, 2
    on conflict do nothing
    returning country_id, message_id
  ),
  logged as (
    insert into whatsapp.messages (country_id, message_id, account_id, contact_id, direction, kind, state, content, wamid, created_at)
    select country_id, message_id, account_id, contact_id, 'inbound', coalesce(content ->> 'type', 'unknown'), 'received', content, wamid, at
    from first
    order by country_id, at, wamid
    returning country_id, message_id, account_id, wamid
  ),
  told as (
    insert into whatsapp.message_events (country_id, message_id, event, at, code, title, detail)
    select l.country_id, l.message_id, case when f.n is null then 'message_repeated' else 'message_received' end, i.at,
      (i.error ->> 'code')::integer, i.error ->> 'title', case when f.n is null then jsonb_build_object('content', i.content) end
    from logged l
    join inbound i on i.country_id = l.country_id and i.account_id = l.account_id and i.wamid = l.wamid and i.kind = 'message' and not i.repeated
    left join first f on f.n = i.n
    where f.n is null or i.error ->> 'title' is not null or i.error ->> 'code' is not null
    order by f.n is null, i.n
  )
  select (select count(*) from first) > (select count(*) from named) into v_missed;
  if v_missed then
    -- Another transaction has just logged one of them, perhaps in other words: tried again, it is a repeat.
    raise exception 'a message was logged meanwhile' using errcode = 'serialization_failure';
  end if;

  perform whatsapp_internal.hear_consents(p_events);
end
$$;

-- An event is not a status. What a template becomes by it, or nothing: FLAGGED is a warning, LOCKED stops edits, LIMIT_EXCEEDED speaks of the
-- account's number of templates, and what we have never heard of tells the sync that follows to look.
create or replace function whatsapp_internal.status_of_event(event text) returns text
language sql immutable parallel safe
return case
  when event in ('APPROVED', 'REINSTATED', 'UNARCHIVED') then 'APPROVED'
  when event in ('PENDING', 'REJECTED', 'PAUSED', 'DISABLED', 'PENDING_DELETION', 'DELETED', 'ARCHIVED', 'IN_APPEAL') then event
end;

-- Template webhooks: the status, quality or category Meta gives a template now. What its components became, the webhook does not tell in full:
-- the function syncs the account's templates after it.
create or replace function whatsapp_internal.apply_templates(p_events jsonb[]) returns void
language sql volatile set search_path = ''
as $$
  -- Whatever order they come in, the youngest word holds: an older one than a webhook or a sync has told changes nothing.
  update whatsapp.templates t
  set status = e.status, reason = e.reason, status_at = e.at
  from (
    select distinct on (told.country_id, told.account_id, told.name, told.language) told.*
    from (
      select i ->> 'country_id' as country_id, i ->> 'account_id' as account_id, c ->> 'message_template_name' as name,
        replace(c ->> 'message_template_language', '-', '_') as language, whatsapp_internal.status_of_event(c ->> 'event') as status,
        nullif(c ->> 'reason', 'NONE') as reason,
        -- Meta tells whole seconds: it has been so since the end of that second at the latest.
        least(whatsapp_internal.event_time((i ->> 'at')::double precision) + interval '1 second', now()) as at, n
      from unnest(p_events) with ordinality as u (i, n), lateral (select i -> 'content' as c) content
      where i ->> 'kind' = 'template' and i ->> 'field' = 'message_template_status_update'
    ) told
    where told.status is not null
    order by told.country_id, told.account_id, told.name, told.language, told.at desc, told.n desc
  ) e
  where t.country_id = e.country_id and t.account_id = e.account_id and t.name = e.name and t.language = e.language
    -- A listing takes its time to be read.
    and e.at >= greatest(t.status_at, t.synced_at - interval '1 minute');

  update whatsapp.templates t
  set quality = coalesce(e.quality, t.quality), category = coalesce(e.category, t.category)
  from (
    select country_id, account_id, name, language,
      (array_agg(quality order by at desc) filter (where quality is not null))[1] as quality,
      (array_agg(category order by at desc) filter (where category is not null))[1] as category
    from (
      select i ->> 'country_id' as country_id, i ->> 'account_id' as account_id, c ->> 'message_template_name' as name,
        replace(c ->> 'message_template_language', '-', '_') as language, coalesce((i ->> 'at')::double precision, 0) as at,
        case when i ->> 'field' = 'message_template_quality_update' then c ->> 'new_quality_score' end as quality,
        -- With a correct_category it is only announced; new_category is then the one it still has.
        case when i ->> 'field' = 'template_category_update' and c ->> 'correct_category' is null then c ->> 'new_category' end as category
      from unnest(p_events) i, lateral (select i -> 'content' as c) content
      where i ->> 'kind' = 'template'
    ) told
    group by 1, 2, 3, 4
  ) e
  where t.country_id = e.country_id and t.account_id = e.account_id and t.name = e.name and t.language = e.language
    and coalesce(e.quality, e.category) is not null
$$;

-- Account webhooks: what Meta allows the number to do now. Source: M:webhooks/reference/account_update and its neighbours. They come one by one,
-- so they are applied one by one. A number that Meta has given back goes on only when a person says so (control_account).
create or replace function whatsapp_internal.apply_accounts(p_events jsonb[]) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_event record;
  v_limit integer;
begin
  for v_event in
    select i ->> 'country_id' as country_id, i ->> 'account_id' as account_id, i ->> 'field' as field, i -> 'content' as content,
      i -> 'content' ->> 'event' as event, i -> 'error' as error
    from unnest(p_events) i
    where i ->> 'kind' = 'account'
    order by 1, 2, coalesce((i ->> 'at')::double precision, 0)
  loop
    if v_event.event in ('ACCOUNT_DELETED', 'PARTNER_REMOVED', 'PARTNER_APP_UNINSTALLED', 'ACCOUNT_OFFBOARDED')
      or (v_event.event = 'DISABLED_UPDATE' and v_event.content -> 'ban_info' ->> 'waba_ban_state' = 'DISABLE')
    then
      perform whatsapp_internal.halt_account(v_event.country_id, v_event.account_id, 'stopped', lower(v_event.event), null, null);
    elsif v_event.event = 'ACCOUNT_RESTRICTION' then
      perform whatsapp_internal.restrict_account(v_event.country_id, v_event.account_id, v_event.content -> 'restriction_info');
    elsif v_event.event = 'THROUGHPUT_UPGRADE' then
      -- A number that was held below the standard on purpose stays there.
      update whatsapp.accounts set messages_per_second = 1000
      where country_id = v_event.country_id and account_id = v_event.account_id
        and (messages_per_second >= 80 or (coexistence and messages_per_second = 20));
    elsif v_event.error ->> 'effect' in ('stop_account', 'pause_account', 'pause_templates', 'policy_block') then
      perform whatsapp_internal.apply_effects(array[jsonb_populate_record(
        null::whatsapp_internal.result,
        v_event.error || jsonb_build_object('country_id', v_event.country_id, 'account_id', v_event.account_id))]);
    end if;

    v_limit := whatsapp_internal.people_of_tier(v_event.content ->> 'max_daily_conversations_per_business');
    if v_limit is not null then
      update whatsapp.accounts set messaging_limit = v_limit
      where country_id = v_event.country_id and account_id = v_event.account_id;
    end if;
  end loop;
end
$$;

-- ACCOUNT_RESTRICTION: no templates, or nothing at all, until a time. Where Meta names none, 30 days: the longest block of its ladder.
create or replace function whatsapp_internal.restrict_account(p_country text, p_account text, p_restrictions jsonb) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_restriction record;
begin
  for v_restriction in
    select r ->> 'restriction_type' as kind, coalesce(
      case when r ->> 'expiration' ~ '^[0-9]{9,11}$' then to_timestamp((r ->> 'expiration')::bigint) end, now() + interval '30 days') as until
    from jsonb_array_elements(case jsonb_typeof(p_restrictions) when 'array' then p_restrictions else '[]' end) r
  loop
    if v_restriction.kind = 'RESTRICTED_BIZ_INITIATED_MESSAGING' then
      update whatsapp.accounts set templates_paused_until = greatest(templates_paused_until, v_restriction.until)
      where country_id = p_country and account_id = p_account;
    elsif v_restriction.kind = 'RESTRICTED_CUSTOMER_INITIATED_MESSAGING' and v_restriction.until > now() then
      perform whatsapp_internal.halt_account(p_country, p_account, 'paused', 'account_restriction', null, v_restriction.until);
    end if;
  end loop;
end
$$;

-- What Meta says of templates and accounts. What changed neither was only recorded.
create or replace function whatsapp_internal.apply_words(p_events jsonb[]) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_before jsonb[] := whatsapp_internal.standing_of(p_events);
begin
  if exists (select from unnest(p_events) i where i ->> 'kind' = 'template') then
    perform whatsapp_internal.apply_templates(p_events);
  end if;
  if exists (select from unnest(p_events) i where i ->> 'kind' = 'account') then
    perform whatsapp_internal.apply_accounts(p_events);
  end if;
  update whatsapp.webhook_events w set outcome = 'recorded'
  from unnest(p_events, v_before, whatsapp_internal.standing_of(p_events)) as u (i, before, after)
  where u.before is not distinct from u.after and w.country_id = u.i ->> 'country_id' and w.event_key = (u.i ->> 'key')::uuid
    and w.day = whatsapp_internal.day_of((u.i ->> 'at')::double precision);
end
$$;

-- The template or account that each of the events speaks of, as it stands.
create or replace function whatsapp_internal.standing_of(p_events jsonb[]) returns jsonb[]
language sql volatile set search_path = ''
as $$
  select array(
    select case i ->> 'kind'
      when 'template' then (
        select to_jsonb(t) from whatsapp.templates t
        where t.country_id = i ->> 'country_id' and t.account_id = i ->> 'account_id' and t.name = i -> 'content' ->> 'message_template_name'
          and t.language = replace(i -> 'content' ->> 'message_template_language', '-', '_'))
      else (
        select to_jsonb(a) from whatsapp.accounts a where a.country_id = i ->> 'country_id' and a.account_id = i ->> 'account_id')
    end
    from unnest(p_events) with ordinality as u (i, n) order by n)
$$;

-- Statuses of messages nobody knows (yet). Answers those that are new.
create or replace function whatsapp_internal.park_statuses(p_statuses jsonb[]) returns jsonb[]
language plpgsql volatile set search_path = ''
as $$
declare
  v_parked jsonb[];
begin
  with parked as (
    insert into whatsapp.parked_statuses (country_id, event_key, account_id, wamid, event)
    select distinct on (country_id, event_key) * from (
      select i ->> 'country_id' as country_id, (i ->> 'key')::uuid as event_key, i ->> 'account_id', i ->> 'wamid', i from unnest(p_statuses) i) e
    order by country_id, event_key
    on conflict do nothing
    returning event
  )
  select array_agg(event) into v_parked from parked;
  return v_parked;
end
$$;

-- Stores what has a key: all that is no status, statuses of nobody's, of inbound messages, and failures. Answers the keys of what is new and to be applied.
create or replace function whatsapp_internal.store_events(p_events jsonb[], p_heard whatsapp_internal.heard[]) returns uuid[]
language plpgsql volatile set search_path = ''
as $$
declare
  v_keys uuid[];
begin
  with arrived as materialized (
    select distinct on (country_id, event_key)
      case when a.account_id is null then 'ZZ' else i ->> 'country_id' end as country_id, (i ->> 'key')::uuid as event_key,
      whatsapp_internal.day_of((i ->> 'at')::double precision) as day,
      a.account_id, i ->> 'field' as field, i ->> 'kind' as kind, i -> 'payload' as payload,
      case
        when i ->> 'kind' in ('ignored', 'unparsable', 'unroutable') then i ->> 'kind'
        when a.account_id is null then 'unroutable'
        when i ->> 'kind' = 'preference' and coalesce(i -> 'content' ->> 'value', '') not in ('stop', 'resume') then 'recorded'
        when i ->> 'kind' = 'system' and not (
          i -> 'contact' ->> 'previous_match_key' is not null or i -> 'contact' ->> 'previous_bsuid' is not null
          or i -> 'contact' ->> 'identity_key_hash' is not null) then 'recorded'
        else coalesce(verdict, 'applied')
      end as outcome
    from (
      select i, null as verdict from unnest(p_events) i where i ->> 'kind' <> 'status'
      union all
      select i, null from unnest(p_events) i where i ->> 'kind' = 'status' and not exists (
        select from whatsapp.accounts a where a.country_id = i ->> 'country_id' and a.account_id = i ->> 'account_id')
      union all
      select h.event, nullif(h.verdict, 'news') from unnest(p_heard) h
      where h.verdict = 'ignored' or (h.verdict = 'news' and h.event ->> 'state' = 'failed')
    ) e
    left join whatsapp.accounts a on a.country_id = i ->> 'country_id' and a.account_id = i ->> 'account_id'
    order by country_id, event_key
  ),
  stored as (
    insert into whatsapp.webhook_events (country_id, day, event_key, account_id, field, kind, outcome, payload)
    select country_id, day, event_key, account_id, field, kind, outcome, payload
    from arrived
    on conflict do nothing
    returning event_key, outcome
  )
  select array_agg(event_key) filter (where outcome = 'applied') into v_keys from stored;
  return v_keys;
end
$$;

create or replace function whatsapp.ingest(p_events jsonb[]) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_heard whatsapp_internal.heard[];
  -- Nothing but statuses of messages we know, and no failure: as nearly always.
  v_plain boolean;
  v_names boolean;
  v_windows boolean;
  v_keys uuid[];
  v_new jsonb[];
  -- Nearly always nothing: asked once more only if it is something.
  v_people whatsapp_internal.person[] := whatsapp_internal.people_of(p_events);
  v_statuses jsonb[];
  v_parked jsonb[];
  v_taken jsonb[];
  v_inbound jsonb[];
  v_effects whatsapp_internal.result[];
  v_alone boolean := v_people is not null and whatsapp_internal.makes_people(v_people);
begin
  perform whatsapp_internal.hold_countries(array(select i ->> 'country_id' from unnest(p_events) i), v_alone);

  v_heard := whatsapp_internal.hear_statuses(p_events);
  select count(*) = cardinality(p_events) and bool_and(h.verdict in ('news', 'told') and h.event ->> 'state' <> 'failed'),
    bool_or(h.verdict = 'news' and h.names), bool_or(h.event ->> 'window_until' is not null)
  into v_plain, v_names, v_windows from unnest(v_heard) h;
  v_statuses := array(
    select distinct on (h.event ->> 'key') h.event from unnest(v_heard) with ordinality as h (event, verdict, names, n)
    where h.verdict = 'news' order by h.event ->> 'key', h.n);
  v_new := v_statuses;
  if not v_plain then
    v_parked := whatsapp_internal.park_statuses(array(select h.event from unnest(v_heard) h where h.verdict = 'parked'));
    v_keys := whatsapp_internal.store_events(p_events, v_heard);
    v_statuses := array(select i from unnest(v_statuses) i where i ->> 'state' <> 'failed' or (i ->> 'key')::uuid = any (v_keys));
    v_new := v_statuses || array(
      select distinct on (key) i from unnest(p_events) i, lateral (select (i ->> 'key')::uuid as key) k
      where i ->> 'kind' <> 'status' and key = any (v_keys) order by key);
  end if;

  -- A status tells who somebody is whether or not its message is known yet.
  if v_people is not null then
    v_people := whatsapp_internal.people_of(v_new || v_parked);
  end if;
  if not v_alone and v_people is not null and whatsapp_internal.makes_people(v_people) then
    raise exception 'somebody else has just written one of these people' using errcode = 'serialization_failure';
  end if;
  if v_alone then
    perform whatsapp_internal.lock_people(v_people, v_new);
  end if;
  v_effects := whatsapp_internal.apply_statuses(v_statuses);
  if v_names then
    -- A status that names our id is the first to tell the wamid, under which others may wait.
    v_taken := whatsapp_internal.learn_wamids(array(select h.event from unnest(v_heard) h where h.names and h.verdict = 'news'));
    v_effects := v_effects || whatsapp_internal.apply_statuses(v_taken);
    v_statuses := v_statuses || v_taken;
    v_windows := v_windows or v_taken is not null;
  end if;
  if not v_plain then
    v_inbound := array(select i from unnest(v_new) i where i ->> 'kind' in ('message', 'call', 'preference'));
    if cardinality(v_inbound) > 0 then
      v_inbound := whatsapp_internal.apply_repeats(v_inbound);
    end if;
  end if;
  if v_people is not null or v_windows or not v_plain then
    perform whatsapp_internal.hold_people(v_people, v_new);
    perform whatsapp_internal.meet_contacts(v_people);
  end if;
  if v_windows then
    perform whatsapp_internal.open_entry_points(v_statuses);
  end if;
  if not v_plain then
    if cardinality(v_inbound) > 0 then
      perform whatsapp_internal.apply_inbound(v_inbound);
    end if;
    if exists (select from unnest(v_new) i where i ->> 'kind' in ('template', 'account')) then
      perform whatsapp_internal.apply_words(array(select i from unnest(v_new) i where i ->> 'kind' in ('template', 'account')));
    end if;
  end if;
  if v_effects is not null then
    -- The person of a message may have turned out to be another.
    perform whatsapp_internal.apply_effects(array(
      select jsonb_populate_record(e, jsonb_build_object('contact_id', m.contact_id))
      from unnest(v_effects) e
      cross join lateral (
        select m.contact_id from whatsapp.messages m where m.country_id = e.country_id and m.message_id = e.message_id limit 1) m));
  end if;
  perform whatsapp_internal.see_webhooks(p_events, case when not v_plain then v_new end);

  return jsonb_build_object('received', cardinality(p_events), 'applied', cardinality(v_new), 'parked', coalesce(cardinality(v_parked), 0));
end
$$;
comment on function whatsapp.ingest is 'Verb 4 of 5. Stores webhook events once and applies what is new. Safe to repeat.';

-- The account's webhook feed is alive, and its inbound messages have used slots of the number's throughput (Meta counts both ways).
-- Comes last: it touches the row that claim holds. `p_new` is null where nobody wrote.
create or replace function whatsapp_internal.see_webhooks(p_events jsonb[], p_new jsonb[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  -- After a silence as long as the deadline of unknowns nobody can tell it from webhooks that did not reach us.
  insert into whatsapp.throttles as t (country_id, account_id, webhook_seen_at, told_until)
  select a.country_id, a.account_id, now(), i.told_until
  from (
    -- A thing without a time of its own tells nothing of how far the feed has come.
    select i ->> 'country_id' as country_id, i ->> 'account_id' as account_id,
      max(case when i ->> 'at' is not null then whatsapp_internal.event_time((i ->> 'at')::double precision) end) as told_until
    from unnest(p_events) i group by 1, 2
  ) i
  join whatsapp.accounts a on a.country_id = i.country_id and a.account_id = i.account_id
  where not exists (
    select from whatsapp.throttles t
    where t.country_id = a.country_id and t.account_id = a.account_id and t.webhook_seen_at > now() - interval '1 second'
      and coalesce(i.told_until <= t.told_until + interval '1 second', i.told_until is null))
  order by 1, 2
  on conflict (country_id, account_id) do update
  set webhook_seen_at = excluded.webhook_seen_at,
    told_until = greatest(t.told_until, excluded.told_until),
    (feed_since, gap_from) = (
      select case when gap.ended then now() else t.feed_since end,
        case when gap.ended then whatsapp_internal.gap_from(t.feed_since, t.gap_from, t.webhook_seen_at) else t.gap_from end
      from whatsapp.accounts a
      cross join lateral (select coalesce(t.webhook_seen_at < now() - interval '1 second' - a.unknown_deadline, true) as ended) gap
      where a.country_id = t.country_id and a.account_id = t.account_id);
  if p_new is null then
    return;
  end if;

  update whatsapp.throttles t
  set inbound_at = now(),
    -- Only claim sets the clock back, and the slots with it.
    paced_at = greatest(t.paced_at, clock_timestamp()),
    -- A second after the last of them no moving second holds any more what people wrote: more than that a flood does not take.
    next_slot_at = greatest(t.next_slot_at, least(
      greatest(t.next_slot_at, clock_timestamp()) + i.messages * whatsapp_internal.slot_step(a.messages_per_second, t.rate_factor),
      clock_timestamp() + interval '1 second'))
  from (
    select i ->> 'country_id' as country_id, i ->> 'account_id' as account_id, count(*) as messages
    from unnest(p_new) i
    -- What Meta brings late, after its webhooks or we were away, has used its share of a second long past.
    where i ->> 'kind' = 'message' and whatsapp_internal.event_time((i ->> 'at')::double precision) > now() - interval '5 seconds'
    group by 1, 2 order by 1, 2
  ) i
  join whatsapp.accounts a on a.country_id = i.country_id and a.account_id = i.account_id
  where t.country_id = i.country_id and t.account_id = i.account_id;
end
$$;
