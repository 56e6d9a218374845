"""Drain at the cap: one number at Meta's highest rate, for a minute, by one process."""

import os
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import mean, median

import psycopg

from tests.benchmarks import crowd
from tests.benchmarks.child import Child
from tests.benchmarks.report import Bar, Report
from tests.graph.client import Graph
from tests.graph.process import graph_process
from tests.graph.world import World
from tests.local.stack import running_stack

CAP = 1_000
LATENCY = 300
SECONDS, QUICK_SECONDS = 60, 5
CONCURRENCY = 400
"""300 are in flight at the cap; some more for what is late."""
_CASE = f"one number at {CAP:,} a second, Meta at {LATENCY} ms"
_COUNTRY, _ACCOUNT = "MX", "main"
_STAT = Path("/proc/stat")


def bars() -> list[Bar]:
    """Claims leave a twentieth of the cap for what bunches on its way: 95 is what the product means to reach."""
    return [Bar(_CASE, "share_of_cap_percent", least=94), Bar(_CASE, "highest_second", most=CAP)]


def run(report: Report, repetitions: int, *, quick: bool, only: frozenset[str] = frozenset()) -> None:
    """A campaign as long as the time, drained by one process, `repetitions` times."""
    report.bars += bars()
    seconds = QUICK_SECONDS if quick else SECONDS
    world = World.random((_COUNTRY,))
    with ExitStack() as cleanup:
        stack = cleanup.enter_context(running_stack(functions=None, durable=True))
        graph = cleanup.enter_context(graph_process(world, latency_ms=LATENCY))
        admin = cleanup.enter_context(psycopg.connect(stack.admin_url, autocommit=True))
        crowd.open_account(admin, _COUNTRY, _ACCOUNT, messages_per_second=CAP)
        env = os.environ | stack.env() | graph.env() | {"WHATSAPP_DRAIN_CONCURRENCY": str(CONCURRENCY)}
        for _ in range(repetitions):
            count = CAP * (seconds + 2)
            crowd.open_campaign(admin, _COUNTRY, _ACCOUNT).add(count)
            with Child("tests.benchmarks.senders", {"contender": "ours", "sweep": True}, env) as child:
                # As autovacuum does within a minute: a database that has never seen its tables plans badly.
                admin.execute("vacuum analyze")
                admin.execute("checkpoint")
                graph.reset()
                busy = _Busy()
                figures = child.go()
                machine = busy.percent()
            counts = graph.counts()
            assert (counts.accepted, counts.double_sent) == (count, 0), counts
            sender = {"sender_cores": figures["cpu_seconds"] / figures["seconds"], "machine_busy_percent": machine}
            report.add(_CASE, "ours", **_arrivals(graph, world), **sender)
            admin.execute("truncate whatsapp.messages, whatsapp.message_events, whatsapp.queue, whatsapp.leases")


def _arrivals(graph: Graph, world: World) -> dict[str, float]:
    """By clock seconds at the stand-in, without the first and the last, which are not whole."""
    number = world.number(_COUNTRY, _ACCOUNT)
    by_second = graph.counts().of(number)["per_second"]
    first, last = min(by_second), max(by_second)
    whole = [by_second.get(second, 0) for second in range(first + 1, last)]
    return {
        "per_second": mean(whole),
        "share_of_cap_percent": mean(whole) * 100 / CAP,
        "lowest_second": min(whole),
        "median_second": median(whole),
        "highest_second": max(whole),
        "most_in_any_second": graph.peak(number),
        "seconds": len(whole),
    }


class _Busy:
    """How busy the whole machine is, sender, database, gateway and stand-in together. Where there is no /proc: 0."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._before = _ticks()

    def percent(self) -> float:
        total, idle = (now - before for now, before in zip(_ticks(), self._before, strict=True))
        return 100 * (1 - idle / total) if total else 0


def _ticks() -> tuple[int, int]:
    if not _STAT.exists():
        return 0, 0
    numbers = [int(word) for word in _STAT.read_text().partition("\n")[0].split()[1:9]]
    return sum(numbers), numbers[3] + numbers[4]
