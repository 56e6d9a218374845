"""One HTTP request to an ASGI app, without a server."""

from typing import Any

import httpx
from starlette.types import ASGIApp, Message, Scope


async def call(app: ASGIApp, method: str, address: str, **options: Any) -> httpx.Response:
    """The answer of `app`. An exception that leaves `app` is raised here, as a server would see it."""
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.request(method, address, **options)


async def exchange(app: ASGIApp, scope: Scope, *incoming: Message) -> list[Message]:
    """What `app` sends when it receives `incoming`, message by message. Asking for more fails the test."""
    waiting = iter(incoming)
    sent: list[Message] = []

    async def receive() -> Message:
        return next(waiting)

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent
