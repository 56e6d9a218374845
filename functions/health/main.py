"""GET /health: is the process up; and for a secret key, are the database and every account well.

-> 200 {status: "ok"}                                          for anybody
-> 200 {status, accounts: [{country_id, account, state, credentials}], problems: [...]}   with a secret key
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
    accounts = []
    for row in await runtime.verbs.account_states():
        known = runtime.settings.directory.account(row["country_id"], row["account_id"])
        accounts.append(
            {
                "country_id": row["country_id"],
                "account": row["account_id"],
                "state": row["state"],
                "reason": row["state_reason"],
                "code": row["state_code"],
                "paused_until": row["paused_until"],
                "templates_paused_until": row["templates_paused_until"],
                "messaging_limit": row["messaging_limit"],
                "quality": row["quality"],
                "credentials": known is not None and bool(known.tokens),
            }
        )
    well = all(each["state"] == "active" and each["credentials"] for each in accounts)
    problems = list(runtime.settings.directory_problems)
    return Answer(
        {"status": "ok" if well and not problems else "attention", "accounts": accounts, "problems": problems}
    )


app = function("health", {"GET": handle})
