"""Calls. Source: M:calling webhooks."""

from typing import Any

from services.whatsapp.directory import Account, Directory
from services.whatsapp.meta.events.clean import dump
from services.whatsapp.meta.events.event import Event, key_of, name_of, new_event, unparsable
from services.whatsapp.meta.events.messages import sender
from services.whatsapp.meta.events.people import People, phone_digits, text
from services.whatsapp.meta.events.values import list_of, own_digits, time_of


def call_events(account: Account, value: dict[str, Any], people: People, directory: Directory) -> list[Event]:
    """A call by the customer opens the window, so it is recorded; nothing else of the Calling API is.

    TODO: the Calling API is not implemented.
    """
    own = own_digits(value["metadata"].get("display_phone_number"))
    events = [_call(account, call, own, people, directory) for call in list_of(value, "calls")]
    for status in list_of(value, "statuses"):
        if isinstance(status, dict):
            key = key_of(name_of(account), "call", dump(status))
            events.append(
                new_event(key, account, "calls", "ignored", at=time_of(status.get("timestamp")), payload=status)
            )
        else:
            events.append(unparsable(account, "calls", status, directory))
    return events


def _call(account: Account, call: Any, own: str | None, people: People, directory: Directory) -> Event:
    call_id = text(call.get("id"), 512) if isinstance(call, dict) else None
    if not call_id:
        return unparsable(account, "calls", call, directory)
    payload = {name: part for name, part in call.items() if name != "session"}  # network addresses and keys
    key = key_of(name_of(account), "call", dump(payload))
    at = time_of(call.get("timestamp"))
    # Only the ring itself opens the window: an hour-long call must not push its end an hour further.
    by_business = call.get("direction") == "BUSINESS_INITIATED" or (own and phone_digits(call.get("from")) == own)
    contact = sender(call, people) if call.get("event") == "connect" and not by_business else None
    if contact is None:
        return new_event(key, account, "calls", "ignored", at=at, payload=payload)
    return new_event(key, account, "calls", "call", at=at, contact=contact, payload=payload)
