-- Campaigns: one approved template to very many people. A campaign is a lane of the queue, so that pausing it costs one row however many
-- messages wait in it, and a reply never stands behind it.
--
--   open_campaign      make a campaign, or find it again (same key, or by id), for a call that brings recipients
--   enqueue_campaign   judge and queue one chunk of recipients; the bulk form of enqueue, with one account and one template
--   control_campaign   start, pause, resume, cancel
--   control_account    pause a number, resume it: the same for everything a number sends
--   campaign_progress  how far it is: one cheap read however large it is
--
-- Free-form in bulk is impossible: the content of every message is built here from the campaign's own template and the row's components.
--
-- Progress is kept by one statement trigger on messages, in the transaction of each change, as small additions to campaign_counts that
-- sweep folds together. So it is right after any crash, whatever verb moved a message, and no hot counter row is fought over.

create table whatsapp.campaigns (
  country_id text not null,
  campaign_id uuid not null default whatsapp_internal.uuid7(),
  account_id text not null,
  name text not null,
  template_name text not null,
  template_language text not null,
  state text not null check (state in ('draft', 'scheduled', 'running', 'paused', 'completed', 'cancelled')),
  state_reason text,
  state_by uuid,
  state_since timestamptz not null default now(),
  send_at timestamptz,
  valid_until timestamptz,
  failure_share real not null default 0.3 check (failure_share > 0 and failure_share <= 1),
  checked_settled bigint not null default 0,
  checked_failed bigint not null default 0,
  created_by uuid,
  created_at timestamptz not null default now(),
  primary key (country_id, campaign_id),
  foreign key (country_id, account_id) references whatsapp.accounts (country_id, account_id)
);
create index campaigns_by_account on whatsapp.campaigns (country_id, account_id);
comment on table whatsapp.campaigns is 'One approved template to many people. draft waits for its start; paused tells by its reason who paused it: a person, or one of Meta''s verdicts.';

comment on column whatsapp.campaigns.state_by is 'Where state_reason is by_a_person: the signed-in user; null for a server with the secret key.';
comment on column whatsapp.campaigns.failure_share is 'It pauses itself when more than this share of the last 200 or more settled messages failed.';

create table whatsapp.campaign_counts (
  country_id text not null,
  campaign_id uuid not null,
  count_id bigint generated always as identity,
  key text not null,
  n bigint not null,
  primary key (country_id, campaign_id, count_id),
  foreign key (country_id, campaign_id) references whatsapp.campaigns (country_id, campaign_id)
);
comment on table whatsapp.campaign_counts is 'Additions to a campaign''s counts by key (a state, "failed:<code>", "refused:<code>", "cost:<category>"); their sum counts.';

alter table whatsapp.messages add column campaign_id uuid, add column campaign_again boolean;
create unique index messages_once_a_campaign on whatsapp.messages (country_id, campaign_id, contact_id)
  where campaign_id is not null and campaign_again is null;
-- No foreign key of its own: whatever puts a message into a campaign is counted in the same statement, and it is the count's that refuses a
-- campaign which is not there, once a statement instead of once a message.
comment on column whatsapp.messages.campaign_id is 'The campaign it belongs to; a person gets one message of a campaign.';
comment on column whatsapp.messages.campaign_again is 'The campaign''s second message to a person who stood in two contacts when both were written.';

-- A key of a bulk call stands for an answer rather than for one message.
alter table whatsapp.idempotency_keys alter column message_id drop not null;
alter table whatsapp.idempotency_keys add column answer jsonb;

select whatsapp_internal.let_members_read('campaigns');
select whatsapp_internal.let_members_read('campaign_counts');

-- ── Counting ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

create or replace function whatsapp_internal.count_inserted() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  insert into whatsapp.campaign_counts (country_id, campaign_id, key, n)
  select country_id, campaign_id, state, count(*) from added where campaign_id is not null group by 1, 2, 3;
  return null;
end
$$;

create or replace function whatsapp_internal.count_updated() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  insert into whatsapp.campaign_counts (country_id, campaign_id, key, n)
  select m.country_id, m.campaign_id, k.key, sum(m.sign)
  from (
    select country_id, campaign_id, state, error_code, refusal, price, coalesce(delivered_at, read_at, played_at) as reached_at, 1 as sign
    from added where campaign_id is not null
    union all
    select country_id, campaign_id, state, error_code, refusal, price, coalesce(delivered_at, read_at, played_at), -1
    from removed where campaign_id is not null
  ) m
  cross join lateral (
    values (m.state),
      (case when m.state = 'failed' then 'failed:' || coalesce(m.error_code::text, 'unknown') end),
      (case when m.state in ('refused', 'expired') then 'refused:' || m.refusal end),
      -- Meta tells the price with the first status and charges on delivery: whichever of the two is known last counts it.
      (case when m.price ->> 'type' = 'regular' and m.reached_at is not null then 'cost:' || coalesce(m.price ->> 'category', 'unknown') end)
  ) k (key)
  where k.key is not null
  group by 1, 2, 3
  having sum(m.sign) <> 0;
  return null;
end
$$;

create or replace trigger campaign_inserted after insert on whatsapp.messages
  referencing new table as added for each statement execute function whatsapp_internal.count_inserted();
create or replace trigger campaign_updated after update on whatsapp.messages
  referencing old table as removed new table as added for each statement execute function whatsapp_internal.count_updated();

-- Runs as the caller: row level security decides whose campaign may be read.
create or replace function whatsapp.campaign_progress(p_country text, p_campaign uuid) returns jsonb
language sql stable set search_path = ''
as $$
  select jsonb_build_object(
    'country_id', c.country_id, 'campaign_id', c.campaign_id, 'account', c.account_id, 'name', c.name,
    'template', jsonb_build_object('name', c.template_name, 'language', c.template_language),
    'state', c.state, 'reason', c.state_reason, 'by', case when c.state_reason = 'by_a_person' then c.state_by end, 'since', c.state_since, 'send_at', c.send_at, 'valid_until', c.valid_until,
    'held', (
      -- Why nothing leaves although it is running, and until when; the account before the campaign itself.
      select case
        when a.state <> 'active' and coalesce(a.paused_until > now(), true) then jsonb_build_object('reason', 'account_' || a.state, 'until', a.paused_until)
        when a.templates_paused_until > now() then jsonb_build_object('reason', 'templates_restricted', 'until', a.templates_paused_until)
        when l.held_until > now() then jsonb_build_object('reason', l.held_reason, 'until', l.held_until)
      end
      from whatsapp.accounts a
      left join whatsapp.lanes l
        on l.country_id = c.country_id and l.account_id = c.account_id and l.lane = 'campaign:' || c.campaign_id
      where a.country_id = c.country_id and a.account_id = c.account_id and c.state = 'running'),
    'counts', (
      select coalesce(jsonb_object_agg(key, n), '{}') from (
        select key, sum(n) as n from whatsapp.campaign_counts k
        where k.country_id = c.country_id and k.campaign_id = c.campaign_id
        group by key having sum(n) <> 0) sums))
  from whatsapp.campaigns c
  where c.country_id = p_country and c.campaign_id = p_campaign
$$;

-- ── Opening and filling ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

-- The lane of a campaign: behind replies and utility, beside other campaigns and marketing.
create or replace function whatsapp_internal.lane_of_campaign(p_campaign uuid) returns text
language sql immutable parallel safe
return 'campaign:' || p_campaign;

-- Why a user may not run the country's campaigns, or nothing. Without a user the caller is a trusted server.
create or replace function whatsapp_internal.refuse_actor(p_country text, p_actor uuid) returns text
language sql stable set search_path = ''
as $$
  select case
    when p_actor is null then null
    when m.role is null then 'not_a_member'
    when m.role not in ('operator', 'admin') then 'role_too_low'
  end
  from (select 1) one
  left join whatsapp.members m on m.country_id = p_country and m.user_id = p_actor
$$;

--   p_campaign  {country_id, actor?, campaign_id} to append, or {country_id, actor?, account_id?, name, template_name, template_language,
--               send_at?, valid_until?, draft?, key, fingerprint} for a new one
--   returns     {campaign_id, account_id, state, template_name, template_language, contract}  or  {code, field}
create or replace function whatsapp.open_campaign(p_campaign jsonb[]) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_in record;
  v_account whatsapp.accounts;
  v_template whatsapp.templates;
  v_campaign whatsapp.campaigns;
  v_key whatsapp.idempotency_keys;
  v_code text;
begin
  select * into v_in from jsonb_to_record(p_campaign[1]) as r (
    country_id text, actor uuid, campaign_id uuid, account_id text, name text, template_name text, template_language text, send_at timestamptz,
    valid_until timestamptz, draft boolean, key text, fingerprint text);

  v_code := whatsapp_internal.refuse_actor(v_in.country_id, v_in.actor);
  if v_code is not null then
    return jsonb_build_object('code', v_code, 'field', 'country_id');
  end if;

  if v_in.campaign_id is null then
    select a.* into v_account from whatsapp.accounts a
    where a.country_id = v_in.country_id and (a.account_id = v_in.account_id or (v_in.account_id is null and a.is_default));
    if not found then
      return jsonb_build_object('field', 'account', 'code', case
        when not exists (select from whatsapp.accounts a where a.country_id = v_in.country_id) then 'unknown_country'
        when v_in.account_id is null then 'no_default_account' else 'no_such_account' end);
    end if;

    insert into whatsapp.idempotency_keys (country_id, scope, key, fingerprint, answer)
    values (v_in.country_id, 'campaign', v_in.key, v_in.fingerprint, jsonb_build_object('campaign_id', whatsapp_internal.uuid7()))
    on conflict do nothing;
    select * into v_key from whatsapp.idempotency_keys k where k.country_id = v_in.country_id and k.scope = 'campaign' and k.key = v_in.key;
    if v_key.fingerprint <> v_in.fingerprint or v_key.answer is null then
      return jsonb_build_object('code', 'idempotency_key_reused', 'field', 'Idempotency-Key');
    end if;
    v_in.campaign_id := (v_key.answer ->> 'campaign_id')::uuid;
  end if;

  select * into v_campaign from whatsapp.campaigns c
  where c.country_id = v_in.country_id and c.campaign_id = v_in.campaign_id for no key update;
  if not found and v_account.account_id is null then
    return jsonb_build_object('code', 'unknown_campaign', 'field', 'campaign_id');
  end if;

  select t.* into v_template from whatsapp.templates t
  where t.country_id = v_in.country_id and t.account_id = coalesce(v_campaign.account_id, v_account.account_id)
    and t.name = coalesce(v_campaign.template_name, v_in.template_name)
    and t.language = coalesce(v_campaign.template_language, v_in.template_language);
  v_code := case
    -- A repeated opening gets its old answer, whatever the template has become since.
    when v_campaign.campaign_id is not null and v_account.account_id is not null then null
    when v_account.state in ('stopped', 'disabled') then 'account_' || v_account.state
    when v_template.name is null then 'template_unknown'
    when v_template.status = 'PAUSED' and v_campaign.campaign_id is null then 'template_paused'
    when v_template.status not in ('APPROVED', 'PAUSED') then 'template_not_approved'
  end;
  if v_code is not null then
    -- Nothing was made: the key may be used again.
    delete from whatsapp.idempotency_keys k
    where v_campaign.campaign_id is null and k.country_id = v_in.country_id and k.scope = 'campaign' and k.key = v_in.key;
    return jsonb_build_object('code', v_code, 'field', case when v_code like 'account%' then 'account' else 'template' end);
  end if;

  if v_campaign.campaign_id is null then
    insert into whatsapp.campaigns (
      country_id, campaign_id, account_id, name, template_name, template_language, state, send_at, valid_until, created_by)
    values (
      v_in.country_id, v_in.campaign_id, v_account.account_id, v_in.name, v_in.template_name, v_in.template_language,
      case when v_in.draft then 'draft' when v_in.send_at > now() then 'scheduled' else 'running' end, v_in.send_at, v_in.valid_until, v_in.actor)
    returning * into v_campaign;
    insert into whatsapp.lanes (country_id, account_id, lane, priority, paused)
    values (
      v_campaign.country_id, v_campaign.account_id, whatsapp_internal.lane_of_campaign(v_campaign.campaign_id), 2, v_campaign.state = 'draft');
  end if;

  return jsonb_build_object(
    'campaign_id', v_campaign.campaign_id, 'account_id', v_campaign.account_id, 'state', v_campaign.state,
    'template_name', v_campaign.template_name, 'template_language', v_campaign.template_language, 'contract', v_template.contract);
end
$$;

-- A key of a bulk call: null if it is new and taken now, else what it was answered, or that it was used for something else. Of two calls with one
-- key the second waits here for the first.
create or replace function whatsapp_internal.answer_of_key(p_country text, p_scope text, p_key text, p_fingerprint text) returns jsonb
language plpgsql volatile set search_path = ''
as $$
declare
  v_key whatsapp.idempotency_keys;
begin
  insert into whatsapp.idempotency_keys (country_id, scope, key, fingerprint) values (p_country, p_scope, p_key, p_fingerprint)
  on conflict do nothing;
  if found then
    return null;
  end if;
  select * into v_key from whatsapp.idempotency_keys k where k.country_id = p_country and k.scope = p_scope and k.key = p_key;
  return case when v_key.fingerprint = p_fingerprint and v_key.answer is not null then v_key.answer
    else jsonb_build_object('code', 'idempotency_key_reused', 'field', 'Idempotency-Key') end;
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
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set join_collapse_limit = 1
set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_campaign whatsapp.campaigns;
  v_account whatsapp.accounts;
  v_category text;
  v_lane text := whatsapp_internal.lane_of_campaign(p_campaign);
  v_start timestamptz;
  v_state text;
  v_content jsonb;
  v_ids uuid[];
  v_people uuid[];
  v_contents jsonb[];
  v_refs text[];
  v_accepted integer;
  v_refused jsonb;
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

  select * into v_account from whatsapp.accounts a where a.country_id = p_country and a.account_id = v_campaign.account_id;
  select t.category into v_category from whatsapp.templates t
  where t.country_id = p_country and t.account_id = v_campaign.account_id and t.name = v_campaign.template_name
    and t.language = v_campaign.template_language;
  v_start := greatest(v_campaign.send_at, now());
  v_state := case when v_start > now() then 'scheduled' else 'queued' end;
  v_content := jsonb_build_object('type', 'template', 'template', jsonb_build_object(
    'name', v_campaign.template_name, 'language', jsonb_build_object('code', v_campaign.template_language)));

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

  with rows as materialized (
    select r.row, r.components, r.ref, c.contact_id as person,
      row_number() over (partition by c.contact_id order by coalesce(length(r.ref) > 200, false), r.row) as turn,
      case
        when length(r.ref) > 200 or (c.contact_id is null and r.contact_id is null) then 'invalid_item'
        when c.contact_id is null then 'unknown_contact'
        else whatsapp_internal.refusal(
        'active', 'template', v_category, 'APPROVED', null, open.until, null, c.opted_in_at, v_account.opt_in_required, c.opted_out_at,
        c.marketing_opted_out_at, c.marketing_cooled_until, v_campaign.valid_until, now()) end as code
    from unnest(p_rows, p_match_keys, p_bsuids, p_contact_ids, p_components, p_refs)
      as r (row, match_key, bsuid, contact_id, components, ref)
    left join lateral (
      select living.*
      from (
        select k.contact_id from whatsapp.contacts k where k.country_id = p_country and k.match_key = r.match_key
        union all
        select k.contact_id from whatsapp_internal.holder_of_bsuid(p_country, r.bsuid) k
        union all
        select coalesce(k.merged_into, k.contact_id) from whatsapp.contacts k where k.country_id = p_country and k.contact_id = r.contact_id
        limit 1
      ) known
      join whatsapp.contacts living on living.country_id = p_country and living.contact_id = known.contact_id
    ) c on true
    left join lateral (
      -- Asked of the few only whom Meta holds marketing back from.
      select greatest(v.window_until, v.entry_point_until) as until from whatsapp.conversations v
      where v.country_id = p_country and v.account_id = v_campaign.account_id and v.contact_id = c.contact_id
        and c.marketing_cooled_until > now()
      limit 1
    ) open on true
  ),
  judged as materialized (
    select r.*, coalesce(r.code, case when r.turn > 1 or m.message_id is not null then 'duplicate_recipient' end) as verdict
    from rows r
    left join lateral (
      select m.message_id from whatsapp.messages m
      where m.country_id = p_country and m.campaign_id = p_campaign and m.contact_id = r.person and m.campaign_again is null
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
  into v_ids, v_people, v_contents, v_refs, v_accepted, v_refused
  from good;

  insert into whatsapp.conversations (country_id, account_id, contact_id)
  select p_country, v_campaign.account_id, g.person
  from unnest(v_people) as g (person)
  left join lateral (
    select v.contact_id from whatsapp.conversations v
    where v.country_id = p_country and v.account_id = v_campaign.account_id and v.contact_id = g.person
    limit 1
  ) known on true
  where known.contact_id is null
  order by g.person;
  insert into whatsapp.messages (
    country_id, message_id, account_id, contact_id, direction, kind, state, content, template_name, template_language, category, ref,
    created_by, send_at, expires_at, campaign_id)
  select p_country, g.message_id, v_campaign.account_id, g.person, 'outbound', 'template', v_state, g.content, v_campaign.template_name,
    v_campaign.template_language, v_category, g.ref, v_campaign.created_by, v_campaign.send_at, v_campaign.valid_until, p_campaign
  from unnest(v_ids, v_people, v_contents, v_refs) as g (message_id, person, content, ref);
  insert into whatsapp.message_events (country_id, message_id, event) select p_country, message_id, 'message_' || v_state from unnest(v_ids) message_id;
  insert into whatsapp.queue (country_id, message_id, account_id, contact_id, lane, due_at, run_at, expires_at, scheduled)
  select p_country, g.message_id, v_campaign.account_id, g.person, v_lane, v_start, v_start, v_campaign.valid_until, v_start > now()
  from unnest(v_ids, v_people) as g (message_id, person);

  -- Chunks of one campaign are written side by side, and nobody completes it from here to the commit without seeing them.
  if v_accepted > 0 and v_campaign.state = 'completed' then
    perform from whatsapp.campaigns c where c.country_id = p_country and c.campaign_id = p_campaign for no key update;
    update whatsapp.campaigns c set state = 'running', state_reason = null, state_since = now()
    where c.country_id = p_country and c.campaign_id = p_campaign and c.state = 'completed';
    if found then
      update whatsapp.lanes l set paused = false
      where l.country_id = p_country and l.account_id = v_campaign.account_id and l.lane = v_lane;
    end if;
  elsif v_accepted > 0 then
    perform from whatsapp.campaigns c where c.country_id = p_country and c.campaign_id = p_campaign and c.state <> 'completed' for share;
    if not found then
      raise exception 'the campaign was completed meanwhile' using errcode = 'serialization_failure';
    end if;
  end if;

  v_answer := jsonb_build_object('accepted', v_accepted, 'refused', v_refused);
  update whatsapp.idempotency_keys k set answer = v_answer where k.country_id = p_country and k.scope = 'recipients' and k.key = p_key;
  return v_answer;
exception
  -- Somebody else has just met one of these people, or taken them for the campaign. Tried again, it is seen. That is rare, and letting
  -- each insert look for it costs every row.
  when unique_violation then
    raise exception 'somebody else has just written one of these people' using errcode = 'serialization_failure';
end
$$;

-- ── Control ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

--   p_action   start (a draft) | pause | resume | cancel
--   returns    campaign_progress  or  {"code", "field"}
-- Takes effect with the next claim: what is not leased yet stays. A cancelled campaign's messages are ended by sweep, a piece at a time.
-- Whoever starts or resumes one whose template may not be sent now finds it paused for its template, and it goes on with that.
create or replace function whatsapp.control_campaign(p_country text, p_campaign uuid, p_action text, p_actor uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_campaign whatsapp.campaigns;
  v_template text;
  v_state text;
  v_reason text;
  v_code text := whatsapp_internal.refuse_actor(p_country, p_actor);
begin
  if v_code is not null then
    return jsonb_build_object('code', v_code, 'field', 'country_id');
  end if;
  select * into v_campaign from whatsapp.campaigns c where c.country_id = p_country and c.campaign_id = p_campaign for no key update;
  if not found then
    return jsonb_build_object('code', 'unknown_campaign', 'field', 'campaign_id');
  end if;
  if v_campaign.state = 'cancelled' and p_action <> 'cancel' then
    return jsonb_build_object('code', 'campaign_over', 'field', 'action');
  end if;
  select coalesce(t.status, 'UNKNOWN') into v_template
  from (select 1) one
  left join whatsapp.templates t on t.country_id = p_country and t.account_id = v_campaign.account_id
    and t.name = v_campaign.template_name and t.language = v_campaign.template_language;

  v_state := v_campaign.state;
  v_reason := v_campaign.state_reason;
  if p_action = 'cancel' then
    v_state := 'cancelled';
    v_reason := null;
  elsif p_action = 'pause' and v_state not in ('completed', 'draft') then
    v_state := 'paused';
    v_reason := 'by_a_person';
  elsif (p_action = 'resume' and v_state = 'paused') or (p_action = 'start' and v_state = 'draft') then
    v_state := case when v_template <> 'APPROVED' then 'paused' when v_campaign.send_at > now() then 'scheduled' else 'running' end;
    v_reason := case when v_template <> 'APPROVED' then 'template_' || lower(v_template) end;
  end if;

  update whatsapp.campaigns c set state = v_state, state_reason = v_reason, state_by = p_actor, state_since = now()
  where c.country_id = p_country and c.campaign_id = p_campaign
    and (c.state, c.state_reason) is distinct from (v_state, v_reason);
  update whatsapp.lanes l set paused = v_state not in ('scheduled', 'running')
  where l.country_id = p_country and l.account_id = v_campaign.account_id and l.lane = whatsapp_internal.lane_of_campaign(p_campaign);
  return whatsapp.campaign_progress(p_country, p_campaign);
end
$$;

--   p_account  null: the country's default
--   p_action   pause | resume
--   returns    {country_id, account, state, reason, code, since, paused_until, templates_paused_until}  or  {"code", "field"}
-- The one call after Meta's stop codes: the cause is cleared at Meta, a person says so here, and everything that waited goes on. Disabled
-- accounts are enabled where they were disabled: in SQL.
create or replace function whatsapp.control_account(p_country text, p_account text, p_action text, p_actor uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_account whatsapp.accounts;
  v_code text := whatsapp_internal.refuse_actor(p_country, p_actor);
begin
  if v_code is not null then
    return jsonb_build_object('code', v_code, 'field', 'country_id');
  end if;
  select * into v_account from whatsapp.accounts a
  where a.country_id = p_country and (a.account_id = p_account or (p_account is null and a.is_default)) for no key update;
  if not found then
    return jsonb_build_object('field', 'account', 'code', case
      when not exists (select from whatsapp.accounts a where a.country_id = p_country) then 'unknown_country'
      when p_account is null then 'no_default_account' else 'no_such_account' end);
  end if;
  if v_account.state = 'disabled' then
    return jsonb_build_object('field', 'account', 'code', 'account_disabled');
  end if;

  if p_action = 'resume' then
    update whatsapp.accounts a
    set state = 'active', state_reason = null, state_code = null, paused_until = null, templates_paused_until = null,
      state_since = case when a.state = 'active' then a.state_since else now() end
    where a.country_id = p_country and a.account_id = v_account.account_id returning * into v_account;
    -- Meta's complaints of before are settled with it.
    update whatsapp.throttles t set held_until = null where t.country_id = p_country and t.account_id = v_account.account_id;
  elsif v_account.state <> 'stopped' then
    update whatsapp.accounts a
    set state = 'paused', state_reason = 'by_a_person', state_code = null, paused_until = null, state_since = now()
    where a.country_id = p_country and a.account_id = v_account.account_id returning * into v_account;
  end if;
  return jsonb_build_object(
    'country_id', v_account.country_id, 'account', v_account.account_id, 'state', v_account.state, 'reason', v_account.state_reason,
    'code', v_account.state_code, 'since', v_account.state_since, 'paused_until', v_account.paused_until,
    'templates_paused_until', v_account.templates_paused_until);
end
$$;

-- A template that may not be sent pauses its running campaigns, whoever found out: a webhook, Meta's answer to a message, or a sync. So does
-- one that Meta lists no more, for nothing else would ever end the turns of its messages. When it may be sent again, they go on by themselves;
-- what a person paused stays paused.
create or replace function whatsapp_internal.follow_templates() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  with followed as (
    select t.country_id, t.account_id, t.name, t.language, case when tg_op = 'DELETE' then 'UNKNOWN' else t.status end as status from changed t
  ),
  moved as (
    update whatsapp.campaigns c
    set state = case when t.status <> 'APPROVED' then 'paused' when c.send_at > now() then 'scheduled' else 'running' end,
      state_reason = case when t.status <> 'APPROVED' then 'template_' || lower(t.status) end, state_since = now()
    from followed t
    where c.country_id = t.country_id and c.account_id = t.account_id and c.template_name = t.name and c.template_language = t.language
      and ((t.status <> 'APPROVED' and c.state in ('running', 'scheduled'))
        or (t.status = 'APPROVED' and c.state = 'paused' and c.state_reason like 'template\_%'))
    returning c.country_id, c.account_id, c.campaign_id, c.state
  )
  update whatsapp.lanes l set paused = m.state = 'paused'
  from moved m
  where l.country_id = m.country_id and l.account_id = m.account_id and l.lane = whatsapp_internal.lane_of_campaign(m.campaign_id);
  return null;
end
$$;
create or replace trigger campaigns_follow after update on whatsapp.templates
  referencing new table as changed for each statement execute function whatsapp_internal.follow_templates();
create or replace trigger campaigns_follow_back after insert on whatsapp.templates
  referencing new table as changed for each statement execute function whatsapp_internal.follow_templates();
create or replace trigger campaigns_follow_removed after delete on whatsapp.templates
  referencing old table as changed for each statement execute function whatsapp_internal.follow_templates();

-- ── Sweep's part ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

-- Ends the messages of cancelled campaigns, a piece at a time.
create or replace function whatsapp_internal.sweep_cancelled(p_limit integer) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_cancelled integer;
begin
  with gone as (
    delete from whatsapp.queue q
    where (q.country_id, q.message_id) in (
      select head.country_id, head.message_id
      from whatsapp.campaigns c
      -- The order makes it the lane's index: joined freely, Postgres may read the whole queue to find nothing cancelled.
      cross join lateral (
        select q.country_id, q.message_id from whatsapp.queue q
        cross join lateral (
          select from whatsapp.messages m where m.country_id = q.country_id and m.message_id = q.message_id for no key update skip locked
        ) m
        where q.country_id = c.country_id and q.account_id = c.account_id and q.lane = whatsapp_internal.lane_of_campaign(c.campaign_id)
          and q.lease_id is null and q.unknown_until is null
        order by q.run_at
        limit p_limit
        for update of q skip locked
      ) head
      where c.state = 'cancelled'
      limit p_limit)
    returning q.country_id, q.message_id
  ),
  moved as (
    update whatsapp.messages m set state = 'cancelled'
    from gone g where m.country_id = g.country_id and m.message_id = g.message_id
    returning m.country_id, m.message_id
  ),
  told as (
    insert into whatsapp.message_events (country_id, message_id, event) select country_id, message_id, 'message_cancelled' from moved
  )
  select count(*) into v_cancelled from moved;
  return v_cancelled;
end
$$;

-- Starts what is due, completes what has nothing left to send, pauses what fails too often, and folds counts together.
create or replace function whatsapp_internal.sweep_campaigns() returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_running uuid[];
begin
  -- Somebody may be changing several of them just now, as a template's word does: those come next time, and nobody is waited for.
  update whatsapp.campaigns c set state = 'running', state_since = now()
  where (c.country_id, c.campaign_id) in (
    select d.country_id, d.campaign_id from whatsapp.campaigns d where d.state = 'scheduled' and d.send_at <= now()
    for no key update skip locked);

  -- Locked first and looked at in a statement of its own, so that recipients a call has just added are seen.
  select array_agg(campaign_id) into v_running
  from (select c.campaign_id from whatsapp.campaigns c where c.state = 'running' for no key update skip locked) locked;
  with done as (
    update whatsapp.campaigns c set state = 'completed', state_since = now()
    where c.state = 'running' and c.campaign_id = any (v_running)
      -- One that nobody could be taken into is over, too, but not while its first recipients are still being written.
      and (c.created_at < now() - interval '1 minute'
        or exists (select from whatsapp.campaign_counts k where k.country_id = c.country_id and k.campaign_id = c.campaign_id))
      and not exists (
        select from whatsapp.queue q
        where q.country_id = c.country_id and q.account_id = c.account_id and q.lane = whatsapp_internal.lane_of_campaign(c.campaign_id)
          and q.unknown_until is null)
      and not exists (
        select from whatsapp.queue q
        where q.country_id = c.country_id and q.account_id = c.account_id and q.lane = whatsapp_internal.lane_of_campaign(c.campaign_id)
          and q.unknown_until is not null)
    returning c.country_id, c.account_id, c.campaign_id
  )
  -- A lane that has nothing to give costs a claim nothing.
  update whatsapp.lanes l set paused = true
  from done d
  where l.country_id = d.country_id and l.account_id = d.account_id and l.lane = whatsapp_internal.lane_of_campaign(d.campaign_id);

  with seen as (
    -- What we gave up for lost, as after a crash of ours, says nothing of the campaign.
    select k.country_id, k.campaign_id, sum(case k.key when 'failed:unknown' then -k.n else k.n end) as settled,
      sum(case k.key when 'failed' then k.n when 'failed:unknown' then -k.n end) as failed
    from whatsapp.campaign_counts k
    join whatsapp.campaigns c on c.country_id = k.country_id and c.campaign_id = k.campaign_id and c.state = 'running'
    where k.key in ('accepted', 'sent', 'delivered', 'read', 'played', 'failed', 'failed:unknown')
    group by 1, 2
  ),
  judged as (
    update whatsapp.campaigns c
    set checked_settled = s.settled, checked_failed = coalesce(s.failed, 0),
      state = case when failing then 'paused' else c.state end,
      state_reason = case when failing then 'too_many_failures' else c.state_reason end,
      state_since = case when failing then now() else c.state_since end
    from seen s
    cross join lateral (
      select coalesce(s.failed, 0) - old.checked_failed > old.failure_share * (s.settled - old.checked_settled)
        -- Where nothing is left to send, nothing is left to stop.
        and exists (
          select from whatsapp.queue q
          where q.country_id = old.country_id and q.account_id = old.account_id and q.lane = whatsapp_internal.lane_of_campaign(old.campaign_id)
            and q.lease_id is null and q.unknown_until is null) as failing
      from whatsapp.campaigns old where old.country_id = s.country_id and old.campaign_id = s.campaign_id) f
    where c.country_id = s.country_id and c.campaign_id = s.campaign_id and c.campaign_id = any (v_running)
      and s.settled - c.checked_settled >= 200
    returning c.country_id, c.account_id, c.campaign_id, c.state
  )
  update whatsapp.lanes l set paused = true
  from judged j
  where j.state = 'paused' and l.country_id = j.country_id and l.account_id = j.account_id
    and l.lane = whatsapp_internal.lane_of_campaign(j.campaign_id);

  with sums as (
    select country_id, campaign_id, key, sum(n) as n, count(*) as parts, max(count_id) as last
    from whatsapp.campaign_counts group by 1, 2, 3 having count(*) > 20
  ),
  folded as (
    delete from whatsapp.campaign_counts k using sums s
    where k.country_id = s.country_id and k.campaign_id = s.campaign_id and k.key = s.key and k.count_id <= s.last
    returning k.country_id, k.campaign_id, k.key, k.n
  )
  insert into whatsapp.campaign_counts (country_id, campaign_id, key, n)
  select country_id, campaign_id, key, sum(n) from folded group by 1, 2, 3;
end
$$;

revoke all on all functions in schema whatsapp_internal from public, anon, authenticated, service_role;
grant execute on function whatsapp_internal.my_countries() to authenticated;
revoke all on function whatsapp.campaign_progress(text, uuid) from public, anon;
revoke all on function whatsapp.open_campaign(jsonb[]) from public, anon, authenticated;
revoke all on function whatsapp.enqueue_campaign(text, uuid, text, text, integer[], text[], text[], text[], uuid[], text[], text[])
  from public, anon, authenticated;
revoke all on function whatsapp.control_campaign(text, uuid, text, uuid) from public, anon, authenticated;
revoke all on function whatsapp.control_account(text, text, text, uuid) from public, anon, authenticated;
grant execute on function whatsapp.campaign_progress(text, uuid) to authenticated, service_role;
grant execute on function whatsapp.open_campaign(jsonb[]) to service_role;
grant execute on function whatsapp.enqueue_campaign(text, uuid, text, text, integer[], text[], text[], text[], uuid[], text[], text[])
  to service_role;
grant execute on function whatsapp.control_campaign(text, uuid, text, uuid) to service_role;
grant execute on function whatsapp.control_account(text, text, text, uuid) to service_role;
