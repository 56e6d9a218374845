"""Webhook bytes to events: the hot path of receiving.

`parse` turns one POST of Meta's into plain dicts for one durable `ingest`. It never raises and never
drops: what cannot be read or routed becomes an event too, and so does whatever stands beside what was read.

Shapes: Meta's pages webhooks/reference/messages/*, webhooks/reference/*, business-scoped-user-ids.
"""

from typing import Any

from services.whatsapp.directory import Account, Directory
from services.whatsapp.identity import match_key
from services.whatsapp.meta.errors import from_webhook
from services.whatsapp.meta.events.calls import call_events
from services.whatsapp.meta.events.clean import is_suspicious, leaked_ids, load, redact
from services.whatsapp.meta.events.event import Event, beside, unparsable, unreadable_body, whole
from services.whatsapp.meta.events.messages import message_event
from services.whatsapp.meta.events.people import People, text
from services.whatsapp.meta.events.preferences import preference_event
from services.whatsapp.meta.events.statuses import status_event
from services.whatsapp.meta.events.values import id_of, list_of, own_digits

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
_OF_PARTNERS = frozenset(("PARTNER_REMOVED", "PARTNER_APP_UNINSTALLED"))


def parse(body: bytes, directory: Directory) -> list[Event]:
    """The events of one webhook body, in the order Meta gave them. Never raises, whatever the bytes."""
    suspicious = is_suspicious(body)
    document = load(body, suspicious)
    entries = document.get("entry") if isinstance(document, dict) else None
    if not isinstance(entries, list) or document.get("object") != "whatsapp_business_account":
        return [unreadable_body(body, directory)]
    events: list[Event] = []
    mentions: dict[str, int] = {}
    for entry in entries:
        changes = entry.get("changes") if isinstance(entry, dict) else None
        if not isinstance(changes, list):
            events.append(unparsable(None, "unknown", _nameless(entry), directory))
            continue
        entry_id = id_of(entry.get("id"))
        if entry_id:
            mentions[entry_id] = mentions.get(entry_id, 0) + 1
        for change in changes:
            try:
                events += _change(change, entry_id, entry.get("time"), directory, mentions)
            except Exception:  # one change nobody foresaw must not cost the others, nor a 5xx
                events.append(unparsable(None, "unknown", change, directory, entry_id))
        if len(entry) > 2 and not entry.keys() <= _OF_ENTRY:
            events += beside(None, "unknown", entry, _OF_ENTRY, directory)
    if len(document) > 2:
        events += beside(None, "unknown", document, _OF_DOCUMENT, directory)
    leaked = leaked_ids(body, mentions, suspicious)
    return [redact(event, leaked) for event in events] if leaked else events


# ── One change ────────────────────────────────────────────────────────────────────────────────────


def _change(change: Any, entry_id: str, time: Any, directory: Directory, mentions: dict[str, int]) -> list[Event]:
    value = change.get("value") if isinstance(change, dict) else None
    if not isinstance(value, dict):
        return [unparsable(None, "unknown", change, directory, entry_id)]
    field = text(change.get("field"), 100) or "unknown"
    metadata = value.get("metadata")
    number = id_of(metadata.get("phone_number_id")) if isinstance(metadata, dict) else ""
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
        events = [whole(None, field, "unroutable", entry_id, time, value, directory)]
    elif field in _LISTS:
        events = _items(accounts[0], field, value, entry_id, time, directory)
    if not events:
        kind = _kind(field, value, directory)
        # TODO: coexistence (smb_message_echoes, history, smb_app_state_sync), conversation routing (standby,
        # messaging_handovers) and user_actions (clicks, Marketing Messages API) are only recorded, as ignored.
        events = [whole(account, field, kind, entry_id, time, value, directory) for account in accounts]
    if len(change) > 2:
        events += beside(accounts[0] if accounts else None, field, change, _OF_CHANGE, directory)
    return events


def _accounts_without_metadata(
    field: str, value: dict[str, Any], entry_id: str, directory: Directory
) -> tuple[Account, ...]:
    """Webhooks about an account name the WABA; those about one of its numbers show that number.

    Messages, calls and preferences are never guessed: without their own number they reach nobody.
    """
    if field in _LISTS:
        return ()
    entity = directory.by_phone_number_id(id_of(value.get("entity_id")))
    if entity:
        return (entity,)
    accounts = directory.by_waba_id(entry_id)
    information = value.get("waba_info")
    if not accounts and isinstance(information, dict):
        accounts = directory.by_waba_id(id_of(information.get("waba_id")))
    shown = own_digits(value.get("display_phone_number") or value.get("phone_number"))
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
        app_id = id_of(information.get("partner_app_id")) if isinstance(information, dict) else ""
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
        events = call_events(account, value, people, directory)
        lists = bool(list_of(value, "calls")) + bool(list_of(value, "statuses"))
    else:
        events = [preference_event(account, item, people, directory) for item in list_of(value, field)]
        lists = 1
    if events and not (_is_plain(value, lists) and people.all_told):
        events += _rest(account, field, value, people, directory)
    return events


def _messages(
    account: Account, value: dict[str, Any], entry_id: str, time: Any, people: People, directory: Directory
) -> tuple[list[Event], int]:
    """The events, and how many lists they come from."""
    statuses, messages, errors = list_of(value, "statuses"), list_of(value, "messages"), list_of(value, "errors")
    events = [status_event(account, status, people, directory) for status in statuses] if statuses else []
    if messages:
        events += [message_event(account, message, people, directory) for message in messages]
    if errors:
        event = whole(account, "messages", "account", entry_id, time, {"errors": errors}, directory)
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
        return [unparsable(account, field, rest | broken, directory)]
    return beside(account, field, rest, _NOTHING, directory) if rest else []


def _nameless(entry: Any) -> Any:
    """An entry without its id, which is Meta's name of a business."""
    return {name: part for name, part in entry.items() if name != "id"} if isinstance(entry, dict) else entry
