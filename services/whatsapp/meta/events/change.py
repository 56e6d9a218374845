"""One change of a webhook: the account it came to, and the events that are made of it."""

from collections.abc import Mapping

from services.whatsapp.directory import NOWHERE, Account, Directory
from services.whatsapp.meta.events.clean import META_ID_KEYS, dump, is_meta_id, redact
from services.whatsapp.meta.events.event import NOTHING, Event, Kind, key_of
from services.whatsapp.meta.events.people import People
from services.whatsapp.meta.events.values import Json, text, time_of


class Change:
    """What all events of a change have in common. Without an account it could not be routed."""

    __slots__ = ("account_id", "country_id", "directory", "entry_id", "field", "name", "people", "time", "value")

    def __init__(
        self,
        account: Account | None,
        field: str,
        value: Json,
        directory: Directory,
        entry_id: str = "",
        time: object = None,
    ) -> None:
        self.country_id = account.country_id if account else NOWHERE
        self.account_id = account.account_id if account else None
        self.field = field
        self.value = value
        self.directory = directory
        self.entry_id = entry_id
        self.time = time
        self.people = People(value.get("contacts"))
        self.name = account.key if account else NOWHERE.encode()
        """The account's, in the keys of events: one fact of two accounts is two facts."""

    def event(self, key: str, kind: Kind, payload: Json, at: int | None = None, wamid: str | None = None) -> Event:
        event = NOTHING.copy()
        event["key"] = key
        event["country_id"] = self.country_id
        event["account_id"] = self.account_id
        event["field"] = self.field
        event["kind"] = kind
        event["payload"] = payload
        event["at"] = at
        event["wamid"] = wamid
        return event

    def whole(self, kind: Kind, value: Json) -> Event:
        """One event for a value as a whole: everything that is no single message, status, call or preference."""
        key = key_of(self.name, self.entry_id.encode(), self.field.encode(), str(self.time).encode(), dump(value))
        ids = [*self.directory.meta_ids, *([self.entry_id] if is_meta_id(self.entry_id) else [])]
        payload = redact(value, ids, drop_keys=True)
        event = self.event(key, kind, payload, time_of(self.time))
        if kind in ("template", "account"):
            event["content"] = payload
        return event

    def unparsable(self, found: object, place: str = "") -> Event:
        """A part that could not be read. If the number it came by is known, it stays with that number."""
        key = key_of(self.name, b"unparsable", place.encode(), dump(found))
        payload = redact(found, self.directory.meta_ids, drop_keys=True)
        if not isinstance(payload, dict):
            return self.event(key, "unparsable", {"raw": payload})
        return self.event(key, "unparsable", payload, time_of(payload.get("timestamp")), text(payload.get("id"), 512))

    def beside(self, holder: Mapping[str, object], read: frozenset[str]) -> list[Event]:
        """What stands beside the members that were read; ids of Meta alone are nothing to keep."""
        rest = {name: part for name, part in holder.items() if name not in read and name not in META_ID_KEYS}
        payload = redact(rest, self.directory.meta_ids, drop_keys=True)
        if not payload:
            return []
        key = key_of(self.name, self.field.encode(), b"beside", dump(rest))
        return [self.event(key, "ignored" if self.account_id else "unroutable", payload)]
