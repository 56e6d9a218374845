"""The Supabase CLI, pinned by `package-lock.json`, as one who deploys uses it."""

import os
import subprocess
from pathlib import Path

from tests.local import lite

_ENTRY = Path(__file__).parent / "node_modules" / "supabase" / "dist" / "supabase.js"


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
        [lite.node(), _ENTRY, "db", "push", "--yes", f"--remote={url}", "--workdir", project],
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
