"""Group commit: every caller gets the answer to their own item, whatever becomes of the others."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.whatsapp.batching import GroupCommit, Overloaded

PATIENCE = 10.0
"""Seconds after which a caller counts as forgotten."""


async def twice(items: Sequence[int]) -> Sequence[int]:
    return [2 * item for item in items]


async def ask(commits: GroupCommit[int, int], item: int) -> int:
    async with asyncio.timeout(PATIENCE):
        return await commits.add(item)


async def test_who_comes_together_shares_a_commit() -> None:
    batches: list[list[int]] = []

    async def commit(items: Sequence[int]) -> Sequence[int]:
        batches.append(list(items))
        return await twice(items)

    commits = GroupCommit(commit, most=3)
    assert await asyncio.gather(*(ask(commits, item) for item in range(6))) == [0, 2, 4, 6, 8, 10]
    assert sorted(map(len, batches)) == [3, 3]


async def test_who_comes_alone_waits_for_nobody() -> None:
    commits = GroupCommit(twice, most=3, linger=PATIENCE * 2)
    assert [await ask(commits, item) for item in (1, 2, 3)] == [2, 4, 6]


async def test_what_arrives_while_commits_run_waits_and_then_shares_one_in_the_order_it_came() -> None:
    running: list[list[int]] = []
    ended = [asyncio.Event(), asyncio.Event(), asyncio.Event()]

    async def commit(items: Sequence[int]) -> Sequence[int]:
        running.append(list(items))
        await ended[len(running) - 1].wait()
        return await twice(items)

    commits = GroupCommit(commit, most=10, in_flight=2)
    asked = []
    for item in range(8):
        asked.append(asyncio.create_task(ask(commits, item)))
        # As often as a commit needs to begin, if it may.
        for _ in range(5):
            await asyncio.sleep(0)
    assert running == [[0], [1]]

    ended[0].set()
    assert await asked[0] == 0
    await asyncio.sleep(0)
    assert running[2:] == [[2, 3, 4, 5, 6, 7]]
    assert not any(each.done() for each in asked[1:])
    ended[1].set()
    ended[2].set()
    assert await asyncio.gather(*asked) == [0, 2, 4, 6, 8, 10, 12, 14]


async def test_a_commit_that_raises_tells_everybody_of_its_batch() -> None:
    async def commit(items: Sequence[int]) -> Sequence[int]:
        raise ValueError(len(items))

    commits = GroupCommit(commit, most=3)
    answers = await asyncio.gather(*(ask(commits, item) for item in range(3)), return_exceptions=True)
    assert [str(answer) for answer in answers] == ["3"] * 3


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.001]),
)
def test_nobody_is_forgotten(callers: list[tuple[int, int]], most: int, in_flight: int, linger: float) -> None:
    """Callers come at any turn of the loop, commits take any number of turns: above all so many that several end in
    the turn in which the next caller comes."""

    async def run() -> list[int]:
        async def commit(items: Sequence[int]) -> Sequence[int]:
            for _ in range(max(callers[item][1] for item in items)):
                await asyncio.sleep(0)
            return await twice(items)

        async def call(item: int) -> int:
            for _ in range(callers[item][0]):
                await asyncio.sleep(0)
            first = await ask(commits, item)
            assert await ask(commits, item) == first
            return first

        commits = GroupCommit(commit, most=most, in_flight=in_flight, linger=linger)
        return list(await asyncio.gather(*(call(item) for item in range(len(callers)))))

    assert asyncio.run(run()) == [2 * item for item in range(len(callers))]


async def test_who_comes_in_the_turn_in_which_all_commits_end_is_not_forgotten() -> None:
    gate = asyncio.Event()

    async def commit(items: Sequence[int]) -> Sequence[int]:
        await gate.wait()
        return await twice(items)

    commits = GroupCommit(commit, most=1, in_flight=2)
    first = [asyncio.create_task(ask(commits, item)) for item in (1, 2)]
    for _ in range(3):
        await asyncio.sleep(0)
    # Both commits go on in the next turn, and after them, in the same turn, somebody new comes.
    gate.set()
    late = asyncio.create_task(ask(commits, 3))

    assert await asyncio.gather(*first, late) == [2, 4, 6]


@pytest.mark.parametrize("returned", [0, 2, 4])
async def test_a_result_list_of_another_length_fails_everybody_and_forgets_nobody(returned: int) -> None:
    async def commit(items: Sequence[int]) -> Sequence[int]:
        return [0] * returned

    commits = GroupCommit(commit, most=3)
    answers = await asyncio.gather(*(ask(commits, item) for item in range(3)), return_exceptions=True)

    assert [type(answer) for answer in answers] == [RuntimeError] * 3
    assert f"{returned} results" in str(answers[0])


async def test_a_commit_that_raises_fails_its_own_callers_only() -> None:
    async def commit(items: Sequence[int]) -> Sequence[int]:
        if 1 in items:
            raise ValueError("one")
        return await twice(items)

    commits = GroupCommit(commit, most=1)
    answers = await asyncio.gather(*(ask(commits, item) for item in range(3)), return_exceptions=True)

    assert [answers[0], answers[2]] == [0, 4]
    assert isinstance(answers[1], ValueError)


async def test_a_caller_who_goes_away_harms_nobody() -> None:
    seen: list[int] = []

    async def commit(items: Sequence[int]) -> Sequence[int]:
        seen.extend(items)
        await asyncio.sleep(0)
        return await twice(items)

    commits = GroupCommit(commit, most=2, in_flight=1)
    tasks = [asyncio.create_task(ask(commits, item)) for item in range(6)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for gone in (0, 3):
        tasks[gone].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert [answers[item] for item in (1, 2, 4, 5)] == [2, 4, 8, 10]
    assert set(seen) >= {1, 2, 4, 5}


async def test_a_flush_that_is_broken_off_leaves_nobody_waiting() -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    async def commit(items: Sequence[int]) -> Sequence[int]:
        begun.set()
        await gate.wait()
        return await twice(items)

    before = asyncio.all_tasks()
    commits = GroupCommit(commit, most=1, in_flight=1)
    tasks = [asyncio.create_task(ask(commits, item)) for item in range(3)]
    await begun.wait()
    gate.set()
    inner = {task.get_name() for task in tasks}
    for task in asyncio.all_tasks() - before:
        if task.get_name() not in inner and "_flush" in repr(task):
            task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(answers[0], RuntimeError)
    assert answers[1:] == [2, 4]


async def test_too_many_are_told_to_come_back() -> None:
    commits = GroupCommit(twice, most=1, in_flight=1, backlog=2)
    answers = await asyncio.gather(*(ask(commits, item) for item in range(4)), return_exceptions=True)

    assert answers[:2] == [0, 2]
    assert [type(answer) for answer in answers[2:]] == [Overloaded] * 2


async def test_closing_waits_for_what_was_added() -> None:
    may_go = asyncio.Event()

    async def commit(items: Sequence[int]) -> Sequence[int]:
        await may_go.wait()
        return await twice(items)

    commits = GroupCommit(commit, most=1)
    asked = [asyncio.create_task(ask(commits, item)) for item in range(5)]
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.01, may_go.set)
    await commits.close()
    assert may_go.is_set()
    assert asyncio.all_tasks() <= {asyncio.current_task(), *asked}
    assert await asyncio.gather(*asked) == [0, 2, 4, 6, 8]
