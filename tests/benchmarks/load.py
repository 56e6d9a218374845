"""The load on a webhook: signed POSTs over a number of connections, in a process of its own.

A bare protocol that reads only the status line and the length of each answer, so that it costs the servers little.
Requests are built before the clock starts.
"""

import asyncio
import contextlib
from time import perf_counter
from typing import Any, cast

import orjson
import uvloop

from services.whatsapp.meta.signature import sign
from tests.benchmarks import child


class Caller(asyncio.Protocol):
    """One connection: sends the next request as soon as the answer to the last is complete."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._sent_at = 0.0
        self._buffer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's
        self._transport = cast(asyncio.Transport, transport)

    def begin(self) -> None:
        request = self._load.take()
        if request is not None:
            self._sent_at = perf_counter()
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, blank, body = self._buffer.partition(b"\r\n\r\n")
        if not blank or len(body) < _length(head):
            return
        self._buffer = b""
        self._load.answered(head[9:12], self._sent_at, perf_counter(), body)
        self.begin()

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.broken += 1

    def close(self) -> None:
        self._transport.abort()


class Load:
    """The requests, and what became of them. Answers before `warm` seconds do not count."""

    def __init__(self, requests: list[bytes]) -> None:
        self._requests = iter(requests)
        self._left = len(requests)
        self.took: list[tuple[float, float]] = []
        self.broken = 0
        self.busy = 0
        self.running = True
        self.exhausted = asyncio.Event()
        self._idle = asyncio.Event()

    def take(self) -> bytes | None:
        request = next(self._requests, None) if self.running else None
        if request is None:
            self.exhausted.set()
            return None
        self.busy += 1
        return request

    async def idle(self) -> None:
        """Wait until everything sent is answered."""
        if self.busy:
            await asyncio.wait_for(self._idle.wait(), 60)

    def answered(self, status: bytes, sent_at: float, now: float, body: bytes) -> None:
        self.busy -= 1
        if status != b"200":
            raise SystemExit(f"answered {status.decode()}: {body.decode()}")
        self.took.append((now, now - sent_at))
        if not self.busy and not self.running:
            self._idle.set()


def _length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"content-length:")
    return int(rest.partition(b"\r\n")[0])


def requests(job: dict[str, Any]) -> list[bytes]:
    """A POST per status: {"object": …} as Meta writes it, signed."""
    found = []
    head = f"POST {job['path']} HTTP/1.1\r\nHost: {job['host']}\r\nContent-Type: application/json\r\n"
    for number, wamid, state, recipient, message_id in job["statuses"]:
        status = {
            "id": wamid,
            "status": state,
            "timestamp": job["timestamp"],
            "recipient_id": recipient,
            "biz_opaque_callback_data": message_id,
            "pricing": {"billable": True, "pricing_model": "PMP", "category": "utility", "type": "regular"},
        }
        value = {
            "messaging_product": "whatsapp",
            "metadata": {
                "display_phone_number": job["numbers"][number]["display_phone_number"],
                "phone_number_id": job["numbers"][number]["phone_number_id"],
            },
            "contacts": [{"wa_id": recipient}],
            "statuses": [status],
        }
        change = {"value": value, "field": "messages"}
        entry = {"id": job["numbers"][number]["waba_id"], "changes": [change]}
        body = orjson.dumps({"object": "whatsapp_business_account", "entry": [entry]})
        signature = sign(job["secret"], body)
        found.append(f"{head}X-Hub-Signature-256: {signature}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    return found


async def main() -> None:
    job = child.job()
    load = Load(requests(job))
    loop = asyncio.get_running_loop()
    callers = []
    for _ in range(job["connections"]):
        _, caller = await loop.create_connection(lambda: Caller(load), job["host"], job["port"])
        callers.append(caller)
    child.ready()
    began = perf_counter()
    for caller in callers:
        caller.begin()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(load.exhausted.wait(), job["seconds"])
    load.running = False
    ended = perf_counter()
    await load.idle()
    warm = began + min(1.0, (ended - began) / 4)
    if load.broken:
        raise SystemExit(f"{load.broken} connections broke")
    took = sorted(took for at, took in load.took if warm <= at <= ended)
    child.answer(
        {
            "per_second": len(took) / (ended - warm),
            "p50_ms": took[len(took) // 2] * 1000,
            "p99_ms": took[len(took) * 99 // 100] * 1000,
            "over_1_s_percent": sum(1 for each in took if each > 1) * 100 / len(took),
            "answered": len(load.took),
        }
    )
    for caller in callers:
        caller.close()


if __name__ == "__main__":
    uvloop.run(main())
