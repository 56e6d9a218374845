"""The local stack is what we say: roles, grants and policies decide as on hosted, and nothing outlives its parent."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from postgrest.exceptions import APIError
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from supabase import AsyncClient, AsyncClientOptions, acreate_client
from tests.local.processes import free_port
from tests.local.roles import as_role
from tests.local.stack import ROOT, Stack, mint_jwt, running_stack, sign_up

Client = Callable[..., Awaitable[AsyncClient]]

MIGRATION = """
create schema whatsapp;
grant usage on schema whatsapp to anon, authenticated, service_role;
create table whatsapp.notes (id serial primary key, owner uuid not null references auth.users, secret text, body text);
alter table whatsapp.notes enable row level security;
create policy own on whatsapp.notes for select to authenticated using (owner = (select auth.uid()));
grant select (id, owner, body) on whatsapp.notes to authenticated;
grant select, insert on whatsapp.notes to service_role;
grant usage on sequence whatsapp.notes_id_seq to service_role;

create function whatsapp.kinds(single jsonb, many jsonb[], texts text[]) returns jsonb
language sql set search_path = '' as $$
  select pg_catalog.jsonb_build_array(
    pg_catalog.jsonb_typeof(single), pg_catalog.jsonb_typeof(many[1]), many[1] ->> 'a', pg_catalog.cardinality(texts))
$$;
create function whatsapp.who() returns jsonb language sql set search_path = '' as $$
  select pg_catalog.jsonb_build_object(
    'role', current_user, 'uid', auth.uid(), 'email', auth.jwt() ->> 'email',
    'timeout', current_setting('statement_timeout'))
$$;
"""


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes the place of our functions: answers with the path and the body it got."""
    if scope["type"] == "http":
        request = Request(scope, receive)
        body = (await request.body()).decode()
        answer = JSONResponse({"path": scope["path"], "body": body, "jwt": os.environ["SUPABASE_JWT_SECRET"] != ""})
        await answer(scope, receive, send)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of its own, with the migration above and `echo` for functions."""
    supabase = tmp_path_factory.mktemp("supabase")
    (supabase / "migrations").mkdir()
    (supabase / "migrations" / "20260101000000_notes.sql").write_text(MIGRATION)
    (supabase / "seed.sql").write_text("create table whatsapp.seeded ()")
    with running_stack(functions="tests.local.test_stack:echo", supabase=supabase) as running:
        yield running


@pytest.fixture
def owner(small: Stack) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(small.database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def signed_up(small: Stack) -> str:
    """The id of a new user."""
    return sign_up(small, f"{uuid.uuid4()}@example.com", "a-password")[0]


@pytest.fixture
async def client(small: Stack) -> AsyncIterator[Client]:
    """Makes official clients for a key and, if given, a user's token."""
    async with httpx.AsyncClient(trust_env=False) as http:

        async def make(key: str, token: str | None = None) -> AsyncClient:
            options = AsyncClientOptions(
                schema="whatsapp",
                headers={"Authorization": f"Bearer {token}"} if token else {},
                auto_refresh_token=False,
                persist_session=False,
                httpx_client=http,
            )
            return await acreate_client(small.url, key, options)

        yield make


def get(stack: Stack, path: str, **headers: str) -> httpx.Response:
    return httpx.get(stack.url + path, headers={"accept-profile": "whatsapp", **headers}, trust_env=False)


async def test_official_client_signs_up_and_in_by_one_url(small: Stack, client: Client) -> None:
    anonymous = await client(small.publishable_key)
    credentials: Any = {"email": "ana@example.com", "password": "a-password"}
    first = await anonymous.auth.sign_up(credentials)
    second = await anonymous.auth.sign_in_with_password(credentials)
    assert first.user is not None
    assert second.user is not None
    assert second.session is not None
    assert second.user.id == first.user.id
    found = await anonymous.auth.get_user(second.session.access_token)
    assert found is not None
    assert found.user.email == "ana@example.com"


async def test_official_client_invokes_functions_by_the_same_url(small: Stack, client: Client) -> None:
    anonymous = await client(small.publishable_key)
    answer = await anonymous.functions.invoke("send", {"body": {"a": 1}, "responseType": "json"})
    assert answer == {"path": "/functions/v1/send", "body": '{"a":1}', "jwt": True}


async def test_policies_show_users_their_own_rows(small: Stack, client: Client, signed_up: str) -> None:
    service = await client(small.secret_key)
    other, _ = sign_up(small, "other@example.com", "a-password")
    rows = [{"owner": signed_up, "body": "mine"}, {"owner": other, "body": "theirs"}]
    await service.table("notes").insert(rows).execute()

    user = await client(small.publishable_key, mint_jwt(small, signed_up))
    assert (await user.table("notes").select("body").execute()).data == [{"body": "mine"}]


async def test_grants_decide_by_column_and_verb(small: Stack, client: Client, signed_up: str) -> None:
    user = await client(small.publishable_key, mint_jwt(small, signed_up))
    with pytest.raises(APIError) as hidden_column:
        await user.table("notes").select("secret").execute()
    with pytest.raises(APIError) as insert:
        await user.table("notes").insert({"owner": signed_up}).execute()
    anonymous = await client(small.publishable_key)
    with pytest.raises(APIError) as no_grant:
        await anonymous.table("notes").select("id").execute()
    assert [error.value.code for error in (hidden_column, insert, no_grant)] == ["42501"] * 3


@pytest.mark.parametrize("role", ["postgres", "supabase_admin"])
def test_token_that_claims_a_powerful_role_is_refused(small: Stack, role: str) -> None:
    token = mint_jwt(small, uuid.uuid4(), role=role)
    answer = get(small, "/rest/v1/notes", apikey=small.publishable_key, authorization=f"Bearer {token}")
    assert (answer.status_code, answer.json()["code"]) == (403, "42501")


@pytest.mark.parametrize("key", ["", "sb_publishable_wrong", "sb_secret_wrong"])
def test_wrong_keys_are_refused(small: Stack, key: str) -> None:
    assert get(small, "/rest/v1/notes", apikey=key).status_code == 401


def test_token_of_another_stack_is_refused(small: Stack, stack: Stack) -> None:
    token = mint_jwt(stack, uuid.uuid4())
    answer = get(small, "/rest/v1/notes", apikey=small.publishable_key, authorization=f"Bearer {token}")
    assert answer.status_code == 401


async def test_arrays_of_jsonb_arrive_as_jsonb_but_a_lone_one_as_a_string(small: Stack, client: Client) -> None:
    """Why our functions take `jsonb[]`. When the second value becomes "object", Lite has been mended."""
    service = await client(small.secret_key)
    arguments = {"single": {"a": "x"}, "many": [{"a": 'é"}{,\\'}], "texts": ["a,b", "{c}"]}
    answer = await service.rpc("kinds", arguments).execute()
    assert answer.data == ["string", "object", 'é"}{,\\', 2]


async def test_functions_know_their_caller_and_have_eight_seconds(small: Stack, client: Client, signed_up: str) -> None:
    user = await client(small.publishable_key, mint_jwt(small, signed_up, "ana@example.com"))
    answer = await user.rpc("who").execute()
    expected = {"role": "authenticated", "uid": signed_up, "email": "ana@example.com", "timeout": "8s"}
    assert answer.data == expected


def test_as_role_acts_for_one_transaction_only(owner: psycopg.Connection[Any], signed_up: str) -> None:
    claims = {"sub": signed_up, "email": "ana@example.com"}
    with as_role(owner, "authenticated", claims):
        inside = owner.execute("select whatsapp.who() - 'timeout'").fetchone()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            owner.execute("select secret from whatsapp.notes")
    assert inside == ({"role": "authenticated", "uid": signed_up, "email": "ana@example.com"},)
    assert owner.execute("select current_user, auth.uid()").fetchone() == ("postgres", None)


def test_migrations_run_as_on_hosted_and_are_recorded(owner: psycopg.Connection[Any]) -> None:
    history = owner.execute("select version, name, statements from supabase_migrations.schema_migrations").fetchall()
    assert history == [("20260101000000", "notes", [MIGRATION])]
    assert owner.execute("select to_regclass('whatsapp.seeded') is not null").fetchone() == (True,)
    roles = "select rolname, rolsuper, rolbypassrls from pg_roles where rolname = any(%s) order by 1"
    found = owner.execute(roles, (["authenticator", "postgres", "service_role"],)).fetchall()
    assert found == [("authenticator", False, False), ("postgres", False, True), ("service_role", False, True)]


def test_auth_functions_are_hosted_ones_not_lites(owner: psycopg.Connection[Any]) -> None:
    claims = '{"sub": "018f0000-0000-7000-8000-000000000001", "email": "a@example.com", "role": "authenticated"}'
    owner.execute("select set_config('request.jwt.claims', %s, false)", (claims,))
    found = owner.execute("select auth.uid()::text, auth.email(), auth.role()").fetchone()
    assert found == ("018f0000-0000-7000-8000-000000000001", "a@example.com", "authenticated")


def test_nothing_outlives_a_killed_parent() -> None:
    script = (
        "import sys; from tests.local.stack import running_stack\n"
        "with running_stack(functions=None) as stack:\n"
        "    print(stack.data_dir, stack.admin_url, stack.rest_url, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as parent:
        assert parent.stdout is not None
        folder, database_url, rest_url = parent.stdout.readline().split()
        parent.send_signal(signal.SIGKILL)
        # The keeper has its end of this pipe, so the pipe ends when the keeper has finished.
        assert parent.stdout.read() == ""
    assert not Path(folder).exists()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(database_url, connect_timeout=2)
    with pytest.raises(httpx.ConnectError):
        httpx.get(rest_url, trust_env=False)


def test_keys_and_data_stay_with_their_folder(tmp_path: Path) -> None:
    empty = tmp_path / "supabase"
    with running_stack(tmp_path / "stack", functions=None, supabase=empty) as first:
        user_id, _ = sign_up(first, "ana@example.com", "a-password")
    ports = {"postgres": free_port(), "lite": free_port()}
    with running_stack(tmp_path / "stack", functions=None, supabase=empty, ports=ports) as second:
        assert sign_up(second, "ana@example.com", "a-password")[0] == user_id
    assert second.rest_url == f"http://127.0.0.1:{ports['lite']}"
    assert second.secret_key == first.secret_key


def test_another_versions_cluster_is_refused(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("15\n")
    with pytest.raises(RuntimeError, match="was made by Postgres 15"), running_stack(tmp_path, functions=None):
        pass
