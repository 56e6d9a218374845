-- What waits for Meta's messaging limit or for the end of quiet hours, and what lets it go.

-- Single messages that wait for the limit or for the end of quiet hours need not wait longer than these do: a limit that Meta raises, or quiet
-- hours that somebody changes, let them go. The most urgent first, as many as there is room for, and never more than p_limit at once.
create or replace function whatsapp_internal.sweep_held(p_limit integer) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_lane record;
  v_portfolio text;
  v_room bigint;
  v_freed integer;
  v_left integer := p_limit;
begin
  for v_lane in
    select a.portfolio, a.country_id, a.account_id, w.lane, w.reason,
      whatsapp_internal.quiet_end(a.time_zone, a.quiet_from, a.quiet_until, now()) is not null as quiet
    from whatsapp.accounts a
    cross join (values ('utility', 'messaging_limit'), ('marketing', 'messaging_limit'), ('marketing', 'quiet_hours')) as w (lane, reason)
    where exists (
      select from whatsapp.queue q
      where q.country_id = a.country_id and q.account_id = a.account_id and q.lane = w.lane and q.held_reason = w.reason)
    order by a.portfolio, w.lane desc, a.country_id, a.account_id
  loop
    exit when v_left < 1;
    if v_portfolio is distinct from v_lane.portfolio then
      v_portfolio := v_lane.portfolio;
      select coalesce(p.room, p_limit) into v_room from whatsapp_internal.portfolio_left(v_portfolio, now()) p;
    end if;
    continue when case v_lane.reason when 'quiet_hours' then v_lane.quiet else v_room < 1 end;
    update whatsapp.queue q set run_at = now(), held_reason = null
    where (q.country_id, q.message_id) in (
      select h.country_id, h.message_id from whatsapp.queue h
      where h.country_id = v_lane.country_id and h.account_id = v_lane.account_id and h.lane = v_lane.lane and h.held_reason = v_lane.reason
        and h.lease_id is null
      order by h.due_at
      limit case v_lane.reason when 'quiet_hours' then v_left else least(v_room, v_left) end
      for update skip locked);
    get diagnostics v_freed = row_count;
    v_left := v_left - v_freed;
    v_room := v_room - case v_lane.reason when 'quiet_hours' then 0 else v_freed end;
  end loop;
  return p_limit - v_left;
end
$$;

-- A campaign that waits for its limit or for the end of quiet hours is looked at anew when these are changed.
create or replace function whatsapp_internal.release_holds() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  -- A claim that still goes by what held before is waited for: it may be about to hold a lane.
  perform pg_advisory_xact_lock(hashtextextended('whatsapp.portfolio ' || p.portfolio, 0))
  from (
    select distinct c.portfolio
    from added n
    join removed o on o.country_id = n.country_id and o.account_id = n.account_id
    cross join lateral (values (n.portfolio), (o.portfolio)) as c (portfolio)
    where (n.messaging_limit, n.portfolio) is distinct from (o.messaging_limit, o.portfolio)
    order by 1
  ) p;
  update whatsapp.lanes l set held_until = null, held_reason = null
  from whatsapp.accounts a, added n, removed o
  where n.country_id = o.country_id and n.account_id = o.account_id and a.portfolio in (n.portfolio, o.portfolio)
    and (n.messaging_limit, n.portfolio, n.time_zone, n.quiet_from, n.quiet_until)
      is distinct from (o.messaging_limit, o.portfolio, o.time_zone, o.quiet_from, o.quiet_until)
    and l.country_id = a.country_id and l.account_id = a.account_id and l.held_until is not null;
  return null;
end
$$;
create or replace trigger lanes_follow after update on whatsapp.accounts
  referencing old table as removed new table as added for each statement execute function whatsapp_internal.release_holds();
