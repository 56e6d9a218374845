"""Writes the migration that is not released yet from supabase/schemas, where SQL is edited.

    python -m tests.local.sources            write it (make migrations)
    python -m tests.local.sources release    release it: from then on it never changes (make release)

supabase/releases holds, for each released version of the schema, the digests of its migration and of the sources it
was written from.
"""

import hashlib
import re
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

SUPABASE = Path(__file__).parents[2] / "supabase"

_NOUNS = "schemas/tables/"
"""Sources that are run once, as they make what holds rows. All others may be run again."""
_LAST = ("schemas/planner.sql", "schemas/privileges.sql")
"""Part of every migration: what replacing a function undoes, and what a new one must not be without."""


class Refused(Exception):
    """Why the migration cannot be written."""


def sources(supabase: Path = SUPABASE) -> list[Path]:
    """The files of supabase/schemas in the order in which they make an empty database ours."""
    config = tomllib.loads((supabase / "config.toml").read_text(encoding="utf-8"))
    patterns = config["db"]["migrations"]["schema_paths"]
    return [path for pattern in patterns for path in sorted(supabase.glob(pattern.removeprefix("./")))]


def version(supabase: Path = SUPABASE) -> int:
    """The version that the sources make."""
    found = re.search(r"select (\d+)", (supabase / "schemas" / "version.sql").read_text(encoding="utf-8"))
    if found is None:
        raise Refused("schemas/version.sql tells no version")
    return int(found[1])


def releases(supabase: Path = SUPABASE) -> dict[int, dict[str, str]]:
    """For each released version, the oldest first, the digest of each of its files."""
    files = sorted((supabase / "releases").glob("*.sha256"), key=lambda file: int(file.stem))
    return {int(file.stem): _digests(file) for file in files}


def migration(supabase: Path = SUPABASE) -> tuple[Path, str] | None:
    """The migration that is not released yet, with its text; None if nothing has changed since the last release.

    The first one is all sources. A later one is, in their order, the tables that are new, changes/<version>.sql for
    those that are not, and whole each other file that has changed.
    """
    released = releases(supabase)
    _refuse_touched(supabase, released)
    last = released[max(released)] if released else {}
    files = {_name(supabase, path): path for path in sources(supabase)}
    changed = {name for name, path in files.items() if last.get(name) != _digest(path)}
    gone = {name for name in last if name.startswith("schemas/")} - files.keys()
    if not changed and not gone:
        return None

    number = version(supabase)
    if number != len(released) + 1:
        raise Refused(f"version {len(released)} is released: let schemas/version.sql say {len(released) + 1}")
    by_hand = gone | {name for name in changed & last.keys() if name.startswith(_NOUNS)}
    steps = supabase / "changes" / f"{number}.sql"
    if by_hand and not steps.exists():
        raise Refused(
            f"{', '.join(sorted(by_hand))} changed: changes/{number}.sql has to say how a database with rows follows"
        )

    wanted = (changed - by_hand) | set(_LAST)
    nouns = 1 + max(index for index, name in enumerate(files) if name.startswith(_NOUNS))
    parts = [path for name, path in list(files.items())[:nouns] if name in wanted]
    parts += [steps] if steps.exists() else []
    parts += [path for name, path in list(files.items())[nouns:] if name in wanted]
    return _path(supabase, number), _joined(supabase, parts)


def write(supabase: Path = SUPABASE) -> Path | None:
    """Write the migration that is not released yet; None if there is none."""
    unreleased = migration(supabase)
    if unreleased is None:
        return None
    path, text = unreleased
    path.write_text(text, encoding="utf-8")
    return path


def release(supabase: Path = SUPABASE) -> Path:
    """Say that the migration as it is written is released."""
    path = write(supabase)
    if path is None:
        raise Refused("nothing has changed since the last release")
    files = [path, *sources(supabase)]
    listed = supabase / "releases" / f"{version(supabase)}.sha256"
    listed.parent.mkdir(exist_ok=True)
    listed.write_text("".join(f"{_digest(file)}  {_name(supabase, file)}\n" for file in files), encoding="utf-8")
    return listed


def _refuse_touched(supabase: Path, released: dict[int, dict[str, str]]) -> None:
    for number, digests in released.items():
        for name, digest in digests.items():
            path = supabase / name
            if name.startswith("migrations/") and (not path.exists() or _digest(path) != digest):
                raise Refused(f"{name} was released as version {number}: it never changes again")


def _path(supabase: Path, number: int) -> Path:
    """Of the unreleased migration: the time of its name stays what it was first."""
    name = "baseline" if number == 1 else f"version_{number}"
    if there := sorted((supabase / "migrations").glob(f"*_{name}.sql")):
        return there[0]
    return supabase / "migrations" / f"{datetime.now(UTC):%Y%m%d%H%M%S}_{name}.sql"


def _joined(supabase: Path, parts: list[Path]) -> str:
    texts = [f"-- {_name(supabase, path)}\n\n{path.read_text(encoding='utf-8')}" for path in parts]
    return "\n\n".join(
        ["-- Written by `make migrations` from supabase/schemas and supabase/changes: edit there.", *texts]
    )


def _digests(file: Path) -> dict[str, str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _name(supabase: Path, path: Path) -> str:
    return path.relative_to(supabase).as_posix()


def main() -> None:
    done = release() if sys.argv[1:] == ["release"] else write()
    print(f"wrote {_name(SUPABASE, done)}" if done else "nothing has changed since the last release")


if __name__ == "__main__":
    try:
        main()
    except Refused as refused:
        sys.exit(str(refused))
