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
