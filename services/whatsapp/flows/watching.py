"""Waiting for news: many who wait for something of one caller's share one read, and nobody waits in great numbers.

A read carries the caller's token, so that row level security decides what each may see: those with the same token are
read for together, at most every 0.4 seconds, and no connection is held meanwhile.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from services.whatsapp.refusals import refuse

EVERY = 0.4
"""Seconds between two looks for one caller."""
MOST_OF_A_USER = 20
MOST_OF_SERVERS = 200
MOST = 400
"""Reading calls under way at once: of one user, of all servers with a secret key, and of everybody in this process."""
_KEYS_A_READ = 100
_READS_AT_ONCE = 3

Key = TypeVar("Key")
Value = TypeVar("Value")
Read = Callable[[str | None, Sequence[Key]], Awaitable[Mapping[Key, Value]]]


class Watch(Generic[Key, Value]):
    """`read` gives what is there of the keys for a token. Belongs to one event loop."""

    def __init__(self, read: Read[Key, Value], every: float = EVERY) -> None:
        self._read = read
        self._every = every
        self._at_once = asyncio.Semaphore(_READS_AT_ONCE)
        self._waiting: dict[str | None, list[tuple[Sequence[Key], asyncio.Future[Mapping[Key, Value]]]]] = {}
        self._looking: dict[str | None, asyncio.Task[None]] = {}

    async def look(self, token: str | None, keys: Sequence[Key]) -> Mapping[Key, Value]:
        """What is there at the next look, with what others with this token wait for. Raises what `read` does."""
        seen: asyncio.Future[Mapping[Key, Value]] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(token, []).append((keys, seen))
        if token not in self._looking:
            self._looking[token] = asyncio.create_task(self._look(token))
        return await seen

    async def _look(self, token: str | None) -> None:
        try:
            while token in self._waiting:
                await asyncio.sleep(self._every)
                waiting = [each for each in self._waiting.pop(token) if not each[1].done()]
                await self._tell(token, waiting)
        finally:
            del self._looking[token]
            for _, seen in self._waiting.pop(token, ()):
                seen.cancel()

    async def _tell(
        self, token: str | None, waiting: Sequence[tuple[Sequence[Key], asyncio.Future[Mapping[Key, Value]]]]
    ) -> None:
        keys = list(dict.fromkeys(key for wanted, _ in waiting for key in wanted))
        found: dict[Key, Value] = {}
        try:
            async with self._at_once:
                for start in range(0, len(keys), _KEYS_A_READ):
                    found |= await self._read(token, keys[start : start + _KEYS_A_READ])
        except Exception as error:
            for _, seen in waiting:
                if not seen.done():
                    seen.set_exception(error)
            return
        for _, seen in waiting:
            if not seen.done():
                seen.set_result(found)


_under_way: Counter[str | None] = Counter()


@contextmanager
def one_more(user_id: str | None) -> Iterator[None]:
    """Counts a reading call of the user, or of a server, while it is under way. Refuses `too_many_polls`."""
    most = MOST_OF_SERVERS if user_id is None else MOST_OF_A_USER
    if _under_way[user_id] >= most or _under_way.total() >= MOST:
        raise refuse("too_many_polls", limit=most)
    _under_way[user_id] += 1
    try:
        yield
    finally:
        _under_way[user_id] -= 1
        if not _under_way[user_id]:
            del _under_way[user_id]
