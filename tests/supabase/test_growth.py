"""What a verb costs does not grow with what is stored: counted in pages touched, which depends on no clock."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.supabase.ground import Land, new_wamid

Database = psycopg.Connection[Any]
AT = 1_700_000_000.0
MANY = 20_000
TOUCHED = """
    select coalesce(sum(pg_stat_get_xact_blocks_fetched(c.oid)), 0) from pg_class c
    where c.relnamespace in ('whatsapp'::regnamespace, 'whatsapp_internal'::regnamespace)"""


@pytest.fixture
def land(database: Database) -> Land:
    return Land(database)


def pages(database: Database, call: Callable[[], object]) -> int:
    """How many pages of tables and indexes the call touches."""
    with database.transaction():
        before = _touched(database)
        call()
        return _touched(database) - before


def _touched(database: Database) -> int:
    row = database.execute(TOUCHED.encode()).fetchone()
    assert row is not None
    return int(row[0])


def park(land: Land, many: int) -> None:
    """Statuses of messages that another system sent from the number: nobody here will ever know their wamids."""
    land.run(
        """insert into whatsapp.webhook_events (country_id, event_key, account_id, field, kind, outcome, wamid, event,
             payload)
           select %s, gen_random_uuid(), 'main', 'messages', 'status', 'parked', 'wamid.other.' || n, '{}', '{}'
           from generate_series(1, %s) n""",
        land.country_id,
        many,
    )


def test_statuses_of_another_system_on_the_number_cost_a_settle_nothing(land: Land, database: Database) -> None:
    def settle() -> None:
        land.settle(*(land.outcome(each, "accepted", wamid=new_wamid()) for each in leased))

    park(land, 10)
    leased = land.leased(*(land.template() for _ in range(20)))
    few = pages(database, settle)
    park(land, MANY)
    leased = land.leased(*(land.template() for _ in range(20)))

    assert pages(database, settle) < few * 1.3


def test_a_status_nobody_will_ever_know_is_looked_at_once_more_and_then_left(land: Land, database: Database) -> None:
    land.ingest(land.status(new_wamid(), "delivered", AT))
    land.run("update whatsapp.webhook_events set look_again_at = now() where country_id = %s", land.country_id)

    land.sweep()

    [parked] = land.all("select * from whatsapp.webhook_events where country_id = %s", (land.country_id,))
    assert (parked["outcome"], parked["look_again_at"]) == ("parked", None)
    # Were its message to become known now, it would still count.
    [message] = land.leased(land.template())
    land.settle(land.outcome(message, "accepted", wamid=parked["wamid"]))
    assert land.message(message["message_id"])["state"] == "delivered"


def test_a_status_by_our_id_brings_those_that_waited_for_its_wamid(land: Land) -> None:
    [message] = land.leased(land.template())
    wamid = new_wamid()
    land.ingest(land.status(wamid, "delivered", AT))

    land.ingest(land.status(wamid, "sent", AT, message["message_id"]))

    assert land.message(message["message_id"])["state"] == "delivered"
    assert land.count("webhook_events", outcome="parked") == 0
