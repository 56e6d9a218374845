"""What is known of a message after its POST: by Meta's answer, one payload file each, and by how none came."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from services.whatsapp.clients import graph as graph_client
from services.whatsapp.clients.graph import Answer, Graph, read_answer
from services.whatsapp.settings import Settings
from tests.graph.world import World
from tests.local import processes

ANSWERS = sorted((Path(__file__).parents[3] / "payloads" / "answers").glob("*.json"))


@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: path.stem)
def test_an_answer(path: Path) -> None:
    case: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    body = case["body"] if isinstance(case["body"], str) else json.dumps(case["body"])
    answer = read_answer(case["status"], body.encode())

    assert answer.outcome == case["outcome"]
    assert {name: getattr(answer, name) for name in ("wamid", "wa_id", "note") if name in case} == {
        name: case[name] for name in ("wamid", "wa_id", "note") if name in case
    }
    if case["outcome"] == "refused":
        assert answer.failure is not None
        told = answer.failure.as_dict()
        assert {name: told[name] for name in ("code", "disposition", "effect")} == {
            name: case[name] for name in ("code", "disposition", "effect")
        }


# ── On the way ────────────────────────────────────────────────────────────────────────────────────

BODY = {"messaging_product": "whatsapp", "to": "+525512345678", "type": "text", "text": {"body": "¿Qué tal? 👋"}}
Act = Callable[[asyncio.StreamWriter], Awaitable[None]]
"""What is done to a request that was read."""


def answers(status: int, body: object, *headers: str) -> Act:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status} Whatever", f"content-length: {len(content)}", *headers, "", ""]

    async def act(writer: asyncio.StreamWriter) -> None:
        writer.write("\r\n".join(head).encode() + content)

    return act


async def cuts(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def says_half(writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n{"messages": [{"id":')
    writer.close()


async def says_half_and_no_more(writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n{"messages": [{"id":')
    await asyncio.Event().wait()


async def speaks_in_tongues(writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")


async def keeps_silent(writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


TAKEN = answers(200, {"messages": [{"id": "wamid.1"}], "contacts": [{"wa_id": "525512345678"}]})
EXPIRED = answers(401, {"error": {"code": 190, "message": "expired"}})
REFUSED = answers(400, {"error": {"code": 131026, "message": "undeliverable"}})


@dataclass
class Meta:
    """Does to each request what `acts` say in turn, and keeps it: its head and its body."""

    acts: list[Act]
    heads: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    url: str = ""

    @property
    def tokens(self) -> list[str]:
        """The token of each request."""
        lines = [line for head in self.heads for line in head.splitlines()]
        return [line.partition("Bearer ")[2] for line in lines if line.lower().startswith("authorization:")]

    async def hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                [length] = [line.partition(":")[2] for line in head.lower().splitlines() if "content-length:" in line]
                self.bodies.append(await reader.readexactly(int(length)))
                self.heads.append(head)
                await self.acts[len(self.heads) - 1](writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def meta(*acts: Act) -> AsyncIterator[Meta]:
    heard = Meta(list(acts))
    server = await asyncio.start_server(heard.hear, "127.0.0.1", 0)
    heard.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    others = asyncio.all_tasks()
    try:
        yield heard
    finally:
        server.close()
        hearing = asyncio.all_tasks() - others
        for task in hearing:
            task.cancel()
        await asyncio.gather(*hearing, return_exceptions=True)


async def send(url: str, *tokens: str, times: int = 1) -> list[Answer]:
    """Messages one after another, by a client of the account with these tokens."""
    world = World.random(("MX",))
    environment = world.env(url) | {f"{world.number('MX').env_prefix}_TOKEN": ",".join(tokens)}
    settings = Settings.read(environment | {"SUPABASE_URL": url, "SUPABASE_SECRET_KEY": "sb_secret_one"})
    [account] = settings.directory
    client = Graph(settings)
    try:
        return [await client.send(account, BODY) for _ in range(times)]
    finally:
        await client.close()


async def test_a_message_goes_to_its_number_with_its_token_as_it_is() -> None:
    async with meta(TAKEN) as heard:
        [answer] = await send(heard.url, "token-1")

    assert (answer.outcome, answer.wamid, answer.wa_id) == ("accepted", "wamid.1", "525512345678")
    method, path, _ = heard.heads[0].splitlines()[0].split()
    assert (method, path.rpartition("/")[2]) == ("POST", "messages")
    assert heard.tokens == ["token-1"]
    assert json.loads(heard.bodies[0]) == BODY


@pytest.mark.parametrize(
    "act",
    [
        cuts,
        says_half,
        says_half_and_no_more,
        speaks_in_tongues,
        keeps_silent,
        answers(200, b"<html>"),
        answers(502, b""),
    ],
    ids=["cut", "half an answer", "half, and silence", "no HTTP", "silence", "a page", "a gateway"],
)
async def test_what_was_written_and_not_answered_is_unknown_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, act: Act
) -> None:
    monkeypatch.setattr(graph_client, "POST_TIMEOUT", 0.5)
    async with meta(act, TAKEN) as heard:
        [answer] = await send(heard.url, "token-1", "token-2")

    assert answer.outcome == "unknown"
    assert answer.note
    assert len(heard.bodies) == 1
    # Nor is a connection left lying about: a warning would fail this test.
    gc.collect()


async def test_nor_is_it_repeated_where_a_kept_connection_breaks() -> None:
    async with meta(TAKEN, cuts, TAKEN) as heard:
        first, second = await send(heard.url, "token-1", times=2)

    assert (first.outcome, second.outcome) == ("accepted", "unknown")
    assert len(heard.bodies) == 2


async def test_nobody_is_followed_elsewhere() -> None:
    async with meta(TAKEN) as elsewhere, meta(answers(307, b"", f"location: {elsewhere.url}/taken")) as heard:
        [answer] = await send(heard.url, "token-1")

    assert (answer.outcome, elsewhere.bodies) == ("unknown", [])


async def test_where_nobody_listens_nothing_was_sent() -> None:
    [answer] = await send(f"http://127.0.0.1:{processes.free_port()}", "token-1", "token-2")
    assert answer.outcome == "unsent"


async def test_without_a_token_nothing_is_sent() -> None:
    async with meta(TAKEN) as heard:
        [answer] = await send(heard.url)

    assert (answer.outcome, answer.note, heard.bodies) == ("unsent", "no_token", [])


@pytest.mark.parametrize(
    ("acts", "outcome", "tried"),
    [
        ([EXPIRED, TAKEN], "accepted", ["token-1", "token-2"]),
        ([EXPIRED, EXPIRED], "refused", ["token-1", "token-2"]),
        ([TAKEN], "accepted", ["token-1"]),
        ([REFUSED], "refused", ["token-1"]),
    ],
    ids=["the first has expired", "both have", "neither has", "it is not about the token"],
)
async def test_only_a_token_that_has_expired_gives_way_to_the_next(
    acts: list[Act], outcome: str, tried: list[str]
) -> None:
    async with meta(*acts) as heard:
        [answer] = await send(heard.url, "token-1", "token-2")

    assert (answer.outcome, heard.tokens) == (outcome, tried)
