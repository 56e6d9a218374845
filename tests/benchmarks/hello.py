"""A bare Starlette app that answers anything at once: what a cold start costs at the least."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


app = Starlette(routes=[Route("/{path:path}", hello, methods=["GET", "POST", "OPTIONS"])])
