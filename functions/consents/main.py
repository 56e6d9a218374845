"""POST /consents: record opt-ins and opt-outs of many people.

    POST   Idempotency-Key: <the caller's own key for this call>
           {country_id, consents: [{to, action: "opt_in" | "opt_out", scope?: "all" | "marketing", at?, how, proof?}]}
           or text/csv with those columns, and ?country_id=… in the query
           -> 200 {recorded, refused: [{row, code, field, message, reason}]}

For operators and admins of the country, and for servers with the secret key. 10,000 rows a call.
"""

from starlette.requests import Request

from functions._shared import windows
from functions._shared.answers import Answer
from functions._shared.app import door
from functions._shared.auth import authenticate
from functions._shared.body import read_csv, read_json
from services.whatsapp.settings import settings

_LIMIT = 16 * 1024 * 1024


async def record(request: Request) -> Answer:
    current = settings()
    caller = await authenticate(request, current, ("user", "secret"))
    text = await read_csv(request, _LIMIT)
    from services.whatsapp import consents

    call = await read_json(request, _LIMIT) if text is None else consents.read_csv(text, request.query_params)
    return Answer(await consents.record(call, request.headers.get("idempotency-key"), caller.user_id, current))


app = door("consents", {"POST": record}, on_stop=[windows.close])
