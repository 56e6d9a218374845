"""POST /templates-sync: read every account's templates from Meta. For cron (secret key) and for operators.

    {country_id?}  ->  200 {accounts: [{country_id, account, stored?, removed?, incomplete?, …, error?}]}

A signed-in user must name a country of theirs.
"""

from typing import Any

from starlette.requests import Request

from functions._shared import windows
from functions._shared.answers import Answer
from functions._shared.app import door
from functions._shared.auth import authenticate
from functions._shared.body import read_optional_json
from services.whatsapp.refusals import refuse
from services.whatsapp.settings import settings

_LIMIT = 4096


async def handle(request: Request) -> Answer:
    current = settings()
    caller = await authenticate(request, current, ("user", "secret:*"))
    country_id = _country(await read_optional_json(request, _LIMIT))
    from services.whatsapp import store, templates

    if caller.user_id is not None:
        if country_id is None:
            raise refuse("missing_field", field="country_id")
        role = await store.shared(current).role_of(country_id, caller.user_id)
        if role is None:
            raise refuse("not_a_member", field="country_id")
        if role not in ("operator", "admin"):
            raise refuse("role_too_low", field="country_id")
    return Answer({"accounts": await templates.sync(current, country_id)})


def _country(body: dict[str, Any]) -> str | None:
    country_id = body.get("country_id")
    if country_id is not None and not isinstance(country_id, str):
        raise refuse("invalid_field", field="country_id", reason="it must be a text such as MX")
    return country_id


app = door("templates-sync", {"POST": handle}, on_stop=[windows.close])
