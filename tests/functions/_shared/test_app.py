"""A function answers at its addresses, to its methods, and to nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from functions._shared.answers import Answer
from functions._shared.app import Raw, function, together
from services.whatsapp import log
from services.whatsapp.runtime import Runtime
from tests.functions._shared.asgi import call, exchange

ROOT = Path(__file__).parents[3]
FUNCTIONS = sorted(path.parent.name for path in (ROOT / "functions").glob("*/main.py"))


async def hello(request: Request) -> ASGIApp:
    return Answer({"hello": request.url.path}, 202, {"x-extra": "1"})


async def plain(request: Request) -> ASGIApp:
    return PlainTextResponse("starlette")


async def raw(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["method"].encode()})


@pytest.mark.parametrize(
    "address", ["/functions/v1/status-poll", "/status-poll", "/", "/status-poll/", "/status-poll?a=b"]
)
async def test_addresses_of_a_door(address: str) -> None:
    response = await call(function("status-poll", {"GET": hello}), "GET", address)
    assert response.status_code == 202
    assert response.json() == {"hello": address.partition("?")[0]}
    assert response.headers["x-extra"] == "1"


@pytest.mark.parametrize(
    "address", ["/send", "/status-poll/more", "/functions/v2/status-poll", "/functions/v1", "/x/status-poll"]
)
async def test_other_addresses(address: str) -> None:
    response = await call(function("status-poll", {"GET": hello}), "GET", address)
    assert response.status_code == 404
    assert response.json()["code"] == "not_found"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PROPFIND"])
async def test_other_methods_are_refused(method: str) -> None:
    response = await call(function("send", {"POST": hello, "PATCH": hello}), method, "/send")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST, PATCH, OPTIONS"
    assert response.json()["code"] == "method_not_allowed"
    assert method in response.json()["message"]


async def test_head_is_no_exception() -> None:
    assert (await call(function("status-poll", {"GET": hello}), "HEAD", "/status-poll")).status_code == 405


async def test_methods_have_their_own_endpoints() -> None:
    webhook = function("webhook", {"GET": plain, "POST": Raw(raw)}, cors=False)
    assert (await call(webhook, "GET", "/webhook")).text == "starlette"
    assert (await call(webhook, "POST", "/webhook")).text == "POST"


@pytest.mark.parametrize(
    ("method", "address", "status"),
    [
        ("POST", "/functions/v1/send", 202),
        ("POST", "/send", 202),
        ("POST", "/functions/v1/webhook", 200),
        ("GET", "/send", 405),
        ("POST", "/", 404),
        ("POST", "/nowhere", 404),
        ("POST", "/functions/v1/", 404),
    ],
)
async def test_doors_together(method: str, address: str, status: int) -> None:
    functions = together([function("send", {"POST": hello}), function("webhook", {"POST": Raw(raw)}, cors=False)])
    response = await call(functions, method, address)
    assert response.status_code == status
    assert (response.headers.get("access-control-allow-origin") == "*") == ("webhook" not in address)


async def test_a_door_can_be_mounted_in_another_app() -> None:
    app = Starlette(routes=[Mount("/api", app=function("send", {"POST": hello}))])
    assert (await call(app, "POST", "/api/send")).status_code == 202


async def test_each_request_has_an_id_of_its_own() -> None:
    seen: list[str | None] = []

    async def note(request: Request) -> ASGIApp:
        seen.append(log.request_id.get())
        return Answer({})

    answers = [await call(function("send", {"POST": note}), "POST", "/send") for _ in range(3)]
    assert len(set(seen)) == 3
    assert all(seen)
    assert [each.headers["x-request-id"] for each in answers] == seen
    assert "x-request-id" in answers[0].headers["access-control-expose-headers"]


async def test_nobody_on_the_way_keeps_an_answer_or_takes_it_for_a_page() -> None:
    for method in ("POST", "GET"):
        answer = await call(function("send", {"POST": hello}), method, "/send")
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_what_comes_after_the_answer_runs_after_it() -> None:
    order: list[str] = []

    async def kick() -> None:
        order.append("kick")

    async def answer_then_kick(request: Request) -> ASGIApp:
        return Answer({}, 202, after=kick)

    async def send_noting(app: ASGIApp) -> None:
        async def receive() -> dict[str, object]:
            return {"type": "http.request"}

        async def send(message: object) -> None:
            order.append("answer")

        await app({"type": "http", "method": "POST", "path": "/send", "headers": []}, receive, send)

    await send_noting(function("send", {"POST": answer_then_kick}))
    assert order == ["answer", "answer", "kick"]


async def test_what_the_loop_holds_is_closed_when_the_server_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("SUPABASE_SECRET_KEY", "sb_secret_x")
    monkeypatch.setenv("WHATSAPP_DOTENV", "off")

    async def open_it(request: Request) -> ASGIApp:
        Runtime.of_loop().part(Held)
        return Answer({})

    functions = together([function("send", {"POST": open_it}), function("webhook", {"POST": hello})])
    await call(functions, "POST", "/send")
    held = Runtime.of_loop().part(Held)
    sent = await exchange(functions, {"type": "lifespan"}, {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert held.closed == 1


class Held:
    """Something that is to be closed, once."""

    def __init__(self, _: Runtime) -> None:
        self.closed = 0

    async def close(self) -> None:
        self.closed += 1


async def test_a_websocket_is_turned_away() -> None:
    [answer] = await exchange(function("send", {"POST": hello}), {"type": "websocket", "path": "/send"})
    assert answer["type"] == "websocket.close"


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("functions._shared.app", ["starlette.requests", "starlette.responses"]),
        ("functions._shared.body", ["starlette.requests"]),
        ("functions._shared.auth", ["starlette.requests", "cryptography"]),
        ("services.whatsapp.settings", ["dotenv"]),
        ("services.whatsapp.runtime", ["dotenv", "tenacity"]),
        *((f"functions.{name}.main", ["services.whatsapp.clients"]) for name in FUNCTIONS),
    ],
)
def test_imports_stay_light(module: str, heavy: list[str]) -> None:
    never = ["pydantic", "supabase", "postgrest", "httpx", "aiohttp", "jwt", "structlog", "phonenumbers"]
    code = f"import sys, {module}; print([name for name in {never + heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("flow", ["receiving", "ingesting", "draining", "syncing"])
def test_what_meta_and_cron_set_going_needs_no_model(flow: str) -> None:
    code = f"import sys, services.whatsapp.flows.{flow}; print('pydantic' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


ASKED = """
import asyncio, os, sys
os.environ |= {"WHATSAPP_DOTENV": "off", "WHATSAPP_VERIFY_TOKEN": "v", "SUPABASE_SECRET_KEY": "sb_secret_x"}
os.environ |= {"SUPABASE_URL": "https://abc.supabase.co"}
from functions.queue_drain.main import _budget
from functions.templates_sync.main import _country
from functions.webhook.main import app

async def told():
    sent = []
    async def send(message):
        sent.append(message)
    query = b"hub.mode=subscribe&hub.verify_token=v&hub.challenge=42"
    scope = {"type": "http", "method": "GET", "path": "/webhook", "headers": [], "query_string": query}
    await app(scope, None, send)
    return [sent[0]["status"], sent[1]["body"].decode()]

print(asyncio.run(told()), _budget({}, 5.0), _country({}), "pydantic" in sys.modules)
"""


def test_who_asks_for_nothing_in_particular_needs_no_model() -> None:
    """Meta's handshake, and what cron says, which is nothing."""
    run = subprocess.run([sys.executable, "-c", ASKED], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[200, '42'] 5.0 None False"
