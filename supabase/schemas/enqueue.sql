-- enqueue: judge a batch of messages, write what may go to the log and the queue, answer a verdict for each.
--
--   p_items  jsonb[]  one object a message, any number of countries in one batch:
--     country_id, account_id?          the account; without account_id the country's default
--     actor?                           the signed-in user; must be operator or admin of the country. Absent for trusted servers
--     phone?, match_key?, bsuid?, contact_id?   the person, by one of them (match_key goes with phone)
--     kind, content, template_name?, template_language?    Meta's own object
--     key, fingerprint                 Idempotency-Key and a digest of the request
--     send_at?, expires_at?, ref?
--   returns  jsonb    an array in the order of p_items:
--     {"status": "accepted" | "replayed", "message_id", "state", "account_id"}  or  {"status": "refused", "code", "field"}
--
-- An item that could not be written (no phone number, no UUID, no time, too long) is refused as `invalid_item` and harms no other: callers of
-- every country share a batch.
--
-- Safe to repeat: a key is written in the same transaction as its message, so the same key answers with the same message,
-- however often and however concurrently it comes. A refusal leaves no message and no key (at most a new
-- contact) and may be tried again with the same key.
-- Rows shared by concurrent batches (contacts, conversations, keys) are touched in sorted order: no deadlocks.

-- Text as what it stands for, or null where it stands for nothing: a cast would fail the batch of everybody.
create or replace function whatsapp_internal.as_uuid(p_text text) returns uuid
language sql immutable parallel safe
return case when p_text ~* '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' then p_text::uuid end;

create or replace function whatsapp_internal.as_time(p_text text) returns timestamptz
language plpgsql stable set search_path = ''
as $$
begin
  -- A four-digit year leaves room for every sum the verbs make.
  return case when p_text ~ '^[0-9]{4}-' then p_text::timestamptz end;
exception
  when data_exception then return null;
end
$$;

-- What the columns of contacts take.
create or replace function whatsapp_internal.is_phone(p_phone text, p_match_key text) returns boolean
language sql immutable parallel safe
return coalesce(
  length(p_phone) between 6 and 16 and p_phone ~ '^\+[0-9]+$' and length(p_match_key) between 5 and 15 and p_match_key ~ '^[0-9]+$', false);

create or replace function whatsapp_internal.is_bsuid(p_bsuid text) returns boolean
language sql immutable parallel safe
return coalesce(p_bsuid ~ '^[!-~]{1,200}$', false);

-- Whether a person could be written as they are named: exactly one of phone (with its match key), bsuid and contact_id. Where not, which member.
create or replace function whatsapp_internal.unwritable_person(p_item jsonb) returns text
language sql immutable parallel safe
return case
  when num_nonnulls(p_item ->> 'phone', p_item ->> 'bsuid', p_item ->> 'contact_id') <> 1 then 'to'
  when p_item ->> 'phone' is not null and not whatsapp_internal.is_phone(p_item ->> 'phone', p_item ->> 'match_key') then 'to'
  when p_item ->> 'bsuid' is not null and not whatsapp_internal.is_bsuid(p_item ->> 'bsuid') then 'to.bsuid'
  when p_item ->> 'contact_id' is not null and whatsapp_internal.as_uuid(p_item ->> 'contact_id') is null then 'to.contact_id'
end;

-- Which member of an item could not be written, or null.
create or replace function whatsapp_internal.unwritable(p_item jsonb) returns text
language sql stable
return case
  when jsonb_typeof(p_item) is distinct from 'object' then 'item'
  when p_item ->> 'actor' is not null and whatsapp_internal.as_uuid(p_item ->> 'actor') is null then 'actor'
  when whatsapp_internal.unwritable_person(p_item) is not null then whatsapp_internal.unwritable_person(p_item)
  when coalesce(length(p_item ->> 'kind'), 0) not between 1 and 50 or coalesce(jsonb_typeof(p_item -> 'content'), '') <> 'object' then 'message'
  when length(p_item ->> 'template_name') > 512 or length(p_item ->> 'template_language') > 50 then 'message.template'
  when coalesce(length(p_item ->> 'key'), 0) not between 1 and 255 then 'Idempotency-Key'
  when coalesce(length(p_item ->> 'fingerprint'), 0) not between 1 and 200 then 'fingerprint'
  when p_item ->> 'send_at' is not null and whatsapp_internal.as_time(p_item ->> 'send_at') is null then 'send_at'
  when p_item ->> 'expires_at' is not null and whatsapp_internal.as_time(p_item ->> 'expires_at') is null then 'expires_at'
  when length(p_item ->> 'ref') > 200 then 'ref'
end;

-- Reads the items and finds each one's account; what could not be written, who may not use the account, or names one that is not there, is
-- refused here.
create or replace function whatsapp_internal.read_drafts(p_items jsonb[]) returns whatsapp_internal.draft[]
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select array_agg(row(
        i.n, i.country_id, a.account_id, a.state, a.opt_in_required, i.actor, i.phone, i.match_key, i.bsuid, i.contact_id, i.kind, i.content,
        i.template_name, i.template_language, null, i.key, i.fingerprint, i.send_at, i.expires_at, i.ref, i.message_id,
        case when judged.code is not null then 'refused' end, null, judged.code, judged.field
      )::whatsapp_internal.draft order by i.n)
    from (
      select u.n, u.unwritable, r.*, whatsapp_internal.uuid7() as message_id
      from (
        select n, item, whatsapp_internal.unwritable(item) as unwritable from unnest(p_items) with ordinality as u (item, n) offset 0
      ) u,
        -- Whom it concerns is judged before what is wrong with it: nobody learns anything of another country.
        jsonb_to_record(case when u.unwritable is null then u.item else jsonb_build_object(
          'country_id', u.item -> 'country_id', 'actor', whatsapp_internal.as_uuid(u.item ->> 'actor'), 'account_id', u.item -> 'account_id') end
        ) as r (
          country_id text, account_id text, actor uuid, phone text, match_key text, bsuid text, contact_id uuid, kind text, content jsonb,
          template_name text, template_language text, key text, fingerprint text, send_at timestamptz, expires_at timestamptz, ref text)
    ) i
    left join whatsapp.members m on m.country_id = i.country_id and m.user_id = i.actor
    left join whatsapp.accounts a
      on a.country_id = i.country_id and (a.account_id = i.account_id or (i.account_id is null and a.is_default))
    cross join lateral (
      select case
        when i.unwritable in ('item', 'actor') then 'invalid_item'
        when i.actor is not null and m.role is null then 'not_a_member'
        when i.actor is not null and m.role not in ('operator', 'admin') then 'role_too_low'
        when i.unwritable is not null then 'invalid_item'
        when a.account_id is not null then null
        when not exists (select from whatsapp.accounts c where c.country_id = i.country_id) then 'unknown_country'
        when i.account_id is null then 'no_default_account'
        else 'no_such_account'
      end as code
    ) verdict
    cross join lateral (
      select verdict.code, case
        when verdict.code = 'invalid_item' then i.unwritable
        when verdict.code = 'no_such_account' then 'account'
        when verdict.code is not null then 'country_id'
      end as field
    ) judged
  );
end
$$;

-- The draft with what is given; the rest stays as it was. Inlined, so it has no settings.
create or replace function whatsapp_internal.draft_with(
  d whatsapp_internal.draft, account_id text default null, contact_id uuid default null, category text default null, message_id uuid default null,
  status text default null, state text default null, code text default null, field text default null
) returns whatsapp_internal.draft
language sql immutable parallel safe
as $$
  select row(
    d.n, d.country_id, coalesce(account_id, d.account_id), d.account_state, d.opt_in_required, d.actor, d.phone, d.match_key, d.bsuid,
    coalesce(contact_id, d.contact_id), d.kind, d.content, d.template_name, d.template_language, coalesce(category, d.category), d.key,
    d.fingerprint, d.send_at, d.expires_at, d.ref, coalesce(message_id, d.message_id), coalesce(status, d.status), coalesce(state, d.state),
    coalesce(code, d.code), coalesce(field, d.field)
  )::whatsapp_internal.draft
$$;

-- Drafts whose key has been used get the answer of that time, or a refusal if the request was another one.
create or replace function whatsapp_internal.replay_drafts(p_drafts whatsapp_internal.draft[]) returns whatsapp_internal.draft[]
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select array_agg(whatsapp_internal.draft_with(
        d, account_id => m.account_id, contact_id => m.contact_id, message_id => m.message_id,
        status => case when k.fingerprint = d.fingerprint then 'replayed' when k.key is not null then 'refused' end,
        state => case when m.send_at > m.created_at then 'scheduled' when m.message_id is not null then 'queued' end,
        code => case when k.fingerprint <> d.fingerprint then 'idempotency_key_reused' end,
        field => case when k.fingerprint <> d.fingerprint then 'Idempotency-Key' end
      ) order by d.n)
    from unnest(p_drafts) d
    -- Each by its key: as plain joins, a plan made while the tables were empty read all of them for each draft.
    left join lateral (
      select k.* from whatsapp.idempotency_keys k
      where d.status is null and k.country_id = d.country_id and k.scope = 'send' and k.key = d.key limit 1
    ) k on true
    left join lateral (
      select m.* from whatsapp.messages m where m.country_id = k.country_id and m.message_id = k.message_id limit 1
    ) m on true
  );
end
$$;

-- Every undecided draft finds its person, or makes them known.
create or replace function whatsapp_internal.find_contacts(p_drafts whatsapp_internal.draft[]) returns whatsapp_internal.draft[]
language plpgsql volatile set search_path = ''
as $$
begin
  -- Somebody first met through a webhook gets the phone a caller knows them by.
  update whatsapp.contacts c set phone = d.phone
  from (
    select d.country_id, known.contact_id, min(d.phone) as phone
    from unnest(p_drafts) d
    cross join lateral (
      select k.contact_id, k.phone from whatsapp.contacts k where k.country_id = d.country_id and k.match_key = d.match_key limit 1
    ) known
    where d.status is null and known.phone is null
    group by 1, 2 order by 1, 2
  ) d
  where c.country_id = d.country_id and c.contact_id = d.contact_id and c.phone is null;

  insert into whatsapp.contacts (country_id, phone, match_key)
  select distinct on (d.country_id, d.match_key) d.country_id, d.phone, d.match_key
  from unnest(p_drafts) d
  where d.status is null and d.match_key is not null
    and not exists (select from whatsapp.contacts c where c.country_id = d.country_id and c.match_key = d.match_key)
  order by d.country_id, d.match_key
  on conflict do nothing;

  insert into whatsapp.contacts (country_id, bsuid)
  select distinct d.country_id, d.bsuid
  from unnest(p_drafts) d
  where d.status is null and d.bsuid is not null
    and not exists (select from whatsapp_internal.holder_of_bsuid(d.country_id, d.bsuid))
  order by d.country_id, d.bsuid
  on conflict do nothing;

  return (
    select array_agg(whatsapp_internal.draft_with(
        d, contact_id => c.contact_id,
        status => case when d.status is null and c.contact_id is null then 'refused' end,
        code => case when d.status is null and c.contact_id is null then 'unknown_contact' end,
        field => case when d.status is null and c.contact_id is null then 'to.contact_id' end
      ) order by d.n)
    from unnest(p_drafts) d
    left join lateral (
      select coalesce(c.merged_into, c.contact_id) as contact_id
      from whatsapp.contacts c where c.country_id = d.country_id and c.contact_id = d.contact_id
      union all
      select c.contact_id from whatsapp.contacts c where c.country_id = d.country_id and c.match_key = d.match_key
      union all
      select h.contact_id from whatsapp_internal.holder_of_bsuid(d.country_id, d.bsuid) h
      limit 1
    ) c on true
  );
end
$$;

-- The gates, for each undecided draft; sets the category the template has at Meta. A message for later is judged again at its time,
-- so the window is not asked of it now.
create or replace function whatsapp_internal.judge_drafts(p_drafts whatsapp_internal.draft[]) returns whatsapp_internal.draft[]
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select array_agg(whatsapp_internal.draft_with(
        d, category => t.category, code => gate.code,
        status => case when gate.code is not null then 'refused' end,
        field => case
          when gate.code like 'template%' then 'message.template'
          when gate.code = 'message_expired' then 'expires_at'
          when gate.code like 'account%' then 'account'
          when gate.code is not null then 'to'
        end
      ) order by d.n)
    from unnest(p_drafts) d
    left join whatsapp.contacts c on d.status is null and c.country_id = d.country_id and c.contact_id = d.contact_id
    left join whatsapp.conversations v
      on d.status is null and v.country_id = d.country_id and v.account_id = d.account_id and v.contact_id = d.contact_id
    left join whatsapp.templates t
      on d.status is null and t.country_id = d.country_id and t.account_id = d.account_id and t.name = d.template_name
      and t.language = d.template_language
    cross join lateral (
      select case when d.status is null then whatsapp_internal.refusal(
        d.account_state, d.kind, t.category, t.status,
        case when d.send_at > now() then d.send_at + interval '1 day' else v.window_until end,
        greatest(v.window_until, v.entry_point_until), v.last_inbound_at, c.opted_in_at, d.opt_in_required, c.opted_out_at, c.marketing_opted_out_at, c.marketing_cooled_until, d.expires_at, now()
      ) end as code
    ) gate
  );
end
$$;

-- Writes the keys of the drafts that may go. Of two callers with one key the second waits here for the first and then finds
-- its message; a draft that found its key taken is no longer undecided.
create or replace function whatsapp_internal.take_keys(p_drafts whatsapp_internal.draft[]) returns whatsapp_internal.draft[]
language plpgsql volatile set search_path = '' set enable_hashjoin = on
as $$
declare
  v_drafts whatsapp_internal.draft[];
begin
  with taken as (
    insert into whatsapp.idempotency_keys (country_id, key, fingerprint, message_id)
    select country_id, key, fingerprint, message_id
    from unnest(p_drafts) where status is null
    order by country_id, key, n
    on conflict do nothing
    returning country_id, message_id
  )
  select array_agg(whatsapp_internal.draft_with(
      d,
      status => case when t.message_id is not null then 'accepted' end,
      state => case when t.message_id is null then null when d.send_at > now() then 'scheduled' else 'queued' end
    ) order by d.n)
  into v_drafts
  from unnest(p_drafts) d
  left join taken t on t.country_id = d.country_id and t.message_id = d.message_id;
  return v_drafts;
end
$$;

-- Writes log and queue of the accepted drafts.
create or replace function whatsapp_internal.write_drafts(p_drafts whatsapp_internal.draft[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  insert into whatsapp.lanes (country_id, account_id, lane, priority)
  select distinct d.country_id, d.account_id, l.lane, whatsapp_internal.lane_priority(l.lane)
  from unnest(p_drafts) d, lateral (select whatsapp_internal.lane_of(d.kind, d.category) as lane) l
  where d.status = 'accepted'
    and not exists (
      select from whatsapp.lanes x where x.country_id = d.country_id and x.account_id = d.account_id and x.lane = l.lane)
  order by 1, 2, 3
  on conflict do nothing;

  insert into whatsapp.messages (
    country_id, message_id, account_id, contact_id, direction, kind, state, content, template_name, template_language, category, ref,
    created_by, send_at, expires_at)
  select country_id, message_id, account_id, contact_id, 'outbound', kind, state, content, template_name, template_language, category, ref,
    actor, send_at, expires_at
  from unnest(p_drafts) where status = 'accepted';

  insert into whatsapp.queue (country_id, message_id, account_id, contact_id, lane, due_at, run_at, expires_at, scheduled)
  select country_id, message_id, account_id, contact_id, whatsapp_internal.lane_of(kind, category),
    greatest(send_at, now()), greatest(send_at, now()), expires_at, state = 'scheduled'
  from unnest(p_drafts) where status = 'accepted'
  order by n;
end
$$;

create or replace function whatsapp.enqueue(p_items jsonb[]) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_drafts whatsapp_internal.draft[];
begin
  perform whatsapp_internal.hold_countries(array(select i ->> 'country_id' from unnest(p_items) i), false);
  v_drafts := whatsapp_internal.read_drafts(p_items);
  v_drafts := whatsapp_internal.replay_drafts(v_drafts);
  v_drafts := whatsapp_internal.find_contacts(v_drafts);
  v_drafts := whatsapp_internal.judge_drafts(v_drafts);

  insert into whatsapp.conversations (country_id, account_id, contact_id)
  select distinct country_id, account_id, contact_id from unnest(v_drafts) d
  where status is null and not exists (
    select from whatsapp.conversations v
    where v.country_id = d.country_id and v.account_id = d.account_id and v.contact_id = d.contact_id)
  order by 1, 2, 3
  on conflict do nothing;

  v_drafts := whatsapp_internal.take_keys(v_drafts);
  perform whatsapp_internal.write_drafts(v_drafts);
  -- Somebody else has just taken the keys of these.
  if exists (select from unnest(v_drafts) where status is null) then
    v_drafts := whatsapp_internal.replay_drafts(v_drafts);
  end if;

  return (
    select coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
      'status', status, 'message_id', case when status <> 'refused' then message_id end, 'state', state, 'account_id', account_id, 'code', code, 'field', field
    )) order by n), '[]'::jsonb)
    from unnest(v_drafts)
  );
end
$$;
comment on function whatsapp.enqueue is 'Verb 1 of 5. Judges a batch of messages, writes log and queue, answers a verdict per item. Safe to repeat.';
