"""What belongs to an event loop goes with it."""

import asyncio
import gc
import weakref

from services.whatsapp.per_loop import PerLoop


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
