"""What became of a message. Source: M:webhooks/reference/messages/status.

A status is one fact, however often and in whatever words Meta tells it: its key is the message, the state and the
errors. Everything else is its content: the same in another order of keys is the same event, other content is another.
"""

from typing import Any

from services.whatsapp.directory import Account, Directory
from services.whatsapp.meta.errors import from_webhook
from services.whatsapp.meta.events.event import Event, key_of, name_of, new_event, unparsable
from services.whatsapp.meta.events.people import Contact, People, bsuid, is_group, phone_digits, text
from services.whatsapp.meta.events.values import list_of, time_of, uuid_of, window_of

_STATES = frozenset(("sent", "delivered", "read", "played", "failed"))


def status_event(account: Account, status: Any, people: People, directory: Directory) -> Event:
    wamid = text(status.get("id"), 512) if isinstance(status, dict) else None
    state = text(status.get("status"), 100) if wamid else None
    if not wamid or not state:
        return unparsable(account, "messages", status, directory)
    wa_id = status.get("recipient_id")
    recipient = text(status.get("recipient_participant_id"), 512) or text(wa_id, 512)
    recipient = recipient or text(status.get("recipient_user_id"), 512) or ""
    errors = list_of(status, "errors") if "errors" in status else []
    key = key_of(name_of(account), wamid, state, recipient, *[_code(error) for error in errors])
    at = time_of(status.get("timestamp"))
    phone = phone_digits(wa_id)
    # TODO: groups are not implemented.
    if state not in _STATES or status.get("recipient_type") == "group" or (phone is None and is_group(wa_id)):
        return new_event(key, account, "messages", "ignored", at=at, wamid=wamid, payload=status)
    pricing = status.get("pricing")
    return new_event(
        key,
        account,
        "messages",
        "status",
        at=at,
        wamid=wamid,
        message_id=uuid_of(status.get("biz_opaque_callback_data")),
        state=state,
        contact=_recipient(status, state, phone, people),
        error=from_webhook(errors[0]).as_dict() if errors else None,
        price=pricing if isinstance(pricing, dict) else None,
        window_until=window_of(status.get("conversation")),
        payload=status,
    )


def _recipient(status: dict[str, Any], state: str, wa_id: str | None, people: People) -> Contact | None:
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


def _code(error: Any) -> str:
    return str(error.get("code")) if isinstance(error, dict) else ""
