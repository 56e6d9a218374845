"""What a database holds of ours, object by object, so that two databases can be compared."""

from pathlib import Path
from typing import Any

import psycopg

_QUERY = Path(__file__).with_suffix(".sql")


def catalogue(database: psycopg.Connection[Any]) -> dict[str, list[str | None]]:
    """Every object of our two schemas by its kind and name, with all that defines it."""
    with database.transaction(force_rollback=True):
        database.execute("set local search_path = ''")
        answer = database.execute(_QUERY.read_bytes())
        while answer.nextset():
            pass
        return dict(answer.fetchall())
