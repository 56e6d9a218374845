"""The short form of the experiment: every kind of fault once, from a fixed seed. The long form is `make faults`."""

import asyncio
from pathlib import Path

from tests.faults.experiment import run
from tests.faults.report import markdown
from tests.faults.schedule import WEIGHTS, draw
from tests.faults.wrongs import KINDS

SEED = 7


def test_the_books_agree_after_every_kind_of_fault(tmp_path: Path) -> None:
    done = asyncio.run(run(tmp_path, messages=1_500, faults=len(WEIGHTS), seed=SEED, seconds=25))

    assert done.books.broken == [], markdown(done)
    assert done.inflicted.keys() == WEIGHTS.keys()
    assert done.books.figures["acknowledged"] > 1_000


def test_every_fault_that_is_drawn_is_known() -> None:
    assert WEIGHTS.keys() == KINDS.keys()


def test_a_seed_draws_the_same_schedule_again() -> None:
    assert draw(SEED, 100, 60) == draw(SEED, 100, 60) != draw(SEED + 1, 100, 60)
