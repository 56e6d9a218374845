"""Webhook bytes to events: the hot path of receiving.

`parse` turns one POST of Meta's into plain dicts for one durable `ingest`. It never raises and never
drops: what cannot be read or routed becomes an event too. Event keys, all always present:

    key           uuid, equal for every delivery of the same fact: the idempotency key
    country_id    "ZZ" when the event could not be read or routed; account_id is None then
    account_id
    field         Meta's webhook field: "messages", "account_update"…
    kind          message, status, call, preference, template, account, system, ignored, unparsable,
                  unroutable
    at            unix seconds by Meta's clock, or None; only sane years pass, the caller judges the future
    wamid         Meta's id of the message
    message_id    our id of an outbound message, echoed by Meta (biz_opaque_callback_data)
    state         of a status: sent, delivered, read, played, failed
    contact       {wa_id, match_key, bsuid, name, previous_wa_id, previous_match_key, previous_bsuid}
    error         `meta_errors.Failure.as_dict()`
    price         Meta's pricing object
    window_until  unix seconds: end of a free entry point window
    content       of a message: {type, <type>, context, referral, errors} as Meta sent it; else Meta's value
    payload       the raw object, without Meta's ids of numbers and business accounts

Shapes: Meta's pages webhooks/reference/messages/*, webhooks/reference/*, business-scoped-user-ids.
"""

import json
import re
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import orjson

from services.whatsapp.directory import NOWHERE, Account, Directory
from services.whatsapp.identity import is_bsuid, match_key
from services.whatsapp.meta_errors import from_webhook

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
_META_ID_KEYS = frozenset(
    (
        "phone_number_id",
        "waba_id",
        "business_id",
        "owner_business_id",
        "messaging_account_id",
        "paid_messaging_account_id",
        "partner_app_id",
        "entity_id",
    )
)
_UUID = re.compile("-".join(f"[0-9a-fA-F]{{{length}}}" for length in (8, 4, 4, 4, 12)))
_NOT_DIGIT = re.compile(r"[^0-9]")
_RAW_LIMIT = 64 * 1024
_LATEST = 4_102_444_800  # 2100: beyond it a time is garbage, and Postgres might refuse it


def parse(body: bytes, directory: Directory) -> list[Event]:
    """The events of one webhook body, in the order Meta gave them. Never raises, whatever the bytes."""
    document = _load(body)
    entries = document.get("entry") if isinstance(document, dict) else None
    if not isinstance(entries, list) or document.get("object") != "whatsapp_business_account":
        return [_unparsable(body, directory)]
    events: list[Event] = []
    mentions: dict[str, int] = {}
    for entry in entries:
        changes = entry.get("changes") if isinstance(entry, dict) else None
        if not isinstance(changes, list):
            events.append(_unparsable(entry, directory))
            continue
        entry_id = _id(entry.get("id"))
        if entry_id:
            mentions[entry_id] = mentions.get(entry_id, 0) + 1
        for change in changes:
            try:
                events += _change(change, entry_id, entry.get("time"), directory, mentions)
            except Exception:  # one change nobody foresaw must not cost the others, nor a 5xx
                events.append(_unparsable(change, directory))
    return _without_leaks(events, body, mentions)


# ── One change ────────────────────────────────────────────────────────────────────────────────────


def _change(change: Any, entry_id: str, time: Any, directory: Directory, mentions: dict[str, int]) -> list[Event]:
    value = change.get("value") if isinstance(change, dict) else None
    if not isinstance(value, dict):
        return [_unparsable(change, directory)]
    field = _text(change.get("field"), 100) or "unknown"
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
    if not accounts:
        return [_whole(None, field, "unroutable", entry_id, time, value, directory)]
    events: list[Event] = []
    if field == "messages":
        events = _messages(accounts[0], value, entry_id, time, directory)
    elif field == "calls":
        events = _calls(accounts[0], value, directory)
    elif field == "user_preferences":
        events = [_preference(accounts[0], item, directory) for item in _list(value, "user_preferences")]
    if events:
        return events
    kind = "ignored"
    if field in _TEMPLATE_FIELDS:
        kind = "template"
    elif field in _ACCOUNT_FIELDS:
        kind = "account"
    # TODO: coexistence (smb_message_echoes, history, smb_app_state_sync), conversation routing (standby,
    # messaging_handovers) and user_actions (clicks, Marketing Messages API) are only recorded, as ignored.
    return [_whole(account, field, kind, entry_id, time, value, directory) for account in accounts]


def _accounts_without_metadata(
    field: str, value: dict[str, Any], entry_id: str, directory: Directory
) -> tuple[Account, ...]:
    """Webhooks about an account name the WABA; those about one of its numbers show that number.

    Messages, calls and preferences are never guessed: without their own number they reach nobody.
    """
    if field in ("messages", "calls", "user_preferences"):
        return ()
    entity = directory.by_phone_number_id(_id(value.get("entity_id")))
    if entity:
        return (entity,)
    accounts = directory.by_waba_id(entry_id)
    information = value.get("waba_info")
    if not accounts and isinstance(information, dict):
        accounts = directory.by_waba_id(_id(information.get("waba_id")))
    shown = _digits(value.get("display_phone_number") or value.get("phone_number"))
    if shown is None:
        return accounts
    matching = tuple(account for account in accounts if account.phone and match_key(account.phone) == match_key(shown))
    return matching or tuple(account for account in accounts if account.phone is None)


def _messages(account: Account, value: dict[str, Any], entry_id: str, time: Any, directory: Directory) -> list[Event]:
    people = value.get("contacts")
    if not isinstance(people, list):
        people = []
    events = [_status(account, status, people, directory) for status in _list(value, "statuses")]
    events += [_message(account, message, people, directory) for message in _list(value, "messages")]
    errors = _list(value, "errors")
    if errors:
        event = _whole(account, "messages", "account", entry_id, time, {"errors": errors}, directory)
        event["error"] = from_webhook(errors[0]).as_dict()
        events.append(event)
    return events


def _status(account: Account, status: Any, people: list[Any], directory: Directory) -> Event:
    wamid = _text(status.get("id"), 512) if isinstance(status, dict) else None
    state = _text(status.get("status"), 100) if wamid else None
    if not wamid or not state:
        return _unparsable(status, directory)
    recipient = _text(status.get("recipient_participant_id"), 512) or _text(status.get("recipient_id"), 512)
    recipient = recipient or _text(status.get("recipient_user_id"), 512) or ""
    key = _key(_name(account), wamid, state, recipient)
    at = _time(status.get("timestamp"))
    # TODO: groups are not implemented.
    if state not in _STATES or status.get("recipient_type") == "group":
        return _event(key, account, "messages", "ignored", at=at, wamid=wamid, payload=status)
    errors = status.get("errors")
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
        contact=_contact(_digits(status.get("recipient_id")), _bsuid(status.get("recipient_user_id")), people),
        error=from_webhook(errors[0]).as_dict() if isinstance(errors, list) and errors else None,
        price=pricing if isinstance(pricing, dict) else None,
        window_until=_window(status.get("conversation")),
        payload=status,
    )


def _message(account: Account, message: Any, people: list[Any], directory: Directory) -> Event:
    wamid = _text(message.get("id"), 512) if isinstance(message, dict) else None
    if not wamid:
        return _unparsable(message, directory)
    key = _key(_name(account), wamid, "received")
    at = _time(message.get("timestamp"))
    # TODO: groups are not implemented. A request_welcome is no message: the person only opened the chat.
    if message.get("group_id") or message.get("type") == "request_welcome":
        return _event(key, account, "messages", "ignored", at=at, wamid=wamid, payload=message)
    kind = "system" if message.get("type") == "system" else "message"
    contact = _changed_person(message) if kind == "system" else _sender(message, people)
    if contact is None:
        return _unparsable(message, directory)
    errors = message.get("errors")
    return _event(
        key,
        account,
        "messages",
        kind,
        at=at,
        wamid=wamid,
        contact=contact,
        error=from_webhook(errors[0]).as_dict() if isinstance(errors, list) and errors else None,
        content=_content(message),
        payload=message,
    )


def _content(message: dict[str, Any]) -> dict[str, Any]:
    """The message in Meta's own words; a message without a type (it happens) is of type "unknown"."""
    kind = _text(message.get("type"), 100) or "unknown"
    content: dict[str, Any] = {"type": kind}
    for name in (kind, "context", "referral", "errors"):
        if name in message and name != "type":
            content[name] = message[name]
    return content


def _calls(account: Account, value: dict[str, Any], directory: Directory) -> list[Event]:
    """A call by the customer opens the window, so it is recorded; nothing else of the Calling API is.

    TODO: the Calling API is not implemented.
    """
    own = _digits(value["metadata"].get("display_phone_number"))
    people = _list(value, "contacts")
    events = [_call(account, call, own, people, directory) for call in _list(value, "calls")]
    for status in _list(value, "statuses"):
        if isinstance(status, dict):
            key = _key(_name(account), "call", _dump(status))
            events.append(_event(key, account, "calls", "ignored", at=_time(status.get("timestamp")), payload=status))
        else:
            events.append(_unparsable(status, directory))
    return events


def _call(account: Account, call: Any, own: str | None, people: list[Any], directory: Directory) -> Event:
    call_id = _text(call.get("id"), 512) if isinstance(call, dict) else None
    if not call_id:
        return _unparsable(call, directory)
    happening = _text(call.get("event"), 100) or ""
    key = _key(_name(account), call_id, "call", happening)
    payload = {name: part for name, part in call.items() if name != "session"}  # network addresses and keys
    at = _time(call.get("timestamp"))
    contact = _sender(call, people)
    # Only the ring itself opens the window: an hour-long call must not push its end an hour further.
    by_business = call.get("direction") == "BUSINESS_INITIATED" or (own and _digits(call.get("from")) == own)
    if happening != "connect" or by_business or contact is None:
        return _event(key, account, "calls", "ignored", at=at, payload=payload)
    return _event(key, account, "calls", "call", at=at, contact=contact, payload=payload)


def _preference(account: Account, item: Any, directory: Directory) -> Event:
    """A person stopped or resumed marketing messages (webhooks/reference/user_preferences)."""
    if not isinstance(item, dict):
        return _unparsable(item, directory)
    wa_id = _digits(item.get("wa_id"))
    bsuid = _bsuid(item.get("user_id"))
    contact = _contact(wa_id, bsuid, [])
    if contact is None:
        return _unparsable(item, directory)
    words = [_text(item.get(name), 100) or "" for name in ("category", "value")]
    key = _key(_name(account), "preference", wa_id or "", bsuid or "", *words, str(item.get("timestamp")))
    at = _time(item.get("timestamp"))
    return _event(key, account, "user_preferences", "preference", at=at, contact=contact, content=item, payload=item)


# ── People ────────────────────────────────────────────────────────────────────────────────────────


def _sender(message: dict[str, Any], people: list[Any]) -> dict[str, Any] | None:
    wa_id = _digits(message.get("from"))
    bsuid = _bsuid(message.get("from_user_id"))
    if wa_id is None and bsuid is None and len(people) == 1 and isinstance(people[0], dict):
        wa_id = _digits(people[0].get("wa_id"))
        bsuid = _bsuid(people[0].get("user_id"))
    return _contact(wa_id, bsuid, people)


def _contact(wa_id: str | None, bsuid: str | None, people: list[Any]) -> dict[str, Any] | None:
    """The person, completed by what `contacts[]` says about the same person."""
    if wa_id is None and bsuid is None:
        return None
    name = None
    for person in people:
        if not isinstance(person, dict):
            continue
        other_wa_id = _digits(person.get("wa_id"))
        other_bsuid = _bsuid(person.get("user_id"))
        same = wa_id == other_wa_id if wa_id and other_wa_id else bsuid is not None and bsuid == other_bsuid
        if same:
            wa_id = wa_id or other_wa_id
            bsuid = bsuid or other_bsuid
            profile = person.get("profile")
            if isinstance(profile, dict):
                name = _text(profile.get("name"), 256) or _text(profile.get("username"), 256)
            break
    return _person(wa_id, bsuid, name)


def _changed_person(message: dict[str, Any]) -> dict[str, Any] | None:
    """A system message is about a person who changed: the outer ids are the old ones, the inner ones the new.

    Any id may be missing; after `user_changed_user_id` only BSUIDs are left.
    """
    system = message.get("system")
    if not isinstance(system, dict):
        system = {}
    former = _digits(message.get("from"))
    former_bsuid = _bsuid(system.get("previous_user_id")) or _bsuid(message.get("from_user_id"))
    wa_id = _digits(system.get("wa_id")) or _digits(system.get("new_wa_id"))
    bsuid = _bsuid(system.get("user_id"))
    if not (former or former_bsuid or wa_id or bsuid):
        return None
    if system.get("type") not in ("user_changed_number", "user_changed_user_id"):
        return _person(wa_id or former, bsuid or former_bsuid)
    return _person(
        wa_id,
        bsuid,
        former=former if former != wa_id else None,
        former_bsuid=former_bsuid if former_bsuid != bsuid else None,
    )


def _person(
    wa_id: str | None,
    bsuid: str | None,
    name: str | None = None,
    former: str | None = None,
    former_bsuid: str | None = None,
) -> dict[str, Any]:
    return {
        "wa_id": wa_id,
        "match_key": match_key(wa_id) if wa_id else None,
        "bsuid": bsuid,
        "name": name,
        "previous_wa_id": former,
        "previous_match_key": match_key(former) if former else None,
        "previous_bsuid": former_bsuid,
    }


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
    contact: dict[str, Any] | None = None,
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
    key = _key(_name(account) if account else NOWHERE, entry_id, field, str(time), _dump(value))
    ids = [*directory.meta_ids, *([entry_id] if _is_meta_id(entry_id) else [])]
    clean = _redact(value, ids, drop_keys=True)
    payload = clean
    if kind in ("ignored", "unroutable") and len(raw := _dump(clean)) > _RAW_LIMIT:
        payload = {"raw": raw[:_RAW_LIMIT]}  # a synced chat history may have megabytes
    content = clean if kind in ("template", "account") else None
    return _event(key, account, field, kind, at=_time(time), content=content, payload=payload)


def _unparsable(found: Any, directory: Directory) -> Event:
    """An event for what could not be read: the whole body, or one part of it."""
    body = found if isinstance(found, bytes) else _dump(found).encode()
    key = _key("unparsable", blake2b(body).hexdigest())
    raw = body[:_RAW_LIMIT].decode("utf-8", "replace").replace("\0", "�")
    raw = _ID_IN_TEXT.sub(r"\1…", raw)
    for meta_id in directory.meta_ids:
        raw = raw.replace(meta_id, "…")
    return _event(key, None, "unknown", "unparsable", payload={"raw": raw})


_ID_IN_TEXT = re.compile(r'("(?:id|phone_number_id|[a-z_]*(?:waba|business|account)_id)"\s*:\s*"?)[0-9]{6,}')


def _key(*parts: str) -> str:
    digest = blake2b("\x1f".join(parts).encode(), digest_size=16).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:]}"


def _name(account: Account) -> str:
    return f"{account.country_id}/{account.account_id}"


# ── Values ────────────────────────────────────────────────────────────────────────────────────────


def _list(value: dict[str, Any], name: str) -> list[Any]:
    found = value.get(name)
    return found if isinstance(found, list) else []


def _text(value: Any, longest: int) -> str | None:
    """A string of 1 to `longest` characters, else None: longer ones would not fit an index."""
    return value if isinstance(value, str) and 0 < len(value) <= longest else None


def _id(value: Any) -> str:
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) else ""


def _digits(value: Any) -> str | None:
    """The digits of a phone number, however written; None if it cannot be one (E.164 allows 15)."""
    if not isinstance(value, str):
        return None
    digits = value if value.isdigit() and value.isascii() else _NOT_DIGIT.sub("", value)
    return digits if 0 < len(digits) <= 15 else None


def _bsuid(value: Any) -> str | None:
    return value if isinstance(value, str) and is_bsuid(value) else None


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


# ── Bytes that would hurt ─────────────────────────────────────────────────────────────────────────

_DEEPEST = 200
"""orjson refuses to write more than 254 levels."""


def _load(body: bytes) -> Any:
    """The JSON of a body with nothing in it that Postgres or a JSON writer refuses; None if it is no JSON."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _load_tolerantly(body)
    if b"\\u0000" in body or _is_deep(document, body):
        return _clean(document)
    return document


def _is_deep(document: Any, body: bytes) -> bool:
    if body.count(b"{") + body.count(b"[") < _DEEPEST:
        return False
    try:
        orjson.dumps(document)
    except orjson.JSONEncodeError:
        return True
    return False


def _load_tolerantly(body: bytes) -> Any:
    """For bodies orjson refuses: broken UTF-8, lone surrogates, NaN. Rare enough for the slow parser."""
    try:
        return _clean(json.loads(body.decode("utf-8", "replace")))
    except (ValueError, RecursionError):
        return None


def _clean(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "�").encode("utf-8", "replace").decode()
    if depth > _DEEPEST:
        return None
    if isinstance(value, dict):
        return {_clean(name): _clean(part, depth + 1) for name, part in value.items()}
    if isinstance(value, list):
        return [_clean(part, depth + 1) for part in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return None
    return value


def _dump(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


# ── Meta's ids ────────────────────────────────────────────────────────────────────────────────────


def _without_leaks(events: list[Event], body: bytes, mentions: dict[str, int]) -> list[Event]:
    """Redact the events if an id of Meta occurs anywhere in the body but where it belongs.

    Counting in the bytes is cheap enough to do for every body; walking the events is for the rare hit.
    """
    leaking = [
        meta_id for meta_id, times in mentions.items() if body.count(meta_id.encode()) != times and _is_meta_id(meta_id)
    ]
    if not leaking:
        return events
    leaking.sort(key=len, reverse=True)
    return [_redact(event, leaking) for event in events]


def _is_meta_id(text: str) -> bool:
    """Whether a text is worth hiding: replacing every "0" of a test webhook would wreck its events."""
    return len(text) >= 6 and text.isdigit()


def _redact(value: Any, ids: Iterable[str], *, drop_keys: bool = False) -> Any:
    """A copy without the ids, and without the keys that hold ids of Meta's if `drop_keys`."""
    if isinstance(value, str):
        for meta_id in ids:
            if meta_id in value:
                value = value.replace(meta_id, "…")
        return value
    if isinstance(value, dict):
        return {
            _redact(name, ids): _redact(part, ids, drop_keys=drop_keys)
            for name, part in value.items()
            if not (drop_keys and name in _META_ID_KEYS)
        }
    if isinstance(value, list):
        return [_redact(part, ids, drop_keys=drop_keys) for part in value]
    if isinstance(value, int | float) and any(meta_id in str(value) for meta_id in ids):
        return None
    return value
