"""HTTP/1.1 for the stand-in for Meta (tests only): as little as loopback needs, so that it is never the
bottleneck."""

import asyncio
import errno
import traceback
from http import HTTPStatus
from typing import Any, Protocol, cast

from httptools import HttpParserError, HttpRequestParser

JSON_TYPE = "application/json; charset=UTF-8"
REASONS = {status.value: status.phrase for status in HTTPStatus}
HEADS: dict[tuple[int, str], bytes] = {}


class Handler(Protocol):
    """Answers a request by calling `connection.reply` or `connection.drop`, now or later."""

    def handle(self, connection: "Connection") -> None: ...

    def close_unread(self) -> bool:
        """True when the request that begins now shall find its connection closed."""
        ...


class Connection(asyncio.Protocol):
    """One client connection and the request it carries just now (no pipelining)."""

    __slots__ = (
        "authorization",
        "body",
        "handler",
        "idle",
        "method",
        "open",
        "parser",
        "peers",
        "transport",
        "url",
    )

    def __init__(self, handler: Handler, peers: "set[Connection]") -> None:
        self.handler = handler
        self.peers = peers
        self.transport: asyncio.Transport
        self.parser = HttpRequestParser(self)
        self.idle = True
        self.open = False
        self._begin()

    def _begin(self) -> None:
        self.method = b""
        self.url = b""
        self.authorization = b""
        self.body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's
        self.transport = cast(asyncio.Transport, transport)
        self.open = True
        self.peers.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self.peers.discard(self)
        del self.parser  # it points back to us

    def data_received(self, data: bytes) -> None:
        if self.idle:
            self.idle = False
            if self.handler.close_unread():
                self.transport.abort()
                return
        try:
            self.parser.feed_data(data)
        except HttpParserError:
            self.drop()

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 13 and name.lower() == b"authorization":
            self.authorization = value

    def on_body(self, body: bytes) -> None:
        self.body = self.body + body if self.body else body

    def on_message_complete(self) -> None:
        self.method = self.parser.get_method()
        try:
            self.handler.handle(self)
        except Exception:
            # httptools would swallow it: a mistake of the stand-in must be seen, not taken for a lost answer
            traceback.print_exc()
            self.reply(500, b"the stand-in itself failed, see its stderr", "text/plain")

    def reply(self, status: int, body: bytes, content_type: str = JSON_TYPE) -> bool:
        """Answer the request. False when the client has gone."""
        if not self.open:
            return False
        head = HEADS.get((status, content_type))
        if head is None:
            line = f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}\r\nContent-Type: {content_type}\r\n"
            head = HEADS[status, content_type] = f"{line}Content-Length: ".encode()
        keep = self.parser.should_keep_alive()
        self.idle = True
        self._begin()
        self.transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
        if not keep:
            self.transport.close()
        return True

    def drop(self) -> None:
        """Close the connection without an answer."""
        if self.open:
            self.transport.abort()


class Listener:
    """A listening port that can refuse connections for a while and come back on the same port."""

    def __init__(self, handler: Handler, host: str) -> None:
        self.host = host
        self.port = 0
        self.connections: set[Connection] = set()
        self._handler = handler
        self._server: asyncio.Server | None = None

    async def open(self, port: int = 0) -> None:
        """Listen; port 0 picks a free one."""
        if self._server is not None:
            return
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, self.host, port, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]

    async def reopen(self) -> None:
        """Listen again on the port of before; the closed socket may take a moment to let go of it."""
        while True:
            try:
                return await self.open(self.port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                await asyncio.sleep(0.01)

    def refuse(self) -> None:
        """From now on connections are refused, and those that exist are cut."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    def cut(self) -> int:
        """Cut all existing connections, also those kept alive for later; returns how many."""
        connections = list(self.connections)
        for connection in connections:
            connection.drop()
        return len(connections)

    def _connection(self) -> Any:
        return Connection(self._handler, self.connections)
