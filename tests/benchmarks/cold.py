"""Cold start: from starting the process to the first answer, of each function's app under uvicorn.

Two first requests for each function: the cheapest honest answer, and a full one that did its work. Beside both stands
a bare Starlette app that answers the same request with a constant.
"""

import compileall
import http.client
import itertools
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import orjson
import psycopg

from services.whatsapp.identity import match_key
from services.whatsapp.meta.signature import sign
from tests.benchmarks.child import ROOT
from tests.benchmarks.report import DIRECT, OURS, Bar, Report
from tests.graph.process import graph_process
from tests.graph.world import World
from tests.local import processes
from tests.local.stack import Stack, mint_jwt, running_stack

_TIMEOUT = 20.0


@dataclass(frozen=True, slots=True)
class First:
    """A first request and the status it must be answered with. `body` may be made anew each time by `{key}`."""

    function: str
    what: str
    method: str
    status: int
    path: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def case(self) -> str:
        return f"cold, {self.function}: {self.what}"


def bars() -> list[Bar]:
    limits = {"webhook": 1.5}
    names = [("webhook", "GET handshake"), ("webhook", "POST, durable")]
    names += [
        (function, what)
        for function, full in (
            ("send", "POST, 202"),
            ("status-poll", "GET, read"),
            ("queue-drain", "POST, idle drain"),
            ("templates-sync", "POST, synced"),
            ("health", "GET, secret key"),
        )
        for what in (_CHEAPEST[function], full)
    ]
    return [
        Bar(f"cold, {function}: {what}", "first_answer_ms", "bare Starlette", most=limits.get(function, 3.0), ours=ours)
        for function, what in names
        for ours in (OURS, DIRECT)
    ]


_CHEAPEST = {
    "send": "OPTIONS",
    "status-poll": "OPTIONS",
    "queue-drain": "POST, 401",
    "templates-sync": "OPTIONS",
    "health": "GET",
}


def run(report: Report, repetitions: int, *, quick: bool, only: frozenset[str] = frozenset()) -> None:
    """Every first request, ours and bare in turns. More repetitions than elsewhere: one takes half a second."""
    report.bars += bars()
    for folder in ("functions", "services", "tests"):
        compileall.compile_dir(ROOT / folder, quiet=2)
    world = World.random(("MX", "CO"))
    with ExitStack() as cleanup:
        graph = cleanup.enter_context(graph_process(world))
        stack = cleanup.enter_context(running_stack(functions=None, durable=True))
        message_id, token = _prepare(stack)
        env = os.environ | stack.env() | graph.env() | {"WHATSAPP_KICK": "false", "WHATSAPP_DOTENV": "off"}
        env["PYTHONPATH"] = str(ROOT / "tests" / "benchmarks" / "production")
        direct = {"SUPABASE_DB_URL": stack.database_url}
        firsts = _firsts(stack, world, message_id, token)
        for _, first in itertools.product(range(repetitions if quick else repetitions * 3), firsts):
            if only and first.function not in only:
                continue
            module = first.function.replace("-", "_")
            app = f"functions.{module}.main:app"
            report.add(first.case, OURS, first_answer_ms=_start(app, first, env) * 1000)
            report.add(first.case, DIRECT, first_answer_ms=_start(app, first, env | direct) * 1000)
            bare = _start("tests.benchmarks.hello:app", first, env, status=200)
            report.add(first.case, "bare Starlette", first_answer_ms=bare * 1000)


def _start(app: str, first: First, env: Mapping[str, str], *, status: int | None = None) -> float:
    """Seconds from starting the process to the complete answer."""
    port = processes.free_port()
    command = [sys.executable, "-m", "uvicorn", app, "--no-access-log", "--log-level", "warning"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--loop", "uvloop", "--http", "httptools"]
    headers = dict(first.headers) | {"Idempotency-Key": str(uuid.uuid4())}
    began = time.perf_counter()
    server = subprocess.Popen(command, cwd=ROOT, env=dict(env), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        connection = _connect(port, began)
        connection.request(first.method, f"/{first.function}{first.path}", first.body or None, headers)
        answer = connection.getresponse()
        body = answer.read()
        took = time.perf_counter() - began
        connection.close()
        assert answer.status == (status or first.status), (first.case, answer.status, body)
        return took
    finally:
        server.terminate()
        server.wait(_TIMEOUT)


def _connect(port: int, began: float) -> http.client.HTTPConnection:
    while time.perf_counter() - began < _TIMEOUT:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT)
        try:
            connection.connect()
        except ConnectionRefusedError:
            time.sleep(0.001)
        else:
            return connection
    raise TimeoutError("the app did not start")


def _prepare(stack: Stack) -> tuple[str, str]:
    """A message to read, a template to send, and a user's token."""
    user_id = str(uuid.uuid4())
    phone = "+525512345678"
    with psycopg.connect(stack.database_url, autocommit=True) as database:
        database.execute("insert into whatsapp.members values ('MX', %s, 'operator')", (user_id,))
        database.execute("""insert into whatsapp.templates (country_id, account_id, name, language, status, category)
               values ('MX', 'main', 'plain', 'es_MX', 'APPROVED', 'UTILITY')""")
        item = {
            "country_id": "MX",
            "phone": phone,
            "match_key": match_key(phone),
            "kind": "template",
            "content": _message(),
            "template_name": "plain",
            "template_language": "es_MX",
            "key": str(uuid.uuid4()),
            "fingerprint": "benchmark",
            "send_at": "2100-01-01T00:00:00Z",
        }
        row = database.execute("select whatsapp.enqueue(%s::jsonb[])", ([orjson.dumps(item).decode()],)).fetchone()
    assert row is not None
    return str(row[0][0]["message_id"]), mint_jwt(stack, user_id)


def _message() -> dict[str, object]:
    return {"type": "template", "template": {"name": "plain", "language": {"code": "es_MX"}}}


def _firsts(stack: Stack, world: World, message_id: str, token: str) -> list[First]:
    user = {"apikey": stack.publishable_key, "authorization": f"Bearer {token}", "content-type": "application/json"}
    secret = {"apikey": stack.secret_key, "content-type": "application/json"}
    later = "2100-01-01T00:00:00Z"  # never due: an idle drain stays idle
    send = {"country_id": "MX", "to": "+525512345678", "message": _message(), "send_at": later}
    preflight = {
        "origin": "https://example.com",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type",
    }
    number = world.number("MX")
    value = {
        "messaging_product": "whatsapp",
        "metadata": {
            "display_phone_number": number.display_phone_number,
            "phone_number_id": number.phone_number_id,
        },
        "statuses": [
            {
                "id": "wamid.cold",
                "status": "sent",
                "timestamp": str(int(time.time())),
                "recipient_id": "525512345678",
                "biz_opaque_callback_data": message_id,
            }
        ],
    }
    entry = {"id": number.waba_id, "changes": [{"value": value, "field": "messages"}]}
    webhook = orjson.dumps({"object": "whatsapp_business_account", "entry": [entry]})
    signed = {"x-hub-signature-256": sign(world.app_secret, webhook), "content-type": "application/json"}
    shake = f"?hub.mode=subscribe&hub.verify_token={world.verify_token}&hub.challenge=1"
    return [
        First("webhook", "GET handshake", "GET", 200, shake),
        First("webhook", "POST, durable", "POST", 200, headers=signed, body=webhook),
        First("send", "OPTIONS", "OPTIONS", 204, headers=preflight),
        First("send", "POST, 202", "POST", 202, headers=user, body=orjson.dumps(send)),
        First("status-poll", "OPTIONS", "OPTIONS", 204, headers=preflight),
        First("status-poll", "GET, read", "GET", 200, f"?message_id={message_id}", headers=user),
        First("queue-drain", "POST, 401", "POST", 401),
        First("queue-drain", "POST, idle drain", "POST", 200, headers=secret, body=b"{}"),
        First("templates-sync", "OPTIONS", "OPTIONS", 204, headers=preflight),
        First("templates-sync", "POST, synced", "POST", 200, headers=secret, body=b"{}"),
        First("health", "GET", "GET", 200),
        First("health", "GET, secret key", "GET", 200, headers=secret),
    ]
