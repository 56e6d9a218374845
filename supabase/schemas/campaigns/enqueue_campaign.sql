-- Contacts for those nobody has heard of.
create or replace function whatsapp_internal.meet_recipients(p_country text, p_phones text[], p_match_keys text[], p_bsuids text[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  insert into whatsapp.contacts (country_id, phone, match_key)
  select distinct on (r.match_key) p_country, r.phone, r.match_key
  from unnest(p_phones, p_match_keys) as r (phone, match_key)
  left join lateral (
    select c.contact_id from whatsapp.contacts c where c.country_id = p_country and c.match_key = r.match_key limit 1) known on true
  where r.match_key is not null and known.contact_id is null and whatsapp_internal.is_phone(r.phone, r.match_key)
  order by r.match_key;
  insert into whatsapp.contacts (country_id, bsuid)
  select distinct p_country, r.bsuid
  from unnest(p_bsuids) as r (bsuid)
  left join lateral (select h.contact_id from whatsapp_internal.holder_of_bsuid(p_country, r.bsuid) h) known on true
  where r.bsuid is not null and known.contact_id is null and whatsapp_internal.is_bsuid(r.bsuid)
  order by r.bsuid;
end
$$;

-- Finds each recipient's person and judges them: what goes, as one array of each column, and what is refused.
create or replace function whatsapp_internal.judge_recipients(
  p_campaign whatsapp.campaigns, p_category text, p_rows integer[], p_match_keys text[], p_bsuids text[], p_contact_ids uuid[], p_components text[],
  p_refs text[], out ids uuid[], out people uuid[], out contents jsonb[], out refs text[], out accepted integer, out refused jsonb
)
language plpgsql volatile set search_path = ''
as $$
declare
  v_opt_in_required boolean := (
    select a.opt_in_required from whatsapp.accounts a
    where a.country_id = p_campaign.country_id and a.account_id = p_campaign.account_id);
  v_content jsonb := jsonb_build_object('type', 'template', 'template', jsonb_build_object(
    'name', p_campaign.template_name, 'language', jsonb_build_object('code', p_campaign.template_language)));
begin
  with rows as materialized (
    select r.row, r.components, r.ref, c.contact_id as person,
      row_number() over (partition by c.contact_id order by coalesce(length(r.ref) > 200, false), r.row) as turn,
      case
        when length(r.ref) > 200 or (c.contact_id is null and r.contact_id is null) then 'invalid_item'
        when c.contact_id is null then 'unknown_contact'
        else whatsapp_internal.refusal(
        'active', 'template', p_category, 'APPROVED', null, open.until, null, c.opted_in_at, v_opt_in_required, c.opted_out_at,
        c.marketing_opted_out_at, c.marketing_cooled_until, p_campaign.valid_until, now()) end as code
    from unnest(p_rows, p_match_keys, p_bsuids, p_contact_ids, p_components, p_refs)
      as r (row, match_key, bsuid, contact_id, components, ref)
    left join lateral (
      select living.*
      from (
        select k.contact_id from whatsapp.contacts k where k.country_id = p_campaign.country_id and k.match_key = r.match_key
        union all
        select k.contact_id from whatsapp_internal.holder_of_bsuid(p_campaign.country_id, r.bsuid) k
        union all
        select coalesce(k.merged_into, k.contact_id) from whatsapp.contacts k where k.country_id = p_campaign.country_id and k.contact_id = r.contact_id
        limit 1
      ) known
      join whatsapp.contacts living on living.country_id = p_campaign.country_id and living.contact_id = known.contact_id
    ) c on true
    left join lateral (
      -- Asked of the few only whom Meta holds marketing back from.
      select greatest(v.window_until, v.entry_point_until) as until from whatsapp.conversations v
      where v.country_id = p_campaign.country_id and v.account_id = p_campaign.account_id and v.contact_id = c.contact_id
        and c.marketing_cooled_until > now()
      limit 1
    ) open on true
  ),
  judged as materialized (
    select r.*, coalesce(r.code, case when r.turn > 1 or m.message_id is not null then 'duplicate_recipient' end) as verdict
    from rows r
    left join lateral (
      select m.message_id from whatsapp.campaign_people m
      where m.country_id = p_campaign.country_id and m.campaign_id = p_campaign.campaign_id and m.contact_id = r.person
      limit 1
    ) m on true
  ),
  good as (
    select person, ref, case when components is null then v_content
      else jsonb_set(v_content, '{template,components}', jsonb_strip_nulls(components::jsonb)) end as content
    from judged where verdict is null
    order by row
  )
  select array_agg(whatsapp_internal.uuid7()), array_agg(person), array_agg(content), array_agg(ref), count(*), (
    select coalesce(jsonb_agg(jsonb_build_object(
        'row', row, 'code', verdict, 'field', case when length(ref) > 200 then 'ref' else 'to' end) order by row), '[]')
    from judged where verdict is not null)
  into ids, people, contents, refs, accepted, refused
  from good;
end
$$;

-- Writes log and queue of those that go.
create or replace function whatsapp_internal.write_recipients(
  p_campaign whatsapp.campaigns, p_category text, p_ids uuid[], p_people uuid[], p_contents jsonb[], p_refs text[]
) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_lane text := whatsapp_internal.lane_of_campaign(p_campaign.campaign_id);
  v_start timestamptz := greatest(p_campaign.send_at, now());
  v_state text := case when v_start > now() then 'scheduled' else 'queued' end;
begin
  insert into whatsapp.conversations (country_id, account_id, contact_id)
  select p_campaign.country_id, p_campaign.account_id, g.person
  from unnest(p_people) as g (person)
  left join lateral (
    select v.contact_id from whatsapp.conversations v
    where v.country_id = p_campaign.country_id and v.account_id = p_campaign.account_id and v.contact_id = g.person
    limit 1
  ) known on true
  where known.contact_id is null
  order by g.person;
  insert into whatsapp.messages (
    country_id, message_id, account_id, contact_id, direction, kind, state, content, template_name, template_language, category, ref,
    created_by, send_at, expires_at, campaign_id)
  select p_campaign.country_id, g.message_id, p_campaign.account_id, g.person, 'outbound', 'template', v_state, g.content, p_campaign.template_name,
    p_campaign.template_language, p_category, g.ref, p_campaign.created_by, p_campaign.send_at, p_campaign.valid_until, p_campaign.campaign_id
  from unnest(p_ids, p_people, p_contents, p_refs) as g (message_id, person, content, ref);
  insert into whatsapp.campaign_people (country_id, campaign_id, contact_id, message_id)
  select p_campaign.country_id, p_campaign.campaign_id, g.person, g.message_id from unnest(p_ids, p_people) as g (message_id, person)
  order by g.person;
  insert into whatsapp.queue (country_id, message_id, account_id, contact_id, lane, due_at, run_at, expires_at, scheduled)
  select p_campaign.country_id, g.message_id, p_campaign.account_id, g.person, v_lane, v_start, v_start, p_campaign.valid_until, v_start > now()
  from unnest(p_ids, p_people) as g (message_id, person);
end
$$;

-- A campaign to which somebody was added runs until they have been sent to, even if it was completed.
create or replace function whatsapp_internal.keep_running(p_campaign whatsapp.campaigns) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  -- Chunks of one campaign are written side by side, and nobody completes it from here to the commit without seeing them.
  if p_campaign.state = 'completed' then
    perform from whatsapp.campaigns c where c.country_id = p_campaign.country_id and c.campaign_id = p_campaign.campaign_id for no key update;
    update whatsapp.campaigns c set state = 'running', state_reason = null, state_since = now()
    where c.country_id = p_campaign.country_id and c.campaign_id = p_campaign.campaign_id and c.state = 'completed';
    if found then
      update whatsapp.lanes l set paused = false
      where l.country_id = p_campaign.country_id and l.account_id = p_campaign.account_id and l.lane = whatsapp_internal.lane_of_campaign(p_campaign.campaign_id);
    end if;
  else
    perform from whatsapp.campaigns c where c.country_id = p_campaign.country_id and c.campaign_id = p_campaign.campaign_id and c.state <> 'completed' for share;
    if not found then
      raise exception 'the campaign was completed meanwhile' using errcode = 'serialization_failure';
    end if;
  end if;
end
$$;

--   p_key, p_fingerprint   of this chunk: repeated, it answers what it answered
--   p_rows …   one element of each array a recipient: the row's number, exactly one of phone (with its match key), bsuid and contact_id,
--              the template's components as JSON or null, and the caller's ref or null
--   returns    {"accepted": n, "refused": [{"row", "code", "field"}]}  or  {"code", "field"}
-- Arrays, because taking a jsonb object a row apart costs as much as writing the row's queue entry. Every lookup is a lateral with a limit:
-- it can only be made row by row through its index, so a chunk costs the same whatever the campaign and the country hold already.
-- A row that could not be written (no phone number, too long) is refused as `invalid_item`, alone.
create or replace function whatsapp.enqueue_campaign(
  p_country text, p_campaign uuid, p_key text, p_fingerprint text, p_rows integer[], p_phones text[], p_match_keys text[], p_bsuids text[],
  p_contact_ids uuid[], p_components text[], p_refs text[]
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_campaign whatsapp.campaigns;
  v_category text;
  v_judged record;
  v_answer jsonb;
begin
  select * into v_campaign from whatsapp.campaigns c where c.country_id = p_country and c.campaign_id = p_campaign;
  if not found then
    return jsonb_build_object('code', 'unknown_campaign', 'field', 'campaign_id');
  end if;
  perform whatsapp_internal.hold_countries(array[p_country], false);
  v_answer := whatsapp_internal.answer_of_key(p_country, 'recipients', p_key, p_fingerprint);
  if v_answer is not null then
    return v_answer;
  end if;
  if v_campaign.state = 'cancelled' then
    delete from whatsapp.idempotency_keys k where k.country_id = p_country and k.scope = 'recipients' and k.key = p_key;
    return jsonb_build_object('code', 'campaign_over', 'field', 'campaign_id');
  end if;
  -- A first large campaign fills tables that were empty a moment ago, and whoever drains it should plan for that.
  perform whatsapp_internal.sweep_statistics();

  select t.category into v_category from whatsapp.templates t
  where t.country_id = p_country and t.account_id = v_campaign.account_id and t.name = v_campaign.template_name
    and t.language = v_campaign.template_language;

  perform whatsapp_internal.meet_recipients(p_country, p_phones, p_match_keys, p_bsuids);
  select * into v_judged from whatsapp_internal.judge_recipients(
    v_campaign, v_category, p_rows, p_match_keys, p_bsuids, p_contact_ids, p_components, p_refs);
  perform whatsapp_internal.write_recipients(v_campaign, v_category, v_judged.ids, v_judged.people, v_judged.contents, v_judged.refs);
  if v_judged.accepted > 0 then
    perform whatsapp_internal.keep_running(v_campaign);
  end if;

  v_answer := jsonb_build_object('accepted', v_judged.accepted, 'refused', v_judged.refused);
  update whatsapp.idempotency_keys k set answer = v_answer where k.country_id = p_country and k.scope = 'recipients' and k.key = p_key;
  return v_answer;
exception
  -- Somebody else has just met one of these people, or taken them for the campaign. Tried again, it is seen. That is rare, and letting
  -- each insert look for it costs every row.
  when unique_violation then
    raise exception 'somebody else has just written one of these people' using errcode = 'serialization_failure';
end
$$;
