"""POST /templates-sync: read every account's templates from Meta. For cron (secret key) and for operators.

    {country_id?}  ->  200 {accounts: [{country_id, account, stored?, removed?, incomplete?, …, error?}]}

A signed-in user must name a country of theirs.
"""

from starlette.requests import Request

from functions._shared import clients
from functions._shared.answers import Answer
from functions._shared.app import function
from functions._shared.auth import authenticate
from functions._shared.body import read_optional_json
from services.whatsapp.actors import Member
from services.whatsapp.refusals import refuse
from services.whatsapp.settings import settings

_LIMIT = 4096


async def handle(request: Request) -> Answer:
    current = settings()
    actor = await authenticate(request, current, ("user", "secret:*"))
    from services.whatsapp import requests
    from services.whatsapp.flows import members, syncing

    await members.check(actor, current)
    body = await read_optional_json(request, _LIMIT)
    requests.only(body, ("country_id",))
    country_id = requests.country(body) if isinstance(actor, Member) or body.get("country_id") is not None else None
    # No verb asks again whose country it is.
    await members.check(actor, current, country_id, now=True)
    if country_id is not None and all(each.country_id != country_id for each in current.directory):
        raise refuse("unknown_country", field="country_id")
    return Answer({"accounts": await syncing.sync(current, country_id)})


app = function("templates-sync", {"POST": handle}, on_stop=[clients.close])
