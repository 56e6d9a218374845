"""CORS as Supabase's own functions answer it: any origin, no cookies, and the headers supabase-js sends.

A browser that misses these headers on an error shows supabase-js a network failure instead of our error body,
so every answer carries them.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

ALLOW_METHODS = "GET, POST, PUT, PATCH, DELETE, OPTIONS"

# supabase-js 2.119 sends up to baggage; x-region when a caller picks one, idempotency-key for our send.
ALLOW_HEADERS = (
    "authorization, x-client-info, apikey, content-type, x-retry-count, traceparent, tracestate, baggage, "
    "x-region, idempotency-key"
)
EXPOSE_HEADERS = "x-supabase-server-error, x-request-id, retry-after, allow"

HEADERS = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-headers", ALLOW_HEADERS.encode()),
    (b"access-control-allow-methods", ALLOW_METHODS.encode()),
    (b"access-control-expose-headers", EXPOSE_HEADERS.encode()),
]


def with_cors(app: ASGIApp) -> ASGIApp:
    """`app` with CORS headers on each answer, and OPTIONS answered before anything else looks at it."""

    async def cors(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
        elif scope["method"] == "OPTIONS":
            await send({"type": "http.response.start", "status": 204, "headers": HEADERS})
            await send({"type": "http.response.body"})
        else:
            await app(scope, receive, _adding_headers(send))

    return cors


def _adding_headers(send: Send) -> Send:
    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
        await send(message)

    return add
