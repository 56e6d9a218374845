"""The flow of campaigns: an approved template to very many people, a call at a time.

Recipients come as JSON or CSV. Each row is checked against the template's contract here and against the gates in the
database; good rows go, bad ones come back with their row number and a reason. A call is written in chunks, each one
transaction with its own verdict kept: when the process dies in the middle, repeating the call answers for the chunks
that are done and does the rest.
"""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import orjson

from services.whatsapp import requests, rows
from services.whatsapp.actors import Actor
from services.whatsapp.clients import verbs
from services.whatsapp.flows import members
from services.whatsapp.flows.bisecting import write_without_culprits
from services.whatsapp.flows.progress import view
from services.whatsapp.meta import templates
from services.whatsapp.meta.messages import InvalidMessage, parse_message
from services.whatsapp.refusals import refuse
from services.whatsapp.requests.bulk_enqueue import Control
from services.whatsapp.runtime import Runtime

MOST = 10_000
"""Recipients of one call; further calls append."""
_CHUNK = 2_000
"""Rows of one transaction: 0.2 s where measured, and the Data API ends a statement after 8."""
_SLICE = 250
"""Rows judged at a stretch: other requests of this process wait for so long."""
_FIELDS = frozenset(
    {"country_id", "account", "name", "template", "recipients", "send_at", "valid_until", "draft", "campaign_id"}
)
_UNSTORABLE = re.compile(r"[\0\ud800-\udfff]")
_ROW_FIELDS = frozenset({"to", "parameters", "ref"})
_CSV_COLUMNS = ("to", "ref")
_QUERY_ONLY = frozenset({"template", "language", "forceFunctionRegion"})
_LONGEST_NAME = 200

Row = dict[str, Any]


@dataclass
class Enqueued:
    """What became of a call: how many rows were queued, and why each other one (counted from 1) was not."""

    campaign_id: str
    account: str
    state: str
    accepted: int = 0
    refused: list[dict[str, Any]] = field(default_factory=list)

    def body(self) -> dict[str, Any]:
        return {
            "campaign_id": self.campaign_id,
            "account": self.account,
            "status": self.state,
            "accepted": self.accepted,
            "refused": rows.in_order(self.refused),
        }

    def take(self, answers: Iterable[verbs.Enqueued | verbs.RefusedCall]) -> None:
        """The database's verdict on a chunk. Raises RefusalError where the chunk as a whole is refused."""
        for answer in answers:
            if "code" in answer:
                raise refuse(answer["code"], field=answer["field"])
            self.accepted += answer["accepted"]
            self.refused += [rows.worded(each) for each in answer["refused"]]


async def enqueue(runtime: Runtime, request: Mapping[str, Any], key: str | None, actor: Actor) -> Enqueued:
    """Open the campaign, or find the one of `campaign_id`, and queue the recipients. Raises RefusalError."""
    if "message" in request:
        raise refuse("bulk_needs_template", field="message")
    requests.only(request, _FIELDS)
    call_key = requests.key(key)
    country_id = requests.country(request)
    await members.check(runtime, actor, country_id)
    recipients = rows.listed(request, "recipients", MOST)
    opened = await runtime.verbs.open_campaign(_opening(request, call_key, actor))
    if "code" in opened:
        raise refuse(opened["code"], field=opened["field"])
    result = Enqueued(opened["campaign_id"], opened["account_id"], opened["state"])
    contract = opened.get("contract") or {"unsupported": "its contract is not known yet: sync templates"}
    judge = _Judge(contract, country_id)
    # One chunk is being written while the next one is judged; never two, so that the first of two equal rows wins.
    writing: asyncio.Task[list[verbs.Enqueued | verbs.RefusedCall]] | None = None
    try:
        for start in range(0, len(recipients), _CHUNK):
            chunk = recipients[start : start + _CHUNK]
            taken: list[Row] = []
            for at in range(0, len(chunk), _SLICE):
                good, bad = rows.judge(chunk[at : at + _SLICE], start + at, judge.row)
                taken += good
                result.refused += bad
                await asyncio.sleep(0)
            if writing is not None:
                result.take(await writing)
            # A chunk is known by what the caller sent: a repeated call finds it whatever the world has become.
            fingerprint = requests.fingerprint({"campaign": result.campaign_id, "rows": chunk})
            chunk_key = f"{call_key}#{start // _CHUNK}"
            written = _write(runtime, country_id, result.campaign_id, chunk_key, fingerprint, taken)
            writing = asyncio.create_task(written)
            await asyncio.sleep(0)
        if writing is not None:
            result.take(await writing)
    finally:
        if writing is not None:
            writing.cancel()
    return result


async def _write(
    runtime: Runtime, country_id: str, campaign_id: str, key: str, fingerprint: str, taken: Sequence[Row]
) -> list[verbs.Enqueued | verbs.RefusedCall]:
    """The verdicts on a chunk: one, but where a row had to be found that the database does not take."""

    async def write(part: Sequence[Row]) -> list[verbs.Enqueued | verbs.RefusedCall]:
        recipients = cast(Sequence[verbs.Recipient], part)
        key_of_part = rows.part_of(key, len(taken), part)
        return [await runtime.verbs.enqueue_campaign(country_id, campaign_id, key_of_part, fingerprint, recipients)]

    def unstorable(row: Row) -> verbs.Enqueued | verbs.RefusedCall:
        return {"accepted": 0, "refused": [cast(verbs.RefusedRow, rows.unstorable(row))]}

    return await write_without_culprits(taken, write, unstorable)


def read_csv(raw: bytes, query: Mapping[str, str]) -> dict[str, Any]:
    """A call that came as text/csv: the query gives the campaign, the header row maps columns to parameters.

    Columns: `to`, optionally `ref`, and the keys of the template's contract (body.1, header.image, …).
    Refuses `invalid_csv` and `too_many_recipients`.
    """
    # What is no field of a call is refused where the call is read; Supabase's own clients may name a region.
    request: dict[str, Any] = {name: value for name, value in query.items() if name not in _QUERY_ONLY}
    if "template" in query or "language" in query:
        request["template"] = {"name": query.get("template"), "language": query.get("language")}
    request["recipients"] = [_csv_row(row) for row in rows.read_csv(raw, MOST)]
    return request


async def control(runtime: Runtime, asked: Control, actor: Actor) -> dict[str, Any]:
    """Start a draft, pause, resume or cancel, from the next claim on. Answers the campaign's progress."""
    answer = await runtime.verbs.control_campaign(asked.country_id, asked.campaign_id, asked.action, actor)
    if "code" in answer:
        raise refuse(answer["code"], field=answer["field"])
    return view(answer)


def _opening(request: Mapping[str, Any], key: str, actor: Actor) -> verbs.Opening:
    opening: verbs.Opening = {"country_id": requests.country(request), "actor": actor.member_id}
    if "campaign_id" in request:
        for name in ("account", "name", "template", "send_at", "valid_until", "draft"):
            if name in request:
                raise refuse("invalid_field", field=name, reason="it was fixed when the campaign was opened")
        return {**opening, "campaign_id": requests.uuid(request["campaign_id"], "campaign_id")}
    name, language = _template(request)
    return {
        **opening,
        "account_id": requests.account(request),
        "name": _campaign_name(request),
        "template_name": name,
        "template_language": language,
        "send_at": requests.time(request, "send_at"),
        "valid_until": requests.time(request, "valid_until"),
        "draft": _draft(request),
        "key": key,
        # Recipients have fingerprints of their own, a chunk at a time.
        "fingerprint": requests.fingerprint({each: request[each] for each in request if each != "recipients"}),
    }


def _campaign_name(request: Mapping[str, Any]) -> str:
    name = request.get("name")
    if not isinstance(name, str) or not 0 < len(name.strip()) <= _LONGEST_NAME or "\0" in name:
        raise refuse("invalid_field", field="name", reason=f"a campaign has a name of 1 to {_LONGEST_NAME} characters")
    return name


def _draft(request: Mapping[str, Any]) -> bool:
    """True or false; a query can only say it as text."""
    draft = request.get("draft", False)
    if draft not in (True, False, "true", "false"):
        raise refuse("invalid_field", field="draft", reason="it must be true or false")
    return draft in (True, "true")


def _template(request: Mapping[str, Any]) -> tuple[str, str]:
    given = request.get("template")
    if given is None:
        raise refuse("bulk_needs_template", field="template")
    if not isinstance(given, Mapping) or set(given) != {"name", "language"}:
        raise refuse("invalid_field", field="template", reason="it is an object of name and language")
    name, language = given["name"], given["language"]
    try:
        parse_message(_message(name, language, None))
    except InvalidMessage as error:
        raise refuse("invalid_field", field="template", reason=_within_template(error)) from None
    return name, language.replace("-", "_")


class _Judge:
    """Says of a recipient whether it can be queued, and why not."""

    def __init__(self, contract: templates.Contract, country_id: str) -> None:
        self._contract = contract
        self._country_id = country_id
        self._texts = templates.texts(contract)
        self._shapes: set[bytes] = set()

    def row(self, recipient: Any) -> Row:
        """The recipient as the database takes it. Raises RefusalError."""
        if not isinstance(recipient, Mapping):
            raise refuse("invalid_recipient", field="to", reason="a recipient is an object of to, parameters and ref")
        requests.only(recipient, _ROW_FIELDS)
        if "to" not in recipient:
            raise refuse("missing_field", field="to")
        row: Row = {**requests.recipient(recipient["to"], self._country_id)}
        row["components"] = self._components(_parameters(recipient)) or None
        row["ref"] = requests.ref(recipient)
        return row

    def _components(self, parameters: Mapping[str, Any]) -> list[templates.Component]:
        try:
            components = templates.fill(self._contract, parameters)
            # The contract knows what a template needs; what an object of Meta's looks like is known there.
            shape = self._shape(parameters)
            if shape is None or shape not in self._shapes:
                parse_message(_message("any", "en", components or None))
                if shape is not None:
                    self._shapes.add(shape)
        except templates.InvalidParameters as error:
            raise refuse("template_parameters", field=f"parameters.{error.field}", reason=error.reason) from None
        except InvalidMessage as error:
            raise refuse("template_parameters", field="parameters", reason=_within_template(error)) from None
        return components

    def _shape(self, parameters: Mapping[str, Any]) -> bytes | None:
        """What rows have in common that differ in nothing but plain texts: where one is Meta's, all are. Nothing where
        a text holds what cannot be stored, or what is no JSON."""
        texts = self._texts
        common: list[Any] = []
        for key, value in parameters.items():
            if key not in texts or not isinstance(value, str):
                common.append((key, value))
            elif _UNSTORABLE.search(value):
                return None
            else:
                common.append((key, value == ""))
        try:
            return orjson.dumps(common)
        except TypeError:
            return None


def _message(name: object, language: object, components: list[templates.Component] | None) -> dict[str, Any]:
    content = {"name": name, "language": {"code": language}} | ({"components": components} if components else {})
    return {"type": "template", "template": content}


def _within_template(error: InvalidMessage) -> str:
    return f"{error.field.removeprefix('message.template.')} {error.reason}"


def _parameters(recipient: Mapping[str, Any]) -> Mapping[str, Any]:
    """By the contract's keys; a list stands for the body's parameters in order."""
    given = recipient.get("parameters", {})
    if isinstance(given, list):
        return {f"body.{position}": value for position, value in enumerate(given, 1)}
    if not isinstance(given, Mapping):
        raise refuse(
            "template_parameters", field="parameters", reason="it is an object of the contract's keys, or a list"
        )
    return given


def _csv_row(row: Mapping[str, str]) -> Row:
    parameters = {name: value for name, value in row.items() if name not in _CSV_COLUMNS and value != ""}
    recipient: Row = {"to": row["to"], "parameters": parameters}
    return recipient | ({"ref": row["ref"]} if row.get("ref") else {})
