"""Calls of many rows, as JSON or as CSV: who calls, then room for the body, then what it asks."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from functions._shared.body import is_csv, read_body, read_json
from functions._shared.capacity import capacity_for
from services.whatsapp.actors import Actor
from services.whatsapp.runtime import Runtime

if TYPE_CHECKING:
    from starlette.requests import Request

Call = TypeVar("Call")

_LIMIT = 16 * 1024 * 1024
_SECONDS = 90.0
"""For such a body to arrive in, over a slow line."""


@asynccontextmanager
async def call_of(
    runtime: Runtime,
    request: "Request",
    actor: Actor,
    read: Callable[[str | None, dict[str, Any]], Call],
    read_csv: Callable[[str | None, bytes, Any], Call],
) -> AsyncIterator[Call]:
    """The call as `read` or, beside the event loop, `read_csv` gives it. The block has its body's room."""
    from services.whatsapp.flows import members

    # Whose country it is stands in the body, but for CSV. Nobody's body is read who may do this nowhere.
    csv, query = is_csv(request), request.query_params
    await members.check(runtime, actor, query.get("country_id", "") if csv else None)
    async with capacity_for(runtime, request.scope, _LIMIT):
        key = request.headers.get("idempotency-key")
        if csv:
            raw = await read_body(request, _LIMIT, _SECONDS)
            yield await asyncio.to_thread(read_csv, key, raw, query)
        else:
            yield read(key, await read_json(request, _LIMIT, _SECONDS))
