"""Storing the events of many posts together, so that each post fails or succeeds by its own events only."""

import time
from collections.abc import Awaitable, Callable, Sequence

from services.whatsapp import log
from services.whatsapp.clients.failures import ATTEMPTS, Rejected, Unavailable
from services.whatsapp.meta.events import Event, unread
from services.whatsapp.refusals import RefusalError, refuse

Store = Callable[[Sequence[Event], int], Awaitable[object]]
"""Stores events, with so many attempts."""
_Numbered = tuple[int, Event]
"""An event and the number of its post."""

_MOST = 500
_ATTEMPTS_IN_PART = 2
_SECONDS = 15.0
"""After this, posts are not looked at one by one any more: Meta does not wait for ever."""

_log = log.get("ingest")


async def ingest(posts: Sequence[list[Event]], store: Store) -> list[RefusalError | None]:
    """What is wrong with each post; None once all its events are stored. Raises nothing that is one post's alone."""
    events = [(number, event) for number, post in enumerate(posts) for event in post]
    problems: list[RefusalError | None] = [None] * len(posts)
    ends = time.monotonic() + _SECONDS
    for start in range(0, len(events), _MOST):
        found = await _store(events[start : start + _MOST], store, ATTEMPTS, ends)
        away = next((each for _, each in found if isinstance(each, Unavailable) and not each.divisible), None)
        if away is not None:
            # The rest would meet the same.
            found += [(number, away) for number, _ in events[start + _MOST :]]
        problems = [dict(found).get(number, problem) for number, problem in enumerate(problems)]
        if away is not None:
            break
    return problems


async def _store(events: list[_Numbered], store: Store, attempts: int, ends: float) -> list[tuple[int, RefusalError]]:
    """Stores events, in halves where one of them is what fails. Returns the posts that must come again, and why."""
    try:
        await store([event for _, event in events], attempts)
        return []
    except Unavailable as error:
        if not error.divisible or len(events) == 1 or time.monotonic() > ends:
            _log.error("not_stored", code=error.cause, events=len(events), kind=events[0][1]["kind"])
            return [(number, error) for number, _ in events]
        code = error.cause
    except Rejected as error:
        if len(events) == 1:
            return await _set_aside(*events[0], error, store)
        code = error.code
    _log.warning("store_in_halves", code=code, events=len(events))
    middle = len(events) // 2
    first = await _store(events[:middle], store, _ATTEMPTS_IN_PART, ends)
    return first + await _store(events[middle:], store, _ATTEMPTS_IN_PART, ends)


async def _set_aside(number: int, event: Event, error: Rejected, store: Store) -> list[tuple[int, RefusalError]]:
    """Store an event as something nobody could read: raw, for a person, moving nothing."""
    _log.error("set_aside", error=error, kind=event["kind"], key=event["key"])
    try:
        await store([unread(event)], ATTEMPTS)
    except Unavailable as problem:
        return [(number, problem)]
    except Rejected as worse:
        _log.error("not_even_set_aside", error=worse, key=event["key"])
        return [(number, refuse("database_unavailable"))]
    return []
