"""POST /templates-sync: read every account's templates from Meta. For cron (secret key) and for operators.

    {country_id?}  ->  200 {accounts: [{country_id, account, stored?, removed?, incomplete?, …, error?}]}

A signed-in user must name a country of theirs.
"""

from typing import Any

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
    from services.whatsapp.flows import members, syncing

    await members.check(runtime, actor)
    country_id = _country(await read_optional_json(request, _LIMIT))
    if country_id is None and isinstance(actor, Member):
        raise refuse("missing_field", field="country_id")
    # No verb asks again whose country it is.
    await members.check(runtime, actor, country_id, now=True)
    if country_id is not None and all(each.country_id != country_id for each in runtime.settings.directory):
        raise refuse("unknown_country", field="country_id")
    return Answer({"accounts": await syncing.sync(runtime, country_id)})


def _country(body: dict[str, Any]) -> str | None:
    if not body:
        return None
    # Imported here: cron asks for nothing, and needs no model for that.
    from services.whatsapp.requests.templates_sync import Sync

    return Sync.read(body).country_id


app = function("templates-sync", {"POST": handle})
