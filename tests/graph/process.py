"""Starts the stand-in for Meta (tests only) as a process of its own, which never outlives its parent."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from tests.graph.client import Graph
from tests.graph.courier import Route
from tests.graph.timing import Latency
from tests.graph.world import World

ROOT = Path(__file__).resolve().parents[2]
STOP_SECONDS = 5


class GraphProcess:
    """Works as `with` and as `async with`; both give a `Graph`."""

    def __init__(self, arguments: list[str], start: bytes, world: World) -> None:
        self._arguments = arguments
        self._start = start
        self._world = world
        self._process: subprocess.Popen[bytes] | None = None
        self._graph: Graph | None = None

    def __enter__(self) -> Graph:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.graph", *self._arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # stdin stays open: its end tells the child that we are gone
        self._process.stdin.write(self._start + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the stand-in did not start (exit code {self._process.wait(STOP_SECONDS)})")
        addresses = orjson.loads(line)
        self._graph = Graph(addresses["url"], addresses["control_url"], self._world)
        return self._graph

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._graph is not None:
            self._graph.close()
        if self._process is None:
            return
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    async def __aenter__(self) -> Graph:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


def graph_process(
    world: World | None = None,
    *,
    port: int = 0,
    latency_ms: float = 0,
    callback_url: str | None = None,
    book: Path | None = None,
    **plan: Any,
) -> GraphProcess:
    """The stand-in in its own process: `with graph_process(world) as graph`.

    `book` is a file for what counts (tests/graph/ledger.py). `plan` are members of `tests.graph.statuses.Plan`. All of
    these are also what `graph.reset()` returns to.
    """
    world = world or World.random()
    start = {
        "world": orjson.Fragment(world.to_json()),
        "latency": asdict(Latency(ms=latency_ms)),
        "route": asdict(Route(callback_url=callback_url)),
        "plan": plan,
        "book": None if book is None else str(book),
    }
    return GraphProcess(["--port", str(port), "--child"], orjson.dumps(start), world)


def die_with_parent() -> None:
    """End this process when its parent is gone: stdin ends, or another process has become the parent.

    Two ways because a grandchild of the parent may hold the pipe open. Works on Linux and macOS.
    """
    parent = os.getppid()

    def watch_stdin() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os._exit(0)

    def watch_parent() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(0)

    for watch in (watch_stdin, watch_parent):
        threading.Thread(target=watch, daemon=True).start()
