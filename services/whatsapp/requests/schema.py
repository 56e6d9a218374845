"""What every function is asked, as JSON Schema: from the models that read the requests, and from nothing else.

    python -m services.whatsapp.requests.schema

By function and method: `headers`, `query` and `body`, and what stands in their place where the body is CSV.
"""

import sys
from typing import Any

import orjson
from pydantic import TypeAdapter

from services.whatsapp.requests import (
    accounts,
    bulk_enqueue,
    consents,
    queue_drain,
    status_poll,
    templates_sync,
    webhook,
)
from services.whatsapp.requests.repeatable import Headers
from services.whatsapp.requests.send import Send

Schema = dict[str, Any]

_CSV_RECIPIENT: Schema = {
    "type": "object",
    "description": "Columns: to, ref, and the keys of the template's contract. An empty cell is a value not given.",
    "properties": {"to": {"type": "string"}, "ref": {"type": "string"}},
    "required": ["to"],
    "additionalProperties": {"type": "string"},
}


def schemas() -> dict[str, dict[str, Schema]]:
    """The request of each function, by its name and method."""
    headers = _of(Headers)
    return {
        "send": {"POST": {"headers": headers, "body": _of(Send)}},
        "bulk-enqueue": {
            "POST": {
                "headers": headers,
                "body": _of(bulk_enqueue.Opening | bulk_enqueue.Appending),
                "csv": {
                    "query": _of(bulk_enqueue.OpeningByCsv | bulk_enqueue.AppendingByCsv),
                    "row": _CSV_RECIPIENT,
                },
            },
            "PATCH": {"body": _of(bulk_enqueue.Control)},
        },
        "consents": {
            "POST": {
                "headers": headers,
                "body": _of(consents.Consents),
                "csv": {"query": _of(consents.ConsentsByCsv), "row": _of(consents.Consent)},
            }
        },
        "status-poll": {"GET": {"query": _of(status_poll.Poll)}},
        "accounts": {"PATCH": {"body": _of(accounts.AccountControl)}},
        "templates-sync": {"POST": {"body": _of(templates_sync.Sync)}},
        "queue-drain": {"POST": {"body": _of(queue_drain.Drain)}},
        "health": {"GET": {}},
        "webhook": {"GET": {"query": _handshake()}},
    }


def _of(kind: Any) -> Schema:
    return TypeAdapter[Any](kind).json_schema()


def _handshake() -> Schema:
    schema = _of(webhook.Handshake)
    return schema | {"properties": {webhook.PREFIX + name: each for name, each in schema["properties"].items()}}


if __name__ == "__main__":
    sys.stdout.buffer.write(orjson.dumps(schemas(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
