"""The people who use WhatsApp in the world of the stand-in for Meta (tests only): phone, user id (BSUID),
name."""

import re
from dataclasses import dataclass
from hashlib import blake2b

from tests.graph.world import country_of

_OLD_MOBILE = re.compile(r"(52)1(\d{10})|(54)9(\d{10})")
"""Mexico and Argentina: spellings of a mobile number that Meta still reports, for the same line, so the same person."""


@dataclass(slots=True)
class Person:
    """`wa_id` is None when only the user id is known, or the person hides the number behind a username."""

    user_id: str
    wa_id: str | None
    name: str | None = None

    def contact(self) -> dict[str, object]:
        """The entry of `contacts[]` in a webhook."""
        contact: dict[str, object] = {"profile": {"name": self.name}} if self.name else {}
        if self.wa_id:
            contact["wa_id"] = self.wa_id
        contact["user_id"] = self.user_id
        return contact


class People:
    """Who is who. The same phone always has the same user id within one start of the world."""

    def __init__(self, salt: str, wa_ids: dict[str, str]) -> None:
        self._salt = salt.encode()
        self._wa_ids = wa_ids
        self._by_wa_id: dict[str, Person] = {}
        self._by_user_id: dict[str, Person] = {}

    def by_phone(self, digits: str) -> Person:
        """The person a dialled number belongs to; Meta may know it under another `wa_id`."""
        wa_id = self._wa_ids.get(digits, digits)
        person = self._by_wa_id.get(wa_id)
        if person is None:
            line = _OLD_MOBILE.sub(lambda found: "".join(part or "" for part in found.groups()), wa_id)
            number = int.from_bytes(blake2b(line.encode(), key=self._salt, digest_size=8).digest())
            person = Person(f"{country_of(wa_id) or 'US'}.{number:020d}", wa_id)
            self._by_wa_id[wa_id] = self._by_user_id[person.user_id] = person
        return person

    def by_user_id(self, user_id: str) -> Person:
        person = self._by_user_id.get(user_id)
        if person is None:
            person = self._by_user_id[user_id] = Person(user_id, None)
        return person
