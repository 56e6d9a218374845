"""The flow of consent: opt-ins and opt-outs of many people, recorded with when, how and in which words.

Rows come as JSON or CSV and are written in chunks, each one transaction with its own verdict kept, as recipients of
a campaign are. What a fact means for the facts before it is decided in the database: the later one wins.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

from services.whatsapp import requests, rows
from services.whatsapp.actors import Actor
from services.whatsapp.clients.verbs import Consent, Recorded, RefusedCall, RefusedRow
from services.whatsapp.flows import members
from services.whatsapp.flows.bisecting import write_without_culprits
from services.whatsapp.refusals import refuse
from services.whatsapp.runtime import Runtime

MOST = 10_000
"""Rows of one call."""
_CHUNK = 1_000
_SLICE = 250
"""Rows judged at a stretch: other requests of this process wait for so long."""
_FIELDS = frozenset({"country_id", "consents"})
_ROW_FIELDS = frozenset({"to", "action", "scope", "at", "how", "proof"})
_QUERY_ONLY = frozenset({"forceFunctionRegion"})
_ACTIONS = ("opt_in", "opt_out")
_SCOPES = ("all", "marketing")
_OF_WEBHOOKS = frozenset({"meta", "stop_word"})
_LONGEST_HOW = 200
_LONGEST_PROOF = 4096

Row = dict[str, Any]


async def record(runtime: Runtime, request: Mapping[str, Any], key: str | None, actor: Actor) -> dict[str, Any]:
    """Record the facts; answers how many were, and why each other row was not. Raises RefusalError."""
    requests.only(request, _FIELDS)
    call_key = requests.key(key)
    country_id = requests.country(request)
    await members.check(runtime, actor, country_id)
    given = rows.listed(request, "consents", MOST)
    recorded, refused = 0, list[Row]()
    for start in range(0, len(given), _CHUNK):
        chunk = given[start : start + _CHUNK]
        good: list[Row] = []
        bad: list[Row] = []
        for at in range(0, len(chunk), _SLICE):
            taken, left = rows.judge(chunk[at : at + _SLICE], start + at, partial(_row, country_id=country_id))
            good += taken
            bad += left
            await asyncio.sleep(0)
        # A chunk is known by what the caller sent: a repeated call finds it whatever the world has become.
        fingerprint = requests.fingerprint({"consents": chunk})
        chunk_key = f"{call_key}#{start // _CHUNK}"
        for answer in await _write(runtime, country_id, actor, chunk_key, fingerprint, good):
            if "code" in answer:
                raise refuse(answer["code"], field=answer["field"])
            recorded += answer["recorded"]
            refused += [rows.worded(each) for each in answer["refused"]]
        refused += bad
    return {"recorded": recorded, "refused": rows.in_order(refused)}


async def _write(
    runtime: Runtime, country_id: str, actor: Actor, key: str, fingerprint: str, good: Sequence[Row]
) -> list[Recorded | RefusedCall]:
    """The verdicts on a chunk: one, but where a row had to be found that the database does not take."""

    async def write(part: Sequence[Row]) -> list[Recorded | RefusedCall]:
        consents = cast(Sequence[Consent], part)
        key_of_part = rows.part_of(key, len(good), part)
        return [await runtime.verbs.record_consents(country_id, actor, key_of_part, fingerprint, consents)]

    def unstorable(row: Row) -> Recorded | RefusedCall:
        return {"recorded": 0, "refused": [cast(RefusedRow, rows.unstorable(row))]}

    return await write_without_culprits(good, write, unstorable)


def read_csv(raw: bytes, query: Mapping[str, str]) -> dict[str, Any]:
    """A call that came as text/csv: the query gives the country, the columns are the fields of a row.

    An empty cell is a field not given. Refuses `invalid_csv` and `too_many_recipients`.
    """
    request: dict[str, Any] = {name: value for name, value in query.items() if name not in _QUERY_ONLY}
    given = rows.read_csv(raw, MOST)
    return request | {"consents": [{name: value for name, value in row.items() if value != ""} for row in given]}


def _row(given: Any, country_id: str) -> Row:
    if not isinstance(given, Mapping):
        raise refuse("invalid_recipient", field="to", reason="a row is an object of to, action, how and more")
    requests.only(given, _ROW_FIELDS)
    for name in ("to", "action", "how"):
        if given.get(name) is None:
            raise refuse("missing_field", field=name)
    how = _text(given, "how", _LONGEST_HOW)
    if how in _OF_WEBHOOKS:
        raise refuse("invalid_field", field="how", reason="meta and stop_word are written by webhooks only")
    return {
        **requests.recipient(given["to"], country_id),
        "what": _one_of(given["action"], "action", _ACTIONS),
        "scope": _one_of(given.get("scope", "all"), "scope", _SCOPES),
        "at": requests.time(given, "at"),
        "how": how,
        "proof": _text(given, "proof", _LONGEST_PROOF),
    }


def _one_of(value: object, name: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise refuse("invalid_field", field=name, reason=f"it must be {' or '.join(known)}")
    return str(value)


def _text(given: Mapping[str, Any], name: str, longest: int) -> str | None:
    value = given.get(name)
    if value is not None and not (isinstance(value, str) and 0 < len(value) <= longest and "\0" not in value):
        raise refuse("invalid_field", field=name, reason=f"it must be a text of 1 to {longest} characters")
    return value
