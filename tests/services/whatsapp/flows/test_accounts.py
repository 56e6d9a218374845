"""A person stops a number or lets it go on; a message says where nobody could send it."""

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from services.whatsapp.actors import Member, Server
from services.whatsapp.flows import accounts
from services.whatsapp.refusals import RefusalError
from services.whatsapp.requests.accounts import AccountControl
from services.whatsapp.runtime import Runtime
from services.whatsapp.settings import Settings
from tests.graph.world import World
from tests.local.stack import Stack
from tests.supabase.ground import Land

ANA = Member("01a20e73-43e3-7748-b753-9aa16eea958f", "of ana")


@pytest.fixture
def land(database: psycopg.Connection[Any]) -> Land:
    return Land(database)


@pytest.fixture
async def runtime(stack: Stack) -> AsyncIterator[Runtime]:
    async with Runtime(Settings.read(stack.env())) as runtime:
        yield runtime


def to(action: str, land: Land, **more: object) -> AccountControl:
    return AccountControl.read({"country_id": land.country_id, "action": action} | more)


async def test_without_a_name_it_is_the_default_account(
    runtime: Runtime, land: Land, capsys: pytest.CaptureFixture[str]
) -> None:
    paused = await accounts.control(runtime, to("pause", land), Server())
    assert (paused["account"], paused["state"]) == ("main", "paused")
    assert "account_controlled" in capsys.readouterr().out
    land.enqueue(land.template())
    assert land.claim()["leases"] == []

    resumed = await accounts.control(runtime, to("resume", land, account="main"), Server())
    assert resumed["state"] == "active"
    assert len(land.claim()["leases"]) == 1


async def test_a_refusal_names_the_field_it_is_about(
    runtime: Runtime, land: Land, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RefusalError) as refused:
        await accounts.control(runtime, to("pause", land, account="nowhere"), Server())
    assert (refused.value.status, refused.value.code, refused.value.field) == (404, "no_such_account", "account")
    assert "account_controlled" not in capsys.readouterr().out


@pytest.mark.parametrize(("role", "code"), [(None, "not_a_member"), ("viewer", "role_too_low"), ("operator", None)])
async def test_a_member_needs_the_role_of_an_operator_there(
    runtime: Runtime, land: Land, stack: Stack, role: str | None, code: str | None
) -> None:
    with psycopg.connect(stack.admin_url, autocommit=True) as admin:
        admin.execute("insert into auth.users (id) values (%s) on conflict do nothing", [ANA.user_id])
    if role:
        land.run("insert into whatsapp.members values (%s, %s, %s)", land.country_id, ANA.user_id, role)
    if code is None:
        assert (await accounts.control(runtime, to("pause", land), ANA))["state"] == "paused"
        return
    with pytest.raises(RefusalError) as refused:
        await accounts.control(runtime, to("pause", land), ANA)
    assert (refused.value.status, refused.value.code) == (403, code)


@pytest.mark.parametrize(
    ("changes", "account_id", "waits"),
    [
        ({}, "main", False),
        ({"WHATSAPP_MX_MAIN_TOKEN": ""}, "main", True),
        ({}, "not-in-the-environment", True),
    ],
    ids=["with a token", "without one", "unknown"],
)
async def test_a_message_waits_for_credentials_only_where_there_are_none(
    changes: dict[str, str], account_id: str, waits: bool
) -> None:
    environment = World.random(("MX",)).env("http://127.0.0.1:9") | changes
    environment |= {"SUPABASE_URL": "http://127.0.0.1:9", "SUPABASE_SECRET_KEY": "sb_secret_one"}
    async with Runtime(Settings.read(environment)) as runtime:
        notice = accounts.waiting_for(runtime, "MX", account_id)
    assert (notice["code"] if notice else None) == ("account_without_credentials" if waits else None)
