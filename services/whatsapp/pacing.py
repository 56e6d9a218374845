"""Backoff arithmetic. Chance comes from outside: the same input gives the same delay."""

_MOST_DOUBLINGS = 64


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
