-- Consent: who wants to hear from us, since when, and how we know.
--
--   consents          append-only: every opt-in and opt-out, whoever told it: a caller, a stop word, Meta
--   stop_words        words that opt a person out (or in) by themselves, a list per country; nothing is configured by default
--   record_consents   many at once, a verdict per row
--
-- What holds now stands in contacts (opted_in_at, opted_out_at, marketing_opted_out_at), where the gates read it, and is a function of the
-- facts, never of the order in which they became known:
--   * The later fact wins, by `at`: when the person said it. An old import does not undo a newer opt-out. At the same moment no wins.
--   * An opt-out of scope `all` sets opted_out_at, lifted by a later opt-in of scope `all`. An opt-in to marketing alone does not lift it.
--   * An opt-out of scope `marketing` sets marketing_opted_out_at, lifted by any later opt-in.
--   * opted_in_at is the latest opt-in of either scope. Meta's "resume" takes back a stop and is no opt-in where none was given before.
--   * A time that stands in contacts without a fact here (set by SQL, or carried over from another contact of the same person) counts as one.
--
-- A stop word is the whole message, text or quick reply of a template; case, accents, and whitespace and punctuation around it do not matter.
-- It is recorded with the word as written. Its reply, if one is configured, is queued in the same transaction, and only when the word
-- changed what holds: neither a repeated webhook nor a person who writes BAJA three times is answered twice. It is the one free-form message
-- that passes an opt-out (messages.confirms_consent); everything else waits until the person writes again.

create table whatsapp.consents (
  country_id text not null,
  contact_id uuid not null,
  consent_id bigint generated always as identity,
  what text not null check (what in ('opt_in', 'opt_out')),
  scope text not null check (scope in ('all', 'marketing')),
  at timestamptz not null,
  how text not null check (length(how) between 1 and 200),
  proof text check (length(proof) between 1 and 4096),
  recorded_by uuid,
  recorded_at timestamptz not null default now(),
  primary key (country_id, contact_id, consent_id),
  foreign key (country_id, contact_id) references whatsapp.contacts (country_id, contact_id)
);
comment on table whatsapp.consents is 'Append-only: every opt-in and opt-out, when, how and in which words. What holds now stands in contacts.';
comment on column whatsapp.consents.at is 'When the person said it; recorded_at is when we wrote it down.';
comment on column whatsapp.consents.how is 'Where it comes from. stop_word and meta are written by webhooks only.';
comment on column whatsapp.consents.recorded_by is 'The signed-in user who recorded it; null for servers and webhooks.';

-- A word by which spellings meet: without accents, in lower case, with one space where whitespace and punctuation stood. By code points, so
-- that it does not depend on the database's locale but for the case of letters beyond a to z.
create or replace function whatsapp_internal.plain_word(word text) returns text
language sql immutable parallel safe
return trim(regexp_replace(
  lower(regexp_replace(normalize(word, nfkd), '[\u0300-\u036f]', '', 'g')),
  '[\u0001-\u002f\u003a-\u0040\u005b-\u0060\u007b-\u00bf\u2000-\u206f\u3000-\u303f\ufe0f\ufeff]+', ' ', 'g'));

create table whatsapp.stop_words (
  country_id text not null check (country_id ~ '^[A-Z]{2}$'),
  word text not null check (length(word) <= 100),
  key text not null generated always as (whatsapp_internal.plain_word(word)) stored check (key <> ''),
  action text not null default 'opt_out' check (action in ('opt_in', 'opt_out')),
  scope text not null default 'all' check (scope in ('all', 'marketing')),
  reply text check (length(reply) between 1 and 4096),
  primary key (country_id, key)
);
comment on table whatsapp.stop_words is 'Words that by themselves opt a person of the country out (or in). Kept by the project''s owner in SQL.';
comment on column whatsapp.stop_words.key is 'The word as messages are compared with it: case, accents and punctuation do not matter.';
comment on column whatsapp.stop_words.reply is 'Sent once, when the word changed what holds. Null: no answer.';

alter table whatsapp.messages add column confirms_consent boolean;
comment on column whatsapp.messages.confirms_consent is 'The one answer to a stop word: claim does not ask it about the opt-out it confirms.';

select whatsapp_internal.let_members_read('consents');
select whatsapp_internal.let_members_read('stop_words');
revoke all on all sequences in schema whatsapp from public, anon, authenticated, service_role;

-- ── Facts ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

create type whatsapp_internal.consent as (
  country_id text,
  contact_id uuid,
  what text,
  scope text,
  at timestamptz,
  how text,
  proof text,
  recorded_by uuid
);

-- Writes the facts and what follows from them into contacts. Answers whose standing it changed.
create or replace function whatsapp_internal.add_consents(p_facts whatsapp_internal.consent[]) returns table (country_id text, contact_id uuid)
language plpgsql volatile set search_path = ''
as $$
#variable_conflict use_column
begin
  -- People first, in order: whoever else records for them waits here, and then looks at the facts in a statement of its own.
  perform from (select distinct f.country_id, f.contact_id from unnest(p_facts) f order by 1, 2) f
  cross join lateral (
    select from whatsapp.contacts c where c.country_id = f.country_id and c.contact_id = f.contact_id for no key update of c
  ) c;

  -- Joined with another while this waited: the wish goes where the person went.
  if exists (
    select from unnest(p_facts) f
    cross join lateral (
      select c.merged_into from whatsapp.contacts c where c.country_id = f.country_id and c.contact_id = f.contact_id limit 1) c
    where c.merged_into is not null)
  then
    return query select a.* from whatsapp_internal.add_consents(array(
      select row(f.country_id, coalesce(c.merged_into, c.contact_id), f.what, f.scope, f.at, f.how, f.proof, f.recorded_by)::whatsapp_internal.consent
      from unnest(p_facts) f join whatsapp.contacts c on c.country_id = f.country_id and c.contact_id = f.contact_id)) a;
    return;
  end if;

  insert into whatsapp.consents (country_id, contact_id, what, scope, at, how, proof, recorded_by)
  select f.* from unnest(p_facts) f order by f.at;

  return query
  select s.country_id, s.contact_id
  from (select array_agg(f.country_id) as countries, array_agg(f.contact_id) as contacts
        from (select distinct f.country_id, f.contact_id from unnest(p_facts) f) f) f,
    whatsapp_internal.stand(f.countries, f.contacts) s;
end
$$;

-- What holds for these people, by their facts and by what stands in their rows. Answers whose standing it changed. The caller holds the rows.
create or replace function whatsapp_internal.stand(p_countries text[], p_contacts uuid[]) returns table (country_id text, contact_id uuid)
language sql volatile set search_path = ''
as $$
  with told as materialized (
    select c.country_id, c.contact_id, c.opted_in_at is null as never_in, c.opted_out_at is null as not_out,
      c.marketing_opted_out_at is null as not_out_of_marketing,
      greatest(c.opted_in_at, k.opted_in) as opted_in,
      greatest(c.opted_out_at, k.out_of_all) as out_of_all, k.in_to_all,
      greatest(c.marketing_opted_out_at, k.out_of_marketing) as out_of_marketing, k.in_to_any
    from unnest(p_countries, p_contacts) as f (country_id, contact_id)
    cross join lateral (
      select c.* from whatsapp.contacts c where c.country_id = f.country_id and c.contact_id = f.contact_id limit 1) c
    cross join lateral (
      select
        max(k.at) filter (where k.what = 'opt_in' and k.how <> 'meta') as opted_in,
        max(k.at) filter (where k.what = 'opt_in') as in_to_any,
        max(k.at) filter (where k.what = 'opt_in' and k.scope = 'all') as in_to_all,
        max(k.at) filter (where k.what = 'opt_out' and k.scope = 'all') as out_of_all,
        max(k.at) filter (where k.what = 'opt_out' and k.scope = 'marketing') as out_of_marketing
      from whatsapp.consents k where k.country_id = c.country_id and k.contact_id = c.contact_id
    ) k
  ),
  standing as (
    update whatsapp.contacts c
    set opted_in_at = t.opted_in,
      opted_out_at = case when t.in_to_all > t.out_of_all then null else t.out_of_all end,
      marketing_opted_out_at = case when t.in_to_any > t.out_of_marketing then null else t.out_of_marketing end
    from told t
    where c.country_id = t.country_id and c.contact_id = t.contact_id
    returning c.country_id, c.contact_id, c.opted_in_at, c.opted_out_at, c.marketing_opted_out_at, t.never_in, t.not_out,
      t.not_out_of_marketing
  )
  select s.country_id, s.contact_id from standing s
  where (s.opted_in_at is null, s.opted_out_at is null, s.marketing_opted_out_at is null) <> (s.never_in, s.not_out, s.not_out_of_marketing)
$$;

-- Which member of a row could not be written, or null.
create or replace function whatsapp_internal.unwritable_consent(p_row jsonb) returns text
language sql stable
return case
  when jsonb_typeof(p_row) is distinct from 'object' then 'row'
  when whatsapp_internal.unwritable_person(p_row) is not null then whatsapp_internal.unwritable_person(p_row)
  when coalesce(p_row ->> 'what', '') not in ('opt_in', 'opt_out') then 'action'
  when coalesce(p_row ->> 'scope', '') not in ('all', 'marketing') then 'scope'
  when p_row ->> 'at' is not null and whatsapp_internal.as_time(p_row ->> 'at') is null then 'at'
  when coalesce(length(p_row ->> 'how'), 0) not between 1 and 200 then 'how'
  when p_row ->> 'proof' is not null and length(p_row ->> 'proof') not between 1 and 4096 then 'proof'
end;

--   p_key, p_fingerprint   of this call: repeated, it answers what it answered
--   p_rows     {row, phone?, match_key?, bsuid?, contact_id?, what, scope, at?, how, proof?}; without `at` it is said now
--   returns    {"recorded": n, "refused": [{"row", "code", "field"}]}  or  {"code", "field"}
-- People not known yet are made known. A row that could not be written is refused as `invalid_item`, alone.
create or replace function whatsapp.record_consents(p_country text, p_actor uuid, p_key text, p_fingerprint text, p_rows jsonb[]) returns jsonb
language plpgsql volatile security definer set search_path = ''
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set join_collapse_limit = 1
set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_code text := whatsapp_internal.refuse_actor(p_country, p_actor);
  v_drafts whatsapp_internal.draft[];
  v_facts whatsapp_internal.consent[];
  v_answer jsonb;
begin
  if v_code is null and not exists (select from whatsapp.accounts a where a.country_id = p_country) then
    v_code := 'unknown_country';
  end if;
  if v_code is not null then
    return jsonb_build_object('code', v_code, 'field', 'country_id');
  end if;

  v_answer := whatsapp_internal.answer_of_key(p_country, 'consents', p_key, p_fingerprint);
  if v_answer is not null then
    return v_answer;
  end if;

  -- A fact of the future would beat whatever the person says until then. Clocks may differ a little.
  select array_agg(jsonb_populate_record(null::whatsapp_internal.draft,
      case when r.unwritable is null then r.item else '{}' end || jsonb_strip_nulls(jsonb_build_object(
        'n', r.n, 'country_id', p_country, 'status', case when v.code is not null then 'refused' end, 'code', v.code,
        'field', case when v.code = 'invalid_item' then r.unwritable when v.code is not null then 'at' end))) order by r.n)
  into v_drafts
  from (
    select n, item, whatsapp_internal.unwritable_consent(item) as unwritable from unnest(p_rows) with ordinality as u (item, n) offset 0
  ) r
  cross join lateral (
    select case
      when r.unwritable is not null then 'invalid_item'
      when (r.item ->> 'at')::timestamptz > now() + interval '5 minutes' then 'consent_in_future'
    end as code
  ) v;
  perform whatsapp_internal.hold_countries(array[p_country], false);
  perform whatsapp_internal.hold_contacts(array_agg(p_country), array_agg(known.contact_id))
  from unnest(v_drafts) d
  cross join lateral (
    (select k.contact_id from whatsapp.contacts k where k.country_id = p_country and k.match_key = d.match_key limit 1)
    union all
    select h.contact_id from whatsapp_internal.holder_of_bsuid(p_country, d.bsuid) h
    union all
    (select coalesce(k.merged_into, k.contact_id) from whatsapp.contacts k where k.country_id = p_country and k.contact_id = d.contact_id limit 1)
  ) known
  where d.status is null;
  v_drafts := whatsapp_internal.find_contacts(v_drafts);

  select array_agg(row(
      p_country, u.contact_id, u.item ->> 'what', u.item ->> 'scope', least(coalesce((u.item ->> 'at')::timestamptz, now()), now()),
      u.item ->> 'how', u.item ->> 'proof', p_actor)::whatsapp_internal.consent order by u.n) filter (where u.status is null),
    jsonb_build_object(
      'recorded', count(*) filter (where u.status is null),
      'refused', coalesce(
        jsonb_agg(jsonb_build_object('row', u.item -> 'row', 'code', u.code, 'field', u.field) order by u.n) filter (where u.status is not null),
        '[]'))
  into v_facts, v_answer
  from unnest(p_rows, v_drafts) as u (item);
  perform whatsapp_internal.add_consents(v_facts);

  update whatsapp.idempotency_keys k set answer = v_answer where k.country_id = p_country and k.scope = 'consents' and k.key = p_key;
  return v_answer;
end
$$;
comment on function whatsapp.record_consents is 'Records opt-ins and opt-outs with a verdict per row. Safe to repeat.';

-- ── What people say themselves ────────────────────────────────────────────────────────────────────────────────────────────────────────

-- Ingest's part: Meta's marketing stop and resume, and stop words. Every event is new, and its person known.
create or replace function whatsapp_internal.hear_consents(p_events jsonb[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  if exists (select from unnest(p_events) i where i ->> 'kind' = 'preference') then
    perform whatsapp_internal.add_consents(array(
      select row(
          i ->> 'country_id', p.contact_id, case i -> 'content' ->> 'value' when 'stop' then 'opt_out' else 'opt_in' end, 'marketing',
          whatsapp_internal.event_time((i ->> 'at')::double precision), 'meta', left(nullif(i -> 'content' ->> 'detail', ''), 4096), null
        )::whatsapp_internal.consent
      from unnest(p_events) i
      cross join lateral whatsapp_internal.contact_of(
        i ->> 'country_id', i -> 'contact' ->> 'match_key', i -> 'contact' ->> 'bsuid', whatsapp_internal.event_time((i ->> 'at')::double precision)) p
      where i ->> 'kind' = 'preference' and i -> 'content' ->> 'value' in ('stop', 'resume')));
  end if;
  if exists (
    select from whatsapp.stop_words s
    where s.country_id in (select i ->> 'country_id' from unnest(p_events) i where i ->> 'kind' = 'message')
  ) then
    perform whatsapp_internal.hear_stop_words(p_events);
  end if;
end
$$;

create or replace function whatsapp_internal.hear_stop_words(p_events jsonb[]) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_replies whatsapp_internal.draft[];
begin
  with heard as materialized (
    select i ->> 'country_id' as country_id, i ->> 'account_id' as account_id, p.contact_id, s.action, s.scope, s.reply, m.written,
      whatsapp_internal.event_time((i ->> 'at')::double precision) as at
    from unnest(p_events) i
    cross join lateral (
      select case i -> 'content' ->> 'type' when 'text' then i -> 'content' -> 'text' ->> 'body' when 'button' then i -> 'content' -> 'button' ->> 'text'
        end as written
    ) m
    join whatsapp.stop_words s
      on s.country_id = i ->> 'country_id' and s.key = case when length(m.written) <= 100 then whatsapp_internal.plain_word(m.written) end
    cross join lateral whatsapp_internal.contact_of(
      i ->> 'country_id', i -> 'contact' ->> 'match_key', i -> 'contact' ->> 'bsuid', whatsapp_internal.event_time((i ->> 'at')::double precision)) p
    where i ->> 'kind' = 'message'
  ),
  changed as materialized (
    select c.country_id, c.contact_id
    from whatsapp_internal.add_consents(array(
      select row(country_id, contact_id, action, scope, at, 'stop_word', written, null)::whatsapp_internal.consent from heard)) c
  )
  select array_agg(jsonb_populate_record(null::whatsapp_internal.draft, jsonb_build_object(
      'n', 1, 'country_id', country_id, 'account_id', account_id, 'contact_id', contact_id, 'message_id', whatsapp_internal.uuid7(), 'kind', 'text',
      'content', jsonb_build_object('type', 'text', 'text', jsonb_build_object('body', reply)), 'status', 'accepted', 'state', 'queued')))
  into v_replies
  from (
    -- The word that decided: the last one, and of the same moment the no.
    select distinct on (h.country_id, h.contact_id) h.*
    from heard h join changed c on c.country_id = h.country_id and c.contact_id = h.contact_id
    order by h.country_id, h.contact_id, h.at desc, h.action desc
  ) decided
  where reply is not null;

  if v_replies is not null then
    perform whatsapp_internal.write_drafts(v_replies);
    update whatsapp.messages m set confirms_consent = true
    from unnest(v_replies) r where m.country_id = r.country_id and m.message_id = r.message_id;
  end if;
end
$$;

revoke all on all functions in schema whatsapp_internal from public, anon, authenticated, service_role;
grant execute on function whatsapp_internal.my_countries() to authenticated;
revoke all on function whatsapp.record_consents(text, uuid, text, text, jsonb[]) from public, anon, authenticated;
grant execute on function whatsapp.record_consents(text, uuid, text, text, jsonb[]) to service_role;
