"""GET /health: is the process up; and for a secret key, are the database and every account well.

-> 200 {status: "ok"}                                                 for anybody
-> 200 {status, schema: {version, needed, code}, accounts: [{country_id, account, state, credentials}], problems: [...]}
                                                                      with a secret key
"""

from starlette.requests import Request

from functions._shared.answers import Answer
from functions._shared.app import function
from functions._shared.auth import authenticate
from services.whatsapp.runtime import Runtime


async def handle(request: Request) -> Answer:
    if not request.headers.get("apikey", "").startswith("sb_secret_"):
        return Answer({"status": "ok"})
    runtime = Runtime.of_loop()
    await authenticate(runtime, request, ("secret:*",))
    # Whoever only asks whether the process is up needs nothing of it.
    from services.whatsapp.flows.checking import check

    return Answer(await check(runtime))


app = function("health", {"GET": handle})
