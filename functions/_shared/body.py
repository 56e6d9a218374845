"""Reading a request's body: never more of it than allowed, never for longer, and never so that others must wait."""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import orjson
from starlette.types import Receive, Scope

from functions._shared.problems import Disconnected
from services.whatsapp.refusals import refuse

if TYPE_CHECKING:
    from starlette.requests import Request

LIMIT = 1024 * 1024
"""Bytes a function reads unless it says otherwise. Supabase documents no limit for its own functions."""


SECONDS = 20.0
"""For a body to arrive in, unless the function says otherwise."""
_MOST_VALUES = 500_000
"""Values of a JSON body: fifty for each row of the largest call. Each takes far more memory than its text."""
_DEEPEST = 64
"""Levels of nesting. Meta's own objects have about a dozen."""
_LONG = 128 * 1024
"""Bytes of JSON from which it is parsed beside the event loop."""


def announced(scope: Scope, limit: int) -> int | None:
    """The length the request announces for its body, if it does. Refuses `body_too_large`."""
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    if not length.isdigit():
        return None
    if len(length) > 15 or int(length) > limit:
        raise refuse("body_too_large", limit=limit)
    return int(length)


async def read_raw(scope: Scope, receive: Receive, limit: int = LIMIT, seconds: float = SECONDS) -> bytes:
    """The body's bytes, for raw ASGI endpoints.

    Refuses `body_too_large`, by the announced length or while reading, and `body_too_slow`.
    """
    announced(scope, limit)
    try:
        async with asyncio.timeout(seconds):
            return await _receive(receive, limit)
    except TimeoutError:
        raise refuse("body_too_slow") from None


async def _receive(receive: Receive, limit: int) -> bytes:
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


async def read_body(request: "Request", limit: int = LIMIT, seconds: float = SECONDS) -> bytes:
    """The body's bytes, read once. Refuses `body_too_large` and `body_too_slow`."""
    return await read_raw(request.scope, request.receive, limit, seconds)


def is_csv(request: "Request") -> bool:
    """Whether the body is said to be text/csv."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "text/csv"


async def read_json(request: "Request", limit: int = LIMIT, seconds: float = SECONDS) -> dict[str, Any]:
    """The body as a JSON object, whatever content type it claims: supabase-js sends strings as text/plain.

    Refuses `body_too_large`, `body_too_slow`, `body_too_complex`, `malformed_json` (details name the position) and
    `body_not_object`.
    """
    raw = await read_body(request, limit, seconds)
    return await asyncio.to_thread(_object, raw) if len(raw) > _LONG else _object(raw)


async def read_optional_json(request: "Request", limit: int = LIMIT) -> dict[str, Any]:
    """As `read_json`, for functions that need no body: an empty one is an empty object. pg_net always sends one."""
    raw = await read_body(request, limit)
    return _object(raw) if raw.strip() else {}


def _object(raw: bytes) -> dict[str, Any]:
    beginnings = raw.count(b"{") + raw.count(b"[")
    # Commas within texts count as well: what remains is still more than anybody needs.
    if beginnings + raw.count(b",") > _MOST_VALUES:
        raise refuse("body_too_complex", reason=f"it holds more than {_MOST_VALUES} values")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        reason = f"{error.msg}, at line {error.lineno}, column {error.colno}" if raw else "the body is empty"
        raise refuse("malformed_json", reason=reason) from None
    if not isinstance(value, dict):
        raise refuse("body_not_object", reason=f"it is {_JSON_NAMES[type(value)]}")
    if beginnings > _DEEPEST and _is_deeper(value, _DEEPEST):
        raise refuse("body_too_complex", reason=f"it is nested more than {_DEEPEST} levels deep")
    return value


def _is_deeper(value: object, most: int) -> bool:
    level: list[object] = [value]
    for _ in range(most):
        level = [part for whole in level for part in _parts(whole)]
        if not level:
            return False
    return True


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


_JSON_NAMES = {
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}
