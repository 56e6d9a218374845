"""Cost: what one message costs Postgres from enqueue to read, in processor time, write-ahead log and disk.

Counted at the backend that serves the verbs, so nothing of what else the machine does is in it. Batches are those of
the functions under load. In the long log messages go to people who are known, whose index entries lie all over a
month; else to somebody new. `SUPABASE_BEFORE` may name another folder `supabase`, as one of an earlier commit: it takes
its turns beside ours.
"""

import base64
import itertools
import os
import random
import secrets
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psycopg

from tests.benchmarks.report import Bar, Report
from tests.local.migrations import SUPABASE
from tests.local.stack import running_stack
from tests.supabase.ground import Land, Row, some_phone
from tests.supabase.stock import Stock, fill

MESSAGES, QUICK_MESSAGES = 20_000, 2_000
LONG, QUICK_LONG = Stock(messages=3_000_000, people=300_000), Stock(messages=30_000, people=3_000)
_BATCH = 200
_STATUSES = 100
_STATES = ("sent", "delivered", "read")
_LOG = ("messages", "message_events", "webhook_events", "wamids", "campaign_people")
"""The tables that grow with every message."""
_HERTZ = os.sysconf("SC_CLK_TCK")
_BODY = [{"type": "body", "parameters": [{"type": "text", "text": "Ana"}, {"type": "text", "text": "Order 1234"}]}]
_SIZE = """
    select coalesce(sum(pg_total_relation_size(c.oid)), 0) from pg_class c
    where c.relkind = 'r' and c.relnamespace in ('whatsapp'::regnamespace, 'whatsapp_internal'::regnamespace)
      and (select relname from pg_class r where r.oid = coalesce(pg_partition_root(c.oid), c.oid)) = any (%s)"""


@dataclass(slots=True)
class Ground:
    """A database of its own with one country, and the connection whose backend is watched."""

    name: str
    database: psycopg.Connection[Any]
    admin: psycopg.Connection[Any]
    land: Land
    phones: Callable[[], str] = some_phone
    claimed_in: float = 0
    """How long the last claim took."""
    spent: dict[str, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0]))

    def call(self, verb: str, items: list[Row]) -> Any:
        return self.measured(verb, f"select whatsapp.{verb}(%s::jsonb[])", ([orjson.dumps(i).decode() for i in items],))

    def measured(self, verb: str, query: str, arguments: tuple[object, ...]) -> Any:
        """The answer of a call; its microseconds and its bytes of log are added to the verb's."""
        began = self._reading()
        row = self.database.execute(query.encode(), arguments).fetchone()
        for n, (before, after) in enumerate(zip(began, self._reading(), strict=True)):
            self.spent[verb][n] += after - before
        assert row is not None
        return row[0]

    def _reading(self) -> tuple[float, float]:
        fields = Path(f"/proc/{self.database.info.backend_pid}/stat").read_text().rpartition(")")[2].split()
        # Asked elsewhere, so that asking costs the watched backend nothing.
        return (int(fields[11]) + int(fields[12])) * 1e6 / _HERTZ, self.asked(
            "select pg_current_wal_insert_lsn() - '0/0'"
        )

    def asked(self, query: str, *arguments: object) -> float:
        row = self.admin.execute(query.encode(), arguments).fetchone()
        assert row is not None
        return float(row[0])

    def size(self, *tables: str) -> float:
        return self.asked(_SIZE, list(tables))


def bars(long: Stock) -> list[Bar]:
    return [
        Bar(_SINGLE, "cpu_us", most=250),
        Bar(_SINGLE, "wal_kb", most=8),
        Bar(_SINGLE, "disk_kb", most=2.5),
        Bar(_CAMPAIGN, "cpu_us", most=250),
        Bar(_CAMPAIGN, "wal_kb", most=8),
        Bar(_CAMPAIGN, "disk_kb", most=2.5),
        Bar(_long(long), "wal_kb", most=10),
        Bar(_PINNED, "p50_ms", _UNPINNED, most=1.5),
        Bar(_PINNED, "mean_ms", _UNPINNED, most=1.5),
    ]


_SINGLE = "a message to somebody new"
_CAMPAIGN = "a campaign's message to somebody new"
_PINNED, _UNPINNED = "a claim under a pinned snapshot", "before the snapshot"
_FLOW, _QUICK_FLOW = 100_000, 5_000
_CLAIMS = 60


def _long(stock: Stock) -> str:
    return f"a message, log of {stock.messages:,} after a checkpoint"


def run(report: Report, repetitions: int, *, quick: bool, only: frozenset[str] = frozenset()) -> None:
    """Each case on a database of its own. `only`: single, campaign, long, snapshot."""
    many, stock = (QUICK_MESSAGES, QUICK_LONG) if quick else (MESSAGES, LONG)
    report.bars += bars(stock)
    folders = {"ours": SUPABASE}
    if before := os.environ.get("SUPABASE_BEFORE"):
        folders["before"] = Path(before).resolve()
    for name, case in {"single": _SINGLE, "campaign": _CAMPAIGN}.items():
        if not only or name in only:
            with ExitStack() as cleanup:
                grounds = [cleanup.enter_context(_ground(contender, path)) for contender, path in folders.items()]
                for _, ground in itertools.product(range(repetitions), grounds):
                    report.add(case, ground.name, **_measure(ground, many, campaign=name == "campaign"))
    if not only or "long" in only:
        # The stock is written as ours has its tables.
        with _ground("ours", SUPABASE, stock) as ground:
            for _ in range(repetitions):
                report.add(_long(stock), ground.name, **_measure(ground, many, campaign=False))
    if not only or "snapshot" in only:
        for contender, path in folders.items():
            with _ground(contender, path) as ground:
                suffix = "" if contender == "ours" else f", {contender}"
                unpinned, pinned = _pin(ground, _QUICK_FLOW if quick else _FLOW)
                report.add(_PINNED + suffix, _UNPINNED, **unpinned)
                report.add(_PINNED + suffix, "ours", **pinned)


@contextmanager
def _ground(name: str, supabase: Path, stock: Stock | None = None) -> Iterator[Ground]:
    with (
        running_stack(functions=None, durable=True, supabase=supabase) as stack,
        psycopg.connect(stack.admin_url, autocommit=True) as admin,
        psycopg.connect(stack.database_url, autocommit=True) as database,
    ):
        # Neither is asked for by the flow, and both come when they like.
        for setting in ("autovacuum = off", "checkpoint_timeout = '1h'", "max_wal_size = '20GB'"):
            admin.execute(f"alter system set {setting}".encode())
        admin.execute("select pg_reload_conf()")
        ground = Ground(name, database, admin, Land(admin, messages_per_second=1000))
        if stock:
            fill(admin, ground.land.country_id, stock)
            people = admin.execute("select phone from whatsapp.contacts").fetchall()
            random.shuffle(people)
            known = itertools.cycle([phone for (phone,) in people])
            ground.phones = lambda: next(known)
            admin.execute("vacuum analyze")
        # Plans are made, and pages there are written for the first time.
        _flow(ground, _BATCH, campaign=False)
        _flow(ground, _BATCH, campaign=True)
        yield ground


def _measure(ground: Ground, many: int, *, campaign: bool) -> dict[str, float]:
    ground.admin.execute("vacuum analyze")
    ground.admin.execute("checkpoint")
    ground.spent.clear()
    groups = {"messages": (_LOG[0], *_LOG[3:]), "events": _LOG[1:2], "webhooks": _LOG[2:3]}
    sizes = {group: ground.size(*tables) for group, tables in groups.items()}
    _flow(ground, many, campaign=campaign)
    disk = {group: (ground.size(*tables) - sizes[group]) / many / 1024 for group, tables in groups.items()}
    cpu = {verb: spent / many for verb, (spent, _) in ground.spent.items()}
    wal = {verb: written / many / 1024 for verb, (_, written) in ground.spent.items()}
    return {
        "cpu_us": sum(cpu.values()),
        "wal_kb": sum(wal.values()),
        "disk_kb": sum(disk.values()),
        **{f"{verb}_us": took for verb, took in cpu.items()},
        **{f"{verb}_wal_kb": took for verb, took in wal.items()},
        **{f"{group}_kb": size for group, size in disk.items()},
    }


def _flow(ground: Ground, many: int, *, campaign: bool) -> None:
    """So many messages, each enqueued, claimed, accepted, sent, delivered and read."""
    phones = [ground.phones() for _ in range(many)]
    if campaign:
        _enqueue_campaign(ground, phones)
    else:
        for start in range(0, many, _BATCH):
            ground.call("enqueue", [_template(ground, phone) for phone in phones[start : start + _BATCH]])
    sent: list[tuple[Row, str]] = []
    while len(sent) < many:
        sent += _send(ground)
    for state in _STATES:
        # Meta tells of them in about the order they left.
        for start in range(0, many, _STATUSES):
            ground.call("ingest", [_status(ground, state, *each) for each in sent[start : start + _STATUSES]])
    [(read,)] = ground.admin.execute(
        "select count(*) from whatsapp.messages where country_id = %s and message_id = any (%s) and state = 'read'",
        (ground.land.country_id, [message["message_id"] for message, _ in sent]),
    ).fetchall()
    assert read == many


def _template(ground: Ground, phone: str) -> Row:
    item = ground.land.template(phone=phone, ref=f"order-{secrets.token_hex(4)}")
    item["content"]["template"]["components"] = _BODY
    return item


def _enqueue_campaign(ground: Ground, phones: list[str]) -> None:
    campaign = ground.land.open_campaign()
    components = orjson.dumps(_BODY).decode()
    for start in range(0, len(phones), 2_000):
        chunk = phones[start : start + 2_000]
        ground.measured(
            "enqueue",
            "select whatsapp.enqueue_campaign(%s, %s, %s, 'f', %s::int[], %s::text[], %s::text[], '{}', '{}',"
            " %s::text[], '{}')",
            (
                ground.land.country_id,
                campaign,
                str(uuid.uuid4()),
                list(range(len(chunk))),
                chunk,
                [phone[1:] for phone in chunk],
                [components] * len(chunk),
            ),
        )


def _send(ground: Ground) -> list[tuple[Row, str]]:
    """Claims a batch and settles it, as accepted: each message and Meta's id of it."""
    query = "select whatsapp.claim(%s, %s, %s, '60 seconds', '1000 seconds')"
    began = time.perf_counter()
    [lease] = ground.measured("claim", query, (uuid.uuid4(), ground.land.accounts, _BATCH))["leases"]
    ground.claimed_in = time.perf_counter() - began
    found = []
    for message in lease["messages"]:
        wamid = "wamid." + base64.b64encode(secrets.token_bytes(39)).decode()
        found.append((message | {"lease_id": lease["lease_id"]}, wamid))
    ground.call(
        "settle",
        [ground.land.outcome(message, "accepted", wamid=wamid, wa_id=message["to"][1:]) for message, wamid in found],
    )
    return found


def _pin(ground: Ground, flow: int) -> tuple[dict[str, float], dict[str, float]]:
    """What claims of a campaign cost, and what they do when so many messages have left since a snapshot was taken."""
    _enqueue_campaign(ground, [ground.phones() for _ in range(flow + (2 * _CLAIMS + 4) * _BATCH)])
    # It has waited a while, as most of a large campaign does.
    ground.admin.execute("update whatsapp.queue set run_at = run_at - interval '1 minute'")
    ground.admin.execute("vacuum analyze")
    _claims(ground, 2)
    before = _claims(ground, _CLAIMS)
    with psycopg.connect(ground.admin.info.dsn, password=ground.admin.info.password) as elsewhere:
        elsewhere.execute("set transaction isolation level repeatable read")
        elsewhere.execute("select count(*) from whatsapp.queue")
        for _ in range(flow // _BATCH):
            _send(ground)
        return before, _claims(ground, _CLAIMS)


def _claims(ground: Ground, count: int) -> dict[str, float]:
    took = []
    for _ in range(count):
        _send(ground)
        took.append(ground.claimed_in)
    return {"p50_ms": sorted(took)[count // 2] * 1000, "mean_ms": sum(took) / count * 1000}


def _status(ground: Ground, state: str, message: Mapping[str, Any], wamid: str) -> Row:
    """A status as webhooks bring it and our parser hands it on."""
    digits, at = message["to"][1:], int(time.time())
    pricing = {"billable": True, "pricing_model": "PMP", "type": "regular", "category": "utility"}
    priced = state != "read"
    payload = {
        "id": wamid,
        "status": state,
        "timestamp": str(at),
        "recipient_id": digits,
        "biz_opaque_callback_data": message["message_id"],
    } | ({"pricing": pricing} if priced else {})
    return ground.land.status(
        wamid,
        state,
        at,
        message["message_id"],
        contact={"wa_id": digits, "match_key": digits},
        price=pricing if priced else None,
        payload=payload,
    )
