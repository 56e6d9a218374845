"""Reading by ids, at once or when there is news; what is shown of a message; and page by page, while others write."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from services.whatsapp.actors import Server
from services.whatsapp.flows import reading
from services.whatsapp.requests.status_poll import ById, OfCountry
from services.whatsapp.runtime import Runtime
from services.whatsapp.settings import Settings
from tests.graph.world import World
from tests.local.front import Front, front_of
from tests.local.stack import ROOT, Stack
from tests.proofs.house import until
from tests.supabase.ground import Land, new_wamid

Database = psycopg.Connection[Any]
NOBODY = "01a20e73-43e3-7748-b753-9aa16eea958f"


@pytest.fixture
def land(database: Database) -> Land:
    return Land(database)


@pytest.fixture
async def front(stack: Stack) -> AsyncIterator[Front]:
    async with front_of(stack.rest_url) as front:
        yield front


@pytest.fixture
async def runtime(stack: Stack, front: Front) -> AsyncIterator[Runtime]:
    async with Runtime(Settings.read(stack.env() | {"SUPABASE_URL": front.url})) as runtime:
        yield runtime


def enqueued(land: Land, messages: int = 1) -> list[str]:
    return [verdict["message_id"] for verdict in land.enqueue(*(land.template() for _ in range(messages)))]


async def shown(runtime: Runtime, *message_ids: str, **more: object) -> list[Any]:
    asked = ById.read({"message_id": list(message_ids)} | more)
    return await reading.by_ids(runtime, asked, Server())


async def states(runtime: Runtime, *message_ids: str, **more: object) -> list[str]:
    return [row["status"] for row in await shown(runtime, *message_ids, **more)]


# ── By ids ────────────────────────────────────────────────────────────────────────────────────────


async def test_messages_come_as_they_were_asked_for_each_once_and_only_those_that_are_there(
    runtime: Runtime, land: Land
) -> None:
    first, second, third = enqueued(land, 3)
    seen = await shown(runtime, third, NOBODY, first, third, second)
    assert [row["message_id"] for row in seen] == [third, first, second]


async def test_who_waits_is_told_once_something_has_changed(runtime: Runtime, front: Front, land: Land) -> None:
    [waiting, other] = enqueued(land, 2)
    answer = asyncio.create_task(states(runtime, waiting, other, wait="25"))
    await until(lambda: len(front.paths) > 1)
    assert not answer.done()

    land.claim(1)

    assert sorted(await answer) == ["queued", "sending"]


async def test_what_is_not_as_the_caller_knows_it_is_told_at_once(runtime: Runtime, front: Front, land: Land) -> None:
    [message_id] = enqueued(land)
    assert await states(runtime, message_id, state=["scheduled"], wait="25") == ["queued"]
    assert len(front.paths) == 1


async def test_nobody_waits_for_what_changes_no_more(runtime: Runtime, front: Front, land: Land) -> None:
    [message] = land.leased(land.template())
    land.settle(land.outcome(message, "rejected", code=131026, title="undeliverable"))
    assert await states(runtime, message["message_id"], NOBODY, wait="25") == ["failed"]
    assert len(front.paths) == 1


async def test_who_waits_in_vain_is_told_what_there_is(runtime: Runtime, front: Front, land: Land) -> None:
    [message_id] = enqueued(land)
    assert await states(runtime, message_id, wait="0.5") == ["queued"]
    assert len(front.paths) > 1


# ── What is shown ─────────────────────────────────────────────────────────────────────────────────


async def test_a_failure_is_told_in_metas_words_with_what_can_be_done(runtime: Runtime, land: Land) -> None:
    [message] = land.leased(land.template())
    told = {"code": 131026, "title": "Message undeliverable", "details": "No WhatsApp there"}
    land.settle(land.outcome(message, "rejected", **told))
    [seen] = await shown(runtime, message["message_id"])
    error = seen["error"]
    assert (error["code"], error["message"]) == ("meta_131026", "Message undeliverable")
    assert error["hint"]


async def test_a_refusal_of_ours_is_told_by_its_own_code(runtime: Runtime, land: Land) -> None:
    [message_id] = enqueued(land)
    land.run("update whatsapp.contacts set opted_out_at = now() where country_id = %s", land.country_id)
    land.claim()
    [seen] = await shown(runtime, message_id)
    assert (seen["status"], seen["error"]["code"]) == ("refused", "opted_out")
    assert seen["error"]["hint"]


async def test_times_are_shown_in_utc_and_only_those_that_have_come(runtime: Runtime, land: Land) -> None:
    [message] = land.leased(land.template())
    land.settle(land.outcome(message, "accepted", wamid=new_wamid()))
    [row] = await runtime.reads.messages([message["message_id"]], Server())
    row["accepted_at"] = "2026-11-24T12:00:00+02:00"  # as a database in another zone says it
    seen = reading.view(runtime, row)
    assert seen["times"].keys() == {"created", "accepted"}
    assert seen["times"]["accepted"] == "2026-11-24T10:00:00+00:00"
    assert seen["error"] is None


@pytest.mark.parametrize(("tokens", "waits"), [("token-1", False), ("", True)])
async def test_a_message_whose_account_has_no_credentials_says_why_it_waits(
    stack: Stack, database: Database, tokens: str, waits: bool
) -> None:
    land, world = Land(database), World.random(("MX",))
    number = world.number("MX")
    environment = {name.replace("_MX_", f"_{land.country_id}_"): value for name, value in world.env(stack.url).items()}
    environment[f"WHATSAPP_{land.country_id}_{number.account_id.upper()}_TOKEN"] = tokens
    async with Runtime(Settings.read(stack.env() | environment)) as runtime:
        [seen] = await shown(runtime, *enqueued(land))

    assert seen["status"] == "queued"
    assert (seen["waiting"] or {}).get("code") == ("account_without_credentials" if waits else None)


# ── Page by page ──────────────────────────────────────────────────────────────────────────────────


async def test_pages_hold_every_message_once_oldest_first_and_then_the_cursor_stays(
    runtime: Runtime, land: Land, database: Database
) -> None:
    """Messages that are old enough for no slower transaction to come before them."""
    enqueued(land)
    written = database.execute(
        "insert into whatsapp.messages"
        " (country_id, message_id, account_id, contact_id, direction, kind, state, content)"
        " select country_id, whatsapp_internal.uuid7(clock_timestamp() - n * interval '20 seconds'), account_id,"
        " contact_id, direction, kind, 'failed', content"
        " from whatsapp.messages, generate_series(1, 5) n where country_id = %s returning message_id::text",
        (land.country_id,),
    ).fetchall()
    land.run("delete from whatsapp.queue where country_id = %s", land.country_id)

    pages, cursor = [], None
    for _ in range(3):
        asked = OfCountry.read({"country_id": land.country_id, "limit": "2"} | ({"after": cursor} if cursor else {}))
        rows, cursor = await reading.of_country(runtime, asked, Server())
        pages.append([row["message_id"] for row in rows])

    old = sorted(message_id for (message_id,) in written)
    assert [pages[0], pages[1], pages[2][:1]] == [old[:2], old[2:4], old[4:]]
    last = OfCountry.read({"country_id": land.country_id, "after": "f" * 32})
    assert await reading.of_country(runtime, last, Server()) == ([], last.after)


PAGE = """
import asyncio, json, sys
from tests.faults import clock
clock.shift(float(sys.argv[1]))
from services.whatsapp.actors import Server
from services.whatsapp.flows import reading
from services.whatsapp.requests.status_poll import OfCountry
from services.whatsapp.runtime import Runtime

async def page():
    asked = OfCountry(country_id=sys.argv[2], after=sys.argv[3] or None)
    rows, cursor = await reading.of_country(Runtime.of_loop(), asked, Server())
    await Runtime.close_of_loop()
    return [[row["message_id"] for row in rows], cursor]

print(json.dumps(asyncio.run(page())))
"""


def page(stack: Stack, country_id: str, after: str | None, clock: float) -> tuple[list[str], str]:
    """A page as a function sees it whose clock is off by so many seconds."""
    arguments = [sys.executable, "-c", PAGE, str(clock), country_id, after or ""]
    environment = os.environ | stack.env() | {"WHATSAPP_DOTENV": "off"}
    told = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    ids, cursor = json.loads(told.stdout.splitlines()[-1])
    return ids, cursor


@pytest.mark.parametrize("clock", [120, -120])
def test_no_page_leaves_out_what_a_slower_transaction_writes(
    stack: Stack, database: psycopg.Connection[Any], clock: float
) -> None:
    land = Land(database)
    land.enqueue(land.template())
    with psycopg.connect(stack.database_url) as slow:
        written = slow.execute("select whatsapp.enqueue(array[%s]::jsonb[])", [Jsonb(land.template())]).fetchone()
        land.enqueue(land.template())
        seen, cursor = page(stack, land.country_id, None, clock)
        slow.commit()

    after, _ = page(stack, land.country_id, cursor, clock)

    assert written is not None
    assert len(seen) == 2
    assert written[0][0]["message_id"] in after
