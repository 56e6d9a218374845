"""Databases as a hosted project has them before our first migration, many on one server."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from tests.local import migrations, postgres
from tests.supabase.catalogue import catalogue

Database = psycopg.Connection[Any]
Fresh = Callable[[], Database]


@contextmanager
def fresh_databases(folder: Path, version: int = 16) -> Iterator[Fresh]:
    """A server of this version; gives what makes a database and connects to it as `postgres`."""
    server = postgres.start(folder, version, durable=False)
    made: list[Database] = []
    try:
        migrations.prepare(server)

        def make() -> Database:
            name = f"fresh_{len(made)}"
            with psycopg.connect(server.url(postgres.ADMIN), autocommit=True) as admin:
                admin.execute(f"create database {name} owner postgres".encode())
            migrations.prepare(server, name)
            migrations.ensure_auth_users(server, name)
            made.append(psycopg.connect(server.url(database=name), autocommit=True))
            return made[-1]

        yield make
    finally:
        for database in made:
            database.close()
        server.stop()


def run(database: Database, files: list[Path]) -> dict[str, list[str | None]]:
    """Runs the files, each in a transaction of its own; what the database holds then."""
    for file in files:
        database.execute(file.read_bytes())
    return catalogue(database)
