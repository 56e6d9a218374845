"""A pooler that hands out connections by the transaction, and unkindly: nobody gets the same one twice in a row.

Each client that comes brings a connection of its own to Postgres, and logs in to it. From then on all of them share all
connections: a transaction has the one that has been idle longest.
"""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_SSL_REQUEST = 80877103
_WAITS_FOR_AN_ANSWER = (10, 11)
"""Steps of logging in by SCRAM in which the client has the word."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Pooler:
    """Before the Postgres at `target`; `url` is the same address by us.

    Of the next `losses` transactions that prepare a statement with `lost` in it, the client does not hear the end.
    """

    target: str
    url: str = ""
    port: int = 0
    transactions: int = 0
    lost: bytes = b""
    losses: int = 0
    _idle: asyncio.Queue[Streams] = field(default_factory=asyncio.Queue)
    _servers: list[Streams] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await self._log_in(reader, writer)
            while (message := await _message(reader))[:1] != b"X":
                await self._transaction(message, reader, writer)
        writer.close()

    async def _log_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What client and Postgres say to each other until Postgres is ready for queries."""
        start = await _body(reader)
        if _number(start[4:]) == _SSL_REQUEST:
            writer.write(b"N")
            start = await _body(reader)
        address = urlsplit(self.target)
        server = await asyncio.open_connection(address.hostname, address.port)
        self._servers.append(server)
        server[1].write(start)
        while (message := await _message(server[0]))[:1] != b"Z":
            writer.write(message)
            if message[:1] == b"R" and _number(message[5:]) in _WAITS_FOR_AN_ANSWER:
                server[1].write(await _message(reader))
        writer.write(message)
        self._idle.put_nowait(server)

    async def _transaction(self, message: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """From its first message until Postgres is ready again and in no transaction. Whoever goes in the middle takes
        the connection along."""
        server = await self._idle.get()
        state, losing = b"", False
        try:
            while state != b"I":
                server[1].write(message)
                losing = losing or (message[:1] == b"P" and self.losses > 0 and self.lost in message)
                if losing and message[:1] == b"Q":
                    self.losses -= 1
                    while (await _message(server[0]))[:1] != b"Z":
                        pass
                    raise ConnectionError("its end is kept back")
                if message[:1] in (b"Q", b"S"):
                    state = (await _relay(server[0], writer, b"Z"))[5:6]
                elif message[:1] == b"H":
                    # It wants to know what it has prepared, before it says more.
                    await _relay(server[0], writer, b"TnE")
                if state != b"I":
                    message = await _message(reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            server[1].close()
            raise
        self.transactions += 1
        self._idle.put_nowait(server)


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, until: bytes) -> bytes:
    """Passes messages on, up to one of these kinds, which it returns."""
    while (answer := await _message(reader))[:1] not in until:
        writer.write(answer)
    writer.write(answer)
    return answer


async def _message(reader: asyncio.StreamReader) -> bytes:
    kind = await reader.readexactly(1)
    return kind + await _body(reader)


async def _body(reader: asyncio.StreamReader) -> bytes:
    size = await reader.readexactly(4)
    return size + await reader.readexactly(_number(size) - 4)


def _number(four: bytes) -> int:
    found: int = struct.unpack("!i", four[:4])[0]
    return found


@asynccontextmanager
async def pooler_of(target: str) -> AsyncIterator[Pooler]:
    """A pooler before the Postgres at `target`, on a port of its own."""
    pooler = Pooler(target)
    clients: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(pooler.serve(reader, writer))
        clients.add(task)
        task.add_done_callback(clients.discard)

    server = await asyncio.start_server(connected, "127.0.0.1")
    address = urlsplit(target)
    pooler.port = server.sockets[0].getsockname()[1]
    netloc = f"{address.username}:{address.password}@127.0.0.1:{pooler.port}"
    pooler.url = address._replace(netloc=netloc).geturl()
    try:
        yield pooler
    finally:
        server.close()
        for task in clients:
            task.cancel()
        if clients:
            await asyncio.wait(clients)
        for _, writer in pooler._servers:
            writer.close()
