"""Drain: messages a second from the queue to settled, at Meta's latency."""

import asyncio
import itertools
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import asyncpg
import orjson
import psycopg

from services.whatsapp.identity import match_key
from services.whatsapp.meta.envelope import graph_body
from tests.benchmarks.child import Child
from tests.benchmarks.report import DIRECT, OURS, Bar, Report
from tests.graph.client import Graph
from tests.graph.process import graph_process
from tests.graph.world import World
from tests.local.stack import Stack, running_stack

CONCURRENCY = 400
NAIVE_CONCURRENCY = 20
LATENCIES = (50, 300)
ACCOUNTS = ("a", "b", "c", "d")
COUNTRIES = ("MX", "CO")
"""Eight numbers of 1,000 messages a second each, so that no number's own limit is what is measured."""
_BATCH = 500
_SENDERS = "tests.benchmarks.senders"
_PHONES = {"MX": "+5255", "CO": "+5730"}
_numbers = itertools.count(20_000_000)


def bars() -> list[Bar]:
    return [
        bar
        for case in map(_case, LATENCIES)
        for bar in (
            Bar(case, "per_second", "ceiling", least=0.7),
            Bar(case, "per_second", "naive", least=8),
            Bar(case, "per_second", "pgqueuer", least=1),
        )
    ] + [
        Bar(_case(50), "per_second", "ceiling", least=0.8, ours=DIRECT),
        Bar(_case(50), "per_second", "pgqueuer", least=1.15, ours=DIRECT),
    ]


def run(report: Report, repetitions: int, *, quick: bool, only: frozenset[str] = frozenset()) -> None:
    """Every contender at every latency, one after the other, `repetitions` times. `only` limits the contenders."""
    report.bars += bars()
    world = World.random(COUNTRIES, ACCOUNTS)
    with ExitStack() as cleanup:
        stack = cleanup.enter_context(running_stack(functions=None, durable=True))
        graphs = {latency: cleanup.enter_context(graph_process(world, latency_ms=latency)) for latency in LATENCIES}
        database = cleanup.enter_context(psycopg.connect(stack.admin_url, autocommit=True))
        _prepare(database, stack)
        for _, latency in itertools.product(range(repetitions), LATENCIES):
            count = {50: 4_000, 300: 2_000}[latency] if quick else {50: 12_000, 300: 6_000}[latency]
            race = _Race(stack, graphs[latency], database, count)
            contenders = {
                OURS: race.ours,
                DIRECT: race.direct,
                "ceiling": race.ceiling,
                "pgqueuer": race.pgqueuer,
                "naive": race.naive,
            }
            for name, contender in contenders.items():
                if not only or name in only:
                    report.add(_case(latency), name, **contender())


def _case(latency: int) -> str:
    return f"drain, Meta at {latency} ms"


class _Race:
    """The contenders with the same messages to the same stand-in."""

    def __init__(self, stack: Stack, graph: Graph, database: psycopg.Connection[Any], count: int) -> None:
        self._stack = stack
        self._graph = graph
        self._database = database
        self._count = count
        self._env = os.environ | stack.env() | graph.env() | {"WHATSAPP_DRAIN_CONCURRENCY": str(CONCURRENCY)}

    def ours(self) -> dict[str, float]:
        return self._ours(self._env)

    def direct(self) -> dict[str, float]:
        return self._ours(self._env | {"SUPABASE_DB_URL": self._stack.database_url})

    def _ours(self, env: Mapping[str, str]) -> dict[str, float]:
        with Child(_SENDERS, {"contender": "ours"}, env) as child:
            _enqueue(self._database, self._count)
            figures = self._figures(child, self._count)
        left = self._database.execute("select count(*) from whatsapp.queue").fetchone()
        settled = self._database.execute("select count(*) from whatsapp.messages where state = 'accepted'").fetchone()
        assert left == (0,), left
        assert settled == (self._count,), settled
        self._database.execute("truncate whatsapp.messages, whatsapp.message_events, whatsapp.queue, whatsapp.leases")
        return figures

    def ceiling(self) -> dict[str, float]:
        job = {"contender": "ceiling", "posts": _posts(self._count)}
        with Child(_SENDERS, job, self._env) as child:
            return self._figures(child, self._count)

    def naive(self) -> dict[str, float]:
        count = min(self._count, 500)
        ids = []
        for country_id, account_id, body in _posts(count):
            row = self._database.execute(
                "insert into public.naive_queue (country_id, account_id, body) values (%s, %s, %s) returning id",
                (country_id, account_id, orjson.dumps(body).decode()),
            ).fetchone()
            assert row is not None
            ids.append(row[0])
        job = {"contender": "naive", "ids": ids, "concurrency": NAIVE_CONCURRENCY}
        with Child(_SENDERS, job, self._env) as child:
            return self._figures(child, count)

    def pgqueuer(self) -> dict[str, float]:
        asyncio.run(_enqueue_pgqueuer(self._stack.admin_url, _posts(self._count)))
        job = {"contender": "pgqueuer", "count": self._count, "database_url": self._stack.admin_url}
        with Child(_SENDERS, job, self._env) as child:
            return self._figures(child, self._count)

    def _figures(self, child: Child, count: int) -> dict[str, float]:
        # As autovacuum does within a minute: a database that has never seen its tables plans badly.
        self._database.execute("vacuum analyze")
        self._database.execute("checkpoint")
        self._graph.reset()
        before = _postgres_seconds(self._database)
        figures = child.go()
        used = _postgres_seconds(self._database) - before
        counts = self._graph.counts()
        assert (counts.accepted, counts.double_sent) == (count, 0), counts
        return {
            "per_second": count / figures["seconds"],
            "sender_cpu_ms": figures["cpu_seconds"] * 1000 / count,
            "postgres_busy_ms": used * 1000 / count,
            "messages": count,
        }


def _postgres_seconds(database: psycopg.Connection[Any]) -> float:
    """Seconds sessions of this database have spent in statements so far."""
    row = database.execute("select active_time from pg_stat_database where datname = current_database()").fetchone()
    assert row is not None
    return float(row[0]) / 1000


def _prepare(database: psycopg.Connection[Any], stack: Stack) -> None:
    accounts = list(itertools.product(COUNTRIES, ACCOUNTS))
    with database.cursor() as cursor:
        cursor.executemany(
            # A portfolio of its own: the lowest limit of its numbers counts, and the seed's numbers have one.
            "insert into whatsapp.accounts (country_id, account_id, messages_per_second, portfolio, messaging_limit)"
            " values (%s, %s, 1000, 'benchmark', -1)",
            accounts,
        )
        cursor.executemany(
            """insert into whatsapp.templates (country_id, account_id, name, language, status, category)
               values (%s, %s, 'order_update', 'es_MX', 'APPROVED', 'UTILITY')""",
            accounts,
        )
    database.execute("""
        create table public.naive_queue (
          id bigint generated always as identity primary key, country_id text, account_id text, body jsonb,
          state text not null default 'queued', wamid text);
        grant select, update on public.naive_queue to service_role;
        grant references on public.naive_queue to authenticator;
    """)
    asyncio.run(_install_pgqueuer(stack.admin_url))


async def _install_pgqueuer(url: str) -> None:
    from pgqueuer import AsyncpgDriver, Queries

    connection = await asyncpg.connect(url)
    await Queries(AsyncpgDriver(connection)).install()
    await connection.close()


async def _enqueue_pgqueuer(url: str, posts: list[tuple[str, str, dict[str, Any]]]) -> None:
    from pgqueuer import AsyncpgDriver, Queries

    connection = await asyncpg.connect(url)
    queries = Queries(AsyncpgDriver(connection))
    for batch in _batches(posts):
        await queries.enqueue(["post"] * len(batch), [orjson.dumps(post) for post in batch], [0] * len(batch))
    await connection.close()


def _enqueue(database: psycopg.Connection[Any], count: int) -> None:
    items = [_item(country_id, account_id, phone) for country_id, account_id, phone in _people(count)]
    for batch in _batches(items):
        row = database.execute("select whatsapp.enqueue(%s::jsonb[])", ([orjson.dumps(i).decode() for i in batch],))
        verdicts = row.fetchone()
        assert verdicts is not None
        assert all(verdict["status"] == "accepted" for verdict in verdicts[0]), verdicts[0][0]


def _item(country_id: str, account_id: str, phone: str) -> Mapping[str, Any]:
    return {
        "country_id": country_id,
        "account_id": account_id,
        "phone": phone,
        "match_key": match_key(phone),
        "kind": "template",
        "content": _content(),
        "template_name": "order_update",
        "template_language": "es_MX",
        "key": str(uuid.uuid4()),
        "fingerprint": "benchmark",
    }


def _posts(count: int) -> list[tuple[str, str, dict[str, Any]]]:
    """The bodies our drainer would post, for those who have no queue of ours."""
    return [
        (
            country_id,
            account_id,
            graph_body(_content(), to=phone, recipient=None, message_id=str(uuid.uuid4())),
        )
        for country_id, account_id, phone in _people(count)
    ]


def _content() -> dict[str, Any]:
    parameters = [{"type": "text", "text": "Ana"}, {"type": "text", "text": "A1"}]
    components = [{"type": "body", "parameters": parameters}]
    template = {"name": "order_update", "language": {"code": "es_MX"}, "components": components}
    return {"type": "template", "template": template}


def _people(count: int) -> Iterator[tuple[str, str, str]]:
    accounts = itertools.cycle(itertools.product(COUNTRIES, ACCOUNTS))
    for country_id, account_id in itertools.islice(accounts, count):
        yield country_id, account_id, f"{_PHONES[country_id]}{next(_numbers)}"


def _batches(items: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]
