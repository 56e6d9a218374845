"""Meta's limits as the stand-in for Meta can enforce them (tests only). All are off until a test switches
them on.

Sources: throughput (per business number, inbound and outbound together), pair rate (one message per 6 s to
the same person, 45 borrowed in a burst), 24-hour customer service window.
"""

from collections import deque
from time import time

WINDOW_SECONDS = 24 * 3600


class Throughput:
    """At most `per_second` messages of a number within any one second (no burst is documented)."""

    def __init__(self) -> None:
        self._limits: dict[str, tuple[float, deque[float]]] = {}

    def limit(self, number_id: str, per_second: float | None) -> None:
        if per_second is None:
            self._limits.pop(number_id, None)
        else:
            self._limits[number_id] = (per_second, deque())

    def spend(self, number_id: str, now: float) -> bool:
        """True when the message fits; only those that fit are counted."""
        limit = self._limits.get(number_id)
        if limit is None:
            return True
        per_second, recent = limit
        while recent and recent[0] <= now - 1:
            recent.popleft()
        if len(recent) >= per_second:
            return False
        recent.append(now)
        return True


class PairRate:
    """One message per `every_seconds` to a person from a number, `burst` of them borrowed ahead."""

    def __init__(self) -> None:
        self.every_seconds: float | None = None
        self.burst = 45
        self._free_at: dict[tuple[str, str], float] = {}

    def spend(self, number_id: str, user_id: str, now: float) -> bool:
        if self.every_seconds is None:
            return True
        pair = (number_id, user_id)
        free_at = max(self._free_at.get(pair, now), now)
        if free_at - now > (self.burst - 1) * self.every_seconds:
            return False
        self._free_at[pair] = free_at + self.every_seconds
        return True


class Windows:
    """Who wrote to which number when, by wall clock."""

    def __init__(self) -> None:
        self.enforced = False
        self._last: dict[tuple[str, str], float] = {}

    def opened(self, number_id: str, user_id: str, at: float) -> None:
        self._last[number_id, user_id] = max(at, self._last.get((number_id, user_id), 0))

    def closed(self, number_id: str, user_id: str) -> bool:
        """True when windows are enforced and free-form messages to this person would be refused (131047)."""
        return self.enforced and time() - self._last.get((number_id, user_id), 0) > WINDOW_SECONDS
