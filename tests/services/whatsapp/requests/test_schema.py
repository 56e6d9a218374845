"""The schema of every function's request: what the documents show fits it, and what it says is what is read."""

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from services.whatsapp.refusals import RefusalError
from services.whatsapp.requests import accounts, bulk_enqueue, consents, queue_drain, templates_sync
from services.whatsapp.requests.schema import Schema, schemas
from services.whatsapp.requests.send import Send
from tests.local.stack import ROOT

SCHEMAS = schemas()
FUNCTIONS = {path.parent.name.replace("_", "-") for path in (ROOT / "functions").glob("*/main.py")}

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_CALL = re.compile(
    r"(?P<method>[A-Z]+) /functions/v1/(?P<function>[\w-]+)\n(?P<headers>(?:[\w-]+: .*\n)*)\n(?P<body>[\[{].*)",
    re.DOTALL,
)


def blocks() -> Iterator[tuple[str, str]]:
    """The language and the text of every block of code in the documents."""
    for name in ("whatsapp.md", "campaigns.md"):
        yield from _BLOCK.findall((ROOT / "docs" / name).read_text(encoding="utf-8"))


def calls() -> Iterator[tuple[str, str, dict[str, str], Any]]:
    """Every call that is shown: the function, the method, the headers and the body."""
    for language, text in blocks():
        call = _CALL.fullmatch(text) if language == "http" else None
        if call is not None:
            headers = dict(line.split(": ", 1) for line in call["headers"].splitlines())
            yield call["function"], call["method"], headers, json.loads(call["body"])


def bodies_alone() -> Iterator[tuple[str, str, Any]]:
    """Those that stand without their call, told by what only they have."""
    for language, text in blocks():
        body = json.loads(text) if language == "json" else {}
        if {"campaign_id", "recipients"} <= body.keys():
            yield "bulk-enqueue", "POST", body
        elif {"account", "action"} <= body.keys():
            yield "accounts", "PATCH", body


def faults(schema: Schema, given: Any) -> list[str]:
    return [f"{each.json_path}: {each.message}" for each in Draft202012Validator(schema).iter_errors(given)]


def test_every_function_and_method_has_one() -> None:
    assert SCHEMAS.keys() == FUNCTIONS
    for methods in SCHEMAS.values():
        for parts in methods.values():
            csv_parts = parts.get("csv", {})
            for schema in (*(each for name, each in parts.items() if name != "csv"), *csv_parts.values()):
                Draft202012Validator.check_schema(schema)


def test_what_the_documents_show_fits() -> None:
    shown = list(calls())
    assert {(function, method) for function, method, _, _ in shown} >= {
        ("send", "POST"),
        ("bulk-enqueue", "POST"),
        ("bulk-enqueue", "PATCH"),
        ("consents", "POST"),
        ("queue-drain", "POST"),
    }
    for function, method, headers, body in shown:
        schema = SCHEMAS[function][method]
        assert faults(schema["body"], body) == []
        if "headers" in schema:
            assert faults(schema["headers"], {"Idempotency-Key": headers["Idempotency-Key"]}) == []


def test_bodies_that_the_documents_show_alone_fit() -> None:
    shown = list(bodies_alone())
    assert {function for function, _, _ in shown} == {"bulk-enqueue", "accounts"}
    for function, method, body in shown:
        assert faults(SCHEMAS[function][method]["body"], body) == []


def test_csv_that_the_documents_show_fits() -> None:
    recipients, consents = (list(csv.DictReader(io.StringIO(text))) for language, text in blocks() if language == "csv")
    assert recipients
    for row in recipients:
        assert faults(SCHEMAS["bulk-enqueue"]["POST"]["csv"]["row"], row) == []
    assert consents
    for row in consents:
        given = {name: value for name, value in row.items() if value != ""}
        assert faults(SCHEMAS["consents"]["POST"]["csv"]["row"], given) == []


def read_with_its_rows(given: Any) -> None:
    call = bulk_enqueue.read("k", given)
    for row in call.recipients:
        bulk_enqueue.Recipient.read(row, {"country_id": call.country_id})


GOOD: dict[str, tuple[Callable[[Any], object], Schema, dict[str, Any]]] = {
    "send": (
        partial(Send.read_with, "k"),
        SCHEMAS["send"]["POST"]["body"],
        {"country_id": "MX", "to": "+525512345678", "message": {"type": "text", "text": {"body": "Hola"}}},
    ),
    "open": (
        read_with_its_rows,
        SCHEMAS["bulk-enqueue"]["POST"]["body"],
        {
            "country_id": "MX",
            "name": "n",
            "template": {"name": "plain", "language": "es"},
            "recipients": [{"to": "+525512345678"}],
        },
    ),
    "append": (
        read_with_its_rows,
        SCHEMAS["bulk-enqueue"]["POST"]["body"],
        {
            "country_id": "MX",
            "campaign_id": "01a20c70-3896-7e4d-8844-cea70f3dc7be",
            "recipients": [{"to": "+525512345678"}],
        },
    ),
    "control": (
        bulk_enqueue.Control.read,
        SCHEMAS["bulk-enqueue"]["PATCH"]["body"],
        {"country_id": "MX", "campaign_id": "01a20c70-3896-7e4d-8844-cea70f3dc7be", "action": "pause"},
    ),
    "consent": (
        lambda row: consents.Consent.read(row, {"country_id": "MX"}),
        SCHEMAS["consents"]["POST"]["csv"]["row"],
        {"to": "+525512345678", "action": "opt_in", "how": "form"},
    ),
    "accounts": (
        accounts.AccountControl.read,
        SCHEMAS["accounts"]["PATCH"]["body"],
        {"country_id": "MX", "account": "main", "action": "pause"},
    ),
    "templates-sync": (templates_sync.Sync.read, SCHEMAS["templates-sync"]["POST"]["body"], {"country_id": "MX"}),
    "queue-drain": (queue_drain.Drain.read, SCHEMAS["queue-drain"]["POST"]["body"], {"budget_seconds": 5}),
}
ODD: list[Any] = [
    *(None, True, 0, 7, 0.5, -1, "", "x", "MX", "mx", "true", "a--b", "pause", "marketing", "x" * 201, "x" * 5_000),
    *("a\0b", "2026-12-24T09:00:00Z", "01a20c70-3896-7e4d-8844-cea70f3dc7be", "+525512345678"),
    *(
        [],
        [1],
        {},
        {"a": 1},
        {"bsuid": "MX.1A"},
        {"bsuid": "?"},
        {"name": "plain", "language": "es"},
        {"name": "plain"},
    ),
    *({"type": "text", "text": {"body": "Hola"}}, {"type": "fax"}, {"type": "text", "text": {}}),
]


@pytest.mark.parametrize("name", GOOD)
def test_what_is_taken_fits_the_schema_and_what_does_not_fit_is_refused(name: str) -> None:
    """The other way round it does not hold: a schema cannot say that a number exists."""
    read, schema, good = GOOD[name]
    fields = {field for kind in [schema, *schema.get("$defs", {}).values()] for field in kind.get("properties", {})}
    assert faults(schema, good) == []
    read(good)
    judged = 0
    for given in (good | {field: value} for field in {*fields, "nonsense"} for value in ODD):
        try:
            read(given)
        except RefusalError:
            judged += bool(faults(schema, given))
        else:
            assert faults(schema, given) == [], given
    assert judged > 20


def test_it_is_printed_as_json() -> None:
    command = [sys.executable, "-m", "services.whatsapp.requests.schema"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(printed.stdout) == SCHEMAS
