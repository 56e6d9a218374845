"""Backoff and spacing."""

from bisect import bisect_left

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.whatsapp.pacing import Spacing, pair_delay, retry_delay


@pytest.mark.parametrize(("attempt", "ceiling"), [(1, 2.0), (2, 4.0), (3, 8.0), (4, 16.0), (6, 60.0), (10_000, 60.0)])
def test_the_ceiling_doubles_up_to_the_cap(attempt: int, ceiling: float) -> None:
    assert retry_delay(attempt, base=2, cap=60, jitter=1) == ceiling
    assert retry_delay(attempt, base=2, cap=60, jitter=0.25) == ceiling / 4


@given(st.integers(), st.floats(0, 1), st.floats(0, 1_000), st.floats(0, 100_000))
def test_a_delay_is_never_negative_nor_above_the_cap(attempt: int, jitter: float, base: float, cap: float) -> None:
    assert 0 <= retry_delay(attempt, base=base, cap=cap, jitter=jitter) <= cap


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 1), (1, 1), (2, 4), (3, 16), (4, 64), (5, 256), (6, 1024), (7, 3600), (99, 3600)]
)
def test_pair_delay_is_four_to_the_x(failures: int, seconds: int) -> None:
    assert pair_delay(failures) == seconds


RATE = 1_000
STEP = 1.05 / RATE
"""As slots lie apart: see slot_step in the gates."""


def busiest_second(starts: list[float]) -> int:
    return max(bisect_left(starts, first + 1) - position for position, first in enumerate(starts))


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 0.5)), max_size=3))
def test_however_a_process_is_held_up_no_second_exceeds_the_rate(stalls: list[tuple[float, float]]) -> None:
    """`stalls`: when, and for how long. Slots of that time are met at its end."""
    slots = [n * STEP for n in range(int(2 / STEP))]
    met = [max([slot, *(at + lasts for at, lasts in stalls if at <= slot < at + lasts)]) for slot in slots]
    spacing = Spacing()
    starts = [spacing.reserve(now, STEP) for now in sorted(met)]
    assert all(start >= now for start, now in zip(starts, sorted(met), strict=True))
    assert busiest_second(starts) <= RATE


def test_who_comes_in_time_does_not_wait() -> None:
    spacing = Spacing()
    slots = [n * STEP for n in range(500)]
    assert [spacing.reserve(now, STEP) for now in slots] == slots


def test_what_was_late_is_made_up_for() -> None:
    spacing = Spacing()
    late = [max(n * STEP, 0.2) for n in range(int(8 / STEP))]
    starts = [spacing.reserve(now, STEP) for now in late]
    assert starts[300] > late[300]
    assert starts[-1] == late[-1]
