"""An event: one thing a webhook tells, as a plain dict for one durable `ingest`.

Event keys, all always present:

    key           uuid, equal for every delivery of the same fact: the idempotency key
    country_id    "ZZ" when the event could not be routed; account_id is None then
    account_id
    field         Meta's webhook field: "messages", "account_update"…
    kind          message, status, call, preference, template, account, system, ignored, unparsable,
                  unroutable
    at            unix seconds by Meta's clock, or None; only sane years pass, the caller judges the future
    wamid         Meta's id of the message
    message_id    our id of an outbound message, echoed by Meta (biz_opaque_callback_data)
    state         of a status: sent, delivered, read, played, failed
    contact       the person, see `people`
    error         `errors.Failure.as_dict()`
    price         Meta's pricing object
    window_until  unix seconds: end of a free entry point window
    content       of a message: {type, <type>, context, referral, errors…} as Meta sent it; else Meta's value
    payload       the raw object, without Meta's ids of numbers and business accounts
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from services.whatsapp.directory import NOWHERE, Account, Directory
from services.whatsapp.meta.events.clean import META_ID_KEYS, dump, is_meta_id, redact, redact_text
from services.whatsapp.meta.events.people import Contact, text
from services.whatsapp.meta.events.values import time_of

Event = dict[str, Any]


def new_event(
    key: str,
    account: Account | None,
    field: str,
    kind: str,
    *,
    at: int | None = None,
    wamid: str | None = None,
    message_id: str | None = None,
    state: str | None = None,
    contact: Contact | None = None,
    error: dict[str, Any] | None = None,
    price: dict[str, Any] | None = None,
    window_until: int | None = None,
    content: Any = None,
    payload: Any = None,
) -> Event:
    return {
        "key": key,
        "country_id": account.country_id if account else NOWHERE,
        "account_id": account.account_id if account else None,
        "field": field,
        "kind": kind,
        "at": at,
        "wamid": wamid,
        "message_id": message_id,
        "state": state,
        "contact": contact,
        "error": error,
        "price": price,
        "window_until": window_until,
        "content": content,
        "payload": payload,
    }


def whole(
    account: Account | None,
    field: str,
    kind: str,
    entry_id: str,
    time: Any,
    value: dict[str, Any],
    directory: Directory,
) -> Event:
    """One event for a change as a whole: everything that is no single message, status, call or preference."""
    key = key_of(name_of(account), entry_id, field, str(time), dump(value))
    ids = [*directory.meta_ids, *([entry_id] if is_meta_id(entry_id) else [])]
    payload = redact(value, ids, drop_keys=True)
    content = payload if kind in ("template", "account") else None
    return new_event(key, account, field, kind, at=time_of(time), content=content, payload=payload)


def unparsable(account: Account | None, field: str, found: Any, directory: Directory, place: str = "") -> Event:
    """An event for a part that could not be read. If the number it came by is known, it stays with that number."""
    key = key_of(name_of(account), "unparsable", place, dump(found))
    payload = redact(found, directory.meta_ids, drop_keys=True)
    if not isinstance(payload, dict):
        return new_event(key, account, field, "unparsable", payload={"raw": payload})
    at, wamid = time_of(payload.get("timestamp")), text(payload.get("id"), 512)
    return new_event(key, account, field, "unparsable", at=at, wamid=wamid, payload=payload)


def unreadable_body(body: bytes, directory: Directory) -> Event:
    key = key_of("unparsable", blake2b(body).hexdigest())
    payload = {"raw": redact_text(body, directory.meta_ids)}
    return new_event(key, None, "unknown", "unparsable", payload=payload)


def beside(
    account: Account | None, field: str, holder: Mapping[str, Any], read: frozenset[str], directory: Directory
) -> list[Event]:
    """What stands beside the members that were read; ids of Meta alone are nothing to keep."""
    rest = {name: part for name, part in holder.items() if name not in read and name not in META_ID_KEYS}
    payload = redact(rest, directory.meta_ids, drop_keys=True)
    if not payload:
        return []
    key = key_of(name_of(account), field, "beside", dump(rest))
    return [new_event(key, account, field, "ignored" if account else "unroutable", payload=payload)]


def key_of(*parts: str) -> str:
    """A uuid, as Postgres reads 32 hexadecimal digits."""
    return blake2b("\x1f".join(parts).encode(), digest_size=16).hexdigest()


def name_of(account: Account | None) -> str:
    return f"{account.country_id}/{account.account_id}" if account else NOWHERE
