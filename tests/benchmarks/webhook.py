"""Webhook: signed status webhooks a second, answered once durable."""

import itertools
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import psycopg

from tests.benchmarks.child import ROOT, Child
from tests.benchmarks.report import DIRECT, OURS, Bar, Report
from tests.graph.world import World
from tests.local import processes
from tests.local.stack import Stack, running_stack

CONNECTIONS = (64, 256)
_STATES = ("sent", "delivered", "read")
_CHUNK = 1_000
_APPS = {
    OURS: "functions.webhook.main:app",
    DIRECT: "functions.webhook.main:app",
    "bare Starlette": "tests.benchmarks.servers:bare",
    "pywa": "tests.benchmarks.pywa_server:app",
    "naive": "tests.benchmarks.servers:naive",
}
_MOST_PER_SECOND = {OURS: 8_000, DIRECT: 14_000, "bare Starlette": 20_000, "pywa": 6_000, "naive": 1_500}
"""How many requests are prepared for each second."""


def bars() -> list[Bar]:
    return [
        bar
        for case in map(_case, CONNECTIONS)
        for bar in (
            Bar(case, "per_second", "naive", least=10),
            Bar(case, "per_second", "bare Starlette", least=0.3, ours=DIRECT),
            Bar(case, "per_second", "pywa", least=1, ours=DIRECT),
            Bar(case, "p50_ms", most=250),
            Bar(case, "over_1_s_percent", most=1),
        )
    ]


def run(report: Report, repetitions: int, *, quick: bool, only: frozenset[str] = frozenset()) -> None:
    """Every server under every number of connections, one after the other, `repetitions` times."""
    report.bars += bars()
    world = World.random(("MX", "CO"))
    seconds = 2.5 if quick else 6.0
    with ExitStack() as cleanup:
        stack = cleanup.enter_context(running_stack(functions=None, durable=True))
        database = cleanup.enter_context(psycopg.connect(stack.database_url, autocommit=True))
        admin = cleanup.enter_context(psycopg.connect(stack.admin_url, autocommit=True))
        _prepare(database)
        env = os.environ | stack.env() | world.env("http://127.0.0.1:9")
        direct = {"SUPABASE_DB_URL": stack.database_url}
        _warm_up(stack, database, world, env)
        for _, connections, (name, app) in itertools.product(range(repetitions), CONNECTIONS, _APPS.items()):
            if only and name not in only:
                continue
            wanted = int(seconds * _MOST_PER_SECOND[name])
            statuses = _statuses(_accepted(database, wanted // len(_STATES), known=name in (OURS, DIRECT)))
            admin.execute("checkpoint")
            with _server(app, env | (direct if name == DIRECT else {}), stack) as port:
                figures = _measure(world, statuses, port, connections, seconds)
            if name in (OURS, DIRECT):
                _check(database, figures)
            report.add(_case(connections), name, **figures)


def _warm_up(stack: Stack, database: psycopg.Connection[Any], world: World, env: Mapping[str, str]) -> None:
    """Supabase Lite is JavaScript: its first thousand answers are the slowest, whoever asks."""
    statuses = _statuses(_accepted(database, 4_000, known=True))
    with _server(_APPS[OURS], env, stack) as port:
        _measure(world, statuses, port, CONNECTIONS[0], 4.0)
    database.execute("truncate whatsapp.webhook_events")


def _case(connections: int) -> str:
    return f"webhook, {connections} connections"


def _measure(
    world: World, statuses: list[tuple[int, str, str, str, str]], port: int, connections: int, seconds: float
) -> dict[str, float]:
    job = {
        "host": "127.0.0.1",
        "port": port,
        "path": "/webhook",
        "connections": connections,
        "seconds": seconds,
        "secret": world.app_secret,
        "numbers": [
            {
                "phone_number_id": number.phone_number_id,
                "display_phone_number": number.display_phone_number,
                "waba_id": number.waba_id,
            }
            for number in world.numbers
        ],
        "timestamp": str(int(time.time())),
        "statuses": statuses,
    }
    with Child("tests.benchmarks.load", job, os.environ) as load:
        return load.go()


def _check(database: psycopg.Connection[Any], figures: Mapping[str, float]) -> None:
    """Everything answered is stored and applied, then room is made for the next run."""
    row = database.execute(
        "select sum(jsonb_array_length(payload)), count(*) filter (where outcome <> 'applied')"
        " from whatsapp.webhook_events"
    )
    assert row.fetchone() == (figures["answered"], 0)
    database.execute("truncate whatsapp.webhook_events")


def _accepted(database: psycopg.Connection[Any], count: int, *, known: bool) -> list[tuple[int, str, str, str]]:
    """Messages Meta has accepted: (index of the number, wamid, wa_id, message_id). Only ours needs to know them."""
    database.execute("truncate whatsapp.messages, whatsapp.message_events, whatsapp.queue")
    made = []
    for index, country_id in enumerate(("MX", "CO")):
        rows = database.execute(
            """select 'wamid.' || encode(sha256(id::text::bytea), 'base64'), '52' || (5500000000 + n)::text, id::text
               from (select n, whatsapp_internal.uuid7() as id from generate_series(1, %s) n) x""",
            (count // 2,),
        ).fetchall()
        made += [(index, *row) for row in rows]
        if known:
            with database.cursor() as cursor:
                cursor.execute("create temporary table made (wamid text, wa_id text, message_id uuid)")
                with cursor.copy("copy made from stdin") as copy:
                    for row in rows:
                        copy.write_row(row)
                cursor.execute(
                    """insert into whatsapp.messages (country_id, message_id, account_id, contact_id, direction,
                         kind, state, content, category, wamid, accepted_at)
                       select %s, message_id, 'main', c.contact_id, 'outbound', 'template', 'accepted',
                         '{"type": "template", "template": {"name": "order_update", "language": {"code": "es_MX"}}}',
                         'UTILITY', wamid, now()
                       from made join whatsapp.contacts c on c.country_id = %s and c.match_key = made.wa_id
                       order by message_id""",
                    (country_id, country_id),
                )
                cursor.execute("drop table made")
    database.execute("vacuum (analyze) whatsapp.messages")
    database.execute("vacuum (analyze) whatsapp.message_events")
    return made


def _statuses(messages: list[tuple[int, str, str, str]]) -> list[tuple[int, str, str, str, str]]:
    """Each message is sent, then delivered, then read, as many others are in between."""
    found = []
    for start in range(0, len(messages), _CHUNK):
        for state in _STATES:
            for number, wamid, wa_id, message_id in messages[start : start + _CHUNK]:
                found.append((number, wamid, state, wa_id, message_id))
    return found


def _prepare(database: psycopg.Connection[Any]) -> None:
    for country_id in ("MX", "CO"):
        database.execute(
            """insert into whatsapp.contacts (country_id, phone, wa_id, match_key)
               select %s, '+' || digits, digits, digits
               from generate_series(1, 20000) n, lateral (select '52' || (5500000000 + n)::text as digits) d""",
            (country_id,),
        )
        database.execute(
            """insert into whatsapp.conversations (country_id, account_id, contact_id)
               select country_id, 'main', contact_id from whatsapp.contacts where country_id = %s""",
            (country_id,),
        )
    database.execute("""
        create table public.naive_events (id text primary key, payload jsonb, at timestamptz not null default now());
        grant select, insert on public.naive_events to service_role;
        grant references on public.naive_events to authenticator;
    """)
    database.execute("vacuum analyze")


@contextmanager
def _server(app: str, env: Mapping[str, str], stack: Stack) -> Iterator[int]:
    port = processes.free_port()
    command = [sys.executable, "-m", "uvicorn", app, "--no-access-log", "--log-level", "warning"]
    server = processes.spawn(
        app,
        [*command, "--host", "127.0.0.1", "--port", str(port), "--loop", "uvloop", "--http", "httptools"],
        stack.data_dir / "server.log",
        env=env,
        cwd=ROOT,
    )
    try:
        server.wait_until(lambda: _answers(port))
        yield port
    finally:
        server.stop()


def _answers(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}/nowhere", trust_env=False)
    except httpx.TransportError:
        return False
    return True
