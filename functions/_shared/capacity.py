"""Capacity for large bodies: how many bytes of them this process has in memory at once, whoever sends them.

A body takes its room before it is read and keeps it until its request is answered. One that finds none waits unread,
for a while, where it costs nothing but a socket. Bodies of an ordinary size neither take room nor wait for it, so that
those who send large ones slowly hold up nobody else.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Scope

from functions._shared.body import announced
from services.whatsapp.refusals import refuse
from services.whatsapp.runtime import Runtime

MOST = 32 * 1024 * 1024
"""Bytes of large bodies at once. What is made of a body may be several times its size."""
ORDINARY = 64 * 1024
"""Bytes below which a body takes no room. A server has read that much of each already."""
PATIENCE = 10.0
"""Seconds a body may wait for room."""
_MOST_WAITING = 200


class Capacity:
    """`most` bytes, given out in the order in which they are asked for."""

    def __init__(self, most: int = MOST, patience: float = PATIENCE) -> None:
        self._free = most
        self._patience = patience
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, size: int, code: str) -> AsyncIterator[None]:
        """Capacity for `size` bytes while the block runs. Refuses `code` where there is none for too long."""
        await self._take(size, code)
        try:
            yield
        finally:
            self._give_back(size)

    async def _take(self, size: int, code: str) -> None:
        if not self._waiting and size <= self._free:
            self._free -= size
            return
        if len(self._waiting) >= _MOST_WAITING:
            raise refuse(code)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            async with asyncio.timeout(self._patience):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._give_back(size)
            else:
                self._waiting.remove((size, turn))
                self._call_next()
            if isinstance(error, TimeoutError):
                raise refuse(code) from None
            raise

    def _give_back(self, size: int) -> None:
        self._free += size
        self._call_next()

    def _call_next(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            size, turn = self._waiting.popleft()
            self._free -= size
            turn.set_result(None)


@asynccontextmanager
async def capacity_for(
    runtime: Runtime, scope: Scope, limit: int, code: str = "too_many_bodies"
) -> AsyncIterator[None]:
    """Capacity for the body of a request that may have `limit` bytes. Refuses `body_too_large` and `code`."""
    length = announced(scope, limit)
    # A body of unknown length may be as long as is allowed.
    size = limit if length is None else length
    if size <= ORDINARY:
        yield
    else:
        async with runtime.part(_capacity).hold(size, code):
            yield


def _capacity(_: Runtime) -> Capacity:
    return Capacity()
