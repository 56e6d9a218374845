"""What people choose to get. Source: M:webhooks/reference/user_preferences."""

from typing import Any

from services.whatsapp.directory import Account, Directory
from services.whatsapp.meta.events.clean import dump
from services.whatsapp.meta.events.event import Event, key_of, name_of, new_event, unparsable
from services.whatsapp.meta.events.people import Contact, People, bsuid, phone_digits
from services.whatsapp.meta.events.values import time_of


def preference_event(account: Account, item: Any, people: People, directory: Directory) -> Event:
    """A person stopped or resumed marketing messages (webhooks/reference/user_preferences)."""
    contact = _chooser(item, people) if isinstance(item, dict) else None
    if contact is None:
        return unparsable(account, "user_preferences", item, directory)
    key = key_of(name_of(account), "preference", dump(item))
    at = time_of(item.get("timestamp"))
    return new_event(key, account, "user_preferences", "preference", at=at, contact=contact, content=item, payload=item)


def _chooser(item: dict[str, Any], people: People) -> Contact | None:
    """Never guessed: whose wish it is must be said by the wish itself."""
    wa_id = phone_digits(item.get("wa_id"))
    user_id = bsuid(item.get("user_id")) or bsuid(item.get("wa_id"))
    if wa_id is None and user_id is None:
        return None
    return people.contact(wa_id, user_id, bsuid(item.get("parent_user_id")))
