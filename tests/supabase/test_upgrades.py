"""A database with rows in it upgrades from each released version: no row is lost, and the verbs go on."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.local import sources
from tests.supabase import next_release
from tests.supabase.fresh import Database, Fresh, fresh_databases, run
from tests.supabase.ground import Land, messages_of, new_wamid, some_phone

VERSIONS = range(1, sources.version() + 1)
"""The released ones, and the one that is next."""
_SEEDS = Path(__file__).parent / "releases"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fresh]:
    with fresh_databases(tmp_path_factory.mktemp("upgrades"), 17) as make:
        yield make


@pytest.mark.parametrize("number", VERSIONS)
def test_a_database_with_rows_upgrades(number: int, tmp_path: Path, fresh: Fresh) -> None:
    supabase = next_release.released(tmp_path)
    next_release.release_next(supabase)
    released = next_release.migrations(supabase)
    database = fresh()
    for version in range(1, number + 1):
        run(database, released[version])
    run(database, [_SEEDS / f"{number}.sql"])
    before = _rows(database)
    empty = {table for table, rows in before.items() if not rows}
    assert not empty, "an upgrade is no proof for a table without rows"

    for version in range(number + 1, len(released) + 1):
        upgraded = run(database, released[version])

    assert upgraded == run(fresh(), sources.sources(supabase))
    assert _version(database) == len(released)
    after = _rows(database)
    assert {table: _as_before(rows, after[table]) for table, rows in before.items()} == before
    _goes_on(database)


def test_what_a_release_says_nothing_of_nobody_may_use(tmp_path: Path, fresh: Fresh) -> None:
    supabase = next_release.released(tmp_path)
    next_release.release_next(supabase)
    database = fresh()
    run(database, [file for files in next_release.migrations(supabase).values() for file in files])

    may_call = "has_function_privilege(r, 'whatsapp_internal.whisper()', 'execute')"
    may_read = "has_table_privilege(r, 'whatsapp.notes', 'select')"
    roles = f"select r, {may_call}, {may_read} from unnest(array['anon', 'authenticated', 'service_role']) r order by r"
    assert database.execute(roles.encode()).fetchall() == [
        ("anon", False, False),
        ("authenticated", False, False),
        ("service_role", False, True),
    ]
    (secured,) = database.execute("select relrowsecurity from pg_class where oid = 'whatsapp.notes'::regclass")
    assert secured == (True,)


def test_the_verbs_go_on_while_it_upgrades(tmp_path: Path, fresh: Fresh) -> None:
    supabase = next_release.released(tmp_path)
    database = fresh()
    run(database, [file for files in next_release.migrations(supabase).values() for file in files])
    next_release.release_next(supabase)
    (upgrade,) = next_release.migrations(supabase)[sources.version(supabase)]
    laps, upgraded = threading.Semaphore(0), threading.Event()

    def work() -> int:
        sent = 0
        with psycopg.connect(database.info.dsn, password=database.info.password, autocommit=True) as connection:
            land, over = Land(connection), False
            while not over:
                over = upgraded.is_set()
                (message,) = land.leased(land.template())
                land.settle(land.outcome(message, "accepted", wamid=new_wamid()))
                sent += 1
                laps.release()
        return sent

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        try:
            assert laps.acquire(timeout=10)
            run(database, [upgrade])
        finally:
            upgraded.set()
        assert working.result(timeout=10) > 1
    assert _version(database) == sources.version(supabase)


def _goes_on(database: Database) -> None:
    """What was under way is finished, and what is new begins."""
    mexico = Land.known(database, "MX")
    waiting = messages_of(mexico.claim())
    assert {message["to"] for message in waiting} == {"+525500000007", "+525500000008", "+525500000010"}
    mexico.settle(*(mexico.outcome(message, "accepted", wamid=new_wamid()) for message in waiting))
    mexico.ingest(mexico.status("wamid.out", "read", time.time()))
    assert mexico.one("select state from whatsapp.messages where wamid = 'wamid.out'") == {"state": "read"}
    again = mexico.one("select whatsapp.record_consents('MX', null, 'list', 'f', '{}'::jsonb[]) as answer")
    assert again == {"answer": {"recorded": 2, "refused": []}}

    land = Land(database)
    (message,) = land.leased(land.template(phone=some_phone()))
    land.settle(land.outcome(message, "unknown"))
    land.sweep()
    assert land.message(message["message_id"])["state"] == "unknown"


def _version(database: Database) -> int:
    return int(database.execute("select whatsapp.schema_version()").fetchall()[0][0])


def _rows(database: Database) -> dict[str, list[dict[str, Any]]]:
    tables = database.execute(
        "select oid::regclass::text from pg_class where relkind in ('r', 'p') and not relispartition"
        " and relnamespace in ('whatsapp'::regnamespace, 'whatsapp_internal'::regnamespace)"
    ).fetchall()
    return {
        table: [row for (row,) in database.execute(f"select to_jsonb(t) from {table} t order by t::text".encode())]
        for (table,) in tables
    }


def _as_before(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the columns they had, in the order they had."""
    columns = before[0].keys()
    rows = [{name: row.get(name) for name in columns} for row in after]
    return sorted(rows, key=lambda row: before.index(row) if row in before else len(before))
