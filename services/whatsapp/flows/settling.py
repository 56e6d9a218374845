"""Keeping what Meta answered until the database has it.

A result is never thrown away while the process lives. What is wrong with the database as a whole makes all wait, in the
order they came. What is wrong with one result makes that one wait: a batch that fails is settled in halves, so that the
others get through, and the culprit is then settled without its extras, for the fact must land: that Meta took the
message, and under which id. What a run could not settle by its end, or when
its loop was closed under it, the next run in this process goes on with.
"""

import asyncio
import contextlib
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

from services.whatsapp import log
from services.whatsapp.clients.failures import ATTEMPTS, Rejected, Unavailable
from services.whatsapp.clients.verbs import Result

Settle = Callable[[Sequence[Result], int], Awaitable[object]]
"""Settles results, with so many attempts."""

_EVERY = 0.05
_FULL = 250
_MOST = 500
_PAUSE, _LONGEST_PAUSE = 1.0, 5.0
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
_PATIENCE = 2
"""Times a result fails by something that may pass before its extras are suspected."""
_AT_A_TIME = 10
"""Stubborn results tried before fresh ones get their turn."""
_TOO_MANY = 50
"""So many stubborn results are no accident: it is the database."""

_IDS = ("country_id", "message_id", "lease_id", "outcome", "wait_seconds", "max_attempts")
_FORMS: tuple[tuple[str, ...], ...] = ((*_IDS, "effect", "wamid", "code"), (*_IDS, "wamid"), _IDS)
"""What is left of a result that the database does not take: without Meta's words, then the fact and its wamid, then the
fact alone."""

_log = log.get("settle")


@dataclass(slots=True, eq=False)
class Stubborn:
    """A result that failed by itself: when it is tried again (by the monotonic clock), and how often it has been."""

    result: Result
    due: float = 0.0
    failures: int = 0


@dataclass(slots=True, eq=False)
class Kept:
    """What of a run is not in the database yet. The process keeps it, whatever becomes of the run and of its loop."""

    loop: "weakref.ref[asyncio.AbstractEventLoop]"
    fresh: deque[Result] = field(default_factory=deque)
    under_way: list[Result] = field(default_factory=list)
    stubborn: list[Stubborn] = field(default_factory=list)
    ended: bool = False

    def results(self) -> list[Result]:
        return [*self.under_way, *self.fresh, *(each.result for each in self.stubborn)]

    @property
    def is_nobodys(self) -> bool:
        """Whether the run it belonged to is over. A loop that is closed in the middle of it tells nobody."""
        loop = self.loop()
        return self.ended or loop is None or loop.is_closed()


_kept: set[Kept] = set()


class Settling:
    """Results on their way into the database. `changed` is set whenever some have arrived there, or could not.

    Within `async with` it settles all the while, what earlier runs have left first of all; `finish` waits for the rest.
    """

    _running: asyncio.Task[None]

    def __init__(self, settle: Settle, changed: asyncio.Event) -> None:
        self._settle = settle
        self._changed = changed
        self._kept = Kept(weakref.ref(asyncio.get_running_loop()))
        self._pauses = 0

    def __len__(self) -> int:
        """Results that are not in the database yet."""
        return len(self._kept.fresh) + len(self._kept.stubborn) + len(self._kept.under_way)

    @property
    def is_held_up(self) -> bool:
        """Whether the database takes nothing just now, or hardly anything."""
        return self._pauses > 0 or len(self._kept.stubborn) > _TOO_MANY

    def add(self, result: Result) -> None:
        self._kept.fresh.append(result)

    async def __aenter__(self) -> "Settling":
        for left in [each for each in _kept.copy() if each.is_nobodys]:
            with contextlib.suppress(KeyError):  # another thread was quicker
                _kept.remove(left)
                self._kept.fresh.extend(left.results())
        _kept.add(self._kept)
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            self._running.cancel()
            await asyncio.wait([self._running])
        finally:
            self._kept.ended = True
            if len(self):
                _log.error("unsettled", results=len(self))
            else:
                _kept.discard(self._kept)

    async def finish(self, seconds: float) -> None:
        """Wait until everything is settled, or time is up: the rest is left to the next run in this process."""
        ends = time.monotonic() + seconds
        while len(self) and (left := ends - time.monotonic()) > 0:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    async def _run(self) -> None:
        """For ever: nothing but being cancelled ends this."""
        while True:
            await asyncio.sleep(_EVERY)
            await self._settle_due()

    async def _settle_due(self) -> None:
        fresh, stubborn = self._kept.fresh, self._kept.stubborn
        while fresh:
            batch = self._kept.under_way = [fresh.popleft() for _ in range(min(_MOST, len(fresh)))]
            await self._settle_or_keep(batch)
            if self._pauses:
                await asyncio.sleep(min(_PAUSE * self._pauses, _LONGEST_PAUSE))
            elif len(fresh) < _FULL:
                break
        now = time.monotonic()
        for each in [each for each in stubborn if each.due <= now][:_AT_A_TIME]:
            await self._insist(each)

    async def _settle_or_keep(self, batch: list[Result]) -> None:
        """Settle a batch; whatever of it the database does not take is kept."""
        rest = batch
        try:
            rest = await self._settle_in_parts(batch)
        finally:
            # Cancelled or not: what is not known to be settled is kept, and settling twice changes nothing.
            self._kept.under_way = []
            self._kept.fresh.extendleft(reversed(rest))
            self._changed.set()

    async def _settle_in_parts(self, batch: list[Result], attempts: int = ATTEMPTS) -> list[Result]:
        """Settle a batch, in halves where it fails by one of its results. Returns what must wait for the database."""
        try:
            await self._settle(batch, attempts)
            self._pauses = 0
            return []
        except Unavailable as error:
            if not error.divisible:
                self._pauses += 1
                _log.error("settle_failed", code=error.cause, waiting=len(self))
                return batch
            code = error.cause
        except Rejected as error:
            code = error.code
        except Exception as error:
            _log.error("settle_broke", error=error, results=len(batch))
            code = type(error).__name__
        if len(batch) == 1:
            self._kept.stubborn.append(Stubborn(batch[0]))
            return []
        _log.warning("settle_in_halves", code=code, results=len(batch))
        middle = len(batch) // 2
        # In turn: if the first half meets a database that is away, the second need not.
        rest = await self._settle_in_parts(batch[:middle], 1)
        return rest + (batch[middle:] if rest else await self._settle_in_parts(batch[middle:], 1))

    async def _insist(self, stubborn: Stubborn) -> None:
        """Settle one result, with less and less of it where that is what the database does not take."""
        result = stubborn.result
        code = ""
        for form in (tuple(result), *_FORMS):
            try:
                await self._settle([cast(Result, {name: value for name, value in result.items() if name in form})], 1)
            except Rejected as error:
                code = error.code
            except Unavailable as error:
                code = error.cause
                if not error.divisible or stubborn.failures < _PATIENCE:
                    break
            except Exception as error:
                code = type(error).__name__
            else:
                self._kept.stubborn.remove(stubborn)
                if code:
                    without = sorted(set(result) - set(form))
                    _log.error("settled_without", message_id=result["message_id"], code=code, without=without)
                self._changed.set()
                return
        stubborn.failures += 1
        stubborn.due = time.monotonic() + min(_FIRST_WAIT * 2**stubborn.failures, _LONGEST_WAIT)
        _log.error("not_settled", message_id=result["message_id"], outcome=result["outcome"], code=code)
