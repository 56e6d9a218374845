-- Who is who. A person has a number and a BSUID, and we hear of them by either: callers dial the number, a webhook may name one or both, an
-- answer of Meta's may add the other. So one person may stand in two rows until something names both, and both then become one.
--
--   people_of        what the events of a batch tell of people that is not known yet: mostly nothing
--   lock_people      takes the locks of what is about to be joined, before anything else in the batch is locked
--   meet_contacts    makes the new known, learns what is told, and has in_question and meet_person see to what is not plain
--   contact_of       whose an event is, as of its own time
--   learn_ids        what an answer of Meta's tells: the same, but it never waits and never fails
--
-- The rules, in whatever order things become known:
--   * A BSUID is one person's for ever. A number passes from one person to another. A BSUID changes with the number, and Meta announces that
--     (user_changed_number, user_changed_user_id).
--   * An event that names the number of one row and the BSUID of another joins them. So does an announced change that names several. The oldest
--     row goes on; the others point to it (merged_into, never more than one step) and hold nothing any more: messages, queue, windows, consents
--     and former names go with the person (join_contacts).
--   * A new BSUID on a known number without an announcement is another person: the number was passed on. What it heard last as a wish to be left
--     alone stays with the number as well; opt-in and open window stay with the person who had it.
--   * Each portfolio has BSUIDs of its own: another portfolio's is another name of the same person.
--   * A name that was given up is kept with the time (former_names). Meta brings events late and out of order: one from before finds the person
--     who had the name then.
--
-- Nothing here costs more the more people a country has: every lookup is by one name through its own unique index. An `or` over two names makes
-- Postgres 16 and 17 read all of the country (18 ms an event among 300,000 contacts).

-- These three are inlined into the queries that use them, so they have no settings of their own; every name in them is qualified.

create or replace function whatsapp_internal.holder_of_number(p_country text, p_match_key text, p_at timestamptz)
returns setof whatsapp_internal.holder
language sql stable
as $$
  (select f.contact_id, true, p_match_key, f.bsuid, f.until from whatsapp.former_names f
   where f.country_id = p_country and f.name = p_match_key and f.until >= p_at
   order by f.until limit 1)
  union all
  select c.contact_id, false, c.match_key, c.bsuid, c.bound_at from whatsapp.contacts c
  where c.country_id = p_country and c.match_key = p_match_key
  limit 1
$$;

create or replace function whatsapp_internal.holder_of_bsuid(p_country text, p_bsuid text) returns setof whatsapp_internal.holder
language sql stable
as $$
  select c.contact_id, false, c.match_key, c.bsuid, c.bound_at from whatsapp.contacts c where c.country_id = p_country and c.bsuid = p_bsuid
  union all
  -- At infinity stands another portfolio's BSUID, which nobody gave up.
  (select f.contact_id, f.until < 'infinity', null, p_bsuid, f.until from whatsapp.former_names f
   where f.country_id = p_country and f.name = p_bsuid limit 1)
  limit 1
$$;

-- Whose an event is. The BSUID says who, the number only where.
create or replace function whatsapp_internal.contact_of(p_country text, p_match_key text, p_bsuid text, p_at timestamptz) returns table (contact_id uuid)
language sql stable
as $$
  select b.contact_id from whatsapp_internal.holder_of_bsuid(p_country, p_bsuid) b
  union all
  select n.contact_id from whatsapp_internal.holder_of_number(p_country, p_match_key, p_at) n
  limit 1
$$;
