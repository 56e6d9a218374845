"""POST /templates-sync: read every account's templates from Meta. For cron (secret key) and for operators.

    {country_id?}  ->  200 {accounts: [{country_id, account, stored?, removed?, incomplete?, …, error?}]}

A signed-in user must name a country of theirs.
"""

from starlette.requests import Request

from functions._shared.answers import Answer
from functions._shared.app import function
from functions._shared.auth import authenticate
from functions._shared.body import read_optional_json
from services.whatsapp.actors import Member
from services.whatsapp.refusals import refuse
from services.whatsapp.runtime import Runtime

_LIMIT = 4096


async def handle(request: Request) -> Answer:
    runtime = Runtime.of_loop()
    actor = await authenticate(runtime, request, ("user", "secret:*"))
    from services.whatsapp import requests
    from services.whatsapp.flows import members, syncing

    await members.check(runtime, actor)
    body = await read_optional_json(request, _LIMIT)
    requests.only(body, ("country_id",))
    country_id = requests.country(body) if isinstance(actor, Member) or body.get("country_id") is not None else None
    # No verb asks again whose country it is.
    await members.check(runtime, actor, country_id, now=True)
    if country_id is not None and all(each.country_id != country_id for each in runtime.settings.directory):
        raise refuse("unknown_country", field="country_id")
    return Answer({"accounts": await syncing.sync(runtime, country_id)})


app = function("templates-sync", {"POST": handle})
