"""What belongs to an event loop goes with it."""

import asyncio
import gc
import weakref

import pytest

from functions._shared.jwks import JwksCache
from services.whatsapp.clients import graph, postgrest
from services.whatsapp.per_loop import PerLoop
from services.whatsapp.settings import Settings
from tests.graph import World


class Thing:
    """Holds on to its loop, as connections do."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()


async def get(things: PerLoop[Thing]) -> Thing:
    return things.get(Thing)


def test_a_loop_has_one_thing_and_another_loop_another() -> None:
    things: PerLoop[Thing] = PerLoop()

    async def twice() -> tuple[Thing, Thing]:
        return things.get(Thing), things.get(Thing)

    first, again = asyncio.run(twice())
    other, _ = asyncio.run(twice())
    assert first is again
    assert other is not first


def test_things_of_closed_loops_are_forgotten() -> None:
    things: PerLoop[Thing] = PerLoop()
    kept = [weakref.ref(asyncio.run(get(things))) for _ in range(5)]
    last = asyncio.run(get(things))
    gc.collect()
    assert [each() for each in kept] == [None] * 5
    assert last is not None


@pytest.mark.filterwarnings("ignore:.*[Uu]nclosed", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_clients_of_closed_loops_are_forgotten() -> None:
    """A host may run each request in a loop of its own, and end none of them politely."""
    environment = {"SUPABASE_URL": "http://127.0.0.1:9", "SUPABASE_SECRET_KEY": "sb_secret_x"}
    settings = Settings.read(environment | World.random(("MX",)).env("http://127.0.0.1:9"))

    [account] = settings.directory

    async def use() -> list[weakref.ref[object]]:
        await graph.shared(settings).send(account, {})
        return [weakref.ref(graph.shared(settings)), weakref.ref(postgrest.shared(settings))]

    async def use_politely() -> None:
        await use()
        await graph.close_shared()
        await postgrest.close_shared()

    kept = [each for _ in range(5) for each in asyncio.run(use())]
    asyncio.run(use_politely())
    gc.collect()
    assert [each() for each in kept] == [None] * 10


def test_keys_are_fetched_in_one_loop_after_another_however_many_ask() -> None:
    """A lock that has seen callers wait in one loop refuses those of the next."""

    async def ask(cache: JwksCache) -> None:
        answers = await asyncio.gather(*(cache.find("key") for _ in range(5)), return_exceptions=True)
        assert {getattr(answer, "code", None) for answer in answers} == {"signing_keys_unavailable"}

    times = iter(range(0, 100_000, 1_000))
    cache = JwksCache("http://127.0.0.1:9/jwks", clock=lambda: float(next(times)))
    for _ in range(3):
        asyncio.run(ask(cache))
