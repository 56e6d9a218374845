"""POST /queue-drain: claim, post and settle until idle or out of time. For cron, with a secret key; overlap is safe.

{budget_seconds?}  ->  200 {claimed, accepted, failed, requeued, unknown, refused, released}
"""

from typing import Any

from starlette.requests import Request

from functions._shared.answers import Answer
from functions._shared.app import function
from functions._shared.auth import authenticate
from functions._shared.body import read_optional_json
from services.whatsapp.runtime import Runtime

_LIMIT = 4096


async def handle(request: Request) -> Answer:
    runtime = Runtime.of_loop()
    await authenticate(runtime, request, ("secret:*",))
    budget = _budget(await read_optional_json(request, _LIMIT), runtime.settings.drain_budget)
    from services.whatsapp.flows import draining

    report = await draining.drain(runtime, budget)
    return Answer(report.body())


def _budget(body: dict[str, Any], most: float) -> float:
    """The seconds asked for, but no more than there are."""
    if not body:
        return most
    # Imported here: cron, which is nearly everybody, asks for nothing, and needs no model for that.
    from services.whatsapp.requests.queue_drain import Drain

    return min(Drain.read(body).budget_seconds or most, most)


app = function("queue-drain", {"POST": handle}, cors=False)
