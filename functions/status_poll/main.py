"""GET /status-poll: what became of messages. Answers what the caller's own token may see; a secret key sees all.

    ?message_id=…&message_id=…[&wait=seconds][&state=…&state=…]    these messages, in this order
    ?campaign_id=…&country_id=MX[&wait=seconds][&version=…]        a campaign and its progress
    ?country_id=MX[&after=cursor][&limit=n]                        a country's messages, oldest first
    -> 200 {messages: [...], cursor?}

With `wait`, answers when a message's state differs from the `state` the caller knows (one each, in the order of the
ids); for a campaign, when it is no longer as it was at `version`.
"""

import re

from starlette.requests import Request

from functions._shared.answers import Answer
from functions._shared.app import function
from functions._shared.auth import authenticate
from services.whatsapp.actors import Actor
from services.whatsapp.refusals import refuse
from services.whatsapp.runtime import Runtime

_PARAMETERS = frozenset(
    {"message_id", "campaign_id", "country_id", "after", "limit", "wait", "state", "version", "forceFunctionRegion"}
)

_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


async def handle(request: Request) -> Answer:
    runtime = Runtime.of_loop()
    actor = await authenticate(runtime, request, ("user", "secret"))
    query = request.query_params
    # Imported here, as its users below: a preflight or a refused caller needs nothing of it.
    from services.whatsapp import requests
    from services.whatsapp.flows import watching

    requests.only(query, _PARAMETERS)
    with watching.one_more(actor):
        if "message_id" in query:
            return await _by_ids(runtime, request, actor)
        if "campaign_id" in query:
            return await _of_campaign(runtime, request, actor)
        if "country_id" in query:
            return await _of_country(runtime, request, actor)
    raise refuse("missing_field", field="message_id", reason="give message_id, campaign_id or country_id")


async def _by_ids(runtime: Runtime, request: Request, actor: Actor) -> Answer:
    from services.whatsapp.flows import reading

    ids = [each for value in request.query_params.getlist("message_id") for each in value.split(",") if each]
    states = [each for value in request.query_params.getlist("state") for each in value.split(",") if each]
    if states and len(states) != len(ids):
        raise refuse("invalid_field", field="state", reason="give one state for each message_id, or none")
    wait = _number(request, "wait", default=0, most=reading.LONGEST_WAIT)
    since = dict(zip(ids, states, strict=True)) if states else {}
    return Answer({"messages": await reading.by_ids(runtime, ids, actor, wait, since)})


async def _of_country(runtime: Runtime, request: Request, actor: Actor) -> Answer:
    from services.whatsapp.flows import reading

    if "wait" in request.query_params:
        raise refuse("invalid_field", field="wait", reason="it goes with message_id or campaign_id")
    limit = int(_number(request, "limit", default=reading.PAGE, most=reading.PAGE))
    messages, cursor = await reading.of_country(
        runtime, request.query_params["country_id"], request.query_params.get("after"), max(1, limit), actor
    )
    return Answer({"messages": messages, "cursor": cursor})


async def _of_campaign(runtime: Runtime, request: Request, actor: Actor) -> Answer:
    from services.whatsapp.flows import campaigns, reading

    query = request.query_params
    if "country_id" not in query:
        raise refuse("missing_field", field="country_id")
    wait = _number(request, "wait", default=0, most=reading.LONGEST_WAIT)
    seen = await campaigns.progress(
        runtime, query["campaign_id"], query["country_id"], actor, wait, query.get("version")
    )
    return Answer(seen)


def _number(request: Request, name: str, *, default: float, most: float) -> float:
    value = request.query_params.get(name)
    if value is None:
        return default
    if not _NUMBER.fullmatch(value):
        raise refuse("invalid_field", field=name, reason=f"it must be a number from 0 to {most:g}")
    return min(float(value), most)


app = function("status-poll", {"GET": handle})
