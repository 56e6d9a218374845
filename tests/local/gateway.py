"""One base URL for the official clients: `/rest/v1` and `/auth/v1` go to Supabase Lite, the rest to our functions.

Development and tests only; in production hosted Supabase answers the first two.
"""

import importlib
import os
import re

import httpx
from httpx_aiohttp import AiohttpTransport
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PROXIED = ("/rest/v1", "/auth/v1")
_NOT_FORWARDED = {"host", "connection", "content-length", "transfer-encoding", "accept-encoding"}
_NOT_RETURNED = {"connection", "content-length", "transfer-encoding", "content-encoding", "keep-alive"}

_POSTGRES_TIME = re.compile(rb'"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d(?:\.\d+)?)\+00"')
"""Lite's Auth writes times as Postgres does, which supabase-py cannot read; hosted Auth writes ISO 8601."""


class Gateway:
    """An ASGI app in front of `functions`, which also gets the lifespan events."""

    def __init__(self, functions: ASGIApp, supabase_url: str) -> None:
        self._functions = functions
        self._client = httpx.AsyncClient(base_url=supabase_url, transport=AiohttpTransport(), timeout=60)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(_PROXIED):
            request = Request(scope, receive)
            response = Response(status_code=204) if request.method == "OPTIONS" else await self._forward(request)
            _allow_browsers(request, response)
            await response(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._functions(scope, self._closing(receive), send)
        else:
            await self._functions(scope, receive, send)

    def _closing(self, receive: Receive) -> Receive:
        async def received() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self._client.aclose()
            return message

        return received

    async def _forward(self, request: Request) -> Response:
        query = request.scope["query_string"].decode()
        headers = [(name, value) for name, value in request.headers.items() if name not in _NOT_FORWARDED]
        try:
            answer = await self._client.request(
                request.method,
                request.url.path + (f"?{query}" if query else ""),
                headers=[*headers, ("accept-encoding", "identity")],
                content=await request.body(),
            )
        except httpx.TransportError as error:
            return JSONResponse({"message": f"Supabase Lite did not answer: {type(error).__name__}"}, status_code=502)
        response = Response(_POSTGRES_TIME.sub(rb'"\1T\2Z"', answer.content), answer.status_code)
        for name, value in answer.headers.multi_items():
            if name.lower() not in _NOT_RETURNED:
                response.headers.append(name, value)
        return response


def _allow_browsers(request: Request, response: Response) -> None:
    """Any origin and any header, as hosted Supabase answers browsers; Lite answers no preflight."""
    response.headers["access-control-allow-origin"] = "*"
    response.headers["access-control-allow-methods"] = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
    response.headers["access-control-allow-headers"] = request.headers.get("access-control-request-headers", "*")
    response.headers["access-control-expose-headers"] = "content-range, content-location, location, range-unit"


def app() -> ASGIApp:
    """The gateway for the app named by FUNCTIONS_APP, in front of SUPABASE_URL. A factory for uvicorn."""
    module, _, attribute = os.environ["FUNCTIONS_APP"].partition(":")
    return Gateway(getattr(importlib.import_module(module), attribute), os.environ["SUPABASE_URL"])
