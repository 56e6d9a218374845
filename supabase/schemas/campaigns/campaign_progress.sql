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
