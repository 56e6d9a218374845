"""What a person wrote. Source: M:webhooks/reference/messages/*."""

from typing import Any

from services.whatsapp.directory import Account, Directory
from services.whatsapp.meta.errors import from_webhook
from services.whatsapp.meta.events.clean import dump
from services.whatsapp.meta.events.event import Event, key_of, name_of, new_event, unparsable
from services.whatsapp.meta.events.people import (
    Contact,
    People,
    bsuid,
    changed_person,
    identity_of,
    is_group,
    phone_digits,
    sender_bsuid,
    text,
)
from services.whatsapp.meta.events.values import list_of, time_of

_ENVELOPE = ("id", "from", "from_user_id", "from_parent_user_id", "timestamp")
"""Members of a message that say who and when, and are no content themselves."""
_TYPES = frozenset(
    (
        "text", "image", "video", "audio", "document", "sticker", "location", "contacts", "interactive", "button",
        "order", "reaction", "system", "edit", "revoke", "unsupported",
    )
)  # fmt: skip


def message_event(account: Account, message: Any, people: People, directory: Directory) -> Event:
    wamid = text(message.get("id"), 512) if isinstance(message, dict) else None
    if not wamid:
        return unparsable(account, "messages", message, directory)
    key = key_of(name_of(account), "received", dump(message))
    at = time_of(message.get("timestamp"))
    # TODO: groups are not implemented. A request_welcome is no message: the person only opened the chat.
    kind = message.get("type")
    if message.get("group_id") or kind == "request_welcome" or is_group(message.get("from")):
        return new_event(key, account, "messages", "ignored", at=at, wamid=wamid, payload=message)
    contact = changed_person(message) if kind == "system" else sender(message, people)
    if contact is None:
        return unparsable(account, "messages", message, directory)
    errors = list_of(message, "errors") if "errors" in message else []
    return new_event(
        key,
        account,
        "messages",
        "system" if kind == "system" else "message",
        at=at,
        wamid=wamid,
        contact=contact,
        error=from_webhook(errors[0]).as_dict() if errors else None,
        content=_content(message),
        payload=message,
    )


def sender(message: dict[str, Any], people: People) -> Contact | None:
    wa_id = phone_digits(message.get("from"))
    user_id = bsuid(message.get("from_user_id")) if wa_id else sender_bsuid(message)
    parent = bsuid(message["from_parent_user_id"]) if "from_parent_user_id" in message else None
    return people.contact(wa_id, user_id, parent, identity_of(message) if "identity" in message else None)


def _content(message: dict[str, Any]) -> dict[str, Any]:
    """The message in Meta's own words. Without a type (it happens) it is of the one type it has a body of."""
    kind = text(message.get("type"), 100)
    if kind is None:
        bodies = [name for name in message if name in _TYPES]
        kind = bodies[0] if len(bodies) == 1 else "unknown"
    content = message | {"type": kind}
    for name in _ENVELOPE:
        content.pop(name, None)
    return content
