"""A function behind the addresses it is known by, with CORS and problem answers around it."""

import gc
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from functions._shared.cors import with_cors
from functions._shared.problems import refusal_answer, with_problems
from services.whatsapp import log
from services.whatsapp.refusals import refuse
from services.whatsapp.runtime import Runtime

if TYPE_CHECKING:
    from starlette.requests import Request

Handler = Callable[["Request"], Awaitable[ASGIApp]]
"""Takes a Starlette Request and returns an answer: an `Answer`, a Starlette Response, any ASGI app."""


@dataclass(frozen=True, slots=True)
class Raw:
    """A raw ASGI endpoint instead of a handler: no Request is made, and Starlette is not even imported."""

    endpoint: ASGIApp


@dataclass(frozen=True, slots=True)
class Function:
    """An ASGI app: one function, or several `together`."""

    name: str
    http: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self.http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})


def function(name: str, routes: Mapping[str, Handler | Raw], *, cors: bool = True) -> Function:
    """The function `name`, served at /functions/v1/<name>, at /<name> and, standing alone, at /.

    `routes` maps methods to handlers; any other method is refused with our error body. Switch `cors` off
    where no browser calls. Nothing is needed at start: clients are made at first use, since some hosts run no
    lifespan.
    """
    endpoints = {method: _endpoint(handler) for method, handler in routes.items()}
    allowed = ", ".join([*routes, "OPTIONS"] if cors else routes)
    paths = frozenset({"", f"/{name}", f"/functions/v1/{name}"})

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        log.request_id.set(_new_request_id())
        if _path(scope) not in paths:
            raise refuse("not_found")
        endpoint = endpoints.get(scope["method"])
        if endpoint is None:
            answer = refusal_answer(refuse("method_not_allowed", method=scope["method"]))
            answer.headers["allow"] = allowed
            await answer(scope, receive, send)
        else:
            await endpoint(scope, receive, send)

    app = with_problems(dispatch, name)
    return Function(name, with_cors(app) if cors else app)


def together(functions: Iterable[Function]) -> Function:
    """All `functions` behind one app, each at its own two addresses; anything else is refused as `not_found`."""
    functions = tuple(functions)
    by_path = {path: each.http for each in functions for path in (f"/{each.name}", f"/functions/v1/{each.name}")}

    async def unknown(scope: Scope, receive: Receive, send: Send) -> None:
        log.request_id.set(_new_request_id())
        raise refuse("not_found")

    nowhere = with_cors(with_problems(unknown, "functions"))

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        await by_path.get(_path(scope), nowhere)(scope, receive, send)

    return Function("functions", dispatch)


def _endpoint(handler: Handler | Raw) -> ASGIApp:
    if isinstance(handler, Raw):
        return handler.endpoint
    from starlette.requests import Request

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        answer = await handler(Request(scope, receive, send))
        await answer(scope, receive, send)

    return endpoint


def _path(scope: Scope) -> str:
    """The path below whatever this app is mounted at, without a slash at its end."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")).rstrip("/")


def _new_request_id() -> str:
    return os.urandom(8).hex("-", 2)


async def _live(receive: Receive, send: Send) -> None:
    # Requests make many short-lived dicts and hardly a cycle: looking for cycles after every 700 cost
    # 8 % of the webhooks at 256 connections (2 % at 64).
    gc.set_threshold(50_000, 20, 50)
    while (await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await Runtime.close_of_loop()
    await send({"type": "lifespan.shutdown.complete"})
