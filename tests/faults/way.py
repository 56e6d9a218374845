"""The way from our functions to the gateway: a proxy that can do what proxies do when things go wrong.

A process of its own: whatever the callers of the experiment are busy with, an answer is never late by accident.
"""

import argparse
import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import aiohttp
import httpx
import orjson
import uvloop
from aiohttp import web

from tests.local import processes
from tests.local.stack import ROOT

PAGE = b"<html><head><title>Error</title></head><body><h1>Something went wrong</h1></body></html>"
STATUSES = (500, 502, 503, 504, 520, 521, 522, 524, 429, 401, 403)
OBJECTS = (
    (401, {"code": "PGRST301", "message": "JWT could not be decoded", "details": None, "hint": None}),
    (404, {"code": "PGRST202", "message": "Could not find the function in the schema cache", "details": None}),
    (503, {"code": "PGRST002", "message": "Could not query the database for the schema cache", "details": None}),
    (500, {"code": "25006", "message": "cannot execute UPDATE in a read-only transaction", "details": None}),
    (500, {"code": "XX000", "message": "could not read block 0", "details": None, "hint": None}),
    (500, {"code": "40P01", "message": "deadlock detected", "details": None, "hint": None}),
)
"""Errors that speak of a moment, not of what was asked: none of them may cost a result."""

MOODS = ("errors", "pages", "cut", "lose", "late")
"""errors: an error status or object · pages: HTML, with 200 too · cut: nothing reaches the database · lose: it does,
but the answer is lost · late: the answer waits."""


_CONTROL = "/-/mood"


class Way:
    """The proxy as the experiment sees it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def be(self, mood: str, seconds: float, share: float) -> None:
        """Be in this mood for `seconds`, towards a `share` of the requests."""
        if mood not in MOODS:
            raise ValueError(mood)
        self._tell({"mood": mood, "seconds": seconds, "share": share})

    def behave(self) -> None:
        self._tell({"mood": "", "seconds": 0, "share": 0})

    def _tell(self, what: dict[str, object]) -> None:
        httpx.post(self.url + _CONTROL, json=what, timeout=30, trust_env=False).raise_for_status()


@contextlib.contextmanager
def running_way(target: str, seed: int, log: Path) -> Iterator[Way]:
    """A proxy in front of `target`."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.set_inheritable(True)
        options = ["--target", target, "--seed", str(seed), "--socket", str(listener.fileno())]
        command = [sys.executable, "-m", "tests.faults.way", *options]
        child = processes.spawn("the way", command, log, cwd=ROOT, pass_fds=[listener.fileno()])
        try:
            yield Way(f"http://127.0.0.1:{listener.getsockname()[1]}")
        finally:
            child.stop()


class Proxy:
    """Forwards to `target`; while it is in a mood, that happens to a share of the requests."""

    def __init__(self, target: str, random: Random) -> None:
        self._target = target
        self._random = random
        self._mood, self._share, self._until = "", 0.0, 0.0
        self._client: aiohttp.ClientSession | None = None

    async def serve(self, listener: socket.socket) -> None:
        """For ever."""
        timeout = aiohttp.ClientTimeout(total=30)
        connector = aiohttp.TCPConnector(limit=0)
        self._client = aiohttp.ClientSession(timeout=timeout, connector=connector, auto_decompress=False)
        runner = web.ServerRunner(web.Server(self._handle, access_log=None))
        await runner.setup()
        await web.SockSite(runner, listener).start()
        await asyncio.Event().wait()

    async def _obey(self, request: web.BaseRequest) -> web.Response:
        told = orjson.loads(await request.read())
        self._mood, self._share, self._until = told["mood"], told["share"], time.monotonic() + told["seconds"]
        return web.Response()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == _CONTROL:
            return await self._obey(request)
        moody = time.monotonic() < self._until and self._random.random() < self._share
        match self._mood if moody else "":
            case "errors":
                return self._error()
            case "pages":
                return web.Response(body=PAGE, status=self._random.choice((200, 502)), content_type="text/html")
            case "cut":
                return _hang_up(request)
            case "lose":
                await self._forward(request)
                return _hang_up(request)
            case "late":
                answer = await self._forward(request)
                await asyncio.sleep(self._random.uniform(0.5, 4))
                return answer
        return await self._forward(request)

    def _error(self) -> web.Response:
        if self._random.random() < 0.5:
            return web.Response(body=PAGE, status=self._random.choice(STATUSES), content_type="text/html")
        status, error = self._random.choice(OBJECTS)
        return web.Response(body=orjson.dumps(error), status=status, content_type="application/json")

    async def _forward(self, request: web.BaseRequest) -> web.StreamResponse:
        assert self._client is not None
        headers = {name: value for name, value in request.headers.items() if name.lower() not in ("host", "connection")}
        body = await request.read()
        try:
            async with self._client.request(
                request.method, self._target + request.path_qs, headers=headers, data=body
            ) as answer:
                content = await answer.read()
                kept = {"Content-Type": answer.headers.get("Content-Type", "application/json")}
                if "Content-Range" in answer.headers:
                    kept["Content-Range"] = answer.headers["Content-Range"]
                return web.Response(body=content, status=answer.status, headers=kept)
        except (aiohttp.ClientError, TimeoutError):  # the gateway is dead
            return _hang_up(request)


def _hang_up(request: web.BaseRequest) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--socket", type=int, required=True, help="number of the inherited listening socket")
    options = parser.parse_args()
    proxy = Proxy(options.target, Random(options.seed))
    uvloop.run(proxy.serve(socket.socket(fileno=options.socket)))
