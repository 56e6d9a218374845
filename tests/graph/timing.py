"""Time in the stand-in for Meta (tests only): how long an answer takes, and many timers for the price of
one."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from random import Random
from time import monotonic
from typing import Any


@dataclass(slots=True)
class Latency:
    """Time until an answer: `ms` plus up to `jitter_ms`; a share `tail_share` takes `tail_ms` instead."""

    ms: float = 0
    jitter_ms: float = 0
    tail_share: float = 0
    tail_ms: float = 0

    def draw(self, random: Random) -> float:
        """Seconds of one answer."""
        if self.tail_share and random.random() < self.tail_share:
            return self.tail_ms / 1000
        if self.jitter_ms:
            return (self.ms + random.random() * self.jitter_ms) / 1000
        return self.ms / 1000


class Wheel:
    """Calls due in the same millisecond share one timer of the loop: thousands of answers wait at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: dict[int, list[tuple[Callable[..., object], tuple[Any, ...]]]] = {}

    def after(self, seconds: float, call: Callable[..., object], *args: Any) -> None:
        """Call once after at least `seconds`; at once when that is not positive."""
        if seconds <= 0:
            call(*args)
            return
        now = monotonic()
        tick = ceil((now + seconds) * 1000)
        waiting = self._due.get(tick)
        if waiting is None:
            self._due[tick] = [(call, args)]
            # uvloop rounds to whole milliseconds: round up ourselves, an answer must not be early
            self._loop.call_later(ceil(tick - now * 1000) / 1000, self._ring, tick)
        else:
            waiting.append((call, args))

    def clear(self) -> None:
        self._due.clear()

    def __len__(self) -> int:
        return sum(len(waiting) for waiting in self._due.values())

    def _ring(self, tick: int) -> None:
        for call, args in self._due.pop(tick, ()):
            call(*args)
