"""Waiting for news: many who wait for something of one caller's share one read, and nobody waits in great numbers.

A read carries the caller's token, so that row level security decides what each may see: those with the same token are
read for together, at most every 0.4 seconds, and no connection is held meanwhile.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from services.whatsapp.actors import Actor, Server
from services.whatsapp.refusals import refuse
from services.whatsapp.runtime import Runtime

EVERY = 0.4
"""Seconds between two looks for one caller."""
MOST_OF_A_USER = 20
MOST_OF_SERVERS = 200
MOST = 400
"""Reading calls under way at once in a loop: of one user, of all servers with a secret key, and of everybody."""
_SERVERS = "servers"
_KEYS_A_READ = 100
_READS_AT_ONCE = 3

Key = TypeVar("Key")
Value = TypeVar("Value")
Read = Callable[[Actor, Sequence[Key]], Awaitable[Mapping[Key, Value]]]


class Watch(Generic[Key, Value]):
    """`read` gives what is there of the keys for an actor. Belongs to one event loop."""

    def __init__(self, read: Read[Key, Value], every: float = EVERY) -> None:
        self._read = read
        self._every = every
        self._at_once = asyncio.Semaphore(_READS_AT_ONCE)
        self._waiting: dict[Actor, list[tuple[Sequence[Key], asyncio.Future[Mapping[Key, Value]]]]] = {}
        self._looking: dict[Actor, asyncio.Task[None]] = {}

    async def look(self, actor: Actor, keys: Sequence[Key]) -> Mapping[Key, Value]:
        """What is there at the next look, with what others with their token wait for. Raises what `read` does."""
        seen: asyncio.Future[Mapping[Key, Value]] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(actor, []).append((keys, seen))
        if actor not in self._looking:
            self._looking[actor] = asyncio.create_task(self._look(actor))
        return await seen

    async def close(self) -> None:
        """Look no more. Whoever still waits is cancelled."""
        while self._looking:
            for task in self._looking.values():
                task.cancel()
            await asyncio.wait(self._looking.values())

    async def _look(self, actor: Actor) -> None:
        try:
            while actor in self._waiting:
                await asyncio.sleep(self._every)
                waiting = [each for each in self._waiting.pop(actor) if not each[1].done()]
                await self._tell(actor, waiting)
        finally:
            del self._looking[actor]
            for _, seen in self._waiting.pop(actor, ()):
                seen.cancel()

    async def _tell(
        self, actor: Actor, waiting: Sequence[tuple[Sequence[Key], asyncio.Future[Mapping[Key, Value]]]]
    ) -> None:
        keys = list(dict.fromkeys(key for wanted, _ in waiting for key in wanted))
        found: dict[Key, Value] = {}
        try:
            async with self._at_once:
                for start in range(0, len(keys), _KEYS_A_READ):
                    found |= await self._read(actor, keys[start : start + _KEYS_A_READ])
        except Exception as error:
            for _, seen in waiting:
                if not seen.done():
                    seen.set_exception(error)
            return
        except asyncio.CancelledError:
            for _, seen in waiting:
                seen.cancel()
            raise
        for _, seen in waiting:
            if not seen.done():
                seen.set_result(found)


@contextmanager
def one_more(runtime: Runtime, actor: Actor) -> Iterator[None]:
    """Counts a reading call of a user, or of all servers, while it is under way. Refuses `too_many_polls`."""
    who, most = (_SERVERS, MOST_OF_SERVERS) if isinstance(actor, Server) else (actor.user_id, MOST_OF_A_USER)
    under_way = runtime.part(_under_way)
    if under_way[who] >= most or under_way.total() >= MOST:
        raise refuse("too_many_polls", limit=most)
    under_way[who] += 1
    try:
        yield
    finally:
        under_way[who] -= 1
        if not under_way[who]:
            del under_way[who]


def _under_way(_: Runtime) -> Counter[str]:
    return Counter()
