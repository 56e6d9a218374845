"""POST /send: one message into the queue.

    Idempotency-Key: <the caller's own key for this message>
    {country_id, account?, to: "+52…" | {bsuid} | {contact_id}, message: <Meta's object>, send_at?, expires_at?, ref?}
    -> 202 {message_id, status, account, waiting?}

For operators and admins of the country, and for servers with the secret key.
"""

from functools import partial

from starlette.requests import Request

from functions._shared.answers import Answer
from functions._shared.app import function
from functions._shared.auth import authenticate
from functions._shared.body import read_json
from functions._shared.kick import kick
from services.whatsapp.runtime import Runtime


async def handle(request: Request) -> Answer:
    runtime = Runtime.of_loop()
    actor = await authenticate(runtime, request, ("user", "secret"))
    # Imported here: a preflight or an unknown caller needs neither models nor a client of Supabase.
    from services.whatsapp.flows import members, sending
    from services.whatsapp.requests.send import Send

    await members.check(runtime, actor)
    asked = Send.read_with(request.headers.get("idempotency-key"), await read_json(request))

    sent = await sending.send(runtime, asked, actor)

    after = partial(kick, runtime) if sent.waiting is None else None
    return Answer(sent.body(), 202, after=after)


app = function("send", {"POST": handle})
