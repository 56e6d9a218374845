"""An event: one thing a webhook tells, as a plain dict for one durable `ingest`."""

from hashlib import blake2b
from typing import Literal, TypedDict

from services.whatsapp.directory import NOWHERE
from services.whatsapp.meta.errors import Explanation
from services.whatsapp.meta.events.people import Contact
from services.whatsapp.meta.events.values import Json

Kind = Literal[
    "message", "status", "call", "preference", "template", "account", "system", "ignored", "unparsable", "unroutable"
]


class Event(TypedDict):
    """All keys are always present."""

    key: str
    """A uuid, equal for every delivery of the same fact: the idempotency key."""
    country_id: str
    """"ZZ" where the event could not be routed; `account_id` is None then."""
    account_id: str | None
    field: str
    """Meta's webhook field: "messages", "account_update"…"""
    kind: Kind
    at: int | None
    """Unix seconds by Meta's clock; only sane years pass, the caller judges the future."""
    wamid: str | None
    """Meta's id of the message."""
    message_id: str | None
    """Our id of an outbound message, echoed by Meta (biz_opaque_callback_data)."""
    state: str | None
    """Of a status: sent, delivered, read, played, failed."""
    contact: Contact | None
    error: Explanation | None
    price: Json | None
    """Meta's pricing object."""
    window_until: int | None
    """Unix seconds: the end of a free entry point window."""
    content: Json | None
    """Of a message {type, <type>, context, referral, errors…} as Meta sent it; else Meta's value."""
    payload: Json
    """The raw object, without Meta's ids of numbers and business accounts."""


NOTHING: Event = {
    "key": "",
    "country_id": NOWHERE,
    "account_id": None,
    "field": "unknown",
    "kind": "ignored",
    "at": None,
    "wamid": None,
    "message_id": None,
    "state": None,
    "contact": None,
    "error": None,
    "price": None,
    "window_until": None,
    "content": None,
    "payload": {},
}
"""What an event is made of: to copy it and to fill in what is known costs a third of writing a new one."""


def unread(event: Event) -> Event:
    """An event that cannot be stored for what was read in it, as one that nobody read: kept, and moving nothing."""
    kept = NOTHING.copy()
    kept["key"], kept["kind"], kept["payload"] = event["key"], "unparsable", event["payload"]
    kept["country_id"], kept["account_id"], kept["field"] = event["country_id"], event["account_id"], event["field"]
    return kept


def key_of(*parts: bytes) -> str:
    """A uuid, as Postgres reads 32 hexadecimal digits."""
    return blake2b(b"\x1f".join(parts), digest_size=16).hexdigest()
