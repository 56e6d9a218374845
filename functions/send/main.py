"""POST /send: one message into the queue.

    Idempotency-Key: <the caller's own key for this message>
    {country_id, account?, to: "+52…" | {bsuid} | {contact_id}, message: <Meta's object>, send_at?, expires_at?, ref?}
    -> 202 {message_id, status, account, waiting?}

For operators and admins of the country, and for servers with the secret key.
"""

from functools import partial

from starlette.requests import Request

from functions._shared import windows
from functions._shared.answers import Answer
from functions._shared.app import door
from functions._shared.auth import authenticate
from functions._shared.body import read_json
from services.whatsapp.settings import settings


async def handle(request: Request) -> Answer:
    current = settings()
    caller = await authenticate(request, current, ("user", "secret"))
    body = await read_json(request)
    # Imported here: a preflight or a refused caller needs neither models nor a client of Supabase.
    from services.whatsapp import sending

    sent = await sending.send(body, request.headers.get("idempotency-key"), caller.user_id, current)

    kick = partial(windows.kick, current) if sent.waiting is None else None
    return Answer(sent.body(), 202, after=kick)


app = door("send", {"POST": handle}, on_stop=[windows.close])
