"""POST /queue-drain: claim, post and settle until idle or out of time. For cron, with a secret key; overlap is safe.

{budget_seconds?}  ->  200 {claimed, accepted, failed, requeued, unknown, refused, released}
"""

from typing import Any

from starlette.requests import Request

from functions._shared.answers import Answer
from functions._shared.app import function
from functions._shared.auth import authenticate
from functions._shared.body import read_optional_json
from services.whatsapp.refusals import refuse
from services.whatsapp.runtime import Runtime

_LIMIT = 4096


async def handle(request: Request) -> Answer:
    runtime = Runtime.of_loop()
    await authenticate(runtime, request, ("secret:*",))
    most = runtime.settings.drain_budget
    budget = min(_budget(await read_optional_json(request, _LIMIT)) or most, most)
    from services.whatsapp.flows import draining

    report = await draining.drain(runtime, budget)
    return Answer(report.body())


def _budget(body: dict[str, Any]) -> float | None:
    """Seconds asked for, or None."""
    budget = body.get("budget_seconds")
    if budget is None:
        return None
    if isinstance(budget, bool) or not isinstance(budget, int | float) or budget <= 0:
        raise refuse("invalid_field", field="budget_seconds", reason="it must be a number of seconds above 0")
    return float(budget)


app = function("queue-drain", {"POST": handle}, cors=False)
