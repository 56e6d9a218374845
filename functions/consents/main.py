"""POST /consents: record opt-ins and opt-outs of many people.

    POST   Idempotency-Key: <the caller's own key for this call>
           {country_id, consents: [{to, action: "opt_in" | "opt_out", scope?: "all" | "marketing", at?, how, proof?}]}
           or text/csv with those columns, and ?country_id=… in the query
           -> 200 {recorded, refused: [{row, code, field, message, reason}]}

For operators and admins of the country, and for servers with the secret key. 10,000 rows a call.
"""

import asyncio

from starlette.requests import Request

from functions._shared.answers import Answer
from functions._shared.app import function
from functions._shared.auth import authenticate
from functions._shared.body import is_csv, read_body, read_json
from functions._shared.capacity import capacity_for
from services.whatsapp.runtime import Runtime

_LIMIT = 16 * 1024 * 1024
_SECONDS = 90.0
"""For such a body to arrive in, over a slow line."""


async def record(request: Request) -> Answer:
    runtime = Runtime.of_loop()
    actor = await authenticate(runtime, request, ("user", "secret"))
    from services.whatsapp.flows import consents, members
    from services.whatsapp.requests.consents import Consents, read_csv

    # Whose country it is stands in the body, but for CSV. Nobody's body is read who may do this nowhere.
    csv, query = is_csv(request), request.query_params
    await members.check(runtime, actor, query.get("country_id", "") if csv else None)
    async with capacity_for(runtime, request.scope, _LIMIT):
        key = request.headers.get("idempotency-key")
        if csv:
            raw = await read_body(request, _LIMIT, _SECONDS)
            call = await asyncio.to_thread(read_csv, key, raw, query)
        else:
            call = Consents.read_with(key, await read_json(request, _LIMIT, _SECONDS))
        return Answer(await consents.record(runtime, call, actor))


app = function("consents", {"POST": record})
