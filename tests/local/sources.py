"""Writes supabase/migrations from supabase/schemas, where SQL is edited: `make migrations`."""

import tomllib
from pathlib import Path

SUPABASE = Path(__file__).parents[2] / "supabase"
BASELINE = "20261124100000_baseline.sql"


def sources(supabase: Path = SUPABASE) -> list[Path]:
    """The files of supabase/schemas in the order in which they make an empty database ours."""
    config = tomllib.loads((supabase / "config.toml").read_text(encoding="utf-8"))
    patterns = config["db"]["migrations"]["schema_paths"]
    return [path for pattern in patterns for path in sorted(supabase.glob(pattern.removeprefix("./")))]


def baseline(supabase: Path = SUPABASE) -> str:
    """All sources as one migration."""
    parts = [f"-- {path.relative_to(supabase)}\n\n{path.read_text(encoding='utf-8')}" for path in sources(supabase)]
    return "\n\n".join(["-- Written by `make migrations` from supabase/schemas: edit there.", *parts])


def main() -> None:
    (SUPABASE / "migrations" / BASELINE).write_text(baseline(), encoding="utf-8")


if __name__ == "__main__":
    main()
