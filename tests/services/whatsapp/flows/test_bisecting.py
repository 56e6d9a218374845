"""Whatever makes the database refuse a batch, each of its items gets an answer of its own."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.whatsapp.clients.failures import Rejected
from services.whatsapp.flows.bisecting import write_without_culprits

BAD = -1


async def write(items: Sequence[int]) -> list[str]:
    if BAD in items:
        raise Rejected("22P05", "it cannot be stored")
    return [f"wrote {item}" for item in items]


@given(st.lists(st.just(BAD) | st.integers(0, 9), min_size=1, max_size=80))
async def test_each_item_is_written_or_refused_by_itself(items: list[int]) -> None:
    answers = await write_without_culprits(items, write, lambda item: f"refused {item}")
    assert answers == [f"refused {item}" if item == BAD else f"wrote {item}" for item in items]


async def test_what_is_refused_without_an_item_is_told() -> None:
    async def refuse_all(items: Sequence[int]) -> list[str]:
        raise Rejected("PGRST", "no such function")

    with pytest.raises(Rejected):
        await write_without_culprits([], refuse_all, str)
