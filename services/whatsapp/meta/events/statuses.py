"""What became of a message. Source: M:webhooks/reference/messages/status.

A status is one fact, however often and in whatever words Meta tells it: its key is the message, the state and the
errors. What a later telling brings besides, a price or a free entry point, the database takes from it (ingest.sql).
"""

from services.whatsapp.meta.errors import from_webhook
from services.whatsapp.meta.events.change import Change
from services.whatsapp.meta.events.event import Event, key_of
from services.whatsapp.meta.events.people import Contact, People, bsuid, is_group, phone_digits
from services.whatsapp.meta.events.values import Json, list_of, text, time_of, uuid_of

_STATES = frozenset(("sent", "delivered", "read", "played", "failed"))


def status_event(status: object, change: Change) -> Event:
    if not isinstance(status, dict):
        return change.unparsable(status)
    wamid, state = text(status.get("id"), 512), text(status.get("status"), 100)
    if wamid is None or state is None:
        return change.unparsable(status)
    wa_id = status.get("recipient_id")
    recipient = text(status.get("recipient_participant_id"), 512) or text(wa_id, 512)
    recipient = recipient or text(status.get("recipient_user_id"), 512) or ""
    errors = list_of(status, "errors") if "errors" in status else []
    named = (wamid, state, recipient, *map(_code, errors))
    key = key_of(change.name, "\x1f".join(named).encode())
    at = time_of(status.get("timestamp"))
    phone = phone_digits(wa_id)
    # TODO: groups are not implemented.
    if state not in _STATES or status.get("recipient_type") == "group" or (phone is None and is_group(wa_id)):
        return change.event(key, "ignored", status, at, wamid)
    event = change.event(key, "status", status, at, wamid)
    event["message_id"] = uuid_of(status.get("biz_opaque_callback_data"))
    event["state"] = state
    event["contact"] = _recipient(status, state, phone, change.people)
    if errors:
        event["error"] = from_webhook(errors[0]).as_dict()
    if isinstance(pricing := status.get("pricing"), dict):
        event["price"] = pricing
    if "conversation" in status:
        event["window_until"] = _window(status["conversation"])
    return event


def _recipient(status: Json, state: str, wa_id: str | None, people: People) -> Contact | None:
    user_id = bsuid(status.get("recipient_user_id"))
    if wa_id is None:
        user_id = user_id or bsuid(status.get("recipient_id"))
        if user_id is None:
            return None  # its message knows the person: nothing is guessed
    parent = identity = None
    if "recipient_parent_user_id" in status or "parent_recipient_user_id" in status:
        parent = bsuid(status.get("recipient_parent_user_id")) or bsuid(status.get("parent_recipient_user_id"))
    # Of a failed message it is the hash we asked for, and 137000 says that the person has another.
    if "recipient_identity_key_hash" in status and state != "failed":
        identity = text(status["recipient_identity_key_hash"], 512)
    return people.contact(wa_id, user_id, parent, identity)


def _code(error: object) -> str:
    return str(error.get("code")) if isinstance(error, dict) else ""


def _window(conversation: object) -> int | None:
    """End of a free entry point window: the only conversation whose end Meta reports (pricing)."""
    if not isinstance(conversation, dict):
        return None
    origin = conversation.get("origin")
    if not isinstance(origin, dict) or origin.get("type") != "referral_conversion":
        return None
    return time_of(conversation.get("expiration_timestamp"))
