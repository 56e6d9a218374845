"""Lanes: what a claim, a reply and another campaign of the same number feel of a million queued messages."""

import random
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import psycopg

from services.whatsapp.flows.draining import HORIZON, LEASE
from services.whatsapp.identity import match_key
from tests.benchmarks import crowd
from tests.benchmarks.report import Bar, Report
from tests.graph.client import Graph
from tests.graph.process import graph_process
from tests.graph.world import World
from tests.local.stack import Stack, running_stack

SHALLOW, MIDDLING, DEEP = 1_000, 30_000, 1_000_000
QUICK_MIDDLING, QUICK_DEEP = 5_000, 20_000
_RATE = 80
"""Meta's standard. A drainer claims half a second of it: few enough to show what a claim costs whatever it brings."""
_CLAIM_MOST = 500
_WARM = 3
"""The first calls of a session plan."""
_LATENCY = 300
_COUNTRY, _ACCOUNT = "MX", "main"


@dataclass(slots=True)
class Ground:
    """A database of its own with one campaign of `depth` messages, and our functions in front of it."""

    depth: int
    stack: Stack
    admin: psycopg.Connection[Any]
    database: psycopg.Connection[Any]
    campaign: crowd.Campaign


def bars(middling: int, deep: int) -> list[Bar]:
    found = []
    for case in (_queued(middling), _queued(deep), _beside(deep), _sweep(deep)):
        found += [Bar(case, figure, f"{SHALLOW:,} queued", most=2) for figure in ("p50_ms", "p95_ms")]
    for case in (_reply(deep, "paused"), _reply(deep, "draining")):
        found += [Bar(case, figure, "empty queue", most=2) for figure in ("p50_ms", "p95_ms")]
    return [*found, Bar(_together(deep), "share_of_small_percent", least=45)]


def run(report: Report, repetitions: int, *, quick: bool, only: frozenset[str] = frozenset()) -> None:
    """Claims at every depth in turns, then replies, then two campaigns together. `only`: claim, reply, share."""
    middling, deep = (QUICK_MIDDLING, QUICK_DEEP) if quick else (MIDDLING, DEEP)
    report.bars += bars(middling, deep)
    with ExitStack() as cleanup:
        graph = cleanup.enter_context(graph_process(World.random((_COUNTRY,)), latency_ms=_LATENCY))
        grounds = [cleanup.enter_context(_ground(graph, depth)) for depth in (SHALLOW, middling, deep)]
        if not only or "claim" in only:
            for _ in range(repetitions):
                _race_claims(report, *grounds, count=10 if quick else 40)
                _race_sweeps(report, *grounds, count=5 if quick else 20)
        shallow, _, full = grounds
        if not only or "reply" in only:
            _empty(shallow)
            for _ in range(repetitions):
                _race_replies(report, graph, shallow, full, count=5 if quick else 30)
        if not only or "share" in only:
            for _ in range(repetitions):
                report.add(_together(deep), "ours", **_share(graph, full, seconds=3 if quick else 8))


def _queued(depth: int) -> str:
    return f"claim, {depth:,} queued"


def _beside(depth: int) -> str:
    return f"claim beside {depth:,} paused"


def _sweep(depth: int) -> str:
    return f"sweep, {depth:,} queued"


def _reply(depth: int, how: str) -> str:
    return f"reply, {depth:,} {how}"


def _together(depth: int) -> str:
    return f"two campaigns, {depth:,} and a small one"


@contextmanager
def _ground(graph: Graph, depth: int) -> Iterator[Ground]:
    with (
        running_stack(functions_env=graph.env(), durable=True) as stack,
        psycopg.connect(stack.admin_url, autocommit=True) as admin,
        psycopg.connect(stack.database_url, autocommit=True) as database,
    ):
        crowd.open_account(database, _COUNTRY, _ACCOUNT, messages_per_second=_RATE)
        campaign = crowd.open_campaign(admin, _COUNTRY, _ACCOUNT)
        campaign.add(depth)
        # As autovacuum does within a minute: a database that has never seen its tables plans badly.
        admin.execute("vacuum analyze")
        admin.execute("checkpoint")
        yield Ground(depth, stack, admin, database, campaign)


def _somebody(database: psycopg.Connection[Any]) -> str:
    """The phone of a person who has just written: whoever answers them may write freely."""
    phone = crowd.next_phone()
    database.execute(
        """insert into whatsapp.throttles (country_id, account_id, inbound_at) values (%s, %s, now())
           on conflict (country_id, account_id) do update set inbound_at = now()""",
        (_COUNTRY, _ACCOUNT),
    )
    database.execute(
        """with known as (
             insert into whatsapp.contacts (country_id, phone, match_key) values (%s, %s, %s)
             returning country_id, contact_id)
           insert into whatsapp.conversations (country_id, account_id, contact_id, last_inbound_at, window_until)
           select country_id, %s, contact_id, now(), now() + interval '1 day' from known""",
        (_COUNTRY, phone, match_key(phone), _ACCOUNT),
    )
    return phone


def _race_claims(report: Report, shallow: Ground, middling: Ground, deep: Ground, *, count: int) -> None:
    baseline = _claims(shallow, shallow.campaign, count)
    for ground in (middling, deep):
        report.add(_queued(ground.depth), "ours", **_claims(ground, ground.campaign, count))
        report.add(_queued(ground.depth), f"{SHALLOW:,} queued", **baseline)
    deep.campaign.control("pause")
    small = crowd.open_campaign(deep.admin, _COUNTRY, _ACCOUNT)
    small.add(SHALLOW)
    report.add(_beside(deep.depth), "ours", **_claims(deep, small, count))
    report.add(_beside(deep.depth), f"{SHALLOW:,} queued", **baseline)
    _cancel(deep, small)
    deep.campaign.control("resume")


def _claims(ground: Ground, campaign: crowd.Campaign, count: int) -> dict[str, float]:
    """Claims as a drainer makes them, each of half a second of the number's rate. As many as one took are added."""
    took = []
    for turn in range(count + _WARM):
        ground.admin.execute("update whatsapp.throttles set next_slot_at = '-infinity'")
        began = time.perf_counter()
        row = ground.database.execute(
            "select whatsapp.claim(%s, %s, %s, %s, %s)",
            (
                uuid.uuid4(),
                [f"{_COUNTRY}/{_ACCOUNT}"],
                _CLAIM_MOST,
                f"{LEASE} seconds",
                f"{HORIZON} seconds",
            ),
        ).fetchone()
        if turn >= _WARM:
            took.append(time.perf_counter() - began)
        assert row is not None
        [lease] = row[0]["leases"]
        assert len(lease["messages"]) > _RATE * HORIZON * 0.9, len(lease["messages"])
        _settle(ground, lease)
        campaign.add(len(lease["messages"]))
    return _times(took)


def _race_sweeps(report: Report, shallow: Ground, _: Ground, deep: Ground, *, count: int) -> None:
    """A drainer sweeps every ten seconds, and claims nothing meanwhile."""
    report.add(_sweep(deep.depth), "ours", **_sweeps(deep, count))
    report.add(_sweep(deep.depth), f"{SHALLOW:,} queued", **_sweeps(shallow, count))


def _sweeps(ground: Ground, count: int) -> dict[str, float]:
    took = []
    for turn in range(count + _WARM):
        began = time.perf_counter()
        ground.database.execute("select whatsapp.sweep()")
        if turn >= _WARM:
            took.append(time.perf_counter() - began)
    return _times(took)


def _settle(ground: Ground, lease: dict[str, Any]) -> None:
    results = [
        {
            "country_id": lease["country_id"],
            "message_id": message["message_id"],
            "lease_id": lease["lease_id"],
            "outcome": "accepted",
            "wamid": f"wamid.{uuid.uuid4()}",
        }
        for message in lease["messages"]
    ]
    ground.database.execute("select whatsapp.settle(%s::jsonb[])", ([orjson.dumps(r).decode() for r in results],))


def _race_replies(report: Report, graph: Graph, shallow: Ground, deep: Ground, *, count: int) -> None:
    baseline = _replies(graph, shallow, count)
    deep.campaign.control("pause")
    report.add(_reply(deep.depth, "paused"), "ours", **_replies(graph, deep, count))
    report.add(_reply(deep.depth, "paused"), "empty queue", **baseline)
    deep.campaign.control("resume")
    with _cron(deep.stack):
        _until(lambda: graph.counts().arrived > _RATE)
        report.add(_reply(deep.depth, "draining"), "ours", **_replies(graph, deep, count))
        report.add(_reply(deep.depth, "draining"), "empty queue", **baseline)
        deep.campaign.control("pause")
    _settled(deep)


def _replies(graph: Graph, ground: Ground, count: int) -> dict[str, float]:
    """From asking `send` to arrival at Meta's stand-in, at any moment of a drainer's round."""
    asked: dict[str, float] = {}
    with httpx.Client(
        base_url=ground.stack.url, headers={"apikey": ground.stack.secret_key}, trust_env=False
    ) as client:
        for turn in range(count + 1):
            body = {"country_id": _COUNTRY, "account": _ACCOUNT, "to": _somebody(ground.database)}
            message = {"type": "text", "text": {"body": "hola"}}
            began = time.time()
            answer = client.post(
                "/functions/v1/send",
                json=body | {"message": message},
                headers={"idempotency-key": str(uuid.uuid4())},
            )
            assert answer.status_code == httpx.codes.ACCEPTED, answer.text
            message_id = answer.json()["message_id"]
            if turn:  # the first opens connections
                asked[message_id] = began
            _until(lambda message_id=message_id: _state(ground, message_id) == "accepted")
            time.sleep(random.uniform(0, 0.5))  # not to keep step with the drainer
    arrived = {one.callback_data: one.wall for one in graph.arrived()}
    return _times([arrived[message_id] - began for message_id, began in asked.items()])


def _state(ground: Ground, message_id: str) -> str:
    row = ground.database.execute(
        "select state from whatsapp.messages where country_id = %s and message_id = %s", (_COUNTRY, message_id)
    ).fetchone()
    assert row is not None
    return str(row[0])


def _share(graph: Graph, ground: Ground, seconds: float) -> dict[str, float]:
    """Both run for some seconds; what share of what arrived was the small one's."""
    small = crowd.open_campaign(ground.admin, _COUNTRY, _ACCOUNT)
    small.add(int(_RATE * seconds))
    ground.campaign.control("resume")
    began = time.time()
    with _cron(ground.stack):
        time.sleep(seconds)
        arrived = [one.callback_data for one in graph.arrived() if one.wall > began]
        for campaign in (ground.campaign, small):
            campaign.control("pause")
    ids = small.message_ids()
    _settled(ground)
    _cancel(ground, small)
    return {
        "share_of_small_percent": len(ids.intersection(arrived)) * 100 / len(arrived),
        "arrived_per_second": len(arrived) / seconds,
    }


@contextmanager
def _cron(stack: Stack) -> Iterator[None]:
    """Asks for a drain, and again when it ends, until left."""
    stopped = threading.Event()

    def drain() -> None:
        headers = {"apikey": stack.secret_key}
        with httpx.Client(base_url=stack.url, headers=headers, timeout=90, trust_env=False) as client:
            while not stopped.is_set():
                client.post("/functions/v1/queue-drain").raise_for_status()

    thread = threading.Thread(target=drain)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _empty(ground: Ground) -> None:
    _cancel(ground, ground.campaign)
    row = ground.database.execute("select count(*) from whatsapp.queue").fetchone()
    assert row == (0,), row


def _cancel(ground: Ground, campaign: crowd.Campaign) -> None:
    """Cancelled and swept, as the drainer does it."""
    campaign.control("cancel")
    swept = 1
    while swept:
        row = ground.database.execute("select whatsapp.sweep()").fetchone()
        assert row is not None
        swept = row[0]["cancelled"]


def _settled(ground: Ground) -> None:
    """Wait until nothing is in flight."""
    _until(
        lambda: not ground.database.execute("select from whatsapp.queue where lease_id is not null limit 1").fetchall()
    )


def _until(probe: Any, timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not probe():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout} s")
        time.sleep(0.02)


def _times(took: list[float]) -> dict[str, float]:
    took = sorted(took)
    return {
        "p50_ms": took[len(took) // 2] * 1000,
        "p95_ms": took[len(took) * 95 // 100] * 1000,
        "measured": len(took),
    }
