"""What a verb costs grows neither with what is stored nor with what Postgres believes of it.

Counted in pages touched, which depends on no clock. A larger index is a level deeper at the most; a plan that reads a
table or an index from end to end, or the product of two, touches many times as many.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.local import migrations, postgres
from tests.supabase.ground import Land, new_wamid
from tests.supabase.stock import Stock
from tests.supabase.test_growth import pages
from tests.supabase.trade import VERBS, Trade

Database = psycopg.Connection[Any]
SMALL = Stock(messages=3_000, people=1_000)
LARGE = Stock(messages=40_000, people=4_000)
BELIEFS = {
    "fresh": "analyze",
    # As after a migration, before autovacuum has come by.
    "none": "update pg_class set relpages = 0, reltuples = -1 "
    " where relnamespace = 'whatsapp'::regnamespace and relkind = 'r'",
    # As a vacuum leaves a queue that a campaign has just drained, until the next campaign has filled it.
    "empty queue": "update pg_class set relpages = 73, reltuples = 0 where oid = 'whatsapp.queue'::regclass",
}


@contextmanager
def bare(folder: Path) -> Iterator[str]:
    """The URL of a database with our schema and nothing in it, which nobody analyses."""
    server = postgres.start(folder, durable=False)
    try:
        migrations.prepare(server)
        migrations.migrate(server, migrations.SUPABASE)
        with psycopg.connect(server.url(postgres.ADMIN), autocommit=True) as admin:
            admin.execute("alter system set autovacuum = off")
            admin.execute("select pg_reload_conf()")
        yield server.url(postgres.ADMIN)
    finally:
        server.stop()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database of its own: what Postgres believes of a table is believed for all tests."""
    with bare(tmp_path_factory.mktemp("plans")) as found:
        yield found


@pytest.fixture(scope="module")
def small_costs(url: str) -> dict[str, int]:
    """What each verb costs while the tables are small."""
    with psycopg.connect(url, autocommit=True) as database:
        trade = Trade(database, SMALL)
        database.execute("analyze")
        return {verb: pages(database, VERBS[verb](trade)) for verb in VERBS}


@pytest.fixture(scope="module", params=BELIEFS)
def country(request: pytest.FixtureRequest, url: str, small_costs: dict[str, int]) -> Iterator[tuple[Trade, str]]:
    """A large country, of whose tables Postgres believes what the parameter says, and goes on believing it."""
    with psycopg.connect(url, autocommit=True) as database, psycopg.connect(url) as elsewhere:
        trade = Trade(database, LARGE)
        # Who sweeps corrects it; but there is always a moment before.
        elsewhere.execute("select pg_advisory_xact_lock(hashtextextended('whatsapp.statistics', 0))")
        yield trade, BELIEFS[request.param]


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_touches_no_more_of_a_large_table_whatever_postgres_believes(
    small_costs: dict[str, int], country: tuple[Trade, str], verb: str
) -> None:
    trade, belief = country
    call = VERBS[verb](trade)
    trade.database.execute(belief.encode())

    assert pages(trade.database, call) <= small_costs[verb] * 1.6
    trade.tidy()


def test_a_plan_made_while_the_tables_were_empty_is_as_good_when_they_are_not(tmp_path: Path) -> None:
    """A connection keeps its plans for as long as it lives, and may have made them on the day of the installation."""
    with bare(tmp_path) as found, psycopg.connect(found, autocommit=True) as database:
        land = Land(database, messages_per_second=1000)
        live(land)
        early = rows_read(database, lambda: live(land))
        for _ in range(20):
            live(land)
        assert rows_read(database, lambda: live(land)) <= early * 1.3


def live(land: Land) -> None:
    """A hundred messages go all their way."""
    land.run("update whatsapp.throttles set next_slot_at = '-infinity' where country_id = %s", land.country_id)
    messages = land.leased(*(land.template() for _ in range(100)))
    wamids = [new_wamid() for _ in messages]
    land.settle(*(land.outcome(one, "accepted", wamid=wamid) for one, wamid in zip(messages, wamids, strict=True)))
    for state in ("sent", "delivered"):
        land.ingest(*(land.status(wamid, state, time.time()) for wamid in wamids))


def rows_read(database: Database, call: Callable[[], object]) -> int:
    """How many rows the call reads, by index or not: a table read once and kept touches few pages."""

    def read() -> int:
        query = (
            "select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint from pg_stat_xact_user_tables"
        )
        row = database.execute(query.encode()).fetchone()
        assert row is not None
        return int(row[0])

    with database.transaction():
        before = read()
        call()
        return read() - before
