"""Carries webhooks of the stand-in for Meta (tests only) to the callback URL, again and again until it says
200.

A bare HTTP/1.1 client over plain loopback: in a benchmark it shares two cores with the code under test.
"""

import asyncio
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from tests.graph.ledger import Book
from tests.graph.signature import signature
from tests.graph.timing import Wheel


@dataclass(slots=True, order=True)
class Parcel:
    """One POST: bytes as signed, the updates in it as (wamid, status or "received"), and how often it was tried."""

    number: int
    body: bytes = field(compare=False)
    signature: str = field(compare=False)
    says: Sequence[tuple[str, str]] = field(compare=False)
    tries: int = field(default=0, compare=False)


@dataclass(slots=True)
class Route:
    """Where and how to deliver. Times in milliseconds; `connections` deliveries run at a time."""

    callback_url: str | None = None
    connections: int = 8
    timeout_ms: float = 10_000
    retry_ms: float = 100
    retry_most_ms: float = 5_000


class Courier:
    """Delivers parcels concurrently, so order between them is not kept, as with Meta."""

    def __init__(self, app_secret: str, wheel: Wheel, book: Book) -> None:
        self.route = Route()
        self.delivered = 0
        self.updates_delivered = 0
        self.answers: Counter[int] = Counter()
        self.broken = 0
        self.pending = 0
        self.seconds: array[float] = array("d")
        self._app_secret = app_secret
        self._wheel = wheel
        self._book = book
        self._sent = 0
        # The oldest first: what comes again at its time does not queue up behind what is new.
        self._parcels: asyncio.PriorityQueue[Parcel] = asyncio.PriorityQueue()
        self._open = asyncio.Event()
        self._open.set()
        self._workers: list[asyncio.Task[None]] = []

    def set_route(self, route: Route) -> None:
        """Deliver there from now on, parcels already waiting too."""
        self.stop()
        self.route = route
        if route.callback_url is not None:
            self._workers = [asyncio.create_task(self._work(Line(route))) for _ in range(route.connections)]

    def send(self, body: bytes, *, says: Sequence[tuple[str, str]] = (), signed: str | None = None) -> None:
        """Deliver `body`; `signed` overrides the signature header to make a wrong one."""
        self.pending += 1
        self._sent += 1
        self._parcels.put_nowait(Parcel(self._sent, body, signed or signature(self._app_secret, body), says))

    def pause(self, paused: bool) -> None:
        """Hold everything back (a dead webhook feed), or let it flow."""
        if paused:
            self._open.clear()
        else:
            self._open.set()

    def stop(self) -> None:
        for worker in self._workers:
            worker.cancel()
        self._workers = []

    def counts(self) -> dict[str, Any]:
        """Answers by status, broken deliveries, what still waits, and how fast the endpoint answered."""
        took = sorted(self.seconds)
        return {
            "delivered": self.delivered,
            "updates_delivered": self.updates_delivered,
            "refused": {str(status): count for status, count in self.answers.items() if status != 200},
            "broken": self.broken,
            "pending": self.pending,
            "p50_ms": percentile(took, 0.50) * 1000,
            "p99_ms": percentile(took, 0.99) * 1000,
        }

    async def get(self, path_and_query: str) -> tuple[int, bytes]:
        """GET on the callback URL (the verification handshake)."""
        line = Line(self.route)
        try:
            return await asyncio.wait_for(line.exchange(line.head("GET", path_and_query) + b"\r\n"), 10)
        finally:
            line.close()

    async def _work(self, line: "Line") -> None:
        try:
            while True:
                await self._open.wait()
                parcel = await self._parcels.get()
                try:
                    await self._open.wait()
                    await self._deliver(line, parcel)
                except asyncio.CancelledError:
                    self._parcels.put_nowait(parcel)
                    raise
        finally:
            line.close()

    async def _deliver(self, line: "Line", parcel: Parcel) -> None:
        parcel.tries += 1
        started = monotonic()
        try:
            status, _ = await asyncio.wait_for(line.post(parcel), self.route.timeout_ms / 1000)
        except (OSError, ValueError, LookupError, EOFError, asyncio.LimitOverrunError):
            self.broken += 1
            line.close()
            self._again(parcel)
            return
        self.seconds.append(monotonic() - started)
        self.answers[status] += 1
        if status == 200:
            self.delivered += 1
            self.updates_delivered += max(1, len(parcel.says))
            for wamid, said in parcel.says:
                self._book.write("told", wamid, said)
            self.pending -= 1
        else:
            self._again(parcel)

    def _again(self, parcel: Parcel) -> None:
        wait = min(self.route.retry_ms * 2.0 ** (parcel.tries - 1), self.route.retry_most_ms)
        self._wheel.after(wait / 1000, self._parcels.put_nowait, parcel)


class Line:
    """One kept-alive connection to the callback URL."""

    def __init__(self, route: Route) -> None:
        url = urlsplit(route.callback_url or "")
        if url.scheme != "http" or not url.hostname:
            raise ValueError("the callback URL must be http://host[:port]/path on loopback")
        self._host, self._port = url.hostname, url.port or 80
        self._path, self._netloc = url.path or "/", url.netloc
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._post = self.head("POST", "") + b"Content-Type: application/json\r\n"

    def head(self, method: str, query: str) -> bytes:
        return f"{method} {self._path}{query} HTTP/1.1\r\nHost: {self._netloc}\r\nAccept: */*\r\n".encode()

    async def post(self, parcel: Parcel) -> tuple[int, bytes]:
        length = len(parcel.body)
        more = f"X-Hub-Signature-256: {parcel.signature}\r\nContent-Length: {length}\r\n\r\n".encode()
        return await self.exchange(self._post + more + parcel.body)

    async def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer; raises when the exchange breaks."""
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        status = int(head[0].split(b" ", 2)[1])
        headers = dict(split_header(line) for line in head[1:] if line)
        body = await read_body(reader, status, headers)
        if headers.get(b"connection", b"").lower() == b"close":
            self.close()
        return status, body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def split_header(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name.lower(), value.strip()


async def read_body(reader: asyncio.StreamReader, status: int, headers: dict[bytes, bytes]) -> bytes:
    if status in (204, 304):
        return b""
    if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
        return await read_chunks(reader)
    if b"content-length" in headers:
        return await reader.readexactly(int(headers[b"content-length"]))
    return await reader.read()


async def read_chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return b"".join(parts)


def percentile(ordered: Iterable[float], share: float) -> float:
    values = list(ordered)
    return values[min(int(len(values) * share), len(values) - 1)] if values else 0.0
