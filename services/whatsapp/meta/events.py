"""Webhook bytes to events: the hot path of receiving.

`parse` turns one POST of Meta's into plain dicts for one durable `ingest`. It never raises and never
drops: what cannot be read or routed becomes an event too, and so does whatever stands beside what was read.
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
    contact       the person, see `webhook_contacts`
    error         `meta_errors.Failure.as_dict()`
    price         Meta's pricing object
    window_until  unix seconds: end of a free entry point window
    content       of a message: {type, <type>, context, referral, errors…} as Meta sent it; else Meta's value
    payload       the raw object, without Meta's ids of numbers and business accounts

A status is one fact, however often and in whatever words Meta tells it: its key is the message, the state and the
errors. Everything else is its content: the same in another order of keys is the same event, other content is another.

Shapes: Meta's pages webhooks/reference/messages/*, webhooks/reference/*, business-scoped-user-ids.
"""

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from services.whatsapp.directory import NOWHERE, Account, Directory
from services.whatsapp.identity import match_key
from services.whatsapp.meta.errors import from_webhook
from services.whatsapp.meta.payload import (
    META_ID_KEYS,
    dump,
    is_meta_id,
    is_suspicious,
    leaked_ids,
    load,
    redact,
    redact_text,
)
from services.whatsapp.meta.webhook_contacts import (
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

Event = dict[str, Any]

_STATES = frozenset(("sent", "delivered", "read", "played", "failed"))
_TEMPLATE_FIELDS = frozenset(
    (
        "message_template_status_update",
        "message_template_quality_update",
        "message_template_components_update",
        "template_category_update",
        "template_correct_category_detection",
    )
)
_ACCOUNT_FIELDS = frozenset(
    (
        "phone_number_quality_update",
        "phone_number_name_update",
        "business_capability_update",
        "account_update",
        "account_review_update",
        "account_alerts",
        "security",
    )
)
_LISTS = {
    "messages": ("statuses", "messages", "errors"),
    "calls": ("calls", "statuses"),
    "user_preferences": ("user_preferences",),
}
"""The lists that are read of a value, by field."""
_AROUND = frozenset(("messaging_product", "metadata", "contacts"))
"""What stands around the lists of a value and is looked at apart."""
_OF_DOCUMENT = frozenset(("object", "entry"))
_OF_ENTRY = frozenset(("id", "time", "changes"))
_OF_CHANGE = frozenset(("field", "value"))
_OF_METADATA = frozenset(("display_phone_number", "phone_number_id"))
_NOTHING: frozenset[str] = frozenset()
_ENVELOPE = ("id", "from", "from_user_id", "from_parent_user_id", "timestamp")
"""Members of a message that say who and when, and are no content themselves."""
_TYPES = frozenset(
    (
        "text", "image", "video", "audio", "document", "sticker", "location", "contacts", "interactive", "button",
        "order", "reaction", "system", "edit", "revoke", "unsupported",
    )
)  # fmt: skip
_OF_PARTNERS = frozenset(("PARTNER_REMOVED", "PARTNER_APP_UNINSTALLED"))
_UUID = re.compile("-".join(f"[0-9a-fA-F]{{{length}}}" for length in (8, 4, 4, 4, 12)))
_NOT_DIGIT = re.compile(r"[^0-9]")
_LATEST = 4_102_444_800  # 2100: beyond it a time is garbage, and Postgres might refuse it


def parse(body: bytes, directory: Directory) -> list[Event]:
    """The events of one webhook body, in the order Meta gave them. Never raises, whatever the bytes."""
    suspicious = is_suspicious(body)
    document = load(body, suspicious)
    entries = document.get("entry") if isinstance(document, dict) else None
    if not isinstance(entries, list) or document.get("object") != "whatsapp_business_account":
        return [_unreadable_body(body, directory)]
    events: list[Event] = []
    mentions: dict[str, int] = {}
    for entry in entries:
        changes = entry.get("changes") if isinstance(entry, dict) else None
        if not isinstance(changes, list):
            events.append(_unparsable(None, "unknown", _nameless(entry), directory))
            continue
        entry_id = _id(entry.get("id"))
        if entry_id:
            mentions[entry_id] = mentions.get(entry_id, 0) + 1
        for change in changes:
            try:
                events += _change(change, entry_id, entry.get("time"), directory, mentions)
            except Exception:  # one change nobody foresaw must not cost the others, nor a 5xx
                events.append(_unparsable(None, "unknown", change, directory, entry_id))
        if len(entry) > 2 and not entry.keys() <= _OF_ENTRY:
            events += _beside(None, "unknown", entry, _OF_ENTRY, directory)
    if len(document) > 2:
        events += _beside(None, "unknown", document, _OF_DOCUMENT, directory)
    leaked = leaked_ids(body, mentions, suspicious)
    return [redact(event, leaked) for event in events] if leaked else events


# ── One change ────────────────────────────────────────────────────────────────────────────────────


def _change(change: Any, entry_id: str, time: Any, directory: Directory, mentions: dict[str, int]) -> list[Event]:
    value = change.get("value") if isinstance(change, dict) else None
    if not isinstance(value, dict):
        return [_unparsable(None, "unknown", change, directory, entry_id)]
    field = text(change.get("field"), 100) or "unknown"
    metadata = value.get("metadata")
    number = _id(metadata.get("phone_number_id")) if isinstance(metadata, dict) else ""
    if number:
        mentions[number] = mentions.get(number, 0) + 1
        account = directory.by_phone_number_id(number)
        accounts: tuple[Account, ...] = (account,) if account else ()
        if account:
            mentions.setdefault(account.waba_id, 0)
    else:
        accounts = _accounts_without_metadata(field, value, entry_id, directory)
        for account in accounts:
            mentions.setdefault(account.phone_number_id, 0)
            mentions.setdefault(account.waba_id, 0)
    events: list[Event] = []
    if not accounts:
        events = [_whole(None, field, "unroutable", entry_id, time, value, directory)]
    elif field in _LISTS:
        events = _items(accounts[0], field, value, entry_id, time, directory)
    if not events:
        kind = _kind(field, value, directory)
        # TODO: coexistence (smb_message_echoes, history, smb_app_state_sync), conversation routing (standby,
        # messaging_handovers) and user_actions (clicks, Marketing Messages API) are only recorded, as ignored.
        events = [_whole(account, field, kind, entry_id, time, value, directory) for account in accounts]
    if len(change) > 2:
        events += _beside(accounts[0] if accounts else None, field, change, _OF_CHANGE, directory)
    return events


def _accounts_without_metadata(
    field: str, value: dict[str, Any], entry_id: str, directory: Directory
) -> tuple[Account, ...]:
    """Webhooks about an account name the WABA; those about one of its numbers show that number.

    Messages, calls and preferences are never guessed: without their own number they reach nobody.
    """
    if field in _LISTS:
        return ()
    entity = directory.by_phone_number_id(_id(value.get("entity_id")))
    if entity:
        return (entity,)
    accounts = directory.by_waba_id(entry_id)
    information = value.get("waba_info")
    if not accounts and isinstance(information, dict):
        accounts = directory.by_waba_id(_id(information.get("waba_id")))
    shown = _own_digits(value.get("display_phone_number") or value.get("phone_number"))
    if shown is None:
        return accounts
    matching = tuple(account for account in accounts if account.phone and match_key(account.phone) == match_key(shown))
    return matching or tuple(account for account in accounts if account.phone is None)


def _kind(field: str, value: dict[str, Any], directory: Directory) -> str:
    """What a change that is read as a whole is about.

    That a partner was removed moves the account only where the partner is this app. Any other partner's end leaves it
    alone, and so does one that cannot be told: if it was this app, Meta's next answer stops the account anyway.
    """
    if any(value.get(name) and not isinstance(value[name], list) for name in _LISTS.get(field, ())):
        return "unparsable"
    if field in _TEMPLATE_FIELDS:
        return "template"
    if field not in _ACCOUNT_FIELDS:
        return "ignored"
    if field == "account_update" and value.get("event") in _OF_PARTNERS:
        information = value.get("waba_info")
        app_id = _id(information.get("partner_app_id")) if isinstance(information, dict) else ""
        if not app_id or app_id != directory.app_id:
            return "ignored"
    return "account"


def _items(
    account: Account, field: str, value: dict[str, Any], entry_id: str, time: Any, directory: Directory
) -> list[Event]:
    """An event for each item of the lists of a value, and one for whatever else the value holds."""
    people = People(value.get("contacts"))
    if field == "messages":
        events, lists = _messages(account, value, entry_id, time, people, directory)
    elif field == "calls":
        events = _calls(account, value, people, directory)
        lists = bool(_list(value, "calls")) + bool(_list(value, "statuses"))
    else:
        events = [_preference(account, item, people, directory) for item in _list(value, field)]
        lists = 1
    if events and not (_is_plain(value, lists) and people.all_told):
        events += _rest(account, field, value, people, directory)
    return events


def _messages(
    account: Account, value: dict[str, Any], entry_id: str, time: Any, people: People, directory: Directory
) -> tuple[list[Event], int]:
    """The events, and how many lists they come from."""
    statuses, messages, errors = _list(value, "statuses"), _list(value, "messages"), _list(value, "errors")
    events = [_status(account, status, people, directory) for status in statuses] if statuses else []
    if messages:
        events += [_message(account, message, people, directory) for message in messages]
    if errors:
        event = _whole(account, "messages", "account", entry_id, time, {"errors": errors}, directory)
        event["error"] = from_webhook(errors[0]).as_dict()
        events.append(event)
    return events, bool(statuses) + bool(messages) + bool(errors)


def _is_plain(value: dict[str, Any], lists: int) -> bool:
    """Whether a value holds the lists that were read and what always stands around them: nearly every one does."""
    metadata = value["metadata"]
    return (
        len(value) == 2 + lists + ("contacts" in value)
        and value.get("messaging_product") == "whatsapp"
        and len(metadata) == 2
        and "display_phone_number" in metadata
    )


def _rest(account: Account, field: str, value: dict[str, Any], people: People, directory: Directory) -> list[Event]:
    """What no event of the value carries: lists nobody knows, known ones that are none, people nobody asked for."""
    lists = _LISTS[field]
    broken = {name: value[name] for name in lists if name in value and not isinstance(value[name], list)}
    rest = {name: part for name, part in value.items() if name not in lists and name not in _AROUND}
    if untold := people.untold():
        rest["contacts"] = untold
    if not value["metadata"].keys() <= _OF_METADATA:
        rest["metadata"] = value["metadata"]
    if value.get("messaging_product", "whatsapp") != "whatsapp":
        rest["messaging_product"] = value["messaging_product"]
    if broken:
        return [_unparsable(account, field, rest | broken, directory)]
    return _beside(account, field, rest, _NOTHING, directory) if rest else []


def _beside(
    account: Account | None, field: str, holder: Mapping[str, Any], read: frozenset[str], directory: Directory
) -> list[Event]:
    """What stands beside the members that were read; ids of Meta alone are nothing to keep."""
    rest = {name: part for name, part in holder.items() if name not in read and name not in META_ID_KEYS}
    payload = redact(rest, directory.meta_ids, drop_keys=True)
    if not payload:
        return []
    key = _key(_name(account), field, "beside", dump(rest))
    return [_event(key, account, field, "ignored" if account else "unroutable", payload=payload)]


# ── Statuses ──────────────────────────────────────────────────────────────────────────────────────


def _status(account: Account, status: Any, people: People, directory: Directory) -> Event:
    wamid = text(status.get("id"), 512) if isinstance(status, dict) else None
    state = text(status.get("status"), 100) if wamid else None
    if not wamid or not state:
        return _unparsable(account, "messages", status, directory)
    wa_id = status.get("recipient_id")
    recipient = text(status.get("recipient_participant_id"), 512) or text(wa_id, 512)
    recipient = recipient or text(status.get("recipient_user_id"), 512) or ""
    errors = _list(status, "errors") if "errors" in status else []
    key = _key(_name(account), wamid, state, recipient, *[_code(error) for error in errors])
    at = _time(status.get("timestamp"))
    phone = phone_digits(wa_id)
    # TODO: groups are not implemented.
    if state not in _STATES or status.get("recipient_type") == "group" or (phone is None and is_group(wa_id)):
        return _event(key, account, "messages", "ignored", at=at, wamid=wamid, payload=status)
    pricing = status.get("pricing")
    return _event(
        key,
        account,
        "messages",
        "status",
        at=at,
        wamid=wamid,
        message_id=_uuid(status.get("biz_opaque_callback_data")),
        state=state,
        contact=_recipient(status, state, phone, people),
        error=from_webhook(errors[0]).as_dict() if errors else None,
        price=pricing if isinstance(pricing, dict) else None,
        window_until=_window(status.get("conversation")),
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


# ── Messages ──────────────────────────────────────────────────────────────────────────────────────


def _message(account: Account, message: Any, people: People, directory: Directory) -> Event:
    wamid = text(message.get("id"), 512) if isinstance(message, dict) else None
    if not wamid:
        return _unparsable(account, "messages", message, directory)
    key = _key(_name(account), "received", dump(message))
    at = _time(message.get("timestamp"))
    # TODO: groups are not implemented. A request_welcome is no message: the person only opened the chat.
    kind = message.get("type")
    if message.get("group_id") or kind == "request_welcome" or is_group(message.get("from")):
        return _event(key, account, "messages", "ignored", at=at, wamid=wamid, payload=message)
    contact = changed_person(message) if kind == "system" else _sender(message, people)
    if contact is None:
        return _unparsable(account, "messages", message, directory)
    errors = _list(message, "errors") if "errors" in message else []
    return _event(
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


def _sender(message: dict[str, Any], people: People) -> Contact | None:
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


# ── Calls and preferences ─────────────────────────────────────────────────────────────────────────


def _calls(account: Account, value: dict[str, Any], people: People, directory: Directory) -> list[Event]:
    """A call by the customer opens the window, so it is recorded; nothing else of the Calling API is.

    TODO: the Calling API is not implemented.
    """
    own = _own_digits(value["metadata"].get("display_phone_number"))
    events = [_call(account, call, own, people, directory) for call in _list(value, "calls")]
    for status in _list(value, "statuses"):
        if isinstance(status, dict):
            key = _key(_name(account), "call", dump(status))
            events.append(_event(key, account, "calls", "ignored", at=_time(status.get("timestamp")), payload=status))
        else:
            events.append(_unparsable(account, "calls", status, directory))
    return events


def _call(account: Account, call: Any, own: str | None, people: People, directory: Directory) -> Event:
    call_id = text(call.get("id"), 512) if isinstance(call, dict) else None
    if not call_id:
        return _unparsable(account, "calls", call, directory)
    payload = {name: part for name, part in call.items() if name != "session"}  # network addresses and keys
    key = _key(_name(account), "call", dump(payload))
    at = _time(call.get("timestamp"))
    # Only the ring itself opens the window: an hour-long call must not push its end an hour further.
    by_business = call.get("direction") == "BUSINESS_INITIATED" or (own and phone_digits(call.get("from")) == own)
    contact = _sender(call, people) if call.get("event") == "connect" and not by_business else None
    if contact is None:
        return _event(key, account, "calls", "ignored", at=at, payload=payload)
    return _event(key, account, "calls", "call", at=at, contact=contact, payload=payload)


def _preference(account: Account, item: Any, people: People, directory: Directory) -> Event:
    """A person stopped or resumed marketing messages (webhooks/reference/user_preferences)."""
    contact = _chooser(item, people) if isinstance(item, dict) else None
    if contact is None:
        return _unparsable(account, "user_preferences", item, directory)
    key = _key(_name(account), "preference", dump(item))
    at = _time(item.get("timestamp"))
    return _event(key, account, "user_preferences", "preference", at=at, contact=contact, content=item, payload=item)


def _chooser(item: dict[str, Any], people: People) -> Contact | None:
    """Never guessed: whose wish it is must be said by the wish itself."""
    wa_id = phone_digits(item.get("wa_id"))
    user_id = bsuid(item.get("user_id")) or bsuid(item.get("wa_id"))
    if wa_id is None and user_id is None:
        return None
    return people.contact(wa_id, user_id, bsuid(item.get("parent_user_id")))


# ── Events ────────────────────────────────────────────────────────────────────────────────────────


def _event(
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


def _whole(
    account: Account | None,
    field: str,
    kind: str,
    entry_id: str,
    time: Any,
    value: dict[str, Any],
    directory: Directory,
) -> Event:
    """One event for a change as a whole: everything that is no single message, status, call or preference."""
    key = _key(_name(account), entry_id, field, str(time), dump(value))
    ids = [*directory.meta_ids, *([entry_id] if is_meta_id(entry_id) else [])]
    payload = redact(value, ids, drop_keys=True)
    content = payload if kind in ("template", "account") else None
    return _event(key, account, field, kind, at=_time(time), content=content, payload=payload)


def _unparsable(account: Account | None, field: str, found: Any, directory: Directory, place: str = "") -> Event:
    """An event for a part that could not be read. If the number it came by is known, it stays with that number."""
    key = _key(_name(account), "unparsable", place, dump(found))
    payload = redact(found, directory.meta_ids, drop_keys=True)
    if not isinstance(payload, dict):
        return _event(key, account, field, "unparsable", payload={"raw": payload})
    at, wamid = _time(payload.get("timestamp")), text(payload.get("id"), 512)
    return _event(key, account, field, "unparsable", at=at, wamid=wamid, payload=payload)


def _unreadable_body(body: bytes, directory: Directory) -> Event:
    key = _key("unparsable", blake2b(body).hexdigest())
    payload = {"raw": redact_text(body, directory.meta_ids)}
    return _event(key, None, "unknown", "unparsable", payload=payload)


def _nameless(entry: Any) -> Any:
    """An entry without its id, which is Meta's name of a business."""
    return {name: part for name, part in entry.items() if name != "id"} if isinstance(entry, dict) else entry


def _key(*parts: str) -> str:
    """A uuid, as Postgres reads 32 hexadecimal digits."""
    return blake2b("\x1f".join(parts).encode(), digest_size=16).hexdigest()


def _name(account: Account | None) -> str:
    return f"{account.country_id}/{account.account_id}" if account else NOWHERE


# ── Values ────────────────────────────────────────────────────────────────────────────────────────


def _list(value: dict[str, Any], name: str) -> list[Any]:
    found = value.get(name)
    return found if isinstance(found, list) else []


def _id(value: Any) -> str:
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) else ""


def _own_digits(value: Any) -> str | None:
    """The digits of a business number, which Meta shows in whatever form the business likes."""
    digits = _NOT_DIGIT.sub("", value) if isinstance(value, str) else ""
    return digits if 0 < len(digits) <= 15 else None


def _uuid(value: Any) -> str | None:
    return value.lower() if isinstance(value, str) and _UUID.fullmatch(value) else None


def _time(value: Any) -> int | None:
    """Meta writes times of messages as text and of accounts as numbers."""
    if isinstance(value, str) and len(value) <= 12 and value.isdigit() and value.isascii():
        value = int(value)
    return value if type(value) is int and 0 < value < _LATEST else None


def _window(conversation: Any) -> int | None:
    """End of a free entry point window: the only conversation whose end Meta reports (pricing)."""
    if not isinstance(conversation, dict):
        return None
    origin = conversation.get("origin")
    if not isinstance(origin, dict) or origin.get("type") != "referral_conversion":
        return None
    return _time(conversation.get("expiration_timestamp"))
