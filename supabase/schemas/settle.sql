-- settle: record what became of the messages a drainer had leased.
--
--   p_results  jsonb[]  one object a message:
--     country_id, message_id, lease_id
--     outcome   accepted   Meta took it: wamid (and wa_id, user_id where Meta told them)
--               rejected   Meta refused it for good: failed
--               retry      Meta refused it for now: back to the queue after wait_seconds, failed once max_attempts are used up
--               held       Meta refused it because of its limits, the account or the template: as retry, but the attempt does not count
--               released   never written to the wire: as held
--               unknown    nobody knows: waits for a status webhook that carries our id, or for sweep
--     code?, title?, details?, effect?, wait_seconds?, max_attempts?, detail?   Meta's verdict (services/whatsapp/meta/errors.py)
--   returns    jsonb    {"settled": n, "stale": n}
--
-- Safe to repeat, and fenced: what is not leased under this lease any more is only changed by an answer that proves what happened.
-- An acceptance always counts, however late, and takes back that we gave the message up for lost. A `released` takes back even a message that
-- has become unknown under the same lease: the drainer that held it knows it was not sent. What cannot be stored of a result (a wamid that
-- another message holds, an id that is none) is left out, never the fact.
--
-- Locks: messages, queue, contacts, conversations and so on, in the one order of locks.sql.

-- An account stops for a person, or pauses until a time (or for a person). A pause does not undo a stop, nor a longer pause.
create or replace function whatsapp_internal.halt_account(
  p_country text, p_account text, p_state text, p_reason text, p_code integer, p_until timestamptz
) returns void
language sql volatile set search_path = ''
as $$
  update whatsapp.accounts a
  set state = p_state, state_reason = p_reason, state_code = p_code, state_since = now(),
    paused_until = case when p_state = 'paused' then p_until end
  where a.country_id = p_country and a.account_id = p_account
    and (a.state = 'active'
      or (a.state = 'paused' and (p_state = 'stopped' or a.paused_until < coalesce(p_until, 'infinity'))))
$$;

-- When Meta said so. An answer is of now; a webhook may come days later, and what it says was true then. Meta tells whole seconds.
create or replace function whatsapp_internal.said_at(p_country text, p_message uuid) returns timestamptz
language sql stable set search_path = ''
as $$
  select least(now(), (
    select m.failed_at + interval '1 second' from whatsapp.messages m where m.country_id = p_country and m.message_id = p_message))
$$;

-- What Meta's verdict means beyond the one message. Called by settle and by ingest with the same rows.
create or replace function whatsapp_internal.apply_effects(p_results whatsapp_internal.result[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  if not exists (select from unnest(p_results) where effect is not null and effect <> 'none') then
    return;
  end if;
  -- In the order of locks. refresh_template needs nothing here: the next templates-sync brings what Meta has.
  perform whatsapp_internal.apply_effects_to_people(p_results);
  perform whatsapp_internal.apply_effects_to_accounts(p_results);
  perform whatsapp_internal.apply_effects_to_pace(p_results);
end
$$;

-- The window is closed, a person wants no marketing for a while, or no more.
create or replace function whatsapp_internal.apply_effects_to_people(p_results whatsapp_internal.result[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  update whatsapp.conversations v set window_until = least(v.window_until, now())
  from (select country_id, account_id, contact_id, max(whatsapp_internal.said_at(country_id, message_id)) as said_at
        from unnest(p_results) where effect = 'close_window' group by 1, 2, 3) r
  where v.country_id = r.country_id and v.account_id = r.account_id and v.contact_id = r.contact_id
    -- Whoever has written since has opened it again.
    and coalesce(v.last_inbound_at <= r.said_at, true);

  update whatsapp.contacts c
  set marketing_cooled_until = greatest(c.marketing_cooled_until, r.until)
  from (select country_id, contact_id, max(whatsapp_internal.said_at(country_id, message_id)
            + coalesce(nullif(wait_seconds, 0), 86400) * interval '1 second') as until
        from unnest(p_results) where effect = 'cool_contact' group by 1, 2) r
  where c.country_id = r.country_id and c.contact_id = r.contact_id;

  if exists (select from unnest(p_results) where effect = 'opt_out') then
    perform whatsapp_internal.add_consents(array(
      select row(country_id, contact_id, 'opt_out', 'marketing', max(whatsapp_internal.said_at(country_id, message_id)), 'meta', 'Meta code ' || max(code), null)::whatsapp_internal.consent
      from unnest(p_results) where effect = 'opt_out' group by country_id, contact_id));
  end if;
end
$$;

-- A template, an account, or what an account may begin, rests or stops.
create or replace function whatsapp_internal.apply_effects_to_accounts(p_results whatsapp_internal.result[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  update whatsapp.templates t
  set status = case r.effect when 'disable_template' then 'DISABLED' else 'PAUSED' end, reason = 'Meta code ' || r.code, status_at = now()
  from (select distinct on (country_id, account_id, template_name, template_language) * from unnest(p_results)
        where effect in ('pause_template', 'disable_template')
        order by country_id, account_id, template_name, template_language, effect) r
  where t.country_id = r.country_id and t.account_id = r.account_id and t.name = r.template_name and t.language = r.template_language
    and t.status in ('APPROVED', 'PAUSED') and t.status_at <= whatsapp_internal.said_at(r.country_id, r.message_id)
    -- An answer to a message that was on its way when Meta approved the template anew says nothing of now; the next one would.
    and not exists (
      select from whatsapp.queue q where q.country_id = r.country_id and q.message_id = r.message_id and q.leased_at < t.status_at);

  perform whatsapp_internal.halt_account(
    r.country_id, r.account_id, case r.effect when 'stop_account' then 'stopped' else 'paused' end, r.title, r.code,
    case when r.effect = 'pause_account' and r.wait_seconds > 0 then now() + r.wait_seconds * interval '1 second' end)
  from (select distinct on (country_id, account_id) * from unnest(p_results) p
        where (effect in ('stop_account', 'pause_account') or (effect = 'policy_block' and message_id is not null and template_name is null))
          -- What was said before the account was started (again) has been seen to.
          and not exists (
            select from whatsapp.accounts a
            where a.country_id = p.country_id and a.account_id = p.account_id and a.state = 'active'
              and a.state_since > whatsapp_internal.said_at(p.country_id, p.message_id))
        order by country_id, account_id, effect = 'stop_account' desc,
          case effect when 'pause_account' then nullif(wait_seconds, 0) end desc nulls first) r;

  -- What the business begins rests, and ends its rest by itself; people are answered meanwhile.
  update whatsapp.accounts a
  set templates_paused_until = greatest(a.templates_paused_until, r.until)
  from (select country_id, account_id, max(whatsapp_internal.said_at(country_id, message_id)
            + coalesce(nullif(wait_seconds, 0), 86400) * interval '1 second') as until
        from unnest(p_results) where effect in ('pause_templates', 'policy_block') group by 1, 2 order by 1, 2) r
  where a.country_id = r.country_id and a.account_id = r.account_id;

  -- Enough of a template for now: its campaigns rest as a whole, or each of their messages would ask Meta for itself.
  update whatsapp.lanes l
  set held_until = greatest(l.held_until, r.until), held_reason = 'template_throttled'
  from (
    select c.country_id, c.account_id, whatsapp_internal.lane_of_campaign(c.campaign_id) as lane, now() + t.seconds * interval '1 second' as until
    from (select country_id, account_id, template_name, template_language, max(coalesce(nullif(wait_seconds, 0), 3600)) as seconds
          from unnest(p_results) where effect = 'rest_template' group by 1, 2, 3, 4) t
    join whatsapp.campaigns c
      on c.country_id = t.country_id and c.account_id = t.account_id and c.template_name = t.template_name
      and c.template_language = t.template_language and c.state in ('scheduled', 'running')
  ) r
  where l.country_id = r.country_id and l.account_id = r.account_id and l.lane = r.lane;
end
$$;

-- Too fast: the number goes on slower, a person gets their next message later.
create or replace function whatsapp_internal.apply_effects_to_pace(p_results whatsapp_internal.result[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  -- Throughput reached (130429): the number rests for a moment and goes on at half its rate; sweep raises it again.
  update whatsapp.throttles t
  set held_until = greatest(t.held_until, now() + r.seconds * interval '1 second'), rate_factor = greatest(t.rate_factor / 2, 0.05)
  from (select country_id, account_id, max(coalesce(nullif(wait_seconds, 0), 1)) as seconds from unnest(p_results)
        where effect = 'slow_down' group by 1, 2) r
  where t.country_id = r.country_id and t.account_id = r.account_id and coalesce(t.held_until <= now(), true);

  -- Pair rate reached (131056): this person waits, others do not.
  update whatsapp.conversations v
  set pair_next_at = greatest(v.pair_next_at, now() + interval '264 seconds' + r.seconds * interval '1 second')
  from (select country_id, account_id, contact_id, max(coalesce(wait_seconds, 6)) as seconds from unnest(p_results)
        where effect = 'pair_wait' group by 1, 2, 3) r
  where v.country_id = r.country_id and v.account_id = r.account_id and v.contact_id = r.contact_id;
end
$$;

-- Takes the statuses that were parked under these wamids: they are for apply_statuses, and speak of these messages. A failure is kept by its key, as
-- ingest does, and what is kept already is no news.
create or replace function whatsapp_internal.take_parked(p_countries text[], p_accounts text[], p_wamids text[], p_messages uuid[]) returns jsonb[]
language plpgsql volatile set search_path = ''
as $$
declare
  v_events jsonb[];
  v_kept uuid[];
begin
  select array_agg(p.event || jsonb_build_object('message_id', k.message_id)) into v_events
  from (
    select distinct on (country_id, account_id, wamid) *
    from unnest(p_countries, p_accounts, p_wamids, p_messages) as u (country_id, account_id, wamid, message_id) where u.wamid is not null
  ) k
  cross join lateral (
    select p.event from whatsapp.parked_statuses p
    where p.country_id = k.country_id and p.account_id = k.account_id and p.wamid = k.wamid
    for no key update skip locked
  ) p;
  if v_events is null then
    return null;
  end if;
  delete from whatsapp.parked_statuses p
  using unnest(v_events) i
  where p.country_id = i ->> 'country_id' and p.event_key = (i ->> 'key')::uuid;
  with kept as (
    insert into whatsapp.webhook_events (country_id, day, event_key, account_id, field, kind, outcome, payload)
    select i ->> 'country_id', whatsapp_internal.day_of((i ->> 'at')::double precision), (i ->> 'key')::uuid, i ->> 'account_id', i ->> 'field', i ->> 'kind',
      'applied', i -> 'payload'
    from unnest(v_events) i where i ->> 'state' = 'failed'
    order by 1, 3
    on conflict do nothing
    returning event_key
  )
  select array_agg(event_key) into v_kept from kept;
  return array(select i from unnest(v_events) i where i ->> 'state' <> 'failed' or (i ->> 'key')::uuid = any (v_kept));
end
$$;

-- Makes messages known by Meta's ids of them. One that another message holds is left out of its result, and told in its detail.
create or replace function whatsapp_internal.name_results(p_results whatsapp_internal.result[]) returns whatsapp_internal.result[]
language plpgsql volatile set search_path = ''
as $$
declare
  v_named uuid[];
begin
  with named as (
    insert into whatsapp.wamids (country_id, digest, week, message_id)
    select r.country_id, whatsapp_internal.digest_of(r.account_id, r.wamid), whatsapp_internal.week_of(whatsapp_internal.today()), r.message_id
    from unnest(p_results) r where r.wamid is not null
    order by 1, 2, 4
    on conflict do nothing
    returning message_id
  )
  select array_agg(message_id) into v_named from named;
  if cardinality(v_named) = cardinality(p_results) then
    return p_results;
  end if;
  return array(
    select jsonb_populate_record(r, case when other.message_id is null then '{}' else jsonb_build_object(
      'wamid', null, 'detail', coalesce(r.detail, '{}') || jsonb_build_object('wamid_of_another', r.wamid)) end)
    from unnest(p_results) r
    left join lateral (
      select w.message_id from whatsapp.wamids w
      where w.country_id = r.country_id and w.digest = whatsapp_internal.digest_of(r.account_id, r.wamid)
        and w.week = whatsapp_internal.week_of(whatsapp_internal.today()) and w.message_id <> r.message_id and r.message_id <> all (coalesce(v_named, '{}'))
    ) other on true
    order by r.country_id, r.message_id);
end
$$;

-- The results as what they stand for, one a message. The messages are locked here, in order.
create or replace function whatsapp_internal.read_results(p_results jsonb[]) returns whatsapp_internal.result[]
language plpgsql volatile set search_path = ''
as $$
begin
  return (
    select array_agg(row(
        r.country_id, r.message_id, r.lease_id, r.outcome, case when length(r.wamid) <= 512 then r.wamid end,
        case when r.wa_id ~ '^[0-9]{5,20}$' then r.wa_id end, case when length(r.user_id) <= 150 then r.user_id end,
        case when r.code ~ '^-?[0-9]{1,9}$' then r.code::integer end, r.title, r.details, r.effect, case when r.wait_seconds < 2592000 then r.wait_seconds when r.wait_seconds is not null then 2592000 end, r.max_attempts,
        r.detail, m.account_id, m.contact_id, m.template_name, m.template_language)::whatsapp_internal.result)
    from (
      select distinct on (country_id, message_id) r.*
      from unnest(p_results) i,
        jsonb_to_record(i) as r (
          country_id text, message_id uuid, lease_id uuid, outcome text, wamid text, wa_id text, user_id text, code text, title text,
          details text, effect text, wait_seconds double precision, max_attempts integer, detail jsonb)
      order by country_id, message_id
    ) r
    cross join lateral (
      select m.* from whatsapp.messages m
      where m.country_id = r.country_id and m.message_id = r.message_id
      for no key update of m
    ) m
  );
end
$$;

-- Those results that count: their lease still holds the row, or they prove what happened to it. In a statement of its own, which sees what whoever held
-- the messages before has done: the same call, when it is repeated.
create or replace function whatsapp_internal.results_that_count(p_results whatsapp_internal.result[]) returns whatsapp_internal.result[]
language plpgsql volatile set search_path = ''
as $$
begin
  return (
    select array_agg(row(
        r.country_id, r.message_id, r.lease_id,
        case
          -- A status webhook was faster, or the acceptance of an earlier try: whatever the answer was, the message is on its way and is not sent again.
          when coalesce(m.accepted_at, m.sent_at, m.delivered_at, m.read_at, m.played_at, m.failed_at) is not null then 'accepted'
          when r.outcome = 'retry' and q.attempts >= r.max_attempts then 'rejected'
          else r.outcome
        end,
        r.wamid, r.wa_id, r.user_id, r.code, r.title, r.details, r.effect, r.wait_seconds, r.max_attempts,
        r.detail,
        r.account_id, r.contact_id, r.template_name, r.template_language)::whatsapp_internal.result order by r.country_id, r.message_id)
    from unnest(p_results) r
    join whatsapp.messages m on m.country_id = r.country_id and m.message_id = r.message_id
    left join whatsapp.queue q on q.country_id = r.country_id and q.message_id = r.message_id
    where case r.outcome
      when 'accepted' then m.accepted_at is null or q.message_id is not null
      when 'unknown' then q.lease_id = r.lease_id and q.unknown_until is null
      else q.lease_id = r.lease_id
    end
  );
end
$$;

-- Writes the results to their messages, and to the story what the columns do not tell.
create or replace function whatsapp_internal.log_results(p_results whatsapp_internal.result[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  with moved as (
    update whatsapp.messages m
    set
      wamid = coalesce(r.wamid, m.wamid),
      accepted_at = case when r.outcome = 'accepted' then coalesce(m.accepted_at, now()) else m.accepted_at end,
      failed_at = case
        when r.outcome = 'rejected' then coalesce(m.failed_at, now())
        when not whatsapp_internal.given_up(m.error_code, m.error_title) then m.failed_at
      end,
      error_code = coalesce(r.code, m.error_code),
      error_title = coalesce(r.title, case when not whatsapp_internal.given_up(m.error_code, m.error_title) then m.error_title end),
      error_details = coalesce(r.details, m.error_details),
      attempts = case when r.outcome in ('held', 'released') then greatest(m.attempts - 1, 0) else m.attempts end,
      state = whatsapp_internal.state_of(
        case when r.outcome = 'accepted' then coalesce(m.accepted_at, now()) else m.accepted_at end,
        m.sent_at, m.delivered_at, m.read_at, m.played_at,
        case
          when r.outcome = 'rejected' then coalesce(m.failed_at, now())
          when not whatsapp_internal.given_up(m.error_code, m.error_title) then m.failed_at
        end,
        case when r.outcome = 'unknown' then 'unknown' else 'queued' end)
    from unnest(p_results) r
    where m.country_id = r.country_id and m.message_id = r.message_id
    returning r.*, m.accepted_at
  )
  -- That Meta took it, and nothing else, is told by accepted_at.
  insert into whatsapp.message_events (country_id, message_id, event, code, title, detail)
  select country_id, message_id,
    case outcome when 'rejected' then 'message_failed' when 'retry' then 'message_retry' else 'message_' || outcome end,
    code, title,
    nullif(jsonb_strip_nulls(coalesce(detail, '{}') || jsonb_build_object('details', details, 'wait_seconds', wait_seconds)), '{}')
  from moved
  where outcome <> 'accepted' or accepted_at < now() or coalesce(code::text, title, details, detail::text, wait_seconds::text) is not null;
end
$$;

-- Takes what is done out of the queue, and gives back what is not: when it goes again, and what it waits for.
create or replace function whatsapp_internal.requeue_results(p_results whatsapp_internal.result[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  delete from whatsapp.queue q
  using unnest(p_results) r
  where q.country_id = r.country_id and q.message_id = r.message_id and r.outcome in ('accepted', 'rejected')
    and (q.lease_id = r.lease_id or q.lease_id is null);

  update whatsapp.queue q
  set
    lease_id = case when r.outcome = 'unknown' then q.lease_id end,
    leased_until = case when r.outcome = 'unknown' then least(q.leased_until, now()) end,
    -- Looked up here and not joined: with a third table Postgres may begin with the queue, and read all of it for each result if it believes it empty.
    unknown_until = case when r.outcome = 'unknown' then now() + (
      select a.unknown_deadline from whatsapp.accounts a where a.country_id = r.country_id and a.account_id = r.account_id) end,
    attempts = case when r.outcome in ('held', 'released') then greatest(q.attempts - 1, 0) else q.attempts end,
    waits = case r.outcome when 'held' then q.waits + 1 when 'retry' then 0 else q.waits end,
    run_at = case
      -- Its campaign is paused with the template (apply_effects) and goes on when Meta approves it: a wait of its own would outlast that.
      when r.effect = 'pause_template' and q.lane like 'campaign:%' then q.run_at
      -- It rests with its lane.
      when r.effect = 'rest_template' and q.lane like 'campaign:%' then q.run_at
      -- These wait for the account (templates_paused_until, or until it is resumed), and go with it. A single reply that Meta refused does not.
      when r.effect = 'pause_templates' and q.lane = 'reply' then now() + least(power(2, q.waits), 60) * interval '1 minute'
      when r.effect in ('pause_templates', 'policy_block') then q.run_at
      when r.wait_seconds > 0 and r.outcome <> 'unknown' then now() + r.wait_seconds * interval '1 second'
      else q.run_at
    end
  from unnest(p_results) r
  where q.country_id = r.country_id and q.message_id = r.message_id and q.lease_id = r.lease_id
    and r.outcome in ('retry', 'held', 'released', 'unknown');
end
$$;

create or replace function whatsapp.settle(p_results jsonb[]) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_results whatsapp_internal.result[];
  v_parked jsonb[];
  v_effects whatsapp_internal.result[];
begin
  perform whatsapp_internal.hold_countries(array(select i ->> 'country_id' from unnest(p_results) i), false);

  v_results := whatsapp_internal.read_results(p_results);
  v_results := whatsapp_internal.results_that_count(v_results);
  if v_results is null then
    return jsonb_build_object('settled', 0, 'stale', coalesce(cardinality(p_results), 0));
  end if;
  v_results := whatsapp_internal.name_results(v_results);

  perform whatsapp_internal.log_results(v_results);
  perform whatsapp_internal.requeue_results(v_results);
  perform whatsapp_internal.wake_next(v_results);
  v_parked := whatsapp_internal.take_parked(
    array(select country_id from unnest(v_results)), array(select account_id from unnest(v_results)), array(select wamid from unnest(v_results)),
    array(select message_id from unnest(v_results)));
  v_effects := v_results || whatsapp_internal.apply_statuses(v_parked);
  perform whatsapp_internal.hold_contacts(array_agg(r.country_id), array_agg(r.contact_id))
  from unnest(v_effects) r
  where r.wa_id is not null or r.user_id is not null or r.effect <> 'none';
  perform whatsapp_internal.free_conversations(v_results);
  if v_parked is not null then
    perform whatsapp_internal.open_entry_points(v_parked);
  end if;
  perform whatsapp_internal.apply_effects(v_effects);
  if exists (select from unnest(v_results) r where r.outcome in ('retry', 'held', 'released')) then
    perform whatsapp_internal.reopen_lanes(array_agg(r.country_id), array_agg(r.message_id))
    from unnest(v_results) r where r.outcome in ('retry', 'held', 'released');
  end if;
  -- Last: it may find that one of these people is another, and everything above speaks of who they were.
  perform whatsapp_internal.learn_ids(v_results);

  return jsonb_build_object('settled', cardinality(v_results), 'stale', cardinality(p_results) - cardinality(v_results));
end
$$;
comment on function whatsapp.settle is 'Verb 3 of 5. Records what Meta answered: accepted, rejected, retry, held, released or unknown. Safe to repeat.';

-- The first message that had stepped aside for one that is settled now is due at once: the most urgent lane's, as claim does; what stands in a
-- paused or held lane is not what can go. One row of each kind of lane by its index, however many wait.
create or replace function whatsapp_internal.wake_next(p_results whatsapp_internal.result[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  update whatsapp.queue q
  set run_at = now(), blocked = false
  from (
    select r.country_id, next.message_id
    from (select distinct country_id, account_id, contact_id from unnest(p_results)) r
    -- Nearly always nothing waits.
    cross join lateral (
      select from whatsapp.queue n
      where n.country_id = r.country_id and n.account_id = r.account_id and n.contact_id = r.contact_id
      limit 1
    ) waiting
    cross join lateral (
      select head.message_id, head.blocked
      from (values (1, 'reply', 'reply'), (2, 'utility', 'utility'), (3, 'marketing', 'marketing'), (4, 'campaign:', 'campaign:g'))
        as kinds (n, first, last)
      cross join lateral (
        select n.message_id, n.blocked
        from whatsapp.queue n
        join whatsapp.lanes l on l.country_id = n.country_id and l.account_id = n.account_id and l.lane = n.lane
        where n.country_id = r.country_id and n.account_id = r.account_id and n.contact_id = r.contact_id
          and n.lane between kinds.first and kinds.last and n.lease_id is null and n.due_at <= now()
          and not l.paused and coalesce(l.held_until <= now(), true)
        order by n.lane, n.due_at, n.message_id
        limit 1
      ) head
      order by kinds.n
      limit 1
    ) next
    where next.blocked
    order by 1, 2
  ) next
  where q.country_id = next.country_id and q.message_id = next.message_id and q.blocked;
end
$$;

-- The people of settled messages may get their next one.
create or replace function whatsapp_internal.free_conversations(p_results whatsapp_internal.result[]) returns void
language sql volatile set search_path = ''
as $$
  update whatsapp.conversations v
  set sending_until = null, last_message_at = now()
  from (select distinct country_id, account_id, contact_id from unnest(p_results) order by 1, 2, 3) r
  where v.country_id = r.country_id and v.account_id = r.account_id and v.contact_id = r.contact_id
$$;
