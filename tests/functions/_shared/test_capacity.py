"""Large bodies share the room there is; those of an ordinary size never wait for it."""

import asyncio

import pytest
from starlette.types import Scope

from functions._shared.capacity import MOST, ORDINARY, Capacity, capacity_for
from services.whatsapp.refusals import RefusalError
from services.whatsapp.runtime import Runtime
from services.whatsapp.settings import Settings

CODE = "too_many_bodies"


class Guest:
    """Somebody who wants room and keeps it until told to go."""

    def __init__(self, room: Capacity, size: int) -> None:
        self.inside = False
        self._leave = asyncio.Event()
        self.task = asyncio.create_task(self._stay(room, size))

    async def _stay(self, room: Capacity, size: int) -> None:
        async with room.hold(size, CODE):
            self.inside = True
            await self._leave.wait()

    async def leave(self) -> None:
        self._leave.set()
        await self.task


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_finds_no_room_waits_for_it_in_order() -> None:
    room = Capacity(10)
    first, second, third = Guest(room, 8), Guest(room, 4), Guest(room, 1)
    await settled()
    assert (first.inside, second.inside, third.inside) == (True, False, False)
    await first.leave()
    await settled()
    assert (second.inside, third.inside) == (True, True)
    await asyncio.gather(second.leave(), third.leave())


async def test_who_waits_too_long_is_refused_and_leaves_no_trace() -> None:
    room = Capacity(10, patience=0.01)
    first, second = Guest(room, 8), Guest(room, 4)
    with pytest.raises(RefusalError) as refused:
        await second.task
    assert (refused.value.code, refused.value.status) == (CODE, 503)
    await first.leave()
    whole = Guest(room, 10)
    await settled()
    assert whole.inside
    await whole.leave()


async def test_who_hangs_up_while_waiting_lets_the_next_one_in() -> None:
    room = Capacity(10)
    first, second, third = Guest(room, 8), Guest(room, 4), Guest(room, 2)
    await settled()
    second.task.cancel()
    await settled()
    assert third.inside
    await asyncio.gather(first.leave(), third.leave())


async def test_who_fails_inside_gives_the_room_back() -> None:
    room = Capacity(10, patience=0.01)
    for _ in range(3):
        with pytest.raises(ValueError, match="inside"):
            async with room.hold(10, CODE):
                raise ValueError("inside")


@pytest.fixture
def runtime() -> Runtime:
    return Runtime(Settings.read({"SUPABASE_URL": "http://127.0.0.1:9", "SUPABASE_SECRET_KEY": "sb_secret_x"}))


def request(length: int | None) -> Scope:
    return {"headers": [] if length is None else [(b"content-length", str(length).encode())]}


async def test_ordinary_bodies_pass_while_large_ones_fill_the_room(runtime: Runtime) -> None:
    async with (
        capacity_for(runtime, request(MOST), MOST),
        asyncio.timeout(1),
        capacity_for(runtime, request(ORDINARY), MOST),
    ):
        pass


async def test_a_body_of_unknown_length_takes_what_it_may_become(runtime: Runtime) -> None:
    async with capacity_for(runtime, request(None), MOST):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), capacity_for(runtime, request(ORDINARY + 1), MOST):
                pass
