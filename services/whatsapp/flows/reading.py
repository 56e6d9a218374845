"""The flow of reading states. Row level security decides what is there to be read.

A long poll looks again until something changed, together with whoever waits with the same token.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, NotRequired, TypedDict, cast
from uuid import UUID

from services.whatsapp.actors import Actor
from services.whatsapp.flows.accounts import Notice, waiting_for
from services.whatsapp.flows.watching import Watch
from services.whatsapp.meta.errors import lookup
from services.whatsapp.refusals import describe
from services.whatsapp.requests.status_poll import ById, OfCountry
from services.whatsapp.runtime import Runtime

if TYPE_CHECKING:
    from services.whatsapp.clients.postgrest import MessageRow
    from services.whatsapp.clients.verbs import JsonObject

_FINAL = frozenset({"read", "played", "failed", "refused", "cancelled", "expired", "received"})
_TIMES = (
    "created_at",
    "send_at",
    "expires_at",
    "accepted_at",
    "sent_at",
    "delivered_at",
    "read_at",
    "played_at",
    "failed_at",
)
_SETTLING = timedelta(seconds=10)


class Error(TypedDict):
    """What went wrong: by a refusal code of ours, or by Meta's, as `meta_131047`, with Meta's details."""

    code: str
    message: str
    hint: str | None
    details: NotRequired[str | None]


class Seen(TypedDict):
    """A message as a caller sees it: state, times, what went wrong and what can be done, and why it waits."""

    message_id: str
    country_id: str
    account: str
    contact_id: str
    direction: str
    type: str
    status: str
    ref: str | None
    attempts: int
    times: dict[str, str]
    price: "JsonObject | None"
    error: Error | None
    waiting: NotRequired[Notice | None]


async def by_ids(runtime: Runtime, asked: ById, actor: Actor) -> list[Seen]:
    """The messages with these ids, in their order; ids the caller may not see are left out.

    With `wait` (seconds), answers when a message's state is no longer the one told, or where none was when one
    changes; at once if all are final.
    """
    ids = list(dict.fromkeys(asked.message_id))
    rows = _in_order(ids, await _read(runtime, actor, ids))
    known = asked.since or {row["message_id"]: row["state"] for row in rows}
    ends = time.monotonic() + asked.wait
    watch = runtime.part(_watch)
    while not _news(rows, known) and not all(row["state"] in _FINAL for row in rows) and time.monotonic() < ends:
        rows = _in_order(ids, await watch.look(actor, ids))
    return [view(runtime, row) for row in rows]


def _watch(runtime: Runtime) -> "Watch[str, MessageRow]":
    return Watch(partial(_read, runtime))


async def _read(runtime: Runtime, actor: Actor, ids: Sequence[str]) -> "dict[str, MessageRow]":
    return {row["message_id"]: row for row in await runtime.reads.messages(ids, actor)}


def _in_order(ids: Sequence[str], found: "Mapping[str, MessageRow]") -> "list[MessageRow]":
    return [found[each] for each in ids if each in found]


async def of_country(runtime: Runtime, asked: OfCountry, actor: Actor) -> tuple[list[Seen], str | None]:
    """A page of the country's messages after the cursor, oldest first, and the cursor of the next page.

    A message younger than ten seconds may appear again on the next page: one that was written by a slower
    transaction may still have to be shown before it, and none is ever left out.
    """
    readers, after = runtime.reads, asked.after
    # Asked before the page, and of the clock that makes the ids: ours may be minutes off.
    horizon = _oldest_id(await readers.now() - _SETTLING)
    rows = await readers.messages_after(asked.country_id, after, asked.limit, actor)
    if not rows:
        return [], after
    return [view(runtime, row) for row in rows], max(min(rows[-1]["message_id"], horizon), after or "")


def view(runtime: Runtime, row: "MessageRow") -> Seen:
    seen: Seen = {
        "message_id": row["message_id"],
        "country_id": row["country_id"],
        "account": row["account_id"],
        "contact_id": row["contact_id"],
        "direction": row["direction"],
        "type": row["kind"],
        "status": row["state"],
        "ref": row["ref"],
        "attempts": row["attempts"],
        "times": _times(row),
        "price": row["price"],
        "error": _error(row),
    }
    if row["direction"] == "outbound" and row["state"] in ("queued", "scheduled"):
        seen["waiting"] = waiting_for(runtime, row["country_id"], row["account_id"])
    return seen


def _times(row: "MessageRow") -> dict[str, str]:
    """When each thing happened that did: `accepted_at` is `accepted`."""
    times = ((name, cast("str | None", row.get(name))) for name in _TIMES)
    return {name.removesuffix("_at"): _iso(time) for name, time in times if time is not None}


def _error(row: "MessageRow") -> Error | None:
    ours = row["refusal"] or ("outcome_unknown" if row["error_title"] == "outcome_unknown" else None)
    if ours is not None:
        known = describe(ours)
        return {
            "code": ours,
            "message": known.message if known else ours,
            "hint": known.remedy if known else None,
        }
    if row["error_code"] is None:
        return None
    entry = lookup(row["error_code"])
    return {
        "code": f"meta_{row['error_code']}",
        "message": row["error_title"] or entry.title,
        "details": row["error_details"],
        "hint": entry.advice,
    }


def _iso(time: str) -> str:
    """ISO 8601 in UTC: PostgREST writes it so, the local stack as Postgres does."""
    return datetime.fromisoformat(time).astimezone(UTC).isoformat()


def _news(rows: "Sequence[MessageRow]", known: Mapping[str, str]) -> bool:
    return any(known.get(row["message_id"]) != row["state"] for row in rows)


def _oldest_id(at: datetime) -> str:
    """The smallest UUIDv7 of that moment."""
    millis = int(at.timestamp() * 1000)
    return str(UUID(int=(millis << 80) | (0x7 << 76) | (0x8 << 60)))
