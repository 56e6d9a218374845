"""One item that the database refuses must not refuse its neighbours: a batch is halved until the culprit is alone."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from services.whatsapp.clients.failures import ATTEMPTS, Rejected, Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")

_SECONDS = 10.0
"""After this nothing is halved any more: callers are waiting."""


async def write_without_culprits(
    items: Sequence[Item],
    write: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
    culprit: Callable[[Item], Result],
) -> list[Result]:
    """What `write` answers for the items, and for one it is `Rejected` for alone what `culprit` says, in order.

    The verbs judge each item themselves; this is for what nobody foresaw.
    """
    try:
        return list(await write(items))
    except Rejected:
        if len(items) == 0:
            raise
        if len(items) == 1:
            return [culprit(items[0])]
    half = len(items) // 2
    return [
        *await write_without_culprits(items[:half], write, culprit),
        *await write_without_culprits(items[half:], write, culprit),
    ]


async def write_apart(
    items: Sequence[Item],
    write: Callable[[Sequence[Item], int], Awaitable[Sequence[Result]]],
    culprit: Callable[[Item], Result],
) -> list[Result | Unavailable]:
    """The same for items each of which stands by itself: what the database does not take now is no neighbour's failure
    either. Such an item gets the failure for its answer.

    `write` takes the number of attempts, too. A part is not tried again as a whole, for it is in halves; and there are
    no more failures than two culprits cost: then it is not one item, it is the database.
    """
    ends = time.monotonic() + _SECONDS
    failures_left = 2 * len(items).bit_length() + 1
    given_up: Unavailable | None = None

    async def write_part(part: Sequence[Item], attempts: int) -> list[Result | Unavailable]:
        nonlocal failures_left, given_up
        if given_up is not None:
            return [given_up] * len(part)
        try:
            return list(await write(part, attempts))
        except Rejected:
            if len(part) == 1:
                return [culprit(part[0])]
        except Unavailable as error:
            failures_left -= 1
            if not error.divisible or failures_left < 0 or time.monotonic() > ends:
                given_up = error
            if given_up is not None or len(part) == 1:
                return [error] * len(part)
        half = len(part) // 2
        return [*await write_part(part[:half], 1), *await write_part(part[half:], 1)]

    return await write_part(items, ATTEMPTS)
