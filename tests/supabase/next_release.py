"""Our folder `supabase` as it may be after the next release, which brings a column, a table and functions."""

import shutil
from pathlib import Path

from tests.local import sources

_TABLE = "create table whatsapp.notes (country_id text primary key, note text not null);\n"
_FORGETFUL = "create or replace function whatsapp_internal.whisper() returns integer language sql as 'select 1';\n"
_COLUMN = "alter table whatsapp.contacts add column nickname text default 'none';\n"


def released(folder: Path) -> Path:
    """A copy in which what there is now is released."""
    copy = Path(shutil.copytree(sources.SUPABASE, folder / "supabase"))
    if sources.migration(copy):
        sources.release(copy)
    return copy


def release_next(supabase: Path) -> None:
    """Release a version more, made as a developer makes one."""
    schemas, number = supabase / "schemas", sources.version(supabase) + 1
    edit(schemas / "version.sql", f"select {number - 1}", f"select {number}")
    edit(schemas / "reading" / "clock.sql", "jsonb_build_object(", "jsonb_build_object('upgraded', true, ")
    (schemas / "tables" / "notes.sql").write_text(_TABLE, encoding="utf-8")
    edit(schemas / "enqueue.sql", "-- enqueue: judge", "-- enqueue: as before, judge")
    (schemas / "reading" / "whisper.sql").write_text(_FORGETFUL, encoding="utf-8")
    edit(supabase / "config.toml", '"./schemas/states.sql"', '"./schemas/tables/notes.sql", "./schemas/states.sql"')
    contacts = "create table whatsapp.contacts ("
    edit(schemas / "tables" / "contacts.sql", contacts, f"{contacts}nickname text default 'none',")
    (supabase / "changes").mkdir(exist_ok=True)
    (supabase / "changes" / f"{number}.sql").write_text(_COLUMN, encoding="utf-8")
    sources.release(supabase)


def migrations(supabase: Path) -> dict[int, list[Path]]:
    """The migrations of each released version."""
    return {
        version: [supabase / name for name in files if name.startswith("migrations/")]
        for version, files in sources.releases(supabase).items()
    }


def edit(file: Path, old: str, new: str) -> None:
    """Replace what must be there."""
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
