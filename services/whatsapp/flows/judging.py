"""Judging the rows of a call, so that nobody else waits for long."""

import asyncio
from collections.abc import Callable, Sequence

from services.whatsapp import rows

_SLICE = 250
"""Rows judged at a stretch: other requests of this process wait for so long."""


async def judge(
    given: Sequence[object], start: int, read: Callable[[int, object], rows.Good]
) -> tuple[list[rows.Good], list[rows.Told]]:
    """As `rows.judge`, slice by slice."""
    good: list[rows.Good] = []
    refused: list[rows.Told] = []
    for at in range(0, len(given), _SLICE):
        taken, bad = rows.judge(given[at : at + _SLICE], start + at, read)
        good += taken
        refused += bad
        await asyncio.sleep(0)
    return good, refused
