-- A country with a past, as the verbs leave it: see stock.py. Each message has a moment of its own in the last 30 days; every tenth was written by
-- the person. Of 30 messages one status is parked for ever, of 150 one outcome is unknown.

select whatsapp_internal.make_partitions(now() - interval '31 days');

insert into whatsapp.contacts (country_id, contact_id, phone, wa_id, match_key, bsuid, name)
select %(country)s, whatsapp_internal.uuid7(now() - interval '60 days' + n * interval '1 second'), '+' || digits, digits, digits,
  case when mod(n, 2) = 0 then %(country)s || '.' || digits end, 'person ' || n
from generate_series(1, %(people)s) n, lateral (select (80000000000 + n)::text as digits) d;

create temporary table people on commit drop as
select row_number() over () as n, contact_id from whatsapp.contacts where country_id = %(country)s;

alter table people add primary key (n);

insert into whatsapp.conversations (country_id, account_id, contact_id, last_message_at)
select %(country)s, %(account)s, contact_id, now() - interval '1 day' from people;

create temporary table log on commit drop as
select m.n, whatsapp_internal.uuid7(m.at) as message_id, p.contact_id, m.at, mod(m.n, 10) = 0 as inbound,
  'wamid.' || md5(%(country)s || m.n) as wamid
from (select n, 1 + mod(n * 7919::bigint, %(people)s) as who,
        now() - interval '30 days' * (1 - n::float / (%(messages)s + 1)) as at
      from generate_series(1, %(messages)s) n) m
join people p on p.n = m.who;

insert into whatsapp.messages (country_id, message_id, account_id, contact_id, direction, kind, state, content, wamid, ref,
  template_name, template_language, category, attempts, created_at, accepted_at, sent_at, delivered_at, read_at)
select %(country)s, message_id, %(account)s, contact_id, case when inbound then 'inbound' else 'outbound' end,
  case when inbound then 'text' else 'template' end, case when inbound then 'received' else 'read' end,
  case when inbound then '{"type": "text", "text": {"body": "hola"}}'::jsonb
    else '{"type": "template", "template": {"name": "plain", "language": {"code": "es"}}}' end,
  wamid, case when not inbound then 'order-' || n end, case when not inbound then 'plain' end,
  case when not inbound then 'es' end, case when not inbound then 'UTILITY' end, 1, at, at, at, at, at
from log order by n;

insert into whatsapp.wamids (country_id, digest, week, message_id)
select %(country)s, whatsapp_internal.digest_of(%(account)s, wamid), whatsapp_internal.week_of(at::date), message_id from log order by n;

-- Of every tenth there is more to tell than its columns do.
insert into whatsapp.message_events (country_id, message_id, event, at, recorded_at, code, title)
select %(country)s, message_id, 'message_retry', at, at, 131000, 'Something went wrong' from log where mod(n, 10) = 1 order by n;

insert into whatsapp.webhook_events (country_id, day, event_key, account_id, field, kind, outcome, payload, received_at)
select %(country)s, at::date, gen_random_uuid(), %(account)s, 'messages', 'message', 'applied', '{"id": "x"}', at
from log where inbound order by n;

insert into whatsapp.webhook_events (country_id, day, event_key, account_id, field, kind, outcome, payload, received_at)
select %(country)s, max(at)::date, gen_random_uuid(), %(account)s, 'messages', 'status', 'applied', jsonb_agg(jsonb_build_object('id', wamid)), max(at)
from log where not inbound group by n / 30 order by n / 30;

insert into whatsapp.parked_statuses (country_id, event_key, account_id, wamid, event, look_again_at)
select %(country)s, gen_random_uuid(), %(account)s, 'wamid.other.' || n, '{"state": "sent"}', null
from generate_series(1, %(messages)s / 30) n;

insert into whatsapp.idempotency_keys (country_id, key, fingerprint, message_id, created_at)
select %(country)s, gen_random_uuid()::text, 'same', message_id, at from log where mod(n, 4) = 1 and at > now() - interval '6 days';

insert into whatsapp.consents (country_id, contact_id, what, scope, at, how)
select %(country)s, contact_id, 'opt_in', 'marketing', now() - interval '50 days', 'form' from people where mod(n, 3) = 0;

insert into whatsapp.lanes (country_id, account_id, lane, priority) values (%(country)s, %(account)s, 'utility', 1)
on conflict do nothing;

create temporary table lost on commit drop as
select message_id, contact_id from whatsapp.messages
where country_id = %(country)s and direction = 'outbound' order by message_id limit %(messages)s / 150;

update whatsapp.messages m set state = 'unknown', accepted_at = null, sent_at = null, delivered_at = null, read_at = null,
  wamid = null
from lost l where m.country_id = %(country)s and m.message_id = l.message_id;

insert into whatsapp.queue (country_id, message_id, account_id, contact_id, lane, due_at, run_at, attempts, lease_id, leased_at,
  leased_until, unknown_until)
select %(country)s, message_id, %(account)s, contact_id, 'utility', now() - interval '1 hour', now() - interval '1 hour', 1,
  gen_random_uuid(), now(), now() - interval '1 minute', now() + interval '1 day' from lost;
