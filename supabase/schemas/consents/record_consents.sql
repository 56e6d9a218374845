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

-- The rows as drafts that find their people; what could not be written, or is said of the future, is refused here.
create or replace function whatsapp_internal.read_consents(p_country text, p_rows jsonb[]) returns whatsapp_internal.draft[]
language plpgsql stable set search_path = ''
as $$
begin
  -- A fact of the future would beat whatever the person says until then. Clocks may differ a little.
  return (
    select array_agg(jsonb_populate_record(null::whatsapp_internal.draft,
        case when r.unwritable is null then r.item else '{}' end || jsonb_strip_nulls(jsonb_build_object(
          'n', r.n, 'country_id', p_country, 'status', case when v.code is not null then 'refused' end, 'code', v.code,
          'field', case when v.code = 'invalid_item' then r.unwritable when v.code is not null then 'at' end))) order by r.n)
    from (
      select n, item, whatsapp_internal.unwritable_consent(item) as unwritable from unnest(p_rows) with ordinality as u (item, n) offset 0
    ) r
    cross join lateral (
      select case
        when r.unwritable is not null then 'invalid_item'
        when (r.item ->> 'at')::timestamptz > now() + interval '5 minutes' then 'consent_in_future'
      end as code
    ) v
  );
end
$$;

-- Whom the drafts name and we know, held in order before anybody new is made known.
create or replace function whatsapp_internal.hold_named(p_country text, p_drafts whatsapp_internal.draft[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  perform whatsapp_internal.hold_contacts(array_agg(p_country), array_agg(known.contact_id))
  from unnest(p_drafts) d
  cross join lateral (
    (select k.contact_id from whatsapp.contacts k where k.country_id = p_country and k.match_key = d.match_key limit 1)
    union all
    select h.contact_id from whatsapp_internal.holder_of_bsuid(p_country, d.bsuid) h
    union all
    (select coalesce(k.merged_into, k.contact_id) from whatsapp.contacts k where k.country_id = p_country and k.contact_id = d.contact_id limit 1)
  ) known
  where d.status is null;
end
$$;

--   p_key, p_fingerprint   of this call: repeated, it answers what it answered
--   p_rows     {row, phone?, match_key?, bsuid?, contact_id?, what, scope, at?, how, proof?}; without `at` it is said now
--   returns    {"recorded": n, "refused": [{"row", "code", "field"}]}  or  {"code", "field"}
-- People not known yet are made known. A row that could not be written is refused as `invalid_item`, alone.
create or replace function whatsapp.record_consents(p_country text, p_actor uuid, p_key text, p_fingerprint text, p_rows jsonb[]) returns jsonb
language plpgsql volatile security definer set search_path = ''
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

  v_drafts := whatsapp_internal.read_consents(p_country, p_rows);
  perform whatsapp_internal.hold_countries(array[p_country], false);
  perform whatsapp_internal.hold_named(p_country, v_drafts);
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
