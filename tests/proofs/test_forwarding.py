"""The project's own address: Supabase's Deno functions in front of the Python ones, in a real Deno."""

import asyncio
import os
import socket
import sys
import tomllib
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.graph.signature import signature
from tests.local import processes
from tests.local.stack import ROOT
from tests.proofs.house import PLAIN, House, answers, check_refusal, post, some_phone

FORWARDERS = ROOT / "supabase" / "functions"
NAMES = sorted(path.parent.name.replace("_", "-") for path in (ROOT / "functions").glob("*/main.py"))
Start = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def forwarder(house: House) -> Start:
    """Starts the Deno function of a name, with Python's address or another in its environment; gives a client of it."""

    @asynccontextmanager
    async def start(
        name: str, host: str = f"{house.stack.url}/functions/v1", **more: str
    ) -> AsyncIterator[httpx.AsyncClient]:
        port = processes.free_port()
        environment = {"PATH": os.environ["PATH"], "HOME": str(house.stack.data_dir), "DENO_NO_UPDATE_CHECK": "1"}
        child = processes.spawn(
            f"forwarder {name}",
            [
                str(Path(sys.executable).with_name("deno")),
                "run",
                "--no-prompt",
                "--allow-net",
                "--allow-env",
                "index.ts",
            ],
            house.stack.data_dir / f"forwarder-{port}.log",
            env=environment | {"WHATSAPP_FUNCTIONS_HOST": host, "DENO_SERVE_ADDRESS": f"tcp:127.0.0.1:{port}"} | more,
            cwd=FORWARDERS / name,
        )
        try:
            await asyncio.to_thread(child.wait_until, lambda: answers(f"http://127.0.0.1:{port}"))
            # As the platform does, the path is the function's name.
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
                yield client
        finally:
            await asyncio.to_thread(child.stop)

    return start


def test_every_function_has_a_forwarder_and_lets_all_through_the_gateway() -> None:
    config = tomllib.loads((ROOT / "supabase" / "config.toml").read_text())
    assert sorted(config["functions"]) == NAMES
    assert all(config["functions"][name] == {"verify_jwt": False} for name in NAMES)
    assert sorted(path.parent.name for path in FORWARDERS.glob("*/index.ts")) == NAMES
    for name in NAMES:
        assert f'forward("{name}")' in (FORWARDERS / name / "index.ts").read_text()


async def test_a_message_is_sent_through_it(house: House, forwarder: Start) -> None:
    key = str(uuid.uuid4())
    async with forwarder("send") as client:
        preflight = await client.options(
            "/send", headers={"origin": "https://a.example", "access-control-request-method": "POST"}
        )
        first = await post(client, house.users["MX"].token, some_phone(), PLAIN, key=key)
        refused = await post(client, house.users["nobody"].token, some_phone(), PLAIN)

    assert preflight.status_code in (200, 204)
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert first.status_code == 202, first.text
    check_refusal(refused, 403, "not_a_member")
    await house.until_state(first.json()["message_id"], "read")


async def test_the_bytes_of_a_webhook_stay_as_they_were_signed(house: House, forwarder: Start) -> None:
    """Spaces and escapes that any reading and writing of JSON would change, and more than one piece of the stream."""
    body = b'{ "object" : "whatsapp_business_account",\n "entry" : [ ], "filler": "\\u00e9' + b"x" * 300_000 + b'" }'
    async with forwarder("webhook") as client:
        signed = await client.post("/webhook", content=body, headers=signed_by(house, body))
        forged = await client.post("/webhook", content=body + b" ", headers=signed_by(house, body))
        hands = await client.get(
            "/webhook",
            params={
                "hub.mode": "subscribe",
                "hub.verify_token": house.graph.world.verify_token,
                "hub.challenge": "1158201444",
            },
        )

    assert signed.status_code == 200, signed.text
    assert forged.status_code == 401, forged.text
    assert hands.text == "1158201444"


async def test_the_query_and_what_lies_below_the_name_are_passed_on(house: House, forwarder: Start) -> None:
    async with forwarder("status-poll") as client:
        headers = {"authorization": f"Bearer {house.users['MX'].token}"}
        answer = await client.get("/status-poll?message_id=no-uuid", headers=headers)
        below = await client.get("/status-poll/below", headers=headers)

    assert answer.json()["details"].startswith("message_id")
    check_refusal(below, 404, "not_found")


@pytest.mark.parametrize(
    ("host", "status", "code"),
    [
        ("", 503, "functions_host_missing"),
        ("http://functions.example.com", 503, "functions_host_missing"),
        (f"http://127.0.0.1:{processes.free_port()}", 502, "functions_host_unreachable"),
    ],
    ids=["missing", "not encrypted", "not there"],
)
async def test_what_goes_wrong_on_the_way_is_said(forwarder: Start, host: str, status: int, code: str) -> None:
    async with forwarder("send", host) as client:
        answer = await client.post("/send", json={})

    check_refusal(answer, status, code)
    assert answer.headers["access-control-allow-origin"] == "*"


async def test_a_host_that_never_answers_is_not_waited_for_longer_than_told(forwarder: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with forwarder("send", host, WHATSAPP_FUNCTIONS_TIMEOUT_SECONDS="0.5") as client:
            answer = await client.post("/send", json={})

    check_refusal(answer, 504, "functions_host_timeout")


def signed_by(house: House, body: bytes) -> dict[str, str]:
    return {"x-hub-signature-256": signature(house.graph.world.app_secret, body), "content-type": "application/json"}
