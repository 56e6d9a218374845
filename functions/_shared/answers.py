"""One kind of answer: JSON.

An `Answer` is itself a small ASGI app, so raw endpoints use it without Starlette.
"""

from collections.abc import Awaitable, Callable, Mapping

import orjson
from starlette.types import Receive, Scope, Send

from services.whatsapp import log

_SAFE = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
"""Nobody between us and the caller keeps an answer, and no browser takes it for anything but JSON."""


class Answer:
    """`body` as JSON with `status`; `after`, if given, is awaited once the body is on its way."""

    def __init__(
        self,
        body: object,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        after: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self.status = status
        self.body = orjson.dumps(body)
        self.headers = dict(headers or {})
        self.after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(self.body)).encode())]
        headers += _SAFE
        if request_id := log.request_id.get():
            headers.append((b"x-request-id", request_id.encode("latin-1")))
        headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})
        if self.after is not None:
            await self.after()
