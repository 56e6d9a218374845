"""A browser is answered as by Supabase's own functions, whatever the answer is."""

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp

from functions._shared.answers import Answer
from functions._shared.app import function
from functions._shared.body import read_json
from services.whatsapp.refusals import refuse
from tests.functions._shared.asgi import call

# Allowed by @supabase/supabase-js/cors 2.119.1, and what our own functions need besides.
OFFICIAL = "authorization, x-client-info, apikey, content-type, x-retry-count, traceparent, tracestate, baggage"
OURS = "x-region, idempotency-key"


async def handler(request: Request) -> ASGIApp:
    match request.query_params.get("do"):
        case "refuse":
            raise refuse("missing_credentials")
        case "read":
            return Answer(await read_json(request, limit=10))
        case "crash":
            raise RuntimeError("hidden words")
        case "abort":
            raise HTTPException(404, "hidden words")
    return Answer({"ok": True})


SEND = function("send", {"POST": handler})


@pytest.mark.parametrize(
    ("method", "address", "content", "status"),
    [
        ("POST", "/send", None, 200),
        ("POST", "/send?do=refuse", None, 401),
        ("POST", "/send?do=abort", None, 404),
        ("POST", "/nowhere", None, 404),
        ("GET", "/send", None, 405),
        ("POST", "/send?do=read", "{", 400),
        ("POST", "/send?do=read", "{" + " " * 10, 413),
        ("POST", "/send?do=crash", None, 500),
    ],
)
async def test_every_answer_can_be_read_by_a_browser(
    method: str, address: str, content: str | None, status: int
) -> None:
    response = await call(SEND, method, address, content=content)
    assert response.status_code == status
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["access-control-allow-methods"] == "GET, POST, PUT, PATCH, DELETE, OPTIONS"
    assert response.headers["access-control-allow-headers"] == f"{OFFICIAL}, {OURS}"
    assert "x-supabase-server-error" in response.headers["access-control-expose-headers"]
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("address", ["/send", "/send?do=refuse", "/send?do=crash", "/functions/v1/send"])
async def test_options_is_answered_before_anything_else(address: str) -> None:
    headers = {"authorization": "Bearer broken", "origin": "https://example.com"}
    response = await call(SEND, "OPTIONS", address, headers=headers)
    assert response.status_code == 204
    assert response.content == b""
    assert response.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(("method", "status"), [("POST", 200), ("OPTIONS", 405), ("GET", 405)])
async def test_a_door_without_cors_tells_browsers_nothing(method: str, status: int) -> None:
    response = await call(function("webhook", {"POST": handler}, cors=False), method, "/webhook")
    assert response.status_code == status
    assert not [name for name in response.headers if name.startswith("access-control-")]
