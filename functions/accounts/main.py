"""PATCH /accounts: pause a business number, or let it go on after Meta's stop codes.

    {country_id, account?, action: "pause" | "resume"}
    -> 200 {country_id, account, state, reason, code, since, paused_until, templates_paused_until}

For operators and admins of the country, and for servers with the secret key. What waits meanwhile is not lost; messages
that come in are taken as ever.
"""

from functools import partial

from starlette.requests import Request

from functions._shared import clients
from functions._shared.answers import Answer
from functions._shared.app import function
from functions._shared.auth import authenticate
from functions._shared.body import read_json
from services.whatsapp.settings import settings

_LIMIT = 4096


async def control(request: Request) -> Answer:
    current = settings()
    actor = await authenticate(request, current, ("user", "secret"))
    from services.whatsapp.flows import accounts, members

    await members.check(actor, current)
    body = await read_json(request, _LIMIT)

    account = await accounts.control(body, actor, current)
    kick = partial(clients.kick, current) if account["state"] == "active" else None
    return Answer(account, after=kick)


app = function("accounts", {"PATCH": control}, on_stop=[clients.close])
