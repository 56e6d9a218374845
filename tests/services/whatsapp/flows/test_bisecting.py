"""Whatever makes the database refuse a batch, each of its items gets an answer of its own."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.whatsapp.clients.failures import Rejected, Unavailable
from services.whatsapp.flows.bisecting import write_apart, write_without_culprits

BAD, STUCK = -1, -2


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


class Database:
    """Refuses one item for ever, and fails for another each time it meets it."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    async def write(self, items: Sequence[int], attempts: int) -> list[str]:
        self.calls.append(attempts)
        if STUCK in items:
            raise failure(divisible=True)
        return await write(items)


def failure(*, divisible: bool) -> Unavailable:
    return Unavailable("database_unavailable", "XX000", divisible=divisible, perhaps_done=False)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=200), st.sets(st.integers(0, 199), max_size=2), st.data())
async def test_what_does_not_pass_is_the_failure_of_its_own_item_alone(
    items: list[int], stuck: set[int], data: st.DataObject
) -> None:
    for place in stuck:
        items[place % len(items)] = STUCK
    items.insert(data.draw(st.integers(0, len(items))), BAD)

    answers = await write_apart(items, Database().write, lambda item: f"refused {item}")

    told = ["stuck" if isinstance(answer, Unavailable) else answer for answer in answers]
    words = {BAD: f"refused {BAD}", STUCK: "stuck"}
    assert told == [words.get(item, f"wrote {item}") for item in items]


async def test_a_part_is_not_tried_again_as_a_whole() -> None:
    database = Database()
    await write_apart([1, STUCK, 3, 4], database.write, str)
    assert database.calls == [4, 1, 1, 1, 1]


async def test_a_database_that_fails_for_all_is_not_asked_for_each() -> None:
    database = Database()
    answers = await write_apart([STUCK] * 200, database.write, str)
    assert all(isinstance(answer, Unavailable) for answer in answers)
    assert len(answers) == 200
    assert len(database.calls) < 20


async def test_a_database_that_is_away_is_asked_once() -> None:
    calls = []

    async def away(items: Sequence[int], attempts: int) -> list[str]:
        calls.append(attempts)
        raise failure(divisible=False)

    answers = await write_apart([1] * 200, away, str)
    assert len(answers) == 200
    assert calls == [4]
