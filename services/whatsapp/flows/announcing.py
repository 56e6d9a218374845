"""Saying what is about to be posted, a moment before it is.

When a process dies, nobody knows what it had posted. What it had not even announced, it certainly had not: that goes
back to the queue at once, and only the rest is unknown. So a lease may be posted up to its mark, which the claim sets
and this moves on, for all leases in one small call, a few times a second.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from services.whatsapp import log
from services.whatsapp.clients.verbs import Announced

_EVERY = 0.05
_LONGEST_PAUSE = 1.0
"""Seconds between two calls that fail, at the most: from one to the next it is twice as long."""
_CALLS = 3
"""A message is announced so many calls ahead of its slot: late, it would be posted late, and exceed the rate."""
_ALL = 60.0
_FORGET = 0.95

Announce = Callable[[Sequence[Announced]], Awaitable[list[str]]]

_log = log.get("announce")


@dataclass(slots=True, eq=False)
class Lease:
    """A leased batch: its messages' places in it with their slots (by the loop's clock), and up to which place they
    may be posted."""

    country_id: str
    lease_id: str
    slots: list[tuple[int, float]]
    may_post: int
    waiting: deque[tuple[int, Callable[[], None]]] = field(default_factory=deque)

    def when_announced(self, place: int, start: Callable[[], None]) -> None:
        """Calls `start` now, or as soon as the message at this place may be posted."""
        if place <= self.may_post:
            start()
        else:
            self.waiting.append((place, start))

    def due(self, until: float) -> int:
        """The last place whose slot comes until then."""
        return max((place for place, slot in self.slots if slot <= until), default=0)

    @property
    def is_announced(self) -> bool:
        return not self.slots or self.slots[-1][0] <= self.may_post

    def move_on(self, may_post: int) -> None:
        self.may_post = may_post
        while self.waiting and self.waiting[0][0] <= may_post:
            self.waiting.popleft()[1]()


class Announcing:
    """Moves the marks of leases on. What cannot be announced just now waits, and is released if it waits too long."""

    def __init__(self, announce: Announce) -> None:
        self._announce = announce
        self._call: float | None = None
        """Seconds that a call takes at the most, as seen lately."""
        self._leases: set[Lease] = set()
        self.pause = _EVERY
        """Seconds until the next call."""

    @property
    def ahead(self) -> float:
        """Seconds before its slot that a message is announced. All at once, until a call has been seen."""
        return _ALL if self._call is None else 2 * _EVERY + _CALLS * self._call

    def learn(self, seconds: float) -> None:
        """A call to the database took so long."""
        self._call = seconds if self._call is None else max(seconds, _FORGET * self._call)

    def add(self, lease: Lease) -> None:
        if not lease.is_announced:
            self._leases.add(lease)

    async def run(self) -> None:
        """For ever, until cancelled."""
        while True:
            await asyncio.sleep(self.pause)
            await self._move_on()

    async def _move_on(self) -> None:
        until = asyncio.get_running_loop().time() + self.ahead
        due = {each: each.due(until) for each in self._leases}
        due = {lease: place for lease, place in due.items() if place > lease.may_post}
        if not due:
            return
        asked = time.monotonic()
        try:
            held = await self._announce(
                [
                    {"country_id": lease.country_id, "lease_id": lease.lease_id, "may_post": place}
                    for lease, place in due.items()
                ]
            )
        except Exception as error:
            self.pause = min(2 * self.pause, _LONGEST_PAUSE)
            _log.warning("not_announced", error=error, leases=len(due))
            return
        finally:
            self.learn(time.monotonic() - asked)
        self.pause = _EVERY
        for lease, place in due.items():
            if lease.lease_id in held:
                lease.move_on(place)
            if lease.is_announced or lease.lease_id not in held:
                self._leases.discard(lease)
