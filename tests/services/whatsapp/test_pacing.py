"""Backoff arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.whatsapp.pacing import pair_delay, retry_delay


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
