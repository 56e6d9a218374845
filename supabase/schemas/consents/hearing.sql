-- What people say themselves: Meta's marketing stop and resume, and stop words.

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
      select case i -> 'content' ->> 'type'
          when 'text' then i -> 'content' -> 'text' ->> 'body'
          when 'button' then i -> 'content' -> 'button' ->> 'text'
          -- What a person taps: a button, or a row of a list, of a message of ours.
          when 'interactive' then
            coalesce(i #>> '{content,interactive,button_reply,title}', i #>> '{content,interactive,list_reply,title}')
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
