"""The flow of consent: opt-ins and opt-outs of many people, recorded with when, how and in which words.

Rows are written in chunks, each one transaction with its own verdict kept, as recipients of a campaign are. What a
fact means for the facts before it is decided in the database: the later one wins.
"""

from collections.abc import Sequence
from functools import partial
from typing import TypedDict

from services.whatsapp import rows
from services.whatsapp.actors import Actor
from services.whatsapp.clients import verbs
from services.whatsapp.flows import judging, members
from services.whatsapp.flows.bisecting import write_without_culprits
from services.whatsapp.refusals import refuse
from services.whatsapp.requests import fingerprint
from services.whatsapp.requests.consents import Consent, Consents
from services.whatsapp.runtime import Runtime

_CHUNK = 1_000


class Recorded(TypedDict):
    """How many rows were recorded, and why each other one was not."""

    recorded: int
    refused: list[rows.Told]


async def record(runtime: Runtime, call: Consents, actor: Actor) -> Recorded:
    """Record the facts. Raises RefusalError where the call as a whole is refused."""
    await members.check(runtime, actor, call.country_id)
    recorded, refused = 0, list[rows.Told]()
    for number, start in enumerate(range(0, len(call.consents), _CHUNK)):
        chunk = call.consents[start : start + _CHUNK]
        good, bad = await judging.judge(chunk, start, partial(_row, {"country_id": call.country_id}))
        refused += bad
        for answer in await _write(runtime, call, actor, number, chunk, good):
            if "code" in answer:
                raise refuse(answer["code"], field=answer["field"])
            recorded += answer["recorded"]
            refused += rows.worded(answer["refused"])
    return {"recorded": recorded, "refused": rows.in_order(refused)}


_Answer = verbs.Recorded | verbs.RefusedCall


async def _write(
    runtime: Runtime, call: Consents, actor: Actor, number: int, chunk: Sequence[object], good: Sequence[verbs.Consent]
) -> list[_Answer]:
    """The verdicts on a chunk: one, but where a row had to be found that the database does not take."""
    # A chunk is known by what the caller sent: a repeated call finds it whatever the world has become.
    said = fingerprint({"consents": chunk})

    async def write(part: Sequence[verbs.Consent]) -> list[_Answer]:
        key = rows.part_of(f"{call.key}#{number}", len(good), part)
        return [await runtime.verbs.record_consents(call.country_id, actor, key, said, part)]

    def unstorable(row: verbs.Consent) -> _Answer:
        return {"recorded": 0, "refused": [rows.unstorable(row)]}

    return await write_without_culprits(good, write, unstorable)


def _row(context: dict[str, str], number: int, given: object) -> verbs.Consent:
    """As the database takes it. Raises RefusalError."""
    said = Consent.read(given, context)
    return {
        "row": number,
        **said.to,
        "what": said.action,
        "scope": said.scope,
        "at": said.at,
        "how": said.how,
        "proof": said.proof,
    }
