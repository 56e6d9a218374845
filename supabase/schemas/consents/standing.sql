-- What people said, and what holds because of it (tables/consents.sql).

-- Writes the facts and what follows from them into contacts. Answers whose standing it changed.
create or replace function whatsapp_internal.add_consents(p_facts whatsapp_internal.consent[]) returns table (country_id text, contact_id uuid)
language plpgsql volatile set search_path = ''
as $$
#variable_conflict use_column
begin
  -- People first, in order: whoever else records for them waits here, and then looks at the facts in a statement of its own.
  perform from (select distinct f.country_id, f.contact_id from unnest(p_facts) f order by 1, 2) f
  cross join lateral (
    select from whatsapp.contacts c where c.country_id = f.country_id and c.contact_id = f.contact_id for no key update of c
  ) c;

  -- Joined with another while this waited: the wish goes where the person went.
  if exists (
    select from unnest(p_facts) f
    cross join lateral (
      select c.merged_into from whatsapp.contacts c where c.country_id = f.country_id and c.contact_id = f.contact_id limit 1) c
    where c.merged_into is not null)
  then
    return query select a.* from whatsapp_internal.add_consents(array(
      select row(f.country_id, coalesce(c.merged_into, c.contact_id), f.what, f.scope, f.at, f.how, f.proof, f.recorded_by)::whatsapp_internal.consent
      from unnest(p_facts) f join whatsapp.contacts c on c.country_id = f.country_id and c.contact_id = f.contact_id)) a;
    return;
  end if;

  insert into whatsapp.consents (country_id, contact_id, what, scope, at, how, proof, recorded_by)
  select f.* from unnest(p_facts) f order by f.at;

  return query
  select s.country_id, s.contact_id
  from (select array_agg(f.country_id) as countries, array_agg(f.contact_id) as contacts
        from (select distinct f.country_id, f.contact_id from unnest(p_facts) f) f) f,
    whatsapp_internal.stand(f.countries, f.contacts) s;
end
$$;

-- What holds for these people, by their facts and by what stands in their rows. Answers whose standing it changed. The caller holds the rows.
create or replace function whatsapp_internal.stand(p_countries text[], p_contacts uuid[]) returns table (country_id text, contact_id uuid)
language sql volatile set search_path = ''
as $$
  with told as materialized (
    select c.country_id, c.contact_id, c.opted_in_at is null as never_in, c.opted_out_at is null as not_out,
      c.marketing_opted_out_at is null as not_out_of_marketing,
      greatest(c.opted_in_at, k.opted_in) as opted_in,
      greatest(c.opted_out_at, k.out_of_all) as out_of_all, k.in_to_all,
      greatest(c.marketing_opted_out_at, k.out_of_marketing) as out_of_marketing, k.in_to_any
    from unnest(p_countries, p_contacts) as f (country_id, contact_id)
    cross join lateral (
      select c.* from whatsapp.contacts c where c.country_id = f.country_id and c.contact_id = f.contact_id limit 1) c
    cross join lateral (
      select
        max(k.at) filter (where k.what = 'opt_in' and k.how <> 'meta') as opted_in,
        max(k.at) filter (where k.what = 'opt_in') as in_to_any,
        max(k.at) filter (where k.what = 'opt_in' and k.scope = 'all') as in_to_all,
        max(k.at) filter (where k.what = 'opt_out' and k.scope = 'all') as out_of_all,
        max(k.at) filter (where k.what = 'opt_out' and k.scope = 'marketing') as out_of_marketing
      from whatsapp.consents k where k.country_id = c.country_id and k.contact_id = c.contact_id
    ) k
  ),
  standing as (
    update whatsapp.contacts c
    set opted_in_at = t.opted_in,
      opted_out_at = case when t.in_to_all > t.out_of_all then null else t.out_of_all end,
      marketing_opted_out_at = case when t.in_to_any > t.out_of_marketing then null else t.out_of_marketing end
    from told t
    where c.country_id = t.country_id and c.contact_id = t.contact_id
    returning c.country_id, c.contact_id, c.opted_in_at, c.opted_out_at, c.marketing_opted_out_at, t.never_in, t.not_out,
      t.not_out_of_marketing
  )
  select s.country_id, s.contact_id from standing s
  where (s.opted_in_at is null, s.opted_out_at is null, s.marketing_opted_out_at is null) <> (s.never_in, s.not_out, s.not_out_of_marketing)
$$;
