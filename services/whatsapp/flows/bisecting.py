"""One item that the database refuses must not refuse its neighbours: a batch is halved until the culprit is alone."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from services.whatsapp.clients.failures import Rejected

Item = TypeVar("Item")
Result = TypeVar("Result")


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
