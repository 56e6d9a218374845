-- Messages by their ids alone, for the server: in each country by the key. Without a country Postgres would read the log from end to end.
create or replace function whatsapp.find_messages(p_ids uuid[]) returns jsonb
language sql stable security definer set search_path = ''
as $$
  select coalesce(jsonb_agg(to_jsonb(m) - 'content'), '[]')
  from (select distinct a.country_id from whatsapp.accounts a) c
  cross join unnest(p_ids) as i (message_id)
  cross join lateral (
    select m.* from whatsapp.messages m where m.country_id = c.country_id and m.message_id = i.message_id limit 1
  ) m
$$;
comment on function whatsapp.find_messages is 'The messages with these ids, of all countries, without their content. What a member may see is read from the table.';
