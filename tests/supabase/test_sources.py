"""supabase/schemas is where SQL is edited; the migrations are written from it and make the same database."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.local import migrations, postgres, sources
from tests.supabase.catalogue import catalogue

pytestmark = pytest.mark.postgres_versions
Fresh = Callable[[], psycopg.Connection[Any]]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fresh]:
    """Makes databases that are as on hosted before our first migration."""
    server = postgres.start(tmp_path_factory.mktemp("sources"), durable=False)
    migrations.prepare(server)
    made: list[psycopg.Connection[Any]] = []

    def make() -> psycopg.Connection[Any]:
        name = f"fresh_{len(made)}"
        with psycopg.connect(server.url(postgres.ADMIN), autocommit=True) as admin:
            admin.execute(f"create database {name} owner postgres".encode())
        migrations.prepare(server, name)
        migrations.ensure_auth_users(server, name)
        made.append(psycopg.connect(server.url(database=name), autocommit=True))
        return made[-1]

    try:
        yield make
    finally:
        for connection in made:
            connection.close()
        server.stop()


def run(database: psycopg.Connection[Any], files: list[Path]) -> dict[str, list[str | None]]:
    for file in files:
        database.execute(file.read_bytes())
    return catalogue(database)


def test_the_baseline_is_written_from_the_sources() -> None:
    baseline = (sources.SUPABASE / "migrations" / sources.BASELINE).read_text(encoding="utf-8")

    assert baseline == sources.baseline(), "run `make migrations`, which is `python -m tests.local.sources`"


def test_sources_and_migrations_make_the_same_database(fresh: Fresh) -> None:
    by_sources = run(fresh(), sources.sources())
    by_migrations = run(fresh(), sorted((sources.SUPABASE / "migrations").glob("*.sql")))

    assert "function whatsapp.claim" in {name.partition("(")[0] for name in by_sources}
    assert by_sources == by_migrations


def test_every_source_has_its_place() -> None:
    files = sources.sources()

    assert sorted(files) == sorted((sources.SUPABASE / "schemas").rglob("*.sql"))
