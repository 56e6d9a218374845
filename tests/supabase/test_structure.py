"""What holds for every object of the two schemas, whoever adds the next one."""

from typing import Any

import psycopg
import pytest

from tests.supabase.ground import Land

Database = psycopg.Connection[Any]
VERBS = {
    *("enqueue", "claim", "announce", "settle", "ingest", "sweep"),
    *("sync_templates", "template_contract", "sync_number"),
    *("open_campaign", "enqueue_campaign", "control_campaign", "campaign_progress", "control_account"),
    *("record_consents", "find_messages", "clock", "schema_version"),
}
READABLE = {
    *("accounts", "contacts", "conversations", "templates", "messages", "message_events", "queue", "lanes", "members"),
    *("campaigns", "campaign_counts", "campaign_people", "consents", "stop_words", "message_story"),
}
ABOVE_COUNTRIES = {"portfolio_people", "portfolio_minutes"}
"""Meta's messaging limit is one for all countries of a portfolio; see tables/portfolios.sql."""
MINE = "('whatsapp'::regnamespace, 'whatsapp_internal'::regnamespace)"


def names(database: Database, query: str) -> set[str]:
    return {row[0] for row in database.execute(query.encode())}


def test_every_table_has_row_level_security(database: Database) -> None:
    tables = f"select relname from pg_class where relkind in ('r', 'p') and relnamespace in {MINE}"

    assert {"messages", "queue", "webhook_events"} <= names(database, tables)
    assert names(database, f"{tables} and not relrowsecurity") == set()


@pytest.mark.parametrize("contype", ["p", "u", "f"])
def test_every_key_and_every_reference_starts_with_the_country(database: Database, contype: str) -> None:
    keys = f"""
        select c.conname, a.attname from pg_constraint c
        join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
        where c.contype = '{contype}' and c.connamespace in {MINE}"""
    found = database.execute(keys.encode()).fetchall()

    assert found or contype == "u"
    strays = {name.removesuffix("_pkey") for name, first in found if first != "country_id"}
    assert strays == (ABOVE_COUNTRIES if contype == "p" else set())


def test_a_reference_leads_from_country_to_country(database: Database) -> None:
    strays = f"""
        select c.conname from pg_constraint c
        join pg_attribute a on a.attrelid = c.confrelid and a.attnum = c.confkey[1]
        where c.contype = 'f' and c.connamespace in {MINE} and a.attname <> 'country_id'"""

    assert names(database, strays) == set()


def test_every_unique_index_starts_with_the_country(database: Database) -> None:
    indexes = f"""
        select i.indexrelid::regclass::text, a.attname from pg_index i
        join pg_class t on t.oid = i.indrelid
        join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
        where i.indisunique and t.relnamespace in {MINE}"""
    found = database.execute(indexes.encode()).fetchall()

    assert len(found) > len(READABLE)
    strays = {name.rpartition(".")[2].removesuffix("_pkey") for name, first in found if first != "country_id"}
    assert strays == ABOVE_COUNTRIES


def test_only_the_server_role_executes_the_verbs_and_nobody_their_helpers(database: Database) -> None:
    allowed = f"""
        select p.pronamespace::regnamespace::text || '.' || p.proname || ' by ' || r.rolname
        from pg_proc p, pg_roles r
        where p.pronamespace in {MINE} and r.rolname in ('anon', 'authenticated', 'service_role')
          and has_function_privilege(r.rolname, p.oid, 'execute')"""

    assert names(database, allowed) == {f"whatsapp.{verb} by service_role" for verb in VERBS} | {
        "whatsapp_internal.my_countries by authenticated",
        # Reads as its caller: row level security decides.
        "whatsapp.campaign_progress by authenticated",
    }


def test_nobody_writes_a_table_and_members_read_only_what_concerns_them(database: Database) -> None:
    granted = f"""
        select t.relname || ' ' || p.privilege || ' by ' || r.rolname
        from pg_class t, pg_roles r, unnest(array['select', 'insert', 'update', 'delete', 'truncate']) p (privilege)
        where t.relkind in ('r', 'p', 'v') and t.relnamespace in {MINE}
          and r.rolname in ('anon', 'authenticated', 'service_role')
          and has_table_privilege(r.rolname, t.oid, p.privilege)
          and not (r.rolname = 'service_role' and p.privilege = 'select')"""

    assert names(database, granted) == {f"{table} select by authenticated" for table in READABLE}


def test_no_verb_answers_a_set_which_the_data_api_would_cut(database: Database) -> None:
    verbs = "select proname from pg_proc where pronamespace = 'whatsapp'::regnamespace"

    assert names(database, verbs) == VERBS
    assert (
        names(database, f"{verbs} and (proretset or prorettype not in ('jsonb'::regtype, 'integer'::regtype))") == set()
    )


def test_every_security_definer_has_a_fixed_search_path(database: Database) -> None:
    loose = f"""
        select proname from pg_proc where pronamespace in {MINE} and prosecdef
          and not coalesce('search_path=""' = any (proconfig), false)"""

    assert names(database, loose) == set()


INSERTS = {
    "a conversation with a contact of another country": (
        "insert into whatsapp.conversations (country_id, account_id, contact_id)"
        " select %s, 'main', contact_id from whatsapp.contacts where country_id = %s limit 1"
    ),
    "a message in a conversation of another country": (
        "insert into whatsapp.messages (country_id, account_id, contact_id, direction, kind, state, content)"
        " select %s, account_id, contact_id, 'outbound', 'text', 'queued', '{}'"
        " from whatsapp.conversations where country_id = %s limit 1"
    ),
    "an event of a message of another country": (
        "insert into whatsapp.message_events (country_id, message_id, event)"
        " select %s, message_id, 'x' from whatsapp.messages where country_id = %s limit 1"
    ),
    "a queue row of a message of another country": (
        "insert into whatsapp.queue (country_id, message_id, account_id, contact_id, lane, due_at, run_at)"
        " select %s, message_id, account_id, contact_id, 'utility', now(), now()"
        " from whatsapp.messages where country_id = %s limit 1"
    ),
}


@pytest.mark.parametrize("statement", INSERTS.values(), ids=INSERTS)
def test_the_database_refuses_a_row_that_points_across_countries(database: Database, statement: str) -> None:
    here, there = Land(database), Land(database)
    for land in (here, there):
        land.enqueue(land.template())

    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        here.run(statement, here.country_id, there.country_id)
