"""The stage: the whole local stack with our functions, the stand-in for Meta, a cron, and the two who send."""

import asyncio
import contextlib
import json
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg

from supabase import AsyncClient, AsyncClientOptions, acreate_client
from tests.demo.checks import Checks
from tests.demo.figures import Database
from tests.demo.screen import Screen
from tests.graph.client import Graph
from tests.graph.process import graph_process
from tests.graph.world import World
from tests.local.stack import Stack, running_stack

Json = dict[str, Any]

COUNTRIES = ("MX", "CO")
CAMPAIGNS = "campaigns"
"""Marketing has a number of its own in each country; all else goes by `main`."""
ACCOUNTS = ("main", CAMPAIGNS)
TICK = 2.0
"""Seconds between two calls of cron."""
PATIENCE = 60.0
"""Seconds to wait for what should happen. After them the demo goes on, and its checks tell what did not."""
_NUMBERS = """
  insert into whatsapp.accounts (country_id, account_id, display_name, time_zone)
  select country_id, %s, display_name, time_zone from whatsapp.accounts where account_id = 'main'
"""
_LIMITS = "update whatsapp.accounts set messages_per_second = case account_id when 'main' then 80 else %s end"
_STATUSES: Json = {"sent_ms": 200, "delivered_ms": 700, "read_ms": 1500, "jitter": 0.5, "batch": 5}
_DISORDER: Json = {"shuffle_share": 0.5, "duplicate_share": 0.3}


@dataclass
class Stage:
    """What the scenes play on. `frontend` is the official client of a user, `server` that with the secret key;
    `owner` is the project's owner at the SQL prompt. `sent` counts the messages accepted with a 202 in each country,
    `cron` what the calls of queue-drain were answered."""

    screen: Screen
    stack: Stack
    graph: Graph
    owner: Database
    frontend: AsyncClient
    server: AsyncClient
    sent: Counter[str] = field(default_factory=Counter)
    cron: Counter[int] = field(default_factory=Counter)

    async def send(self, client: AsyncClient, country_id: str, to: str, message: Json, key: str | None = None) -> Json:
        """One message through the function, as a frontend sends it. Raises FunctionsHttpError when refused."""
        answer = await client.functions.invoke("send", request(country_id, to, message, key))
        self.sent[country_id] += 1
        return read_json(answer)

    async def refusal(self, country_id: str, to: str, message: Json, key: str) -> Json:
        """The whole answer to such a request of the user, which the official client for Python shortens."""
        session = await self.frontend.auth.get_session()
        assert session is not None
        headers = {"apikey": self.stack.publishable_key, "authorization": f"Bearer {session.access_token}"}
        options = request(country_id, to, message, key)
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.post(
                f"{self.stack.url}/functions/v1/send", json=options["body"], headers=headers | options["headers"]
            )
        return {"http_status": answer.status_code} | read_json(answer.content)


def request(country_id: str, to: str, message: Json, key: str | None) -> Json:
    """The options of `functions.invoke` for one message."""
    return {
        "headers": {"Idempotency-Key": key or str(uuid.uuid4())},
        "body": {"country_id": country_id, "to": to, "message": message},
    }


def read_json(answer: object) -> Json:
    """The answer of a function, which the official client gives as bytes."""
    assert isinstance(answer, bytes)
    return dict(json.loads(answer))


@contextlib.asynccontextmanager
async def raise_curtain(screen: Screen, checks: Checks, campaign_rate: int) -> AsyncIterator[Stage]:
    """Start everything, and stop it at the end. Campaigns leave at `campaign_rate` messages a second."""
    screen.scene("The stage")
    with contextlib.ExitStack() as cleanup:
        graph = cleanup.enter_context(graph_process(large_business(), **_STATUSES, **_DISORDER))
        screen.say("stand-in for Meta: two numbers in each country, statuses out of order")
        stack = cleanup.enter_context(running_stack(functions_env=graph.env()))
        screen.say("Postgres, migrated; Supabase Lite before it; our functions on uvicorn")
        owner = cleanup.enter_context(psycopg.connect(stack.database_url, autocommit=True))
        owner.execute(_NUMBERS, (CAMPAIGNS,))
        owner.execute(_LIMITS, (campaign_rate,))
        graph.callback(f"{stack.url}/functions/v1/webhook", connections=64)
        checks.expect("webhook registered, handshake answered", graph.verify(), True)
        # A call of thousands of rows may take longer than the client's own 5 seconds on a busy machine.
        options = AsyncClientOptions(function_client_timeout=60)
        frontend = await acreate_client(stack.url, stack.publishable_key, options)
        server = await acreate_client(stack.url, stack.secret_key, options)
        copied = read_json(await server.functions.invoke("templates-sync"))
        screen.say(f"templates-sync: {sum(one['stored'] for one in copied['accounts'])} templates copied")
        stage = Stage(screen, stack, graph, owner, frontend, server)
        clock = asyncio.create_task(tick(stage))
        screen.say(f"cron: calls queue-drain every {TICK:.0f} s with the secret key")
        try:
            yield stage
        finally:
            clock.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await clock


def large_business() -> World:
    """Numbers as Meta grants them to one that has long been sending; a sync takes that over."""
    world = World.random(COUNTRIES, ACCOUNTS)
    for number in world.numbers:
        number.messaging_limit = "TIER_UNLIMITED"
        number.throughput = "HIGH" if number.account_id == CAMPAIGNS else "STANDARD"
    return world


async def tick(stage: Stage) -> None:
    """Cron's part. On hosted Supabase pg_cron and pg_net do this."""
    headers = {"apikey": stage.stack.secret_key}
    async with httpx.AsyncClient(base_url=stage.stack.url, headers=headers, timeout=60, trust_env=False) as client:
        while True:
            answer, _ = await asyncio.gather(
                client.post("/functions/v1/queue-drain", json={"budget_seconds": TICK}), asyncio.sleep(TICK)
            )
            stage.cron[answer.status_code] += 1


async def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > deadline:
            return
        await asyncio.sleep(0.1)
