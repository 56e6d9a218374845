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
