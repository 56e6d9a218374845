"""POST /send: one message into the queue.

    Idempotency-Key: <the caller's own key for this message>
    {country_id, account?, to: "+52…" | {bsuid} | {contact_id}, message: <Meta's object>, send_at?, expires_at?, ref?}
    -> 202 {message_id, status, account, waiting?}

For operators and admins of the country, and for servers with the secret key.
"""

from functools import partial

from starlette.requests import Request

from functions._shared import clients
from functions._shared.answers import Answer
from functions._shared.app import function
from functions._shared.auth import authenticate
from functions._shared.body import read_json
from services.whatsapp.settings import settings


async def handle(request: Request) -> Answer:
    current = settings()
    actor = await authenticate(request, current, ("user", "secret"))
    # Imported here: a preflight or an unknown caller needs neither models nor a client of Supabase.
    from services.whatsapp.flows import members, sending

    await members.check(actor, current)
    body = await read_json(request)

    sent = await sending.send(body, request.headers.get("idempotency-key"), actor, current)

    kick = partial(clients.kick, current) if sent.waiting is None else None
    return Answer(sent.body(), 202, after=kick)


app = function("send", {"POST": handle}, on_stop=[clients.close])
