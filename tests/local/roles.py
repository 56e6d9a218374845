"""Act as one of Supabase's roles over a direct connection."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg


@contextmanager
def as_role(
    connection: psycopg.Connection[Any], role: str, claims: Mapping[str, object] | None = None
) -> Iterator[psycopg.Connection[Any]]:
    """Be `role` with these JWT claims, as behind the Data API, inside a transaction that is rolled back."""
    with connection.transaction(force_rollback=True):
        connection.execute(
            "select set_config('request.jwt.claims', %s, true), set_config('role', %s, true)",
            (json.dumps({"role": role, **(claims or {})}), role),
        )
        yield connection
