"""The command of the Dockerfile with the files it copies: it serves, tells no secret, stops well."""

import asyncio
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.local import processes
from tests.local.stack import ROOT, clean_environment
from tests.proofs.house import PLAIN, House, answers, post, some_phone, until

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMMAND: list[str] = json.loads(re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[-1])
HEALTHCHECK: list[str] = json.loads(re.findall(r"^  CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[0])
COPIED = re.findall(r"^COPY (?!--from|requirements)(\w+)", DOCKERFILE, re.MULTILINE)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """What the container's folder holds; nobody may write there."""
    for name in COPIED:
        shutil.copytree(ROOT / name, tmp_path / "srv" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [tmp_path / "srv", *(tmp_path / "srv").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return tmp_path / "srv"


@asynccontextmanager
async def container(
    house: House, image: Path, **changes: str
) -> AsyncIterator[tuple[str, processes.Child, dict[str, str]]]:
    port = processes.free_port()
    environment = clean_environment() | house.stack.env() | house.graph.env() | {"PORT": str(port)} | changes
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    log = house.stack.data_dir / f"container-{port}.log"
    child = processes.spawn("container", COMMAND, log, env=environment, cwd=image)
    url = f"http://127.0.0.1:{port}"
    try:
        await asyncio.to_thread(child.wait_until, lambda: answers(url))
        yield url, child, environment
    finally:
        await asyncio.to_thread(child.stop)


async def test_it_serves_and_is_found_healthy(house: House, image: Path) -> None:
    async with container(house, image) as (_, child, environment):
        check = await asyncio.create_subprocess_exec(*HEALTHCHECK, env=environment)
        assert await check.wait() == 0
        child.kill()
        check = await asyncio.create_subprocess_exec(*HEALTHCHECK, env=environment, stderr=asyncio.subprocess.DEVNULL)
        assert await check.wait() != 0


async def test_it_never_writes_the_verify_token_down(house: House, image: Path) -> None:
    async with container(house, image, WHATSAPP_VERIFY_TOKEN="not-for-any-log") as (url, child, _):
        query = {"hub.mode": "subscribe", "hub.verify_token": "not-for-any-log", "hub.challenge": "42"}
        async with httpx.AsyncClient(trust_env=False) as client:
            right = await client.get(f"{url}/functions/v1/webhook", params=query)
            wrong = await client.get(f"{url}/functions/v1/webhook", params=query | {"hub.mode": "not-for-any-log?"})
        assert (right.status_code, right.text, wrong.status_code) == (200, "42", 403)
        child.stop()
        assert "not-for-any-log" not in child.log_tail(1_000_000)


async def test_it_stops_when_what_is_in_flight_is_settled(house: House, image: Path) -> None:
    house.graph.latency(1_500)
    async with container(house, image) as (url, child, _):
        async with house.client(url) as client:
            answer = await post(client, house.users["MX"].token, some_phone(), PLAIN)
        message_id = answer.json()["message_id"]
        await until(lambda: house.arrivals(message_id) == 1)
        assert house.message(message_id)["accepted_at"] is None

        child.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(child.process.wait, 20)

    assert house.message(message_id)["accepted_at"] is not None
    assert house.arrivals(message_id) == 1
