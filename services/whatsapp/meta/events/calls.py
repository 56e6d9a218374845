"""Calls. A call by the customer opens the window, so it is recorded; nothing else of the Calling API is."""

from services.whatsapp.meta.events.change import Change
from services.whatsapp.meta.events.clean import dump
from services.whatsapp.meta.events.event import Event, key_of
from services.whatsapp.meta.events.messages import sender
from services.whatsapp.meta.events.people import phone_digits
from services.whatsapp.meta.events.values import own_digits, text, time_of


def call_event(call: object, change: Change) -> Event:
    # TODO: the Calling API is not implemented.
    if not isinstance(call, dict) or not text(call.get("id"), 512):
        return change.unparsable(call)
    payload = {name: part for name, part in call.items() if name != "session"}  # network addresses and keys
    key = key_of(change.name, b"call", dump(payload))
    at = time_of(call.get("timestamp"))
    own = own_digits(change.value["metadata"].get("display_phone_number"))
    # Only the ring itself opens the window: an hour-long call must not push its end an hour further.
    by_business = call.get("direction") == "BUSINESS_INITIATED" or (own and phone_digits(call.get("from")) == own)
    contact = sender(call, change.people) if call.get("event") == "connect" and not by_business else None
    event = change.event(key, "call" if contact else "ignored", payload, at)
    event["contact"] = contact
    return event


def call_status_event(status: object, change: Change) -> Event:
    if not isinstance(status, dict):
        return change.unparsable(status)
    key = key_of(change.name, b"call", dump(status))
    return change.event(key, "ignored", status, time_of(status.get("timestamp")))
