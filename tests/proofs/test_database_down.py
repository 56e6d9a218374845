"""The database is stopped for good under a living house: nobody is told yes, and once it is back nothing is missing."""

import asyncio
import hashlib
import hmac
import os
import signal
import uuid
from collections.abc import AsyncIterator, Iterator

import httpx
import orjson
import psycopg
import pytest

from tests.graph import World
from tests.local import postgres
from tests.local.stack import Stack, running_stack
from tests.proofs.house import CONNECTION, DATA_API, TEXT, check_refusal, some_phone, until


@pytest.fixture(scope="module")
def world() -> World:
    return World.random(("MX",))


@pytest.fixture(scope="module", params=[DATA_API, CONNECTION])
def stack(world: World, request: pytest.FixtureRequest) -> Iterator[Stack]:
    environment = world.env("http://127.0.0.1:9") | {"WHATSAPP_KICK": "false"}  # Meta is not needed here
    with running_stack(functions_env=environment, direct=request.param == CONNECTION) as stack:
        yield stack


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=stack.url, timeout=60, trust_env=False) as client:
        yield client


def inbound(world: World, phone: str) -> bytes:
    number = world.number("MX")
    message = {"from": phone[1:], "id": f"wamid.{uuid.uuid4().hex}", "timestamp": "1795500000", "type": "text"}
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"phone_number_id": number.phone_number_id},
        "messages": [message | {"text": {"body": "hola"}}],
    }
    entry = {"id": number.waba_id, "changes": [{"field": "messages", "value": value}]}
    return orjson.dumps({"object": "whatsapp_business_account", "entry": [entry]})


async def deliver(client: httpx.AsyncClient, world: World, body: bytes) -> httpx.Response:
    signature = hmac.new(world.app_secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {"x-hub-signature-256": f"sha256={signature}", "content-type": "application/json"}
    return await client.post("/functions/v1/webhook", content=body, headers=headers)


async def send(client: httpx.AsyncClient, stack: Stack, phone: str, key: str) -> httpx.Response:
    headers = {"apikey": stack.secret_key, "idempotency-key": key}
    return await client.post("/send", json={"country_id": "MX", "to": phone, "message": TEXT}, headers=headers)


def stop_postgres(stack: Stack) -> None:
    pid_file = stack.data_dir / "postgres" / "postmaster.pid"
    os.kill(int(pid_file.read_text().split()[0]), signal.SIGINT)


async def test_the_database_is_stopped_and_comes_back(world: World, stack: Stack, client: httpx.AsyncClient) -> None:
    writer, port = some_phone(), int(stack.database_url.rpartition(":")[2].partition("/")[0])
    assert (await deliver(client, world, inbound(world, writer))).status_code == 200
    missed = inbound(world, writer)

    stop_postgres(stack)
    await until(lambda: not (stack.data_dir / "postgres" / "postmaster.pid").exists())
    answers = await asyncio.gather(deliver(client, world, missed), send(client, stack, writer, "while-down"))
    for answer in answers:
        check_refusal(answer, 503, answer.json()["code"])
        assert answer.json()["code"] in ("database_unavailable", "database_timeout")

    again = await asyncio.to_thread(postgres.start, stack.data_dir, durable=False, port=port)
    try:
        # Meta delivers again, the caller repeats with the same key; each twice, for good measure.
        for _ in range(2):
            assert (await deliver(client, world, missed)).status_code == 200
            sent = await send(client, stack, writer, "while-down")
            assert sent.status_code == 202, sent.text
        with psycopg.connect(stack.database_url, autocommit=True) as database:
            counted = "select direction, count(*) from whatsapp.messages group by 1 order by 1"
            assert database.execute(counted).fetchall() == [("inbound", 2), ("outbound", 1)]
    finally:
        again.stop()
