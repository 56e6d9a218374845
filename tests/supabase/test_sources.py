"""supabase/schemas is where SQL is edited; the migrations are written from it and make the same database."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.local import sources
from tests.supabase import next_release
from tests.supabase.fresh import Fresh, fresh_databases, run


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fresh]:
    with fresh_databases(tmp_path_factory.mktemp("sources")) as make:
        yield make


@pytest.fixture
def supabase(tmp_path: Path) -> Path:
    """A copy to edit, in which all is released as it stands."""
    return next_release.released(tmp_path)


def next_version(supabase: Path) -> int:
    number = sources.version(supabase)
    next_release.edit(supabase / "schemas/version.sql", f"select {number}", f"select {number + 1}")
    return number + 1


def test_the_migration_is_written_from_the_sources() -> None:
    unreleased = sources.migration()

    if unreleased is not None:
        path, text = unreleased
        assert path.read_text(encoding="utf-8") == text, "run `make migrations`, which is python -m tests.local.sources"


def test_sources_and_migrations_make_the_same_database(fresh: Fresh) -> None:
    by_sources = run(fresh(), sources.sources())
    by_migrations = run(fresh(), sorted((sources.SUPABASE / "migrations").glob("*.sql")))

    (claim,) = (parts[0] for name, parts in by_sources.items() if name.startswith("function whatsapp.claim("))
    assert claim is not None
    assert claim.rstrip().endswith("$function$"), "a function is compared whole"
    assert by_sources == by_migrations


def test_every_source_has_its_place() -> None:
    files = sources.sources()

    assert sorted(files) == sorted((sources.SUPABASE / "schemas").rglob("*.sql"))


def test_every_source_but_the_tables_may_be_run_again(fresh: Fresh) -> None:
    database = fresh()
    once = run(database, sources.sources())

    again = [file for file in sources.sources() if file.parent.name != "tables"]
    assert run(database, again) == once


def test_where_nothing_changed_there_is_no_migration(supabase: Path) -> None:
    assert sources.write(supabase) is None
    with pytest.raises(sources.Refused, match="nothing has changed"):
        sources.release(supabase)


def test_a_release_that_was_touched_is_refused(supabase: Path) -> None:
    released = sorted((supabase / "migrations").glob("*.sql"))[0]
    released.write_text(released.read_text(encoding="utf-8") + "-- later", encoding="utf-8")

    with pytest.raises(sources.Refused, match=f"{released.name} was released"):
        sources.write(supabase)


def test_a_change_after_a_release_is_a_new_version(supabase: Path) -> None:
    next_release.edit(supabase / "schemas/gates.sql", "'template_paused'", "'template_resting'")

    with pytest.raises(sources.Refused, match=r"let schemas/version\.sql say"):
        sources.write(supabase)


def test_a_migration_brings_whole_files_that_changed_and_what_belongs_to_every_one(supabase: Path) -> None:
    next_release.edit(supabase / "schemas/gates.sql", "'template_paused'", "'template_resting'")
    number = next_version(supabase)

    path = sources.write(supabase)

    assert path is not None
    text = path.read_text(encoding="utf-8")
    assert path.name.endswith(f"_version_{number}.sql")
    assert (supabase / "schemas" / "gates.sql").read_text(encoding="utf-8") in text
    assert [line.removeprefix("-- ") for line in text.splitlines() if line.startswith("-- schemas/")] == [
        "schemas/gates.sql",
        "schemas/version.sql",
        "schemas/planner.sql",
        "schemas/privileges.sql",
    ]


def test_it_is_written_anew_in_its_place_until_it_is_released(supabase: Path) -> None:
    next_release.edit(supabase / "schemas/gates.sql", "'template_paused'", "'template_resting'")
    next_version(supabase)
    first = sources.write(supabase)
    next_release.edit(supabase / "schemas/lanes.sql", "1.05", "1.06")

    second = sources.write(supabase)

    assert second is not None
    assert second == first
    assert "1.06 seconds" in second.read_text(encoding="utf-8")
    sources.release(supabase)
    next_release.edit(supabase / "schemas/lanes.sql", "1.06", "1.07")
    number = next_version(supabase)
    third = sources.write(supabase)
    assert third is not None
    assert third.name.endswith(f"_version_{number}.sql")
    assert "1.06 seconds" in second.read_text(encoding="utf-8")


def test_a_table_that_holds_rows_needs_a_way_there(supabase: Path) -> None:
    next_release.edit(
        supabase / "schemas/tables/members.sql",
        "create table whatsapp.members (",
        "create table whatsapp.members (\nx int,",
    )
    number = next_version(supabase)

    with pytest.raises(
        sources.Refused, match=rf"schemas/tables/members\.sql changed: changes/{number}\.sql has to say"
    ):
        sources.write(supabase)
