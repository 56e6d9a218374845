"""The stand-in's process starts, and dies with whoever started it."""

import signal
import subprocess
import sys
import time

import psutil

from tests.graph import World, graph_process
from tests.graph.process import ROOT

PARENT = """
import os, signal
from tests.graph import World, graph_process
process = graph_process(World.random(["MX"]))
process.__enter__()
print(process._process.pid, flush=True)
signal.pause()
"""


def gone(pid: int, seconds: float = 5) -> bool:
    """Whether the process ends within `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
    return False


def test_the_child_dies_with_a_killed_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert psutil.pid_exists(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()

    assert gone(child)


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
