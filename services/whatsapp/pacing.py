"""Backoff and spacing: arithmetic only. Chance and clock come from outside: the same input gives the same delay."""

_MOST_DOUBLINGS = 64
_EARLY = 0.006
_CLOSER = 0.96


def retry_delay(attempt: int, *, base: float, cap: float, jitter: float) -> float:
    """Seconds before the next try after `attempt` failures (from 1): exponential with full jitter.

    `base` seconds is the ceiling after the first failure, doubling up to `cap`; `jitter` in 0..1 picks the
    point between 0 and that ceiling, so that many failures at once do not come back at once.
    """
    doublings = min(max(attempt - 1, 0), _MOST_DOUBLINGS)
    return min(cap, base * 2.0**doublings) * jitter


def pair_delay(failures: int, *, cap: float = 3_600) -> float:
    """Seconds before the next message to one person after `failures` answers 131056 in a row (from 1).

    4^x with x from 0. Source: Meta, about-the-platform, pair rate limits. The cap of an hour is ours.
    """
    exponent = min(max(failures - 1, 0), _MOST_DOUBLINGS)
    return min(cap, 4.0**exponent)


class Spacing:
    """Keeps the starts of one number's messages apart, however late they come.

    Slots lie evenly, but a process that was held up for a moment finds many of them past. Posting those at once would
    exceed the number's rate in that second, so they follow one another a little closer than slots lie, until what
    was late is made up for. Less than 6 ms early or late is let through as it comes.
    """

    def __init__(self) -> None:
        self._free_at = 0.0

    def reserve(self, now: float, step: float) -> float:
        """When the next message may start, `now` or later; each call takes one place. In seconds of one clock."""
        at = max(now, self._free_at - _EARLY)
        self._free_at = max(now, self._free_at) + step * _CLOSER
        return at
