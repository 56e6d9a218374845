"""Where pg_cron, pg_net and Vault are to be had, a push schedules the functions; however they are, it does not fail.

They are stubs in SQL, which only Postgres 18 can be made to find.
"""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.local import postgres, sources
from tests.supabase.fresh import Database, Fresh, fresh_databases, run

_CRON = """
create schema cron;
create table cron.job (jobname text primary key, schedule text not null, command text not null);
create function cron.schedule(text, text, text) returns bigint language plpgsql security definer as $$
begin
  if $2 !~ '{known}' then
    raise exception 'invalid schedule: %', $2;
  end if;
  insert into cron.job values ($1, $2, $3) on conflict (jobname) do update set schedule = $2, command = $3;
  return 1;
end
$$;
grant usage on schema cron to public;
grant select on cron.job to public;
"""
_FIVE_FIELDS = r"^(\S+ ){4}\S+$"
_SECONDS_TOO = r"^((\S+ ){4}\S+|\d+ seconds)$"
_NET = """
create schema net;
create table net.posted (url text, body jsonb, headers jsonb);
create function net.http_post(url text, body jsonb, headers jsonb, timeout_milliseconds int) returns bigint
language sql security definer as $$ insert into net.posted values (url, body, headers) returning 1::bigint $$;
grant usage on schema net to public;
grant select on net.posted to public;
"""
_VAULT = """
create schema vault;
create table vault.decrypted_secrets (name text, decrypted_secret text);
grant usage on schema vault to public;
grant select, insert on vault.decrypted_secrets to public;
"""


@pytest.fixture
def extensions(tmp_path: Path) -> Path:
    """The folder in which the server looks for extensions beside its own."""
    folder = tmp_path / "extensions" / "extension"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def fresh(tmp_path: Path, extensions: Path) -> Iterator[Fresh]:
    with fresh_databases(tmp_path, 18) as make:
        yield make


def offer(extensions: Path, name: str, script: str, *, to_all: bool = True) -> None:
    (extensions / f"{name}.control").write_text(
        f"default_version = '1'\nrelocatable = false\nsuperuser = true\ntrusted = {str(to_all).lower()}\n"
    )
    (extensions / f"{name}--1.sql").write_text(script)


def migrated(fresh: Fresh, extensions: Path) -> Database:
    """A database where the extensions may be made, after all migrations."""
    database = fresh()
    url = database.info.dsn.replace("user=postgres", f"user={postgres.ADMIN}")
    with psycopg.connect(url, password=database.info.password, autocommit=True) as admin:
        admin.execute(f"alter system set extension_control_path = '$system:{extensions.parent}'".encode())
        admin.execute("select pg_reload_conf()")
    with psycopg.connect(database.info.dsn, password=database.info.password, autocommit=True) as connection:
        run(connection, sorted((sources.SUPABASE / "migrations").glob("*.sql")))
    return database


def jobs(database: Database) -> dict[str, str]:
    return dict(database.execute("select jobname, schedule from cron.job").fetchall())


@pytest.mark.parametrize(
    ("known", "drain"), [(_SECONDS_TOO, "15 seconds"), (_FIVE_FIELDS, "* * * * *")], ids=["seconds", "minutes only"]
)
def test_the_functions_are_called_as_often_as_can_be_said(
    known: str, drain: str, fresh: Fresh, extensions: Path
) -> None:
    offer(extensions, "pg_cron", _CRON.replace("{known}", known))
    offer(extensions, "pg_net", _NET)
    offer(extensions, "supabase_vault", _VAULT)

    database = migrated(fresh, extensions)

    assert jobs(database)["whatsapp-queue-drain"] == drain
    assert jobs(database)["whatsapp-templates-sync"] == "*/15 * * * *"
    database.execute(
        "insert into vault.decrypted_secrets values"
        " ('whatsapp_functions_url', 'https://f.example'), ('whatsapp_cron_key', 'k')"
    )
    database.execute("select whatsapp_internal.call_function('queue-drain')")
    assert database.execute("select url, headers ->> 'apikey' from net.posted").fetchall() == [
        ("https://f.example/queue-drain", "k")
    ]
    roles = "select r from unnest(array['anon', 'authenticated', 'service_role']) r"
    may = f"{roles} where has_function_privilege(r, 'whatsapp_internal.call_function(text)', 'execute')"
    assert database.execute(may.encode()).fetchall() == []


def test_a_push_goes_on_where_an_extension_may_not_be_made(fresh: Fresh, extensions: Path) -> None:
    offer(extensions, "pg_cron", _CRON.replace("{known}", _SECONDS_TOO), to_all=False)
    offer(extensions, "pg_net", _NET)
    offer(extensions, "supabase_vault", _VAULT)

    database = migrated(fresh, extensions)

    assert database.execute("select whatsapp.schema_version()").fetchall() == [(sources.version(),)]
    assert database.execute("select to_regproc('whatsapp_internal.call_function') is null").fetchall() == [(True,)]
