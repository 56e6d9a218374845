"""The flow of campaigns: an approved template to very many people, a call at a time.

Each row is checked against the template's contract here and against the gates in the
database; good rows go, bad ones come back with their row number and a reason. A call is written in chunks, each one
transaction with its own verdict kept: when the process dies in the middle, repeating the call answers for the chunks
that are done and does the rest.
"""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from services.whatsapp import rows
from services.whatsapp.actors import Actor
from services.whatsapp.clients import verbs
from services.whatsapp.flows import judging, members
from services.whatsapp.flows.bisecting import write_without_culprits
from services.whatsapp.flows.progress import Seen, view
from services.whatsapp.meta import templates
from services.whatsapp.meta.messages import InvalidMessage, parse_message
from services.whatsapp.refusals import refuse
from services.whatsapp.requests import fingerprint
from services.whatsapp.requests.bulk_enqueue import Appending, Control, Opening, Recipient
from services.whatsapp.runtime import Runtime

_CHUNK = 2_000
"""Rows of one transaction: 0.2 s where measured, and the Data API ends a statement after 8."""
_UNSTORABLE = re.compile(r"[\0\ud800-\udfff]")

_UNKNOWN: templates.Contract = {"unsupported": "its contract is not known yet: sync templates"}


_Answer = verbs.Enqueued | verbs.RefusedCall


@dataclass
class Enqueued:
    """What became of a call: how many rows were queued, and why each other one (counted from 1) was not."""

    campaign_id: str
    account: str
    state: str
    accepted: int = 0
    refused: list[rows.Told] = field(default_factory=list)

    def body(self) -> dict[str, object]:
        return {
            "campaign_id": self.campaign_id,
            "account": self.account,
            "status": self.state,
            "accepted": self.accepted,
            "refused": rows.in_order(self.refused),
        }

    def take(self, answers: Iterable[_Answer]) -> None:
        """The database's verdict on a chunk. Raises RefusalError where the chunk as a whole is refused."""
        for answer in answers:
            if "code" in answer:
                raise refuse(answer["code"], field=answer["field"])
            self.accepted += answer["accepted"]
            self.refused += rows.worded(answer["refused"])


async def enqueue(runtime: Runtime, call: Opening | Appending, actor: Actor) -> Enqueued:
    """Open the campaign, or find the one that is appended to, and queue the recipients. Raises RefusalError."""
    await members.check(runtime, actor, call.country_id)
    opened = await runtime.verbs.open_campaign(_opening(call, actor))
    if "code" in opened:
        raise refuse(opened["code"], field=opened["field"])
    result = Enqueued(opened["campaign_id"], opened["account_id"], opened["state"])
    judge = _Judge(opened["contract"] or _UNKNOWN, call.country_id)
    # One chunk is being written while the next one is judged; never two, so that the first of two equal rows wins.
    writing: asyncio.Task[list[_Answer]] | None = None
    try:
        for number, start in enumerate(range(0, len(call.recipients), _CHUNK)):
            chunk = call.recipients[start : start + _CHUNK]
            taken, refused = await judging.judge(chunk, start, judge.row)
            result.refused += refused
            if writing is not None:
                result.take(await writing)
            writing = asyncio.create_task(_write(runtime, call, result.campaign_id, number, chunk, taken))
            await asyncio.sleep(0)
        if writing is not None:
            result.take(await writing)
    finally:
        if writing is not None:
            writing.cancel()
    return result


async def _write(
    runtime: Runtime,
    call: Opening | Appending,
    campaign_id: str,
    number: int,
    chunk: Sequence[object],
    taken: Sequence[verbs.Recipient],
) -> list[_Answer]:
    """The verdicts on a chunk: one, but where a row had to be found that the database does not take."""
    # A chunk is known by what the caller sent: a repeated call finds it whatever the world has become.
    said = fingerprint({"campaign": campaign_id, "rows": chunk})

    async def write(part: Sequence[verbs.Recipient]) -> list[_Answer]:
        key = rows.part_of(f"{call.key}#{number}", len(taken), part)
        return [await runtime.verbs.enqueue_campaign(call.country_id, campaign_id, key, said, part)]

    def unstorable(row: verbs.Recipient) -> _Answer:
        return {"accepted": 0, "refused": [rows.unstorable(row)]}

    return await write_without_culprits(taken, write, unstorable)


async def control(runtime: Runtime, asked: Control, actor: Actor) -> Seen:
    """Start a draft, pause, resume or cancel, from the next claim on. Answers the campaign's progress."""
    answer = await runtime.verbs.control_campaign(asked.country_id, asked.campaign_id, asked.action, actor)
    if "code" in answer:
        raise refuse(answer["code"], field=answer["field"])
    return view(answer)


def _opening(call: Opening | Appending, actor: Actor) -> verbs.Opening:
    if isinstance(call, Appending):
        return {"country_id": call.country_id, "actor": actor.member_id, "campaign_id": call.campaign_id}
    name, language = call.template
    return {
        "country_id": call.country_id,
        "actor": actor.member_id,
        "account_id": call.account,
        "name": call.name,
        "template_name": name,
        "template_language": language,
        "send_at": call.send_at,
        "valid_until": call.valid_until,
        "draft": call.draft,
        "key": call.key,
        "fingerprint": call.fingerprint,
    }


class _Judge:
    """Says of a recipient whether it can be queued, and why not."""

    def __init__(self, contract: templates.Contract, country_id: str) -> None:
        self._contract = contract
        self._context = {"country_id": country_id}
        self._texts = templates.texts(contract)
        self._shapes: set[bytes] = set()

    def row(self, number: int, given: object) -> verbs.Recipient:
        """The recipient as the database takes it. Raises RefusalError."""
        recipient = Recipient.read(given, self._context)
        components = self._components(recipient.parameters) or None
        return {"row": number, **recipient.to, "components": components, "ref": recipient.ref}

    def _components(self, parameters: Mapping[str, object]) -> list[templates.Component]:
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

    def _shape(self, parameters: Mapping[str, object]) -> bytes | None:
        """What rows have in common that differ in nothing but plain texts: where one is Meta's, all are. Nothing where
        a text holds what cannot be stored, or what is no JSON."""
        texts = self._texts
        common: list[object] = []
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


def _message(name: object, language: object, components: list[templates.Component] | None) -> dict[str, object]:
    content = {"name": name, "language": {"code": language}} | ({"components": components} if components else {})
    return {"type": "template", "template": content}


def _within_template(error: InvalidMessage) -> str:
    return f"{error.field.removeprefix('message.template.')} {error.reason}"
