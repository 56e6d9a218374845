"""The envelope of Meta's webhooks, in the stand-in for Meta (tests only).

`{"object":…,"entry":[{"id":<WABA>,"changes":[{"field":…,"value":{…}}]}]}`; one POST may hold several WABAs
and numbers.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from tests.graph.world import Number

Json = dict[str, Any]


@dataclass(slots=True)
class Update:
    """One status or one inbound message of a number, with the person's entry of `contacts[]` where there is
    one."""

    number: Number
    kind: Literal["statuses", "messages"]
    entry: Json
    contact: Json | None


def messages_webhook(updates: Iterable[Update]) -> bytes:
    """The body of one POST with all `updates`: an entry per WABA, a change per number and kind."""
    entries: dict[str, Json] = {}
    values: dict[tuple[str, str, bool], Json] = {}
    for update in updates:
        number = update.number
        # failed statuses have no contacts: they travel in a change of their own
        key = (number.phone_number_id, update.kind, update.contact is not None)
        value = values.get(key)
        if value is None:
            value = values[key] = new_value(update)
            entry = entries.setdefault(number.waba_id, {"id": number.waba_id, "changes": []})
            entry["changes"].append({"value": value, "field": "messages"})
        value[update.kind].append(update.entry)
        if update.contact is not None:
            value["contacts"].append(update.contact)
    return encode(list(entries.values()))


def new_value(update: Update) -> Json:
    number = update.number
    value: Json = {
        "messaging_product": "whatsapp",
        "metadata": {
            "display_phone_number": number.display_phone_number,
            "phone_number_id": number.phone_number_id,
        },
    }
    if update.contact is not None:
        value["contacts"] = []
    value[update.kind] = []
    return value


def account_webhook(waba_id: str, field: str, value: Json, at: int) -> bytes:
    """A webhook about the account, such as a template's state: it has a time and no metadata."""
    return encode([{"id": waba_id, "time": at, "changes": [{"value": value, "field": field}]}])


def encode(entries: list[Json]) -> bytes:
    """JSON with everything beyond ASCII escaped, as Meta sends it."""
    whole = {"object": "whatsapp_business_account", "entry": entries}
    body = orjson.dumps(whole)
    return body if body.isascii() else json.dumps(whole, separators=(",", ":")).encode()
