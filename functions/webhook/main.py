"""GET and POST /webhook: Meta's handshake and Meta's events. Nobody else calls here, so there is no CORS.

The POST is a raw ASGI endpoint: it stands under three times the outbound rate plus the inbound one.
"""

from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from functions._shared.app import Raw, function
from functions._shared.body import read_raw
from functions._shared.capacity import capacity_for
from services.whatsapp.flows import receiving
from services.whatsapp.requests.webhook import Handshake
from services.whatsapp.runtime import Runtime

_SIGNATURE = b"x-hub-signature-256"
_SECONDS = 15.0
"""For a body to arrive in: Meta sends it at once or not at all."""
_OK = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"2")],
}
_EMPTY = {"type": "http.response.body", "body": b"{}"}


async def shake_hands(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers Meta's verification of the callback URL with its challenge, as plain text."""
    asked = Handshake.read(dict(parse_qsl(scope["query_string"].decode("latin-1"))))
    challenge = receiving.handshake(Runtime.of_loop(), asked).encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(challenge)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": challenge})


async def take(scope: Scope, receive: Receive, send: Send) -> None:
    """Size, signature, then one durable ingest, then 200; and only then what follows from it."""
    runtime = Runtime.of_loop()
    header = next((value.decode("latin-1") for name, value in scope["headers"] if name == _SIGNATURE), None)
    expected = receiving.expect_signature(runtime, header)
    async with capacity_for(runtime, scope, receiving.LIMIT, "webhook_overloaded"):
        body = await read_raw(scope, receive, receiving.LIMIT, _SECONDS)
        receiving.check_signature(runtime, expected, body)
        events = await receiving.receive(runtime, body)
    await send(_OK)
    await send(_EMPTY)
    await receiving.follow_up(runtime, events)


app = function("webhook", {"GET": Raw(shake_hands), "POST": Raw(take)}, cors=False)
