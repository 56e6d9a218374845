-- Rows of every table, made by the verbs as they were in version 1: what an upgrade from it has to bring along. Never changed once released.

insert into whatsapp.accounts (country_id, account_id, is_default, portfolio) values ('MX', 'main', true, 'one'), ('CO', 'main', true, 'one');
insert into whatsapp.members (country_id, user_id, role) values ('MX', 'a0000000-0000-4000-8000-000000000001', 'operator');
insert into whatsapp.stop_words (country_id, word, reply) values ('MX', 'BAJA', 'Listo.');
insert into whatsapp.retention (country_id, keep) values ('MX', '13 months');

create function pg_temp.person(phone text, key text, more jsonb) returns jsonb language sql as $$
  select jsonb_build_object(
    'country_id', 'MX', 'phone', phone, 'match_key', substr(phone, 2), 'key', key, 'fingerprint', 'f', 'kind', 'template',
    'template_name', 'plain', 'template_language', 'es', 'content', '{"type": "template", "template": {"name": "plain"}}'::jsonb) || more
$$;

create function pg_temp.event(kind text, more jsonb) returns jsonb language sql as $$
  select jsonb_build_object(
    'key', md5(more::text)::uuid, 'country_id', 'MX', 'account_id', 'main', 'field', 'messages', 'kind', kind,
    'at', extract(epoch from now()), 'payload', '{}'::jsonb) || more
$$;

do $$
declare
  v_campaign uuid;
  v_held jsonb[];
begin
  perform whatsapp.sync_templates('MX', 'main', array[
    '{"name": "plain", "language": "es", "status": "APPROVED", "category": "UTILITY"}',
    '{"name": "offer", "language": "es", "status": "APPROVED", "category": "MARKETING"}']::jsonb[]);

  -- Somebody writes, and is answered.
  perform whatsapp.ingest(array[pg_temp.event('message', '{
    "wamid": "wamid.in", "contact": {"wa_id": "525500000001", "match_key": "525500000001", "bsuid": "MX.1", "name": "Ana"},
    "content": {"type": "text", "text": {"body": "hola"}}}')]);
  perform whatsapp.enqueue(array[
    pg_temp.person('+525500000001', 'reply', '{"kind": "text", "content": {"type": "text", "text": {"body": "hola"}}}'),
    pg_temp.person('+525500000002', 'lost', '{}'),
    pg_temp.person('+525500000003', 'refused', '{}'),
    pg_temp.person('+525500000004', 'later', jsonb_build_object('send_at', now() + interval '1 day')),
    pg_temp.person('+525500000005', 'gone', jsonb_build_object('expires_at', now()))]);

  -- One is taken by Meta and delivered, one is lost, one is refused, and one is on its way.
  select array_agg(m || jsonb_build_object('country_id', 'MX', 'lease_id', l -> 'lease_id') order by m ->> 'to')
  into v_held
  from jsonb_array_elements(whatsapp.claim(gen_random_uuid(), array['MX/main'], 50, '60 seconds', '100 seconds') -> 'leases') l,
    jsonb_array_elements(l -> 'messages') m;
  perform whatsapp.announce(array(
    select jsonb_build_object('country_id', 'MX', 'lease_id', l, 'may_post', 3) from (select distinct m -> 'lease_id' as l from unnest(v_held) m) l));
  perform whatsapp.settle(array[
    v_held[1] || '{"outcome": "accepted", "wamid": "wamid.out", "wa_id": "525500000001"}',
    v_held[2] || '{"outcome": "unknown"}',
    v_held[3] || '{"outcome": "rejected", "code": 131026, "title": "Message undeliverable"}']);
  perform whatsapp.ingest(array[
    pg_temp.event('status', '{"wamid": "wamid.out", "state": "delivered"}'),
    pg_temp.event('status', '{"wamid": "wamid.nobody", "state": "read"}')]);
  perform whatsapp.enqueue(array[pg_temp.person('+525500000006', 'leased', '{}')]);
  perform whatsapp.claim(gen_random_uuid(), array['MX/main'], 50, '60 seconds', '100 seconds');

  -- Two wait: one alone, one in a campaign, from which one person is kept by what they said.
  perform whatsapp.enqueue(array[pg_temp.person('+525500000007', 'waits', '{}')]);
  perform whatsapp.record_consents('MX', 'a0000000-0000-4000-8000-000000000001', 'list', 'f', array[
    '{"row": 1, "phone": "+525500000008", "match_key": "525500000008", "what": "opt_in", "scope": "all", "how": "form"}',
    '{"row": 2, "phone": "+525500000009", "match_key": "525500000009", "what": "opt_out", "scope": "all", "how": "call"}']::jsonb[]);
  v_campaign := whatsapp.open_campaign(array['{"country_id": "MX", "name": "spring", "template_name": "offer", "template_language": "es",
    "key": "spring", "fingerprint": "f"}'::jsonb]) ->> 'campaign_id';
  perform whatsapp.enqueue_campaign('MX', v_campaign, 'chunk', 'f', array[1, 2], array['+525500000008', '+525500000009'],
    array['525500000008', '525500000009'], array[null, null], array[null, null]::uuid[], array[null, null], array['a', 'b']);

  -- Somebody asks to be left alone, and somebody changes their number.
  perform whatsapp.ingest(array[
    pg_temp.event('message', '{"wamid": "wamid.stop", "contact": {"wa_id": "525500000010", "match_key": "525500000010"},
      "content": {"type": "text", "text": {"body": "baja"}}}'),
    pg_temp.event('system', '{"contact": {"match_key": "525500000011", "wa_id": "525500000011", "bsuid": "MX.2",
      "previous_match_key": "525500000001", "previous_bsuid": "MX.1"}}')]);
end
$$;
