"""`supabase db push`, by the CLI itself, on Postgres 17 as hosted Supabase has it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.local import cli, sources
from tests.supabase import next_release
from tests.supabase.catalogue import catalogue
from tests.supabase.fresh import Database, Fresh, fresh_databases, run


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fresh]:
    with fresh_databases(tmp_path_factory.mktemp("push"), 17) as make:
        yield make


def test_a_push_applies_the_migrations_and_a_second_changes_nothing(tmp_path: Path, fresh: Fresh) -> None:
    database = fresh()
    next_release.released(tmp_path)

    first = cli.push(_url(database), tmp_path)
    pushed = catalogue(database), _history(database)
    second = cli.push(_url(database), tmp_path)

    assert "Applying migration" in first
    assert pushed[0] == run(fresh(), sources.sources())
    assert "up to date" in second
    assert (catalogue(database), _history(database)) == pushed


def test_a_push_upgrades_what_an_earlier_push_made(tmp_path: Path, fresh: Fresh) -> None:
    database = fresh()
    supabase = next_release.released(tmp_path)
    cli.push(_url(database), tmp_path)
    next_release.release_next(supabase)

    cli.push(_url(database), tmp_path)

    assert catalogue(database) == run(fresh(), sources.sources(supabase))
    assert [name for name, _ in _history(database)][-1] == f"version_{sources.version(supabase)}"


def test_a_push_that_fails_leaves_nothing_of_its_migration(tmp_path: Path, fresh: Fresh) -> None:
    database = fresh()
    supabase = next_release.released(tmp_path)
    cli.push(_url(database), tmp_path)
    before = catalogue(database), _history(database)
    next_release.release_next(supabase)
    last = next_release.migrations(supabase)[sources.version(supabase)][-1]
    last.write_text(last.read_text(encoding="utf-8") + "\nselect 1 / 0;\n", encoding="utf-8")

    with pytest.raises(RuntimeError, match="division by zero"):
        cli.push(_url(database), tmp_path)

    assert (catalogue(database), _history(database)) == before


def _url(database: Database) -> str:
    of = database.info
    return f"postgresql://{of.user}:{of.password}@{of.host}:{of.port}/{of.dbname}"


def _history(database: Database) -> list[tuple[str, list[str]]]:
    return database.execute(
        "select name, statements from supabase_migrations.schema_migrations order by version"
    ).fetchall()
