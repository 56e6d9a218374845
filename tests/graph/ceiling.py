"""`python -m tests.graph.ceiling`: how many POSTs a second the stand-in for Meta (tests only) can take.

Prints one line of JSON. The client is a bare protocol that only looks for the end of each answer, so that the
figure is the server's. A benchmark of the product is sound while it stays well below it.
"""

import argparse
import asyncio
import json
import resource
from time import perf_counter
from typing import cast

import orjson
import uvloop

from tests.graph.process import graph_process
from tests.graph.world import World, random_phone

END = b"}]}"


class Caller(asyncio.Protocol):
    """Sends the same request again as soon as its answer is complete, until told to stop."""

    def __init__(self, requests: list[bytes], took: list[float]) -> None:
        self._requests = requests
        self._took = took
        self._sent_at = 0.0
        self._buffer = b""
        self._transport: asyncio.Transport
        self.running = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._buffer.endswith(END):
            self._took.append(perf_counter() - self._sent_at)
            self._buffer = b""
            if self.running:
                self._send()

    def _send(self) -> None:
        self._sent_at = perf_counter()
        self._transport.write(self._requests[len(self._took) % len(self._requests)])


def requests_to(world: World, host: str) -> list[bytes]:
    """Template messages to many people, as the product writes them."""
    number = world.numbers[0]
    found = []
    for tag in range(2_000):
        parameters = [{"type": "text", "text": "Ana"}, {"type": "text", "text": "A1"}]
        template = {
            "name": "order_update",
            "language": {"code": "es_MX"},
            "components": [{"type": "body", "parameters": parameters}],
        }
        message = {"messaging_product": "whatsapp", "recipient_type": "individual", "type": "template"}
        more = {"to": random_phone("MX"), "template": template, "biz_opaque_callback_data": f"{tag:036d}"}
        body = orjson.dumps(message | more)
        head = (
            f"POST /v25.0/{number.phone_number_id}/messages HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n"
            f"Accept-Encoding: gzip, deflate\r\nUser-Agent: ceiling\r\n"
            f"Authorization: Bearer {number.tokens[0]}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        found.append(head.encode() + body)
    return found


async def load(world: World, url: str, connections: int, seconds: float) -> list[float]:
    """Seconds of each answer during `seconds` of load."""
    host, _, port = url.removeprefix("http://").partition(":")
    took: list[float] = []
    requests = requests_to(world, host)
    loop = asyncio.get_running_loop()
    callers = []
    for _ in range(connections):
        _, caller = await loop.create_connection(lambda: Caller(requests, took), host, int(port))
        callers.append(caller)
    await asyncio.sleep(0.5)
    took.clear()
    await asyncio.sleep(seconds)
    measured = took.copy()
    for caller in callers:
        caller.running = False
    await asyncio.sleep(0.5)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.graph.ceiling")
    parser.add_argument("--connections", type=int, default=300)
    parser.add_argument("--latency-ms", type=float, default=50)
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    world = World.random(["MX"])
    with graph_process(world, latency_ms=options.latency_ms) as graph:
        took = sorted(uvloop.run(load(world, graph.url, options.connections, options.seconds)))
        arrived = graph.counts().accepted
    server = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = {
        "connections": options.connections,
        "latency_ms": options.latency_ms,
        "posts_per_second": round(len(took) / options.seconds),
        "p50_ms": round(took[len(took) // 2] * 1000, 1),
        "p99_ms": round(took[len(took) * 99 // 100] * 1000, 1),
        "server_cpu_ms_per_post": round((server.ru_utime + server.ru_stime) * 1000 / arrived, 4),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
