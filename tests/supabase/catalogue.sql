-- What a database holds of ours, object by object: its kind and name, and all that defines it. Read by catalogue.py.
--
-- The order of a table's columns is left out, as an upgrade adds them at the end.

create function pg_temp.acl(acl aclitem[], kind text, owner oid) returns text[] language sql as $$
  -- A privilege by default is a privilege, written down or not.
  select array(
    select concat_ws(' ', privilege_type, 'to', case grantee when 0 then 'public' else pg_get_userbyid(grantee) end, is_grantable)
    from aclexplode(case when kind = 'x' then acl else coalesce(acl, acldefault(kind::"char", owner)) end) order by 1)
$$;

with ours as (select oid from pg_namespace where nspname in ('whatsapp', 'whatsapp_internal'))

select 'schema ' || nspname, array[pg_get_userbyid(nspowner)::text] || pg_temp.acl(nspacl, 'n', nspowner) || obj_description(oid, 'pg_namespace')
from pg_namespace where oid in (table ours)

union all
select 'default privileges ' || concat_ws(' ', coalesce(defaclnamespace, 0)::regnamespace, defaclobjtype, pg_get_userbyid(defaclrole)), pg_temp.acl(defaclacl, 'x', 0)
from pg_default_acl where defaclnamespace in (table ours)

union all
select 'relation ' || c.oid::regclass::text, array[
  c.relkind::text, c.relpersistence::text, c.relrowsecurity::text, c.relforcerowsecurity::text, pg_get_userbyid(c.relowner)::text,
  obj_description(c.oid, 'pg_class'), pg_get_partkeydef(c.oid), pg_get_expr(c.relpartbound, c.oid),
  case when c.relkind = 'v' then pg_get_viewdef(c.oid) end,
  (select string_agg(i.inhparent::regclass::text, ', ') from pg_inherits i where i.inhrelid = c.oid)]
  || array(select unnest(c.reloptions) order by 1)
  || case when c.relkind <> 'c' then pg_temp.acl(c.relacl, case c.relkind when 'S' then 's' else 'r' end, c.relowner) end
from pg_class c where c.relnamespace in (table ours) and c.relkind not in ('i', 'I', 't')

union all
select 'column ' || c.oid::regclass || '.' || a.attname, array[
  format_type(a.atttypid, a.atttypmod), a.attnotnull::text, a.attidentity::text, a.attgenerated::text, a.attstorage::text,
  a.attcompression::text, a.attcollation::regcollation::text, pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum)]
  || a.attacl::text[]
from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
where c.relnamespace in (table ours) and c.relkind in ('r', 'p', 'v', 'm')

union all
select 'composite type ' || t.oid::regtype::text, array(
  select a.attname || ' ' || format_type(a.atttypid, a.atttypmod) from pg_attribute a
  where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped order by a.attnum) || pg_temp.acl(t.typacl, 'T', t.typowner)
from pg_type t join pg_class c on c.oid = t.typrelid and c.relkind = 'c' where t.typnamespace in (table ours)

union all
select 'type ' || t.oid::regtype::text, array[t.typtype::text, format_type(t.typbasetype, t.typtypmod), t.typnotnull::text, t.typdefault,
  obj_description(t.oid, 'pg_type')]
  || array(select e.enumlabel::text from pg_enum e where e.enumtypid = t.oid order by e.enumsortorder)
from pg_type t where t.typnamespace in (table ours) and t.typtype in ('d', 'e')

union all
select 'constraint ' || concat_ws('.', conrelid::regclass, contypid::regtype, conname), array[pg_get_constraintdef(oid), convalidated::text,
  obj_description(oid, 'pg_constraint')]
from pg_constraint where connamespace in (table ours) and contype <> 'n'

union all
select 'index ' || i.indexrelid::regclass::text, array[pg_get_indexdef(i.indexrelid), i.indisvalid::text, i.indisreplident::text]
from pg_index i join pg_class c on c.oid = i.indrelid where c.relnamespace in (table ours)

union all
select 'function ' || oid::regprocedure::text, array[pg_get_functiondef(oid), pg_get_userbyid(proowner)::text, obj_description(oid, 'pg_proc')]
  || pg_temp.acl(proacl, 'f', proowner)
from pg_proc where pronamespace in (table ours)

union all
select 'trigger ' || t.tgrelid::regclass || '.' || t.tgname, array[pg_get_triggerdef(t.oid), t.tgenabled::text]
from pg_trigger t join pg_class c on c.oid = t.tgrelid where c.relnamespace in (table ours) and not t.tgisinternal

union all
select 'policy ' || p.polrelid::regclass || '.' || p.polname, array[p.polcmd::text, p.polpermissive::text, pg_get_expr(p.polqual, p.polrelid),
  pg_get_expr(p.polwithcheck, p.polrelid)] || array(select r::regrole::text from unnest(p.polroles) r order by 1)
from pg_policy p join pg_class c on c.oid = p.polrelid where c.relnamespace in (table ours)

union all
select 'publication ' || pubname || ' ' || tablename, array[rowfilter] || attnames::text[]
from pg_publication_tables where schemaname in ('whatsapp', 'whatsapp_internal')

order by 1;
