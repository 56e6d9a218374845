"""What a frontend developer meets: a browser of any origin, ports that are taken, a number that people write to."""

import asyncio
import json
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.local import dev, lite
from tests.local.running import Running
from tests.local.stack import ROOT, clean_environment, sign_up
from tests.proofs.house import PLAIN, House, some_phone

BROWSER = ROOT / "tests" / "local" / "browser.mjs"


async def test_a_page_of_another_origin_signs_in_sends_polls_and_reads(house: House) -> None:
    email, password = f"{secrets.token_hex(4)}@shop.example", secrets.token_urlsafe(12)
    user_id, _ = sign_up(house.stack, email, password)
    house.run("insert into whatsapp.members values ('MX', %s, 'operator')", user_id)
    request = {"country_id": "MX", "to": some_phone(), "message": PLAIN}

    process = await asyncio.create_subprocess_exec(
        *[str(lite.node()), str(BROWSER), house.stack.url, house.stack.publishable_key, email, password],
        json.dumps(request),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)

    found = json.loads(out)
    message_id = found.pop("message_id")
    assert house.message(message_id)["direction"] == "outbound"
    assert found == {
        "user": email,
        "status": "queued",
        "refusal": "missing_field",
        "polled": [message_id],
        "read": [message_id],
        "errors": [],
    }


@pytest.fixture
def busy() -> Iterator[None]:
    """Something else listens on the usual ports, unless something does already."""
    others = [socket.socket() for _ in dev.USUAL]
    for other, port in zip(others, dev.USUAL.values(), strict=True):
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(("127.0.0.1", port))
            other.listen()
        except OSError:
            continue
    yield
    for other in others:
        other.close()


@pytest.mark.usefixtures("busy")
def test_a_developers_stack_finds_ports_serves_the_numbers_there_are_and_hears_what_people_say(tmp_path: Path) -> None:
    environment = clean_environment() | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    for name in ("functions", "services"):
        (tmp_path / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "tests.local.dev"]
    with (tmp_path / "out").open("wb") as out:
        stack = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=out, stderr=out)
    try:
        running = started(stack, tmp_path)
        assert int(running.url.rpartition(":")[2]) not in dev.USUAL.values()
        said = subprocess.run(
            [sys.executable, "-m", "tests.local.say"],
            cwd=tmp_path,
            env=environment | {"COUNTRY": "CO", "TEXT": "hola, ¿hay alguien?"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert said.returncode == 0, said.stdout + said.stderr
        printed = (tmp_path / "out").read_text()
        url = next(line.split()[1] for line in printed.splitlines() if line.strip().startswith("database"))
        with psycopg.connect(url) as database:
            heard: Any = database.execute(
                "select country_id, content -> 'text' ->> 'body' from whatsapp.messages where direction = 'inbound'"
            ).fetchall()
        assert heard == [("CO", "hola, ¿hay alguien?")]
        unknown = subprocess.run(
            [sys.executable, "-m", "tests.local.say"],
            cwd=tmp_path,
            env=environment | {"COUNTRY": "AR"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert unknown.returncode == 1
        assert "AR/main is not known here; known: " in unknown.stderr
    finally:
        stack.send_signal(signal.SIGINT)
        stack.wait(60)
    assert Running.read(tmp_path / ".local" / "dev") is None


def started(stack: subprocess.Popen[bytes], folder: Path) -> Running:
    """What the stack tells others, once it has said everything to its developer."""
    ends = time.monotonic() + 60
    while time.monotonic() < ends and stack.poll() is None:
        running = Running.read(folder / ".local" / "dev")
        if running is not None and "Ctrl-C" in (folder / "out").read_text():
            return running
        time.sleep(0.1)
    pytest.fail((folder / "out").read_text())


def test_without_a_stack_nobody_can_say_anything(tmp_path: Path) -> None:
    environment = clean_environment() | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.local.say"]
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 1
    assert "make dev" in said.stderr


@pytest.mark.parametrize("path", ["/rest/v1/messages", "/auth/v1/token?grant_type=password"])
async def test_a_preflight_is_answered_for_any_header(house: House, path: str) -> None:
    wanted = {"origin": "https://shop.example", "access-control-request-method": "POST"}
    wanted["access-control-request-headers"] = "apikey,authorization,accept-profile,x-supabase-api-version"
    async with httpx.AsyncClient(base_url=house.stack.url, trust_env=False) as client:
        answer = await client.options(path, headers=wanted)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-headers"] == wanted["access-control-request-headers"]
