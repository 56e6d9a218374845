"""The stand-in's process starts, and dies with whoever started it."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.graph import World, graph_process
from tests.graph.conftest import Client
from tests.graph.process import ROOT

PARENT = """
import signal
from tests.graph import World, graph_process
with graph_process(World.random(["MX"])) as graph:
    print(graph.url, flush=True)
    signal.pause()
"""


def listens(url: str) -> bool:
    host, port = url.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def test_the_child_dies_with_a_killed_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    url = parent.stdout.readline().decode().strip()
    assert listens(url)
    parent.kill()
    parent.wait()
    parent.stdout.close()

    deadline = time.monotonic() + 5
    while (alive := listens(url)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive


async def test_leaving_the_block_ends_the_process() -> None:
    process = graph_process(World.random(["MX"]), latency_ms=5, sent_ms=3)
    async with process as graph:
        assert graph.counts().arrived == 0
        assert process._process is not None
        child = process._process

    assert child.poll() is not None


def test_two_worlds_share_no_id() -> None:
    one, other = World.random(["MX"]), World.random(["MX"])

    assert one.number("MX").phone_number_id != other.number("MX").phone_number_id
    assert one.number("MX").tokens != other.number("MX").tokens
    assert one.app_secret != other.app_secret


def test_the_book_is_written_before_the_answer(tmp_path: Path) -> None:
    world = World.random(["MX"])
    with graph_process(world, book=tmp_path / "book") as graph:
        client = Client(graph, "MX")
        template = {"name": "plain", "language": {"code": "es_MX"}}
        message = {"messaging_product": "whatsapp", "to": "+525520304050", "type": "template", "template": template}
        _, answer = client.post(message | {"biz_opaque_callback_data": "m1"})
        client.close()
        lines = [json.loads(line) for line in (tmp_path / "book").read_text().splitlines()]

    number, wamid = world.number("MX").phone_number_id, answer["messages"][0]["id"]
    assert lines == [["posted", "m1", number], ["accepted", "m1", number, "+525520304050", wamid]]
