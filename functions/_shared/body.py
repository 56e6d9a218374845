"""Reading a request's body, never more of it than allowed."""

from typing import TYPE_CHECKING, Any

import orjson
from starlette.types import Receive, Scope

from functions._shared.problems import Disconnected
from services.whatsapp.refusals import refuse

if TYPE_CHECKING:
    from starlette.requests import Request

LIMIT = 1024 * 1024
"""Bytes a door reads unless it says otherwise. Supabase documents no limit for its own functions."""


async def read_raw(scope: Scope, receive: Receive, limit: int = LIMIT) -> bytes:
    """The body's bytes, for raw ASGI endpoints.

    Refuses `body_too_large`, by the announced length or while reading.
    """
    announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    if announced.isdigit() and int(announced) > limit:
        raise refuse("body_too_large", limit=limit)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise refuse("body_too_large", limit=limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


async def read_body(request: "Request", limit: int = LIMIT) -> bytes:
    """The body's bytes, read once. Refuses `body_too_large`."""
    return await read_raw(request.scope, request.receive, limit)


async def read_csv(request: "Request", limit: int = LIMIT) -> str | None:
    """The body as text if it is text/csv, else None with nothing read. Refuses `body_too_large` and `invalid_csv`."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "text/csv":
        return None
    try:
        return (await read_body(request, limit)).decode()
    except UnicodeDecodeError:
        raise refuse("invalid_csv", reason="it is not UTF-8") from None


async def read_json(request: "Request", limit: int = LIMIT) -> dict[str, Any]:
    """The body as a JSON object, whatever content type it claims: supabase-js sends strings as text/plain.

    Refuses `body_too_large`, `malformed_json` (details name the position) and `body_not_object`.
    """
    return _object(await read_body(request, limit))


async def read_optional_json(request: "Request", limit: int = LIMIT) -> dict[str, Any]:
    """As `read_json`, for doors that need no body: an empty one is an empty object. pg_net always sends one."""
    raw = await read_body(request, limit)
    return _object(raw) if raw.strip() else {}


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        reason = f"{error.msg}, at line {error.lineno}, column {error.colno}" if raw else "the body is empty"
        raise refuse("malformed_json", reason=reason) from None
    if not isinstance(value, dict):
        raise refuse("body_not_object", reason=f"it is {_JSON_NAMES[type(value)]}")
    return value


_JSON_NAMES = {
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}
