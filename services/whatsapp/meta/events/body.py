"""Webhook bytes to events: the hot path of receiving.

`parse` turns one POST of Meta's into plain dicts for one durable `ingest`. It never raises and never
drops: what cannot be read or routed becomes an event too, and so does whatever stands beside what was read.

Shapes: Meta's pages webhooks/reference/messages/*, webhooks/reference/*, business-scoped-user-ids.
"""

from hashlib import blake2b

from services.whatsapp.directory import Account, Directory
from services.whatsapp.identity import match_key
from services.whatsapp.meta.events.change import Change
from services.whatsapp.meta.events.clean import is_suspicious, leaked_ids, load, redact, redact_text
from services.whatsapp.meta.events.event import Event, Kind, key_of
from services.whatsapp.meta.events.fields import FIELDS, UNKNOWN, Field
from services.whatsapp.meta.events.values import Json, id_of, list_of, own_digits, text

_AROUND = frozenset(("messaging_product", "metadata", "contacts"))
"""What stands around the lists of a value and is looked at apart."""
_OF_DOCUMENT = frozenset(("object", "entry"))
_OF_ENTRY = frozenset(("id", "time", "changes"))
_OF_CHANGE = frozenset(("field", "value"))
_OF_METADATA = frozenset(("display_phone_number", "phone_number_id"))
_NOTHING: frozenset[str] = frozenset()

_Mentions = dict[str, int]
"""How often each id of Meta's stands where it belongs."""


def parse(body: bytes, directory: Directory) -> list[Event]:
    """The events of one webhook body, in the order Meta gave them. Never raises, whatever the bytes."""
    suspicious = is_suspicious(body)
    document = load(body, suspicious)
    entries = document.get("entry") if isinstance(document, dict) else None
    if not isinstance(entries, list) or document.get("object") != "whatsapp_business_account":
        return [_unreadable(body, directory)]
    events: list[Event] = []
    mentions: _Mentions = {}
    for entry in entries:
        events += _entry(entry, directory, mentions)
    if len(document) > 2:
        events += _nobodys(directory).beside(document, _OF_DOCUMENT)
    leaked = leaked_ids(body, mentions, suspicious)
    return [redact(event, leaked) for event in events] if leaked else events


def _unreadable(body: bytes, directory: Directory) -> Event:
    key = key_of(b"unparsable", blake2b(body).hexdigest().encode())
    return _nobodys(directory).event(key, "unparsable", {"raw": redact_text(body, directory.meta_ids)})


def _nobodys(directory: Directory) -> Change:
    return Change(None, "unknown", {}, directory)


def _entry(entry: object, directory: Directory, mentions: _Mentions) -> list[Event]:
    if not isinstance(entry, dict) or not isinstance(changes := entry.get("changes"), list):
        return [_nobodys(directory).unparsable(_nameless(entry))]
    entry_id = id_of(entry.get("id"))
    if entry_id:
        mentions[entry_id] = mentions.get(entry_id, 0) + 1
    events: list[Event] = []
    for change in changes:
        try:
            events += _change(change, entry_id, entry.get("time"), directory, mentions)
        except Exception:  # one change nobody foresaw must not cost the others, nor a 5xx
            events.append(_nobodys(directory).unparsable(change, entry_id))
    if len(entry) > 2 and not entry.keys() <= _OF_ENTRY:
        events += _nobodys(directory).beside(entry, _OF_ENTRY)
    return events


def _nameless(entry: object) -> object:
    """An entry without its id, which is Meta's name of a business."""
    return {name: part for name, part in entry.items() if name != "id"} if isinstance(entry, dict) else entry


# ── One change ────────────────────────────────────────────────────────────────────────────────────


def _change(change: object, entry_id: str, time: object, directory: Directory, mentions: _Mentions) -> list[Event]:
    if not isinstance(change, dict) or not isinstance(value := change.get("value"), dict):
        return [_nobodys(directory).unparsable(change, entry_id)]
    name = text(change.get("field"), 100) or "unknown"
    field = FIELDS.get(name, UNKNOWN)
    accounts = _accounts(field, value, entry_id, directory, mentions)
    first = Change(accounts[0] if accounts else None, name, value, directory, entry_id, time)
    events = _items(first, field) if accounts and field.items else []
    if not events:
        kind = _kind(field, value, directory) if accounts else "unroutable"
        others = [Change(account, name, value, directory, entry_id, time) for account in accounts[1:]]
        events = [each.whole(kind, value) for each in (first, *others)]
    if len(change) > 2:
        events += first.beside(change, _OF_CHANGE)
    return events


def _accounts(
    field: Field, value: Json, entry_id: str, directory: Directory, mentions: _Mentions
) -> tuple[Account, ...]:
    """Whose a value is. Counts the mentions of its number, and knows those of its accounts for ids of Meta's."""
    metadata = value.get("metadata")
    number = id_of(metadata.get("phone_number_id")) if isinstance(metadata, dict) else ""
    if number:
        mentions[number] = mentions.get(number, 0) + 1
        account = directory.by_phone_number_id(number)
        if account is None:
            return ()
        mentions.setdefault(account.waba_id, 0)
        return (account,)
    if field.items:
        return ()
    accounts = _accounts_without_metadata(value, entry_id, directory)
    for account in accounts:
        mentions.setdefault(account.phone_number_id, 0)
        mentions.setdefault(account.waba_id, 0)
    return accounts


def _accounts_without_metadata(value: Json, entry_id: str, directory: Directory) -> tuple[Account, ...]:
    """Webhooks about an account name the WABA; those about one of its numbers show that number."""
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


def _kind(field: Field, value: Json, directory: Directory) -> Kind:
    """What a value that is read as a whole is about."""
    if any(value.get(name) and not isinstance(value[name], list) for name in field.names):
        return "unparsable"
    return field.kind(value, directory)


# ── The lists of a value ──────────────────────────────────────────────────────────────────────────


def _items(change: Change, field: Field) -> list[Event]:
    """An event for each item of the lists of a value, and one for whatever else the value holds."""
    value = change.value
    events: list[Event] = []
    lists = 0
    for name, read in field.items.items():
        if name in value and (items := list_of(value, name)):
            lists += 1
            for item in items:
                events.append(read(item, change))
    for name, read_all in field.lists.items():
        if name in value and (items := list_of(value, name)):
            lists += 1
            events.append(read_all(items, change))
    if events and not (_is_plain(value, lists) and change.people.all_told):
        events += _rest(change, field)
    return events


def _is_plain(value: Json, lists: int) -> bool:
    """Whether a value holds the lists that were read and what always stands around them: nearly every one does."""
    metadata = value["metadata"]
    return (
        len(value) == 2 + lists + ("contacts" in value)
        and value.get("messaging_product") == "whatsapp"
        and len(metadata) == 2
        and "display_phone_number" in metadata
    )


def _rest(change: Change, field: Field) -> list[Event]:
    """What no event of the value carries: lists nobody knows, known ones that are none, people nobody asked for."""
    value, names = change.value, field.names
    broken = {name: value[name] for name in names if name in value and not isinstance(value[name], list)}
    rest = {name: part for name, part in value.items() if name not in names and name not in _AROUND}
    if untold := change.people.untold():
        rest["contacts"] = untold
    if not value["metadata"].keys() <= _OF_METADATA:
        rest["metadata"] = value["metadata"]
    if value.get("messaging_product", "whatsapp") != "whatsapp":
        rest["messaging_product"] = value["messaging_product"]
    if broken:
        return [change.unparsable(rest | broken)]
    return change.beside(rest, _NOTHING) if rest else []
