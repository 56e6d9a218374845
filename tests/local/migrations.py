"""Makes a bare Postgres look like a hosted project, then applies our migrations and seed as the CLI does."""

from pathlib import Path

import psycopg
from psycopg import sql

from tests.local.postgres import ADMIN, Postgres

SUPABASE = Path(__file__).parents[2] / "supabase"
API_ROLE = "authenticator"
"""The login role of Supabase Lite: a member of the API roles, no superuser, no owner of our tables."""

_HOSTED = Path(__file__).with_name("hosted.sql")


def prepare(postgres: Postgres, database: str = "postgres") -> None:
    """Create what hosted Supabase provides: roles, the schema auth with its functions, the history table."""
    with psycopg.connect(postgres.url(ADMIN, database), autocommit=True) as connection, connection.transaction():
        connection.execute("set local client_min_messages = error")
        connection.execute(_HOSTED.read_bytes())
        for role in (API_ROLE, "postgres"):
            password = sql.Literal(postgres.password)
            connection.execute(sql.SQL("alter role {} password {}").format(sql.Identifier(role), password))


def migrate(postgres: Postgres, folder: Path = SUPABASE) -> list[str]:
    """Apply the migrations not yet applied, the first time the seed too; returns the versions applied now.

    Each file is one transaction. Runs as `postgres`, which is not a superuser, as on hosted.
    Raises psycopg.Error, with the name of the file as a note.
    """
    ensure_auth_users(postgres)
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        applied = {row[0] for row in connection.execute("select version from supabase_migrations.schema_migrations")}
        files = sorted((folder / "migrations").glob("*_*.sql"))
        new = [file for file in files if file.name.partition("_")[0] not in applied]
        for file in new:
            _apply(connection, file)
        seed = folder / "seed.sql"
        if not applied and seed.exists():
            connection.execute(seed.read_bytes())
    _let_api_role_see_schemas(postgres)
    return [file.name.partition("_")[0] for file in new]


def _apply(connection: psycopg.Connection, file: Path) -> None:
    version, _, name = file.stem.partition("_")
    text = file.read_text()
    try:
        with connection.transaction():
            connection.execute(text.encode())
            connection.execute(
                "insert into supabase_migrations.schema_migrations (version, name, statements) values (%s, %s, %s)",
                (version, name, [text]),
            )
    except psycopg.Error as error:
        error.add_note(f"in {file.name}")
        raise


def ensure_auth_users(postgres: Postgres, database: str = "postgres") -> None:
    """Lite makes the tables of auth when it starts; migrations need auth.users where it does not run as well."""
    with psycopg.connect(postgres.url(ADMIN, database), autocommit=True) as connection:
        connection.execute("set client_min_messages = error; set role authenticator")
        connection.execute(
            "create table if not exists auth.users (id uuid primary key, aud text, role text, email text unique,"
            " raw_app_meta_data jsonb, raw_user_meta_data jsonb, created_at timestamptz default now())"
        )


def _let_api_role_see_schemas(postgres: Postgres) -> None:
    """Give Lite's login role the least privilege on each object.

    On its first request Lite grants the API roles everything in each schema that has a table with RLS. As its login
    role owns nothing there, Postgres only warns that nothing was granted; but it raises an error where the role has
    no privilege at all.
    """
    with psycopg.connect(postgres.url(ADMIN), autocommit=True) as connection:
        schemas = connection.execute(
            "select distinct relnamespace::regnamespace::text from pg_class"
            " where relrowsecurity and relnamespace <> 'auth'::regnamespace"
        ).fetchall()
        for (schema,) in schemas:
            connection.execute(
                sql.SQL(
                    "grant usage on schema {schema} to {role};"
                    "grant references on all tables in schema {schema} to {role};"
                    "grant select on all sequences in schema {schema} to {role}"
                ).format(schema=sql.SQL(schema), role=sql.Identifier(API_ROLE))
            )
