"""The way from our functions to the gateway: a proxy that can do what proxies do when things go wrong."""

import asyncio
import time
from collections import Counter
from random import Random

import aiohttp
import orjson
from aiohttp import web

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


class Way:
    """Forwards to `target`; while it is in a mood, that happens to a share of the requests."""

    def __init__(self, target: str, random: Random) -> None:
        self._target = target
        self._random = random
        self._mood, self._share, self._until = "", 0.0, 0.0
        self._runner: web.ServerRunner | None = None
        self._client: aiohttp.ClientSession | None = None
        self.url = ""
        self.did: Counter[str] = Counter()

    async def start(self) -> None:
        timeout = aiohttp.ClientTimeout(total=60)
        connector = aiohttp.TCPConnector(limit=0)
        self._client = aiohttp.ClientSession(timeout=timeout, connector=connector, auto_decompress=False)
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        [address] = self._runner.addresses
        self.url = f"http://127.0.0.1:{address[1]}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self._client is not None:
            await self._client.close()

    def be(self, mood: str, seconds: float, share: float) -> None:
        """Be in this mood for `seconds`, towards a `share` of the requests."""
        if mood not in MOODS:
            raise ValueError(mood)
        self._mood, self._share, self._until = mood, share, time.monotonic() + seconds

    def behave(self) -> None:
        self._until = 0

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        moody = time.monotonic() < self._until and self._random.random() < self._share
        mood = self._mood if moody else ""
        if mood:
            self.did[mood] += 1
        match mood:
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
