"""The client of Postgres: which failures are for ever, which may pass, how long a call takes, and as whom it acts."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from services.whatsapp.clients import failures, postgres
from services.whatsapp.clients.failures import Rejected, Unavailable
from services.whatsapp.clients.postgres import Postgres
from services.whatsapp.clients.verbs import Verbs
from services.whatsapp.settings import Settings
from tests.local.stack import ROOT, Stack
from tests.proofs.house import until

Database = psycopg.Connection[Any]

# What our own calls are tried with: it fails as told, waits as long, or says who it is.
ON_PURPOSE = """
create function whatsapp.on_purpose(p_code text default null, p_seconds float8 default 0) returns jsonb
language plpgsql as $$
begin
  perform pg_sleep(p_seconds);
  if p_code is not null then
    raise exception using errcode = p_code, message = 'no';
  end if;
  return jsonb_build_object('role', current_user, 'timeout', current_setting('statement_timeout'));
end $$;
grant execute on function whatsapp.on_purpose to service_role
"""


@pytest.fixture
def on_purpose(database: Database) -> Iterator[None]:
    database.execute(ON_PURPOSE)
    yield
    database.execute("drop function whatsapp.on_purpose")


@contextlib.asynccontextmanager
async def connected(stack: Stack, url: str | None = None) -> AsyncIterator[Postgres]:
    client = Postgres(Settings.read(stack.env() | {"SUPABASE_DB_URL": url or stack.database_url}))
    yield client
    await client.close()


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[Postgres]:
    async with connected(stack) as client:
        yield client


@pytest.mark.usefixtures("on_purpose")
@pytest.mark.parametrize(
    "code", ["22P02", "22003", "22007", "22021", "22P05", "23502", "23503", "23514", "54000", "PT400", "PT404"]
)
async def test_a_value_that_can_never_be_stored_is_asked_for_once(client: Postgres, code: str) -> None:
    with pytest.raises(Rejected) as rejected:
        await client._call("on_purpose", {"p_code": code})
    assert rejected.value.code == code


@pytest.mark.usefixtures("on_purpose")
@pytest.mark.parametrize(
    ("code", "divisible", "perhaps_done"),
    [
        ("23505", True, False),
        ("40P01", True, False),
        ("40001", True, False),
        ("XX000", True, False),
        ("57014", True, False),
        ("55P03", True, False),
        ("57P01", False, True),
        ("08006", False, True),
        ("25006", False, False),
        ("42501", False, False),
        ("53100", False, False),
    ],
)
async def test_everything_else_may_pass(client: Postgres, code: str, divisible: bool, perhaps_done: bool) -> None:
    with pytest.raises(Unavailable) as unavailable:
        await client._call("on_purpose", {"p_code": code}, attempts=2)
    error = unavailable.value
    assert (error.status, error.cause) == (503, code)
    assert error.code == ("database_timeout" if code == "57014" else "database_unavailable")
    assert (error.divisible, error.perhaps_done) == (divisible, perhaps_done)
    assert await client.settle([]) == {"settled": 0, "stale": 0}


@pytest.mark.usefixtures("on_purpose")
@pytest.mark.parametrize("verbs", ["a connection", "a pooler"], indirect=True)
async def test_it_acts_as_the_server_and_no_statement_is_endless(verbs: Verbs) -> None:
    for _ in range(3):
        assert await verbs._call("on_purpose", {}) == {"role": "service_role", "timeout": "8s"}


@pytest.mark.usefixtures("on_purpose")
async def test_a_statement_that_takes_too_long_is_ended_by_the_database(
    client: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_AS_SERVER", postgres._AS_SERVER.replace("'8s'", "'50ms'"))
    with pytest.raises(Unavailable) as unavailable:
        await client._call("on_purpose", {"p_seconds": 60}, attempts=1)
    assert (unavailable.value.code, unavailable.value.cause) == ("database_timeout", "57014")
    assert not unavailable.value.perhaps_done


async def test_nobody_listens(stack: Stack) -> None:
    url = stack.database_url.replace(f":{urlsplit(stack.database_url).port}/", ":9/")
    async with connected(stack, url) as client:
        with pytest.raises(Unavailable) as unavailable:
            await client.settle([], attempts=1)
    assert (unavailable.value.code, unavailable.value.perhaps_done) == ("database_unavailable", False)


@pytest.mark.parametrize("change", ["a wrong password", "no such database", "a role that is no server"])
async def test_what_cannot_log_in_has_done_nothing(stack: Stack, database: Database, change: str) -> None:
    password = urlsplit(stack.database_url).password or ""
    urls = {
        "a wrong password": stack.database_url.replace(password, "wrong"),
        "no such database": stack.database_url.rpartition("/")[0] + "/nothing",
        "a role that is no server": stack.database_url.replace("postgres:", "nobody_on_purpose:"),
    }
    database.execute(f"create role nobody_on_purpose login password '{password}'")
    try:
        async with connected(stack, urls[change]) as client:
            with pytest.raises(Unavailable) as unavailable:
                await client.settle([], attempts=1)
    finally:
        database.execute("drop role nobody_on_purpose")
    causes = {"a wrong password": "28P01", "no such database": "3D000", "a role that is no server": "42501"}
    assert unavailable.value.cause == causes[change]
    assert (unavailable.value.divisible, unavailable.value.perhaps_done) == (False, False)


@pytest.mark.usefixtures("on_purpose")
async def test_a_connection_that_is_ended_in_the_middle_leaves_it_open_what_was_done(
    stack: Stack, client: Postgres
) -> None:
    asking = asyncio.create_task(client._call("on_purpose", {"p_seconds": 60}, attempts=1))
    busy = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity"
        " where query like 'select to_jsonb(whatsapp.on_purpose%' and wait_event = 'PgSleep'"
    )
    with psycopg.connect(stack.admin_url, autocommit=True) as admin:
        await until(lambda: admin.execute(busy).fetchone() != (0,))
    with pytest.raises(Unavailable) as unavailable:
        await asking
    assert (unavailable.value.divisible, unavailable.value.perhaps_done) == (False, True)


async def test_idle_connections_that_are_gone_cost_an_attempt_and_no_call(stack: Stack, client: Postgres) -> None:
    await asyncio.gather(*(client.settle([]) for _ in range(8)))
    ours = "select pg_terminate_backend(pid) from pg_stat_activity where query like 'select to_jsonb(whatsapp.settle%'"
    with psycopg.connect(stack.admin_url, autocommit=True) as admin:
        admin.execute(ours)
    assert await asyncio.gather(*(client.settle([]) for _ in range(8))) == [{"settled": 0, "stale": 0}] * 8


@pytest.mark.usefixtures("on_purpose")
async def test_connections_are_bounded_and_whoever_waits_too_long_has_done_nothing(
    client: Postgres, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_WAIT", 0.3)
    busy = [asyncio.create_task(client._call("on_purpose", {"p_seconds": 3})) for _ in range(postgres.CONNECTIONS)]
    working = (
        "select count(*) from pg_stat_activity"
        " where state = 'active' and query like 'select to_jsonb(whatsapp.on_purpose%'"
    )
    await until(lambda: database.execute(working).fetchone() == (postgres.CONNECTIONS,))
    with pytest.raises(Unavailable) as unavailable:
        await client.settle([], attempts=1)
    assert (unavailable.value.cause, unavailable.value.perhaps_done) == ("PoolTimeout", False)
    await asyncio.gather(*busy)
    assert await client.settle([]) == {"settled": 0, "stale": 0}


async def test_a_call_ends_in_time_however_often_nobody_answers(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds are shortened alike; only the sum of all attempts is asked for."""
    monkeypatch.setattr(failures, "TOTAL", 2.0)
    monkeypatch.setattr(postgres, "_CONNECT", 1.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://somebody:secret@127.0.0.1:{silent.getsockname()[1]}/postgres"
        async with connected(stack, url) as client:
            began = time.monotonic()
            with pytest.raises(Unavailable) as unavailable:
                await client.settle([])
    assert time.monotonic() - began < 3.5
    assert unavailable.value.code == "database_timeout"


async def test_no_log_tells_the_password(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    password = urlsplit(stack.database_url).password or ""
    for url in (
        stack.database_url.replace(password, password + "x"),
        stack.database_url.replace("127.0.0.1", "127.0.0.9"),
    ):
        async with connected(stack, url) as client:
            with pytest.raises(Unavailable):
                await client.settle([], attempts=1)
    said = capsys.readouterr().out
    assert "database_failed" in said
    assert password not in said


def test_without_the_extra_it_is_said_what_to_install(stack: Stack) -> None:
    code = f"""
import sys
sys.modules["asyncpg"] = None
from services.whatsapp.runtime import Runtime
from services.whatsapp.settings import ConfigurationError, Settings
try:
    Runtime(Settings.read({stack.env() | {"SUPABASE_DB_URL": "postgresql://a:b@c/d"}!r})).verbs
except ConfigurationError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == "SUPABASE_DB_URL needs asyncpg: install the extra `direct`\n"
