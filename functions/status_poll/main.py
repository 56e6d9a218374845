"""GET /status-poll: what became of messages. Answers what the caller's own token may see; a secret key sees all.

    ?message_id=…&message_id=…[&wait=seconds][&state=…&state=…]    these messages, in this order
    ?campaign_id=…&country_id=MX[&wait=seconds][&version=…]        a campaign and its progress
    ?country_id=MX[&after=cursor][&limit=n]                        a country's messages, oldest first
    -> 200 {messages: [...], cursor?}

With `wait`, answers when a message's state differs from the `state` the caller knows (one each, in the order of the
ids); for a campaign, when it is no longer as it was at `version`.
"""

from starlette.requests import Request

from functions._shared.answers import Answer
from functions._shared.app import function
from functions._shared.auth import authenticate
from services.whatsapp.runtime import Runtime


async def handle(request: Request) -> Answer:
    runtime = Runtime.of_loop()
    actor = await authenticate(runtime, request, ("user", "secret"))
    # Imported here: a preflight or a refused caller needs nothing of it.
    from services.whatsapp.flows import progress, reading, watching
    from services.whatsapp.requests.status_poll import ById, OfCampaign, read

    with watching.one_more(runtime, actor):
        asked = read(request.query_params.multi_items())
        if isinstance(asked, ById):
            return Answer({"messages": await reading.by_ids(runtime, asked, actor)})
        if isinstance(asked, OfCampaign):
            return Answer(await progress.of_campaign(runtime, asked, actor))
        messages, cursor = await reading.of_country(runtime, asked, actor)
        return Answer({"messages": messages, "cursor": cursor})


app = function("status-poll", {"GET": handle})
