-- The one lock order, and who takes locks before all else.
--
-- One lock order holds for everything that changes a row:
--
--   messages, parked_statuses, webhook_events, wamids, queue, contacts, conversations, idempotency_keys, templates, accounts, campaigns, campaign_people,
--   lanes, throttles
--
-- each table's rows in the order of their keys. What people wait for (enqueue, settle, ingest, record_consents, enqueue_campaign, control_…)
-- takes its rows in this order and waits where another is first. What comes again anyway (claim, sweep) never waits for a row: it takes all but
-- its first by `skip locked`, before it changes them, and so may begin anywhere: claim with the throttle row that makes it the only one.
--   * Of contacts those that are known are locked first, all of a batch that may change at once (hold_contacts), then new ones are inserted, phones
--     before BSUIDs; then come conversations.
--   * Who makes people or joins them writes several names, and moves what is theirs in every table: ingest holds their country alone for it
--     (hold_countries), and no other verb that waits runs beside it. It is short.
--   * Rows are locked by `select … from (keys in order) k cross join lateral (select … where key = k.key for no key update)`: the order is kept,
--     and no plan is possible but a look into the key's index for each. `update … from` keeps neither.
--   * What people wrote comes after webhook_events: only ingest changes it, by events it has written.
--   * A mutable column stands in no unique index but a partial one: changing it would be a change of key, for which every new reference waits.

-- The contacts of a batch, in the order of their keys, before anything of theirs is changed.
create or replace function whatsapp_internal.hold_contacts(p_countries text[], p_ids uuid[]) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  perform from (
    select distinct u.country_id, u.contact_id from unnest(p_countries, p_ids) as u (country_id, contact_id) order by 1, 2
  ) k
  cross join lateral (
    select from whatsapp.contacts c where c.country_id = k.country_id and c.contact_id = k.contact_id for no key update
  ) c;
end
$$;

-- Before all else: a batch that makes people or may join them alone, what else moves their rows beside each other. claim and sweep, which wait for nobody, do
-- without.
create or replace function whatsapp_internal.hold_countries(p_countries text[], p_alone boolean) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_country text;
begin
  for v_country in select distinct c from unnest(p_countries) c where c is not null order by 1 loop
    if p_alone then
      perform pg_advisory_xact_lock(hashtextextended('whatsapp.names ' || v_country, 0));
    else
      perform pg_advisory_xact_lock_shared(hashtextextended('whatsapp.names ' || v_country, 0));
    end if;
  end loop;
end
$$;
