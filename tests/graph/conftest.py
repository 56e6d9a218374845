"""Fixtures of the tests of the stand-in for Meta itself."""

import http.client
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest

from tests.graph import Graph, World, graph_process

Json = dict[str, Any]
Answer = tuple[int, Any]


@pytest.fixture(scope="module")
def running() -> Iterator[Graph]:
    with graph_process(World.random(["MX", "CO"])) as graph:
        yield graph


@pytest.fixture
def graph(running: Graph) -> Graph:
    """A stand-in that has seen nothing yet; status webhooks as quick as can be."""
    running.reset()
    running.statuses(sent_ms=1, delivered_ms=5, read_ms=10, failed_ms=1)
    return running


class Client:
    """The product's side of the wire: one kept-alive connection, the token of one number."""

    def __init__(self, graph: Graph, country_id: str) -> None:
        self.number = graph.world.number(country_id)
        self.token = self.number.tokens[0]
        self._http = http.client.HTTPConnection(graph.url.removeprefix("http://"), timeout=5)

    def post(self, body: Json | bytes, *, to_number: str | None = None, edge: str = "messages") -> Answer:
        """Status and answer (parsed if JSON) of a POST."""
        sent = body if isinstance(body, bytes) else orjson.dumps(body)
        return self._ask("POST", f"/v25.0/{to_number or self.number.phone_number_id}/{edge}", sent)

    def get(self, path_and_query: str) -> Answer:
        return self._ask("GET", path_and_query, None)

    def close(self) -> None:
        self._http.close()

    def _ask(self, method: str, path: str, body: bytes | None) -> Answer:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        try:
            self._http.request(method, path, body, headers)
            answer = self._http.getresponse()
            read = answer.read()
        except Exception:
            self._http.close()
            raise
        is_json = answer.headers.get_content_type() == "application/json"
        return answer.status, orjson.loads(read) if is_json else read


@pytest.fixture
def client(graph: Graph) -> Iterator[Client]:
    """Speaks for the Mexican number."""
    client = Client(graph, "MX")
    yield client
    client.close()


class Receiver:
    """A webhook endpoint that keeps every POST, and answers with the statuses it is told, then 200."""

    def __init__(self) -> None:
        self.posts: list[tuple[bytes, str]] = []
        self.answers: list[int] = []
        self.verify_token = ""
        self.lock = threading.Lock()
        self.url = ""

    def values(self) -> list[Json]:
        """Every `changes[].value` in order of arrival."""
        bodies = [orjson.loads(body) for body, _ in self.posts]
        return [change["value"] for body in bodies for entry in body["entry"] for change in entry["changes"]]

    def statuses(self) -> list[Json]:
        return [status for value in self.values() for status in value.get("statuses", [])]

    def heard(self, body: bytes, signature: str) -> int:
        with self.lock:
            self.posts.append((body, signature))
            return self.answers.pop(0) if self.answers else 200


def handler_of(receiver: Receiver) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self._reply(receiver.heard(body, self.headers["X-Hub-Signature-256"]), b"")

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            known = query["hub.mode"] == ["subscribe"] and query["hub.verify_token"] == [receiver.verify_token]
            self._reply(200 if known else 403, query["hub.challenge"][0].encode() if known else b"")

        def _reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    return Handler


@pytest.fixture
def receiver(graph: Graph) -> Iterator[Receiver]:
    """Receives the webhooks of `graph`."""
    receiver = Receiver()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(receiver))
    receiver.url = f"http://127.0.0.1:{server.server_port}/webhook"
    receiver.verify_token = graph.world.verify_token
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    graph.callback(receiver.url, retry_ms=5)
    yield receiver
    graph.callback(None)
    server.shutdown()
    thread.join()
    server.server_close()
