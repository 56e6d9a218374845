"""The client of Supabase: which failures are for ever, which may pass, and how long a call may take."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from services.whatsapp.actors import Member
from services.whatsapp.clients import failures, postgrest
from services.whatsapp.clients.failures import Rejected, Unavailable
from services.whatsapp.clients.postgrest import Postgrest, Reads
from services.whatsapp.refusals import RefusalError
from services.whatsapp.settings import Settings
from tests.local.front import Front, front_of
from tests.local.stack import Stack, mint_jwt

SOMEBODY = "01a20e73-43e3-7748-b753-9aa16eea958f"


@pytest.fixture
async def front(stack: Stack) -> AsyncIterator[Front]:
    async with front_of(stack.rest_url) as front:
        yield front


@pytest.fixture
async def store(stack: Stack, front: Front) -> AsyncIterator[Postgrest]:
    store = Postgrest(Settings.read(stack.env() | {"SUPABASE_URL": front.url}))
    yield store
    await store.close()


@pytest.mark.parametrize(
    "code", ["22P02", "22003", "22007", "22021", "22P05", "23502", "23503", "23514", "54000", "PT400", "PT404"]
)
async def test_a_value_that_can_never_be_stored_is_asked_for_once(store: Postgrest, front: Front, code: str) -> None:
    front.fail("/rpc/settle", 400, {"code": code, "message": "no"})
    with pytest.raises(Rejected) as rejected:
        await store.settle([])
    assert rejected.value.code == code
    assert len(front.paths) == 1


@pytest.mark.parametrize(
    ("status", "code", "divisible", "perhaps_done"),
    [
        (409, "23505", True, False),
        (500, "40P01", True, False),
        (500, "XX000", True, False),
        (500, "57014", True, False),
        (500, "SUP", True, False),
        (503, "57P01", False, True),
        (503, "08006", False, True),
        (405, "25006", False, False),
        (403, "42501", False, False),
        (404, "PGRST202", False, False),
        (401, "PGRST301", False, False),
        (503, "PGRST002", False, False),
        (500, None, False, True),
        (502, None, False, True),
        (521, None, False, True),
        (540, None, False, True),
        (401, None, False, False),
        (429, None, False, False),
        (302, None, False, True),
    ],
)
async def test_everything_else_may_pass(
    store: Postgrest, front: Front, status: int, code: str | None, divisible: bool, perhaps_done: bool
) -> None:
    front.fail("/rpc/settle", status, {"code": code, "message": "no"} if code else {"message": "no"})
    with pytest.raises(Unavailable) as unavailable:
        await store.settle([])
    error = unavailable.value
    assert (error.status, error.cause) == (503, code or str(status))
    assert error.code == ("database_timeout" if code == "57014" else "database_unavailable")
    assert (error.divisible, error.perhaps_done) == (divisible, perhaps_done)
    assert len(front.paths) > 1

    front.heal()
    assert await store.settle([]) == {"settled": 0, "stale": 0}


@pytest.mark.parametrize(
    ("status", "body", "content_type"),
    [
        (None, b"", ""),
        (200, b"<!DOCTYPE html><title>Web server is down</title>", "text/html"),
        (200, b"", "application/json"),
        (522, b"", "text/plain"),
        (524, b"<!DOCTYPE html><title>A timeout occurred</title>", "text/html"),
        (500, b"<!DOCTYPE html>", "text/html"),
        (540, b"project paused", "text/plain"),
    ],
    ids=["cut", "a page", "nothing", "522", "524", "500 of the gateway", "540"],
)
async def test_an_answer_nobody_can_read_is_none_and_the_call_may_have_been_done(
    store: Postgrest, front: Front, status: int | None, body: bytes, content_type: str
) -> None:
    front.fail("/rpc/settle", status, body, content_type=content_type)
    with pytest.raises(Unavailable) as unavailable:
        await store.settle([])
    assert (unavailable.value.divisible, unavailable.value.perhaps_done) == (False, True)

    front.heal()
    assert await store.settle([]) == {"settled": 0, "stale": 0}


async def test_what_was_lost_once_may_have_been_done_whatever_came_after(store: Postgrest, front: Front) -> None:
    front.fail("/rpc/settle", None, times=1, arrives=True)
    front.fail("/rpc/settle", 404, {"code": "PGRST202", "message": "no"})
    with pytest.raises(Unavailable) as unavailable:
        await store.settle([])
    assert unavailable.value.perhaps_done


async def test_a_call_ends_in_time_however_often_nobody_answers(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds are shortened alike; only the sum of all attempts is asked for."""
    monkeypatch.setattr(failures, "TOTAL", 2.0)
    monkeypatch.setattr(postgrest, "_TIMEOUT", httpx.Timeout(1.2))
    silent = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{silent.getsockname()[1]}"
    store = Postgrest(Settings.read(stack.env() | {"SUPABASE_URL": url}))
    began = time.monotonic()
    try:
        with pytest.raises(Unavailable) as unavailable:
            await store.settle([])
    finally:
        await store.close()
        silent.close()
    assert time.monotonic() - began < 3.5
    assert unavailable.value.code == "database_timeout"
    assert unavailable.value.perhaps_done


def test_a_call_ends_well_before_a_lease() -> None:
    from services.whatsapp.flows.draining import LEASE

    assert failures.TOTAL <= LEASE / 2


@pytest.mark.parametrize(("lifetime", "code"), [(-3600.0, "token_expired"), (None, "invalid_token")])
async def test_a_reader_whose_token_is_over_is_told_so(
    front: Front, stack: Stack, lifetime: float | None, code: str
) -> None:
    token = "not.a.token" if lifetime is None else mint_jwt(stack, SOMEBODY, lifetime=lifetime)
    reads = Reads(Settings.read(stack.env() | {"SUPABASE_URL": front.url}))
    try:
        with pytest.raises(RefusalError) as refused:
            await reads.messages([SOMEBODY], Member(SOMEBODY, token))
    finally:
        await reads.close()
    assert (refused.value.status, refused.value.code) == (401, code)


async def test_many_who_need_one_contract_share_one_read(store: Postgrest, front: Front) -> None:
    ask: Any = ("MX", "main", "nothing", "es")
    answers = await asyncio.gather(*(store.template_contract(*ask) for _ in range(50)))
    assert answers == [None] * 50
    assert len(front.asked("/rpc/template_contract")) == 1


async def test_a_reader_of_a_contract_who_goes_away_takes_it_from_nobody(store: Postgrest, front: Front) -> None:
    ask: Any = ("MX", "main", "nothing", "es")
    tasks = [asyncio.create_task(store.template_contract(*ask)) for _ in range(5)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == [None] * 4


async def test_a_read_of_a_contract_that_fails_is_no_end(store: Postgrest, front: Front) -> None:
    ask: Any = ("MX", "main", "nothing", "es")
    front.fail("/rpc/template_contract", 500)
    answers = await asyncio.gather(*(store.template_contract(*ask) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unavailable] * 3
    front.heal()
    assert await store.template_contract(*ask) is None
