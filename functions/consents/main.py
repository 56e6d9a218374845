"""POST /consents: record opt-ins and opt-outs of many people.

    POST   Idempotency-Key: <the caller's own key for this call>
           {country_id, consents: [{to, action: "opt_in" | "opt_out", scope?: "all" | "marketing", at?, how, proof?}]}
           or text/csv with those columns, and ?country_id=… in the query
           -> 200 {recorded, refused: [{row, code, field, message, reason}]}

For operators and admins of the country, and for servers with the secret key. 10,000 rows a call.
"""

from starlette.requests import Request

from functions._shared.answers import Answer
from functions._shared.app import function
from functions._shared.auth import authenticate
from functions._shared.rows import call_of
from services.whatsapp.runtime import Runtime


async def record(request: Request) -> Answer:
    runtime = Runtime.of_loop()
    actor = await authenticate(runtime, request, ("user", "secret"))
    from services.whatsapp.flows import consents
    from services.whatsapp.requests.consents import Consents, read_csv

    async with call_of(runtime, request, actor, Consents.read_with, read_csv) as call:
        return Answer(await consents.record(runtime, call, actor))


app = function("consents", {"POST": record})
