"""The Supabase CLI as one who deploys uses it: pinned by `package-lock.json` for Linux, elsewhere the machine's own."""

import os
import shutil
import subprocess
from pathlib import Path

_PINNED = Path(__file__).parent / "node_modules" / "@supabase" / "cli-linux-x64" / "bin" / "supabase"


def push(url: str, project: Path) -> str:
    """`supabase db push` of the folder `supabase` in `project` to the database at `url`; what it said.

    Raises RuntimeError when it fails.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "SUPABASE_"))}
    # It keeps what it knows of the machine at home; this home is the test's.
    environment |= {
        "HOME": str(project),
        "SUPABASE_TELEMETRY_DISABLED": "1",
        "DO_NOT_TRACK": "1",
        "PGSSLMODE": "disable",
    }
    done = subprocess.run(
        [_cli(), "db", "push", "--yes", f"--remote={url}", "--workdir", project],
        cwd=project,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode:
        raise RuntimeError(f"supabase db push failed:\n{done.stdout}")
    return done.stdout


def _cli() -> str:
    found = str(_PINNED) if _PINNED.exists() else shutil.which("supabase")
    if found is None:
        raise RuntimeError("the Supabase CLI is needed here: https://supabase.com/docs/guides/local-development")
    return found
