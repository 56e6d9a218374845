"""Everything together, as a team runs it: our functions by HTTP, Supabase Lite on Postgres, the stand-in for Meta."""

import asyncio
import os
import secrets
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from services.whatsapp.flows.draining import Drainer, Report
from services.whatsapp.runtime import Runtime
from services.whatsapp.settings import Settings
from tests.graph import Graph
from tests.graph.world import Number, random_phone
from tests.local import processes
from tests.local.stack import ROOT, Stack, mint_jwt, sign_up

Row = dict[str, Any]
Found = TypeVar("Found")
TEXT: Row = {"type": "text", "text": {"body": "hola"}}
PLAIN: Row = {"type": "template", "template": {"name": "plain", "language": {"code": "es_MX"}}}
OFFER: Row = {
    "type": "template",
    "template": {
        "name": "spring_offer",
        "language": {"code": "es_MX"},
        "components": [
            {"type": "header", "parameters": [{"type": "image", "image": {"link": "https://shop.example/a.jpg"}}]},
            {"type": "body", "parameters": [{"type": "text", "text": "Ana"}]},
        ],
    },
}
PATIENCE = 60.0
"""Seconds a test waits for what must come, on a machine that is busy with other things as well."""
DATA_API, CONNECTION = "the Data API", "a connection"
both_ways = pytest.mark.parametrize("house", [DATA_API, CONNECTION], indirect=True)
"""For what must hold whichever way the verbs go."""
ERROR_FIELDS = {"code", "message", "details", "hint", "error"}


@dataclass(frozen=True)
class User:
    user_id: str
    email: str
    password: str
    token: str


@dataclass
class House:
    """A running house. Functions drain the accounts `main`; the accounts `own-…` have no token there and are
    drained by tests themselves (their webhooks are routed all the same)."""

    stack: Stack
    graph: Graph
    database: psycopg.Connection[Any]
    spare_accounts: Iterator[str]
    users: dict[str, User] = field(default_factory=dict)

    # people and accounts

    def sign_up(self, name: str, memberships: Mapping[str, str]) -> User:
        email, password = f"{name}-{secrets.token_hex(4)}@shop.example", secrets.token_urlsafe(16)
        user_id, token = sign_up(self.stack, email, password)
        for country_id, role in memberships.items():
            self.run("insert into whatsapp.members values (%s, %s, %s)", country_id, user_id, role)
        user = self.users[name] = User(user_id, email, password, token)
        return user

    def account(self, country_id: str = "MX", /, **columns: object) -> Number:
        """An account that no other test uses, with approved templates."""
        number = self.graph.world.number(country_id, next(self.spare_accounts))
        values: dict[str, object] = {
            "country_id": country_id,
            "account_id": number.account_id,
            "portfolio": number.account_id,
            "messages_per_second": 1000,
            "messaging_limit": -1,
        }
        values |= columns
        names, places = ", ".join(values), ", ".join(["%s"] * len(values))
        self.run(f"insert into whatsapp.accounts ({names}) values ({places})", *values.values())
        self.run(
            "insert into whatsapp.templates (country_id, account_id, name, language, status, category, components)"
            " select country_id, %s, name, language, status, category, components from whatsapp.templates"
            " where country_id = %s and account_id = 'main'",
            number.account_id,
            country_id,
        )
        return number

    def env(self, number: Number) -> dict[str, str]:
        """The environment of a process that can send for this number only."""
        others = tuple(f"{one.env_prefix}_" for one in self.graph.world.numbers if one is not number)
        whole = self.stack.env() | self.graph.env()
        return {name: value for name, value in whole.items() if not name.startswith(others)}

    # sending and receiving

    @asynccontextmanager
    async def client(self, url: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
        """Speaks to the functions as a frontend does: with the publishable key."""
        headers = {"apikey": self.stack.publishable_key}
        base = f"{url or self.stack.url}/functions/v1"
        async with httpx.AsyncClient(base_url=base, headers=headers, timeout=20, trust_env=False) as client:
            yield client

    async def post(
        self, to: object, message: Row = TEXT, *, user: str = "MX", key: str | None = None, **more: object
    ) -> httpx.Response:
        """One call of `send` as a user of the house."""
        async with self.client() as client:
            return await post(client, self.users[user].token, to, message, key=key, **more)

    async def send(self, to: object, message: Row = TEXT, **more: Any) -> str:
        """Like `post`, but it must work; returns the message id."""
        answer = await self.post(to, message, **more)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["message_id"])

    def enqueue(self, number: Number, phones: Iterable[str], message: Row = PLAIN) -> list[str]:
        """Queue one message a phone without anybody being told to drain; returns the message ids."""
        template = message.get("template")
        items = [
            {
                "country_id": number.country_id,
                "account_id": number.account_id,
                "phone": phone,
                "match_key": phone[1:],
                "kind": message["type"],
                "content": message,
                "template_name": template["name"] if template else None,
                "template_language": template["language"]["code"] if template else None,
                "key": str(uuid.uuid4()),
                "fingerprint": "same",
            }
            for phone in phones
        ]
        [row] = self.all("select whatsapp.enqueue(%s::jsonb[]) as verdicts", [Jsonb(item) for item in items])
        assert [verdict["status"] for verdict in row["verdicts"]] == ["accepted"] * len(items), row
        return [verdict["message_id"] for verdict in row["verdicts"]]

    async def open_window(self, number: Number, phone: str) -> None:
        """The person writes first, and we know it."""
        wamid = self.graph.customer_writes(number, phone[1:], "hola")
        await until(lambda: self.all("select 1 from whatsapp.messages where wamid = %s", wamid))

    async def drain(self, number: Number, budget: float = 5, *, sweep: bool = False, **changes: str) -> Report:
        """One run of a drainer that can send for this number only; `changes` are to its environment."""
        settings = Settings.read(self.env(number) | changes)
        async with Runtime(settings) as runtime:
            return await Drainer(runtime).run(budget, sweep=sweep)

    @contextmanager
    def drain_process(
        self, number: Number, *, lease: float = 60, margin: float = 25, budget: float = 10, begins: bool = True
    ) -> Iterator[subprocess.Popen[bytes]]:
        """The same as a process of its own; see tests/proofs/drain_process.py. What it complains of is shown with
        the failure of the test. If it does not begin by itself, `begin_together` makes it."""
        arguments = [str(seconds) for seconds in (lease, margin, budget)]
        command = [sys.executable, "-m", "tests.proofs.drain_process", *arguments]
        environment = {"PATH": os.environ.get("PATH", "")} | self.env(number)
        with (
            tempfile.TemporaryFile() as complaints,
            subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints
            ) as process,
        ):
            try:
                if begins:
                    begin(process)
                yield process
            except BaseException as error:
                complaints.seek(0)
                error.add_note(f"The drainer's stderr:\n{complaints.read()[-20_000:].decode(errors='replace')}")
                raise
            finally:
                process.kill()

    @asynccontextmanager
    async def functions(self, **changes: str) -> AsyncIterator[str]:
        """Another process of our functions whose environment differs in `changes`; an empty value is left out.
        Gives its URL."""
        port = processes.free_port()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WHATSAPP_")}
        environment |= self.stack.env() | self.graph.env() | changes
        address = ["--host", "127.0.0.1", "--port", str(port)]
        child = processes.spawn(
            "functions",
            [sys.executable, "-m", "uvicorn", "functions.serve:app", "--no-access-log", *address],
            self.stack.data_dir / f"functions-{port}.log",
            env={name: value for name, value in environment.items() if value},
            cwd=ROOT,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            await asyncio.to_thread(child.wait_until, lambda: answers(url))
            yield url
        finally:
            await asyncio.to_thread(child.stop)

    # what happened

    def arrivals(self, message_id: str) -> int:
        """How often a message really reached Meta."""
        return len(self.graph.arrived(callback_data=message_id))

    def message(self, message_id: str) -> Row:
        [row] = self.all("select * from whatsapp.messages where message_id = %s", message_id)
        return row

    def state(self, message_id: str) -> str:
        return str(self.message(message_id)["state"])

    async def until_state(self, message_id: str, *states: str, timeout: float = PATIENCE) -> None:
        try:
            await until(lambda: self.state(message_id) in states, timeout)
        except TimeoutError:
            raise TimeoutError(f"{message_id} is {self.state(message_id)}, not {states}") from None

    def count(self, query: str, *arguments: object) -> int:
        [row] = self.all(f"select count(*) as n from whatsapp.{query}", *arguments)
        return int(row["n"])

    def all(self, query: str, *arguments: object) -> list[Row]:
        with self.database.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query.encode(), arguments).fetchall()

    def run(self, statement: str, *arguments: object) -> None:
        self.database.execute(statement.encode(), arguments)

    def token(self, user: str, **claims: Any) -> str:
        return mint_jwt(self.stack, self.users[user].user_id, **claims)


async def post(
    client: httpx.AsyncClient, token: str, to: object, message: Row = TEXT, *, key: str | None = None, **more: object
) -> httpx.Response:
    body = {"country_id": "MX", "to": to, "message": message} | more
    headers = {"authorization": f"Bearer {token}", "idempotency-key": key or str(uuid.uuid4())}
    return await client.post("/send", json=body, headers=headers)


def begin(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"begin\n")
    process.stdin.flush()


async def begin_together(*processes: subprocess.Popen[bytes]) -> None:
    """Drainers that were started without beginning do so now, none earlier than the last of them is ready."""
    for process in processes:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"ready\n"
    for process in processes:
        begin(process)


async def until(probe: Callable[[], Found], timeout: float = PATIENCE) -> Found:
    """What `probe` gives, once that is true."""
    deadline = time.monotonic() + timeout
    while not (found := probe()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout} s")
        await asyncio.sleep(0.02)
    return found


def some_phone(country_id: str = "MX") -> str:
    return random_phone(country_id)


def answers(url: str) -> bool:
    try:
        httpx.get(url, trust_env=False)
    except httpx.TransportError:
        return False
    return True


def check_refusal(answer: httpx.Response, status: int, code: str) -> Row:
    """The answer is this refusal, in the shape every function uses; returns its body."""
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    assert answer.json().keys() == ERROR_FIELDS
    assert answer.headers["content-type"] == "application/json"
    return dict(answer.json())
