"""What a person wrote, or what became of the person. Source: M:webhooks/reference/messages/*."""

from services.whatsapp.meta.errors import from_webhook
from services.whatsapp.meta.events.change import Change
from services.whatsapp.meta.events.clean import dump
from services.whatsapp.meta.events.event import Event, key_of
from services.whatsapp.meta.events.people import (
    Contact,
    People,
    bsuid,
    changed_person,
    identity_of,
    is_group,
    phone_digits,
    sender_bsuid,
)
from services.whatsapp.meta.events.values import Json, list_of, text, time_of

_TYPES = frozenset(
    (
        "text", "image", "video", "audio", "document", "sticker", "location", "contacts", "interactive", "button",
        "order", "reaction", "system", "edit", "revoke", "unsupported",
    )
)  # fmt: skip


def message_event(message: object, change: Change) -> Event:
    if not isinstance(message, dict) or (wamid := text(message.get("id"), 512)) is None:
        return change.unparsable(message)
    key = key_of(change.name, b"received", dump(message))
    at = time_of(message.get("timestamp"))
    # TODO: groups are not implemented. A request_welcome is no message: the person only opened the chat.
    kind = message.get("type")
    if message.get("group_id") or kind == "request_welcome" or is_group(message.get("from")):
        return change.event(key, "ignored", message, at, wamid)
    contact = changed_person(message) if kind == "system" else sender(message, change.people)
    if contact is None:
        return change.unparsable(message)
    event = change.event(key, "system" if kind == "system" else "message", message, at, wamid)
    event["contact"] = contact
    event["content"] = _content(message)
    if "errors" in message and (errors := list_of(message, "errors")):
        event["error"] = from_webhook(errors[0]).as_dict()
    return event


def sender(message: Json, people: People) -> Contact | None:
    wa_id = phone_digits(message.get("from"))
    user_id = bsuid(message.get("from_user_id")) if wa_id else sender_bsuid(message)
    parent = bsuid(message["from_parent_user_id"]) if "from_parent_user_id" in message else None
    return people.contact(wa_id, user_id, parent, identity_of(message) if "identity" in message else None)


def _content(message: Json) -> Json:
    """The message in Meta's own words. Without a type (it happens) it is of the one type it has a body of."""
    kind = text(message.get("type"), 100)
    if kind is None:
        bodies = [name for name in message if name in _TYPES]
        kind = bodies[0] if len(bodies) == 1 else "unknown"
    content = message.copy()
    content["type"] = kind
    # Who and when is no content.
    del content["id"]
    content.pop("from", None)
    content.pop("from_user_id", None)
    content.pop("from_parent_user_id", None)
    content.pop("timestamp", None)
    return content
