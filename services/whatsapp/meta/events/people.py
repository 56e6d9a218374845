"""Who a webhook speaks of: the ids of a message, a status or a call, completed by the `contacts` beside it.

Meta names a person by phone digits (`wa_id`, `from`, `recipient_id`), by a business-scoped user id (BSUID), or by both;
any may be missing, and an id may stand where another belongs. A group is nobody.

Sources: M:business-scoped-user-ids, M:webhooks/reference/messages/* (contacts, system), …/user_preferences.
"""

import re
from typing import TypedDict

from services.whatsapp.identity import is_bsuid, match_key
from services.whatsapp.meta.events.values import Json, text


class Contact(TypedDict):
    """A person as an event names them. All keys are always present, any may be None."""

    wa_id: str | None
    match_key: str | None
    bsuid: str | None
    parent_bsuid: str | None
    identity_key_hash: str | None
    name: str | None
    username: str | None
    previous_wa_id: str | None
    previous_match_key: str | None
    previous_bsuid: str | None


_NOT_IN_A_PHONE = re.compile(r"[^0-9+\s().\-/]", re.ASCII)
_NOT_DIGIT = re.compile(r"[^0-9]")
_CHANGES = frozenset(("user_changed_number", "customer_changed_number", "user_changed_user_id"))


# ── Ids ───────────────────────────────────────────────────────────────────────────────────────────


def phone_digits(value: object) -> str | None:
    """The digits of a person's phone, however written; None if it cannot be one (E.164 allows 15)."""
    if not isinstance(value, str):
        if type(value) is not int or value <= 0:
            return None
        value = str(value)
    if not (value.isdigit() and value.isascii()):
        if _NOT_IN_A_PHONE.search(value):
            return None
        value = _NOT_DIGIT.sub("", value)
    return value if 0 < len(value) <= 15 else None


def bsuid(value: object) -> str | None:
    return value if isinstance(value, str) and is_bsuid(value) else None


def is_group(value: object) -> bool:
    return isinstance(value, str) and value.endswith("@g.us")


# ── The contacts of a value ───────────────────────────────────────────────────────────────────────


class People:
    """The `contacts` of a value, and which of them its events have told."""

    __slots__ = ("_index", "_persons", "_told")

    def __init__(self, contacts: object) -> None:
        self._persons: list[object] = contacts if isinstance(contacts, list) else [] if contacts is None else [contacts]
        self._index: dict[str, Json] | None = None
        self._told: set[int] = set()

    def contact(
        self, wa_id: str | None, user_id: str | None, parent: str | None = None, identity: str | None = None
    ) -> Contact | None:
        """The person of these names, completed. Without any name it is the only person there is, if there is one."""
        person = self._find(wa_id, user_id)
        if person is None:
            return _contact(wa_id, user_id, parent, identity) if wa_id or user_id else None
        given = person.get("wa_id")
        their_id = person.get("user_id")
        profile = person.get("profile")
        if given != wa_id:
            other = phone_digits(given)
            # Of two spellings of one number, the one Meta calls wa_id; the other one stays in the payload.
            if other and (wa_id is None or match_key(other) == match_key(wa_id)):
                wa_id = other
        if user_id is None:
            user_id = bsuid(their_id) or bsuid(given)
            if wa_id is None and user_id is None:
                return None
        if len(person) > 3:
            parent = parent or bsuid(person.get("parent_user_id"))
            identity = text(person.get("identity_key_hash"), 512) or identity
        contact = _contact(wa_id, user_id, parent, identity)
        if isinstance(profile, dict):
            contact["name"] = text(profile.get("name"), 256)
            if "username" in profile:
                contact["username"] = text(profile["username"], 256)
        # Nearly everybody is told by two names and a profile, or without one.
        as_told = given and their_id and given == wa_id and their_id == user_id
        plain = len(person) == 3 and profile == {"name": contact["name"]} if profile else len(person) == 2
        if (as_told and plain) or _says_all(contact, person):
            self._told.add(id(person))
        return contact

    @property
    def all_told(self) -> bool:
        return len(self._told) == len(self._persons)

    def untold(self) -> list[object]:
        """What no contact of an event says: people nobody asked for, and whatever else was said of them."""
        told = [person for person in self._persons if id(person) in self._told]
        # Where a value has several statuses of one person, the same words stand there several times.
        return [person for person in self._persons if person not in told]

    def _find(self, wa_id: str | None, user_id: str | None) -> Json | None:
        persons = self._persons
        if not persons:
            return None
        only = persons[0] if len(persons) == 1 and isinstance(persons[0], dict) else None
        # Nearly every webhook has one person, and is found without an index.
        if only is not None and (only.get("wa_id") == wa_id if wa_id else user_id is None):
            return only
        if self._index is None:
            self._index = _index(persons)
        return (wa_id and self._index.get(match_key(wa_id))) or (user_id and self._index.get(user_id)) or None


def _index(persons: list[object]) -> dict[str, Json]:
    """People by match key and by BSUID, which are never the same; the first of a name has it."""
    index: dict[str, Json] = {}
    for person in persons:
        if isinstance(person, dict):
            given = person.get("wa_id")
            wa_id = phone_digits(given)
            if wa_id:
                index.setdefault(match_key(wa_id), person)
            if user_id := bsuid(person.get("user_id")) or bsuid(given):
                index.setdefault(user_id, person)
    return index


def _says_all(contact: Contact, person: Json) -> bool:
    """Whether nothing that is said of a person is lost with their entry in `contacts`."""
    said: Json = {
        "wa_id": contact["wa_id"],
        "user_id": contact["bsuid"],
        "parent_user_id": contact["parent_bsuid"],
        "identity_key_hash": contact["identity_key_hash"],
    }
    if "profile" in person:
        profile = person["profile"]
        names = {"name": contact["name"], "username": contact["username"]}
        if not isinstance(profile, dict) or not profile.items() <= names.items():
            return False
        said["profile"] = profile
    return person.items() <= said.items()


def changed_person(message: Json) -> Contact | None:
    """A system message is about a person who changed: the outer ids are the old ones, the inner ones the new.

    Any id may be missing; after `user_changed_user_id` only BSUIDs are left.
    """
    system = message.get("system")
    if not isinstance(system, dict):
        system = {}
    wa_id = phone_digits(system.get("wa_id")) or phone_digits(system.get("new_wa_id"))
    user_id = bsuid(system.get("user_id")) or bsuid(system.get("wa_id"))
    former = phone_digits(message.get("from"))
    if former is None or former == wa_id:
        former = phone_digits(system.get("customer")) or former
    former_bsuid = bsuid(system.get("previous_user_id")) or sender_bsuid(message)
    if not (former or former_bsuid or wa_id or user_id):
        return None
    parent = bsuid(system.get("parent_user_id")) or bsuid(message.get("from_parent_user_id"))
    if system.get("type") not in _CHANGES:
        identity = identity_of(system) or identity_of(message)
        return _contact(wa_id or former, user_id or former_bsuid, parent, identity)
    contact = _contact(wa_id, user_id, parent)
    if former and former != wa_id:
        contact["previous_wa_id"] = former
        contact["previous_match_key"] = match_key(former)
    if former_bsuid != user_id:
        contact["previous_bsuid"] = former_bsuid
    return contact


def sender_bsuid(message: Json) -> str | None:
    return bsuid(message.get("from_user_id")) or bsuid(message.get("from"))


def identity_of(holder: Json) -> str | None:
    """The hash by which Meta says that a person's device changed, where a message carries it."""
    identity = holder.get("identity")
    return text(identity.get("hash"), 512) if isinstance(identity, dict) else None


_NOBODY: Contact = {
    "wa_id": None,
    "match_key": None,
    "bsuid": None,
    "parent_bsuid": None,
    "identity_key_hash": None,
    "name": None,
    "username": None,
    "previous_wa_id": None,
    "previous_match_key": None,
    "previous_bsuid": None,
}


def _contact(wa_id: str | None, user_id: str | None, parent: str | None = None, identity: str | None = None) -> Contact:
    contact = _NOBODY.copy()
    if wa_id:
        contact["wa_id"] = wa_id
        contact["match_key"] = match_key(wa_id)
    contact["bsuid"] = user_id
    contact["parent_bsuid"] = parent
    contact["identity_key_hash"] = identity
    return contact
