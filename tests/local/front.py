"""An HTTP server before another, which answers some requests itself, as gateways do, or loses the answer."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson

_NOT_FORWARDED = {"host", "connection", "content-length", "accept-encoding"}
_NOT_RETURNED = {"connection", "content-length", "transfer-encoding", "content-encoding", "keep-alive"}


@dataclass
class Fault:
    """What is answered instead, `times` times, to requests of a path that ends so and whose JSON suits `when`.

    Without a status the connection is cut. `arrives`: the request gets through, and only its answer is replaced.
    """

    path: str
    status: int | None
    body: bytes = b""
    content_type: str = "application/json"
    times: float = float("inf")
    arrives: bool = False
    when: Callable[[Any], bool] = lambda _: True
    hits: int = 0


@dataclass
class Front:
    """What is known of the requests that came: `paths`, and the JSON of each in `bodies`."""

    target: str
    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)

    def fail(self, path: str, status: int | None, body: bytes | dict[str, Any] = b"", **more: Any) -> Fault:
        content = orjson.dumps(body) if isinstance(body, dict) else body
        fault = Fault(path, status, content, **more)
        self.faults.append(fault)
        return fault

    def heal(self) -> None:
        self.faults.clear()

    def asked(self, path: str) -> list[Any]:
        """The bodies of the requests of a path, in order."""
        return [body for each, body in zip(self.paths, self.bodies, strict=True) if each.endswith(path)]

    async def _answer(self, client: httpx.AsyncClient, method: str, path: str, headers: Any, body: bytes) -> bytes:
        document = orjson.loads(body) if body else None
        self.paths.append(path.partition("?")[0])
        self.bodies.append(document)
        fault = next(
            (
                each
                for each in self.faults
                if self.paths[-1].endswith(each.path) and each.hits < each.times and each.when(document)
            ),
            None,
        )
        if fault is not None:
            fault.hits += 1
        if fault is None or fault.arrives:
            real = await client.request(method, path, headers=headers, content=body)
            given = [(name, value) for name, value in real.headers.items() if name not in _NOT_RETURNED]
            answer = _response(real.status_code, real.content, given)
        if fault is not None:
            if fault.status is None:
                return b""
            answer = _response(fault.status, fault.body, [("content-type", fault.content_type)])
        return answer

    async def serve(
        self, client: httpx.AsyncClient, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = lines[0].split(" ")
                pairs = [line.partition(": ")[::2] for line in lines[1:] if line]
                length = next((int(value) for name, value in pairs if name.lower() == "content-length"), 0)
                body = await reader.readexactly(length)
                headers = [(name, value) for name, value in pairs if name.lower() not in _NOT_FORWARDED]
                answer = await self._answer(client, method, path, headers, body)
                if not answer:
                    return
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def _response(status: int, body: bytes, headers: list[tuple[str, str]]) -> bytes:
    head = "".join(f"{name}: {value}\r\n" for name, value in [*headers, ("content-length", str(len(body)))])
    return f"HTTP/1.1 {status} -\r\n{head}\r\n".encode("latin-1") + body


@asynccontextmanager
async def front_of(target: str) -> AsyncIterator[Front]:
    """A front of the server at `target`, on a port of its own."""
    front = Front(target)
    connections: set[asyncio.Task[None]] = set()
    async with httpx.AsyncClient(base_url=target, trust_env=False, timeout=30) as client:

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.get_running_loop().create_task(front.serve(client, reader, writer))
            connections.add(task)
            task.add_done_callback(connections.discard)

        server = await asyncio.start_server(connected, "127.0.0.1")
        front.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield front
        finally:
            server.close()
            for task in connections:
                task.cancel()
            if connections:
                await asyncio.wait(connections)
