"""Bulk: from the HTTP bodies of ten calls of 10,000 recipients each to rows that are durably queued."""

import os
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import psycopg

from tests.benchmarks.child import Child
from tests.benchmarks.report import DIRECT, OURS, Bar, Report
from tests.graph.world import World
from tests.local import processes
from tests.local.stack import FUNCTIONS, Stack, running_stack, start_functions

CALLS = 10
ROWS_OF_A_CALL = 10_000
TWO_AT_ONCE, DIRECT_TWO_AT_ONCE = "ours, two calls at once", "ours, direct, two calls at once"
CONTENDERS = (OURS, TWO_AT_ONCE, DIRECT, DIRECT_TWO_AT_ONCE, "COPY", "procrastinate", "pgqueuer")
"""COPY and the libraries write straight to Postgres; ours checks, judges and logs each row.
Supabase Lite runs one function call at a time, so two calls at once only fill its pauses."""
_COUNTS = {
    **dict.fromkeys((OURS, TWO_AT_ONCE, DIRECT, DIRECT_TWO_AT_ONCE), "select count(*) from whatsapp.queue"),
    "COPY": "select count(*) from public.copied",
    "procrastinate": "select count(*) from procrastinate_jobs where status = 'todo'",
    "pgqueuer": "select count(*) from pgqueuer where status = 'queued'",
}
_OURS = "whatsapp.campaigns, whatsapp.messages, whatsapp.conversations, whatsapp.contacts, whatsapp.idempotency_keys"
_CASE = "bulk, 100,000 recipients"


def bars() -> list[Bar]:
    return [
        Bar(_CASE, "per_second", "procrastinate", least=1),
        Bar(_CASE, "per_second", "pgqueuer", least=0.3),
        Bar(_CASE, "per_second", least=20_000, ours=DIRECT_TWO_AT_ONCE),
    ]


def run(report: Report, repetitions: int, *, quick: bool, only: frozenset[str] = frozenset()) -> None:
    """Every contender, one after the other, `repetitions` times, each from empty tables."""
    report.bars += bars()
    rows = 1_000 if quick else ROWS_OF_A_CALL
    settings = World.random(("MX",)).env("http://127.0.0.1:9") | {"WHATSAPP_KICK": "false"}
    with ExitStack() as cleanup:
        stack = cleanup.enter_context(running_stack(functions_env=settings, durable=True))
        database = cleanup.enter_context(psycopg.connect(stack.admin_url, autocommit=True))
        port = processes.free_port()
        direct = start_functions(stack, FUNCTIONS, port, settings | {"SUPABASE_DB_URL": stack.database_url})
        cleanup.callback(direct.stop)
        urls = {OURS: stack.url, DIRECT: f"http://127.0.0.1:{port}"}
        _prepare(database)
        # Supabase Lite is JavaScript: its first answers are the slowest, whoever asks.
        _measure(stack, database, OURS, 1_000, urls)
        _measure(stack, database, DIRECT, 1_000, urls)
        for _ in range(repetitions):
            for name in CONTENDERS:
                if not only or name in only:
                    report.add(_CASE, name, **_measure(stack, database, name, rows, urls))


def _measure(
    stack: Stack, database: psycopg.Connection[Any], name: str, rows: int, urls: Mapping[str, str]
) -> dict[str, float]:
    _empty(database)
    job = {
        "contender": name,
        "calls": [_recipients(call, rows) for call in range(CALLS)],
        "run": str(uuid.uuid4()),
        "functions_url": f"{urls[DIRECT if DIRECT in name else OURS]}/functions/v1",
        "secret_key": stack.secret_key,
        "database_url": stack.admin_url,
    }
    with Child("tests.benchmarks.fillers", job, os.environ) as child:
        figures = child.go()
    found = database.execute(_COUNTS[name]).fetchone()
    assert found == (CALLS * rows,), found
    return {"per_second": CALLS * rows / figures["seconds"], "rows": CALLS * rows}


def _recipients(call: int, rows: int) -> list[dict[str, Any]]:
    """People nobody knows yet, in no order: 7,919 is prime, so each number of the call comes once."""
    return [
        {
            "to": f"+5255{10_000_000 + call * rows + n * 7_919 % rows}",
            "parameters": {"body.1": "Ana", "body.2": f"A{n}"},
            "ref": f"customer-{call}-{n}",
        }
        for n in range(rows)
    ]


def _prepare(database: psycopg.Connection[Any]) -> None:
    contract = (
        '{"parameters": [{"key": "body.1", "type": "text", "required": true, "max": 1024},'
        ' {"key": "body.2", "type": "text", "required": true, "max": 1024}]}'
    )
    database.execute(
        "insert into whatsapp.accounts (country_id, account_id) values ('MX', 'main') on conflict do nothing"
    )
    database.execute(
        """insert into whatsapp.templates (country_id, account_id, name, language, status, category, contract)
           values ('MX', 'main', 'spring', 'es_MX', 'APPROVED', 'MARKETING', %s)""",
        (contract,),
    )
    database.execute("create table public.copied (country_id text, phone text, parameters jsonb, ref text)")


def _empty(database: psycopg.Connection[Any]) -> None:
    database.execute(f"truncate {_OURS} cascade")
    database.execute("truncate public.copied")
    for library in ("procrastinate_jobs", "pgqueuer"):
        if database.execute("select to_regclass(%s)", (library,)).fetchone() != (None,):
            database.execute(f"truncate {library} cascade")
    # As autovacuum does within a minute.
    database.execute("vacuum analyze")
    database.execute("checkpoint")
