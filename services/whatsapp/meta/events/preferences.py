"""A person stopped or resumed marketing messages. Source: M:webhooks/reference/user_preferences."""

from services.whatsapp.meta.events.change import Change
from services.whatsapp.meta.events.clean import dump
from services.whatsapp.meta.events.event import Event, key_of
from services.whatsapp.meta.events.people import Contact, People, bsuid, phone_digits
from services.whatsapp.meta.events.values import Json, time_of


def preference_event(item: object, change: Change) -> Event:
    if not isinstance(item, dict) or (contact := _chooser(item, change.people)) is None:
        return change.unparsable(item)
    key = key_of(change.name, b"preference", dump(item))
    event = change.event(key, "preference", item, time_of(item.get("timestamp")))
    event["contact"] = contact
    event["content"] = item
    return event


def _chooser(item: Json, people: People) -> Contact | None:
    """Never guessed: whose wish it is must be said by the wish itself."""
    wa_id = phone_digits(item.get("wa_id"))
    user_id = bsuid(item.get("user_id")) or bsuid(item.get("wa_id"))
    if wa_id is None and user_id is None:
        return None
    return people.contact(wa_id, user_id, bsuid(item.get("parent_user_id")))
