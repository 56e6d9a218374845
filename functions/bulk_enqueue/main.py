"""POST and PATCH /bulk-enqueue: an approved template to many people, and the control of such a campaign.

    POST   Idempotency-Key: <the caller's own key for this call>
           {country_id, account?, name, template: {name, language}, recipients: [{to, parameters, ref?}],
            send_at?, valid_until?, draft?}
           {country_id, campaign_id, recipients: [...]}              appends to a campaign
           or text/csv with the same fields (template as template=…&language=…) in the query
           -> 202 {campaign_id, account, status, accepted, refused: [{row, code, field, message, reason}]}
    PATCH  {country_id, campaign_id, action: "start" | "pause" | "resume" | "cancel"}
           -> 200 the campaign and its progress

For operators and admins of the country, and for servers with the secret key. 10,000 recipients a call.
"""

from functools import partial

from starlette.requests import Request

from functions._shared.answers import Answer
from functions._shared.app import function
from functions._shared.auth import authenticate
from functions._shared.body import read_json
from functions._shared.kick import kick
from functions._shared.rows import call_of
from services.whatsapp.runtime import Runtime

_CONTROL_LIMIT = 4096


async def enqueue(request: Request) -> Answer:
    runtime = Runtime.of_loop()
    actor = await authenticate(runtime, request, ("user", "secret"))
    from services.whatsapp.flows import campaigns
    from services.whatsapp.requests import bulk_enqueue

    async with call_of(runtime, request, actor, bulk_enqueue.read, bulk_enqueue.read_csv) as call:
        done = await campaigns.enqueue(runtime, call, actor)

    after = partial(kick, runtime) if done.state == "running" else None
    return Answer(done.body(), 202, after=after)


async def control(request: Request) -> Answer:
    runtime = Runtime.of_loop()
    actor = await authenticate(runtime, request, ("user", "secret"))
    from services.whatsapp.flows import campaigns, members
    from services.whatsapp.requests.bulk_enqueue import Control

    await members.check(runtime, actor)
    asked = Control.read(await read_json(request, _CONTROL_LIMIT))

    answer = await campaigns.control(runtime, asked, actor)
    after = partial(kick, runtime) if answer["state"] == "running" else None
    return Answer(answer, after=after)


app = function("bulk-enqueue", {"POST": enqueue, "PATCH": control})
