-- sync_templates: make our copy of one account's templates what Meta's listing says. What a complete listing lacks, Meta has removed.
--
--   p_templates  jsonb[]  {name, language, status, category, parameter_format?, components?, contract?, quality?, reason?}
--   p_complete   false: part of the listing could not be read, so nothing is removed
--   returns      jsonb    {"stored": n, "removed": n}
--
-- Safe to repeat. Not one of the five verbs: it moves no message, it only refreshes what the gates look at.

create or replace function whatsapp.sync_templates(p_country text, p_account text, p_templates jsonb[], p_complete boolean default true) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_stored integer;
  v_removed integer;
begin
  if not exists (select from whatsapp.accounts where country_id = p_country and account_id = p_account) then
    raise sqlstate 'PT404' using message = 'no such account', hint = 'Insert a row into whatsapp.accounts first.';
  end if;

  insert into whatsapp.templates as t (
    country_id, account_id, name, language, status, category, parameter_format, components, contract, quality, reason)
  select distinct on (r.name, r.language)
    p_country, p_account, r.name, r.language, coalesce(r.status, 'UNKNOWN'), coalesce(r.category, 'UNKNOWN'), r.parameter_format, r.components,
    r.contract, r.quality, r.reason
  from unnest(p_templates) i,
    jsonb_to_record(i) as r (
      name text, language text, status text, category text, parameter_format text, components jsonb, contract jsonb, quality text, reason text)
  where r.name is not null and r.language is not null
  order by r.name, r.language
  on conflict (country_id, account_id, name, language) do update
  set status_at = case when t.status <> excluded.status then now() else t.status_at end, status = excluded.status, category = excluded.category, parameter_format = excluded.parameter_format,
    components = excluded.components, contract = excluded.contract, quality = excluded.quality, reason = excluded.reason, synced_at = now();
  get diagnostics v_stored = row_count;

  delete from whatsapp.templates t
  where p_complete and t.country_id = p_country and t.account_id = p_account and not exists (
    select from unnest(p_templates) i where i ->> 'name' = t.name and i ->> 'language' = t.language);
  get diagnostics v_removed = row_count;

  return jsonb_build_object('stored', v_stored, 'removed', v_removed);
end
$$;
comment on function whatsapp.sync_templates is 'Makes the copy of an account''s templates what Meta lists now. Safe to repeat.';
