"""PATCH /accounts: pause a business number, or let it go on after Meta's stop codes.

    {country_id, account?, action: "pause" | "resume"}
    -> 200 {country_id, account, state, reason, code, since, paused_until, templates_paused_until}

For operators and admins of the country, and for servers with the secret key. What waits meanwhile is not lost; messages
that come in are taken as ever.
"""

from functools import partial

from starlette.requests import Request

from functions._shared.answers import Answer
from functions._shared.app import function
from functions._shared.auth import authenticate
from functions._shared.body import read_json
from functions._shared.kick import kick
from services.whatsapp.runtime import Runtime

_LIMIT = 4096


async def control(request: Request) -> Answer:
    runtime = Runtime.of_loop()
    actor = await authenticate(runtime, request, ("user", "secret"))
    from services.whatsapp.flows import accounts, members
    from services.whatsapp.requests.accounts import AccountControl

    await members.check(runtime, actor)
    asked = AccountControl.read(await read_json(request, _LIMIT))

    account = await accounts.control(runtime, asked, actor)
    after = partial(kick, runtime) if account["state"] == "active" else None
    return Answer(account, after=after)


app = function("accounts", {"PATCH": control})
