"""What Meta answered reaches the database, whatever it holds and whatever else goes wrong."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from services.whatsapp.flows.settling import Settling
from services.whatsapp.runtime import Runtime
from services.whatsapp.settings import Settings
from services.whatsapp.settings import settings as process
from tests.local.front import front_of
from tests.local.stack import Stack
from tests.proofs.house import until
from tests.supabase.ground import Land, Row, new_wamid

Database = psycopg.Connection[Any]
FAILING = """
create function whatsapp_internal.broken_on_purpose() returns trigger language plpgsql as
$$ begin raise exception 'broken on purpose' using errcode = '{state}'; end $$;
create trigger broken_on_purpose before update on whatsapp.{table} for each row when ({when})
execute function whatsapp_internal.broken_on_purpose();
"""


@pytest.fixture
def land(database: Database) -> Land:
    return Land(database, messages_per_second=1000)


@pytest.fixture
def broken(database: Database) -> Iterator[Any]:
    """Breaks the updates of a table, until the end of the test."""

    def break_it(table: str, state: str, when: str) -> None:
        database.execute(FAILING.format(table=table, state=state, when=when).encode())

    yield break_it
    database.execute("drop function if exists whatsapp_internal.broken_on_purpose cascade")


@asynccontextmanager
async def settling(stack: Stack, url: str | None = None) -> AsyncIterator[Settling]:
    settings = Settings.read(stack.env() | {"SUPABASE_URL": url or stack.rest_url})
    async with (
        Runtime(settings) as runtime,
        Settling(runtime.verbs.settle, asyncio.Event()) as settled,
    ):
        yield settled


def accepted(land: Land, message: Row, **more: object) -> Any:
    return land.outcome(message, "accepted", wamid=new_wamid()) | more


def states(land: Land, messages: list[Row]) -> list[str]:
    return [land.message(message["message_id"])["state"] for message in messages]


UNSTORABLE: dict[str, Row] = {
    "a NUL in a title": {"title": "a\0b"},
    "a NUL in a detail": {"detail": {"note": "a\0b"}},
    "a NUL in the WhatsApp id": {"wa_id": "52\0"},
    "a code beyond every number": {"code": 10**15},
    "a code that is no number": {"code": "none"},
}


@pytest.mark.parametrize("extra", UNSTORABLE.values(), ids=UNSTORABLE)
async def test_what_cannot_be_stored_costs_neither_its_fact_nor_its_neighbours(
    stack: Stack, land: Land, extra: Row
) -> None:
    messages = land.leased(*(land.template() for _ in range(20)))
    results = [accepted(land, message) for message in messages]
    results[7] |= extra
    async with settling(stack) as settled:
        for result in results:
            settled.add(result)
        await settled.finish(10)
        assert len(settled) == 0

    assert states(land, messages) == ["accepted"] * 20
    row = land.message(messages[7]["message_id"])
    assert row["wamid"] == results[7]["wamid"]
    assert row["accepted_at"] is not None
    assert land.count("queue") == 0


async def test_an_acceptance_counts_even_under_an_id_that_cannot_be_stored(stack: Stack, land: Land) -> None:
    [message] = land.leased(land.template())
    async with settling(stack) as settled:
        settled.add(accepted(land, message, wamid="wamid.\0"))
        await settled.finish(10)

    assert states(land, [message]) == ["accepted"]
    assert land.count("queue") == 0


@pytest.mark.parametrize("outcome", ["rejected", "retry", "held", "released", "unknown"])
async def test_every_outcome_lands_without_the_words_that_cannot_be_stored(
    stack: Stack, land: Land, outcome: str
) -> None:
    [message] = land.leased(land.template())
    async with settling(stack) as settled:
        result: Any = land.outcome(message, outcome, details="a\0b", code=131000, wait_seconds=600, max_attempts=5)
        settled.add(result)
        await settled.finish(10)

    row = land.message(message["message_id"])
    assert row["state"] == {"rejected": "failed", "unknown": "unknown"}.get(outcome, "queued")
    assert row["error_code"] == 131000
    assert land.claim()["leases"] == []


@pytest.mark.parametrize("state", ["XX000", "23505"])
async def test_a_result_that_fails_again_and_again_loses_its_extras_and_holds_up_nobody(
    stack: Stack, land: Land, broken: Any, state: str
) -> None:
    messages = land.leased(*(land.template() for _ in range(20)))
    stuck = messages[3]
    broken("contacts", state, "new.wa_id = '99000000000'")
    async with settling(stack) as settled:
        for message in messages:
            settled.add(accepted(land, message, wa_id="99000000000" if message is stuck else None))
        await until(lambda: states(land, messages).count("accepted") >= 19)
        await settled.finish(20)

    assert states(land, messages) == ["accepted"] * 20


async def test_what_cannot_be_settled_at_all_is_kept_while_others_go_on_and_the_next_run_settles_it(
    stack: Stack, database: Database, land: Land, broken: Any
) -> None:
    messages = land.leased(*(land.template() for _ in range(20)))
    stuck = messages[3]["message_id"]
    broken("messages", "XX000", f"new.message_id = '{stuck}'")
    async with settling(stack) as settled:
        for message in messages:
            settled.add(accepted(land, message))
        await until(lambda: states(land, messages).count("accepted") == 19)
        # The batch counts as under way until its last half has been tried.
        await until(lambda: len(settled) == 1)
    database.execute("drop function whatsapp_internal.broken_on_purpose cascade")

    async with settling(stack):
        await until(lambda: states(land, messages) == ["accepted"] * 20)


@pytest.mark.parametrize("politely", [True, False])
@pytest.mark.filterwarnings("ignore:.*[Uu]nclosed", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_what_is_under_way_when_a_loop_ends_is_settled_in_the_next_loop_of_the_process(
    stack: Stack, land: Land, monkeypatch: pytest.MonkeyPatch, politely: bool
) -> None:
    messages = land.leased(*(land.template() for _ in range(4)))
    results = [accepted(land, message) for message in messages]
    async with front_of(stack.rest_url) as front:
        for name, value in (stack.env() | {"SUPABASE_URL": front.url, "WHATSAPP_DOTENV": "off"}).items():
            monkeypatch.setenv(name, value)
        process.cache_clear()
        front.fail("/rpc/settle", 503)
        ended = await asyncio.to_thread(settle_until, lambda: "/rest/v1/rpc/settle" in front.paths, results, politely)
        front.heal()
        assert states(land, messages) == ["sending"] * 4

        async with of_loop():
            await until(lambda: states(land, messages) == ["accepted"] * 4)
        await Runtime.close_of_loop()
    process.cache_clear()
    assert ended.done() == politely
    del ended
    gc.collect()


def of_loop() -> Settling:
    runtime = Runtime.of_loop()
    return Settling(runtime.verbs.settle, asyncio.Event())


def settle_until(enough: Callable[[], bool], results: list[Any], politely: bool) -> asyncio.Task[None]:
    """Settle in a loop of its own, which then ends: by cancelling what runs, or just so."""

    async def settle() -> None:
        async with of_loop() as settled:
            for result in results:
                settled.add(result)
            await asyncio.Event().wait()

    async def begin() -> asyncio.Task[None]:
        running = asyncio.create_task(settle())
        await until(enough)
        return running

    async def end() -> None:
        running.cancel()
        await asyncio.wait([running])
        await Runtime.close_of_loop()

    loop = asyncio.new_event_loop()
    running = loop.run_until_complete(begin())
    if politely:
        loop.run_until_complete(end())
    loop.close()
    return running


async def test_an_answer_nobody_can_read_is_no_end(stack: Stack, land: Land) -> None:
    """JSON, and 200, but not what settle answers."""
    messages = land.leased(*(land.template() for _ in range(4)))
    async with front_of(stack.rest_url) as front:
        front.fail("/rpc/settle", 200, b"[1,2]", times=3)
        async with settling(stack, front.url) as settled:
            for message in messages:
                settled.add(accepted(land, message))
            await settled.finish(10)

    assert states(land, messages) == ["accepted"] * 4
