"""Growth: what each verb and each documented read costs in a large country, compared with a small one.

With statistics and without: what Postgres believes of a table that has just grown is wrong until autovacuum comes by.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import psycopg

from tests.benchmarks.report import Bar, Report
from tests.local.stack import running_stack
from tests.supabase.stock import Stock
from tests.supabase.test_growth import READS, TO_LOOK_AT, Reader
from tests.supabase.trade import VERBS, Trade

SMALL = Stock(messages=10_000, people=1_000)
LARGE = Stock(messages=3_000_000, people=300_000)
QUICK_LARGE = Stock(messages=30_000, people=3_000)
MOST = 1.3
_BY_ID_ALONE = "select whatsapp.find_messages(array[%(message)s]::uuid[])"
_READS = READS | {"a message by its id alone": _BY_ID_ALONE, "events that need a look": TO_LOOK_AT}
_WARM = 2
"""The first calls of a session plan."""


@dataclass(slots=True)
class Ground:
    """A database of its own with one country."""

    trade: Trade
    reader: Reader

    def calls(self) -> dict[str, Callable[[], Callable[[], object]]]:
        """By name: what makes a call ready."""
        verbs = {name: partial(make, self.trade) for name, make in VERBS.items()}
        reads = {name: partial(partial, self.read, query.encode()) for name, query in _READS.items()}
        return {**verbs, **reads}

    def read(self, query: bytes) -> None:
        self.trade.database.execute(query, self.reader.given)

    def believe(self, statistics: str) -> None:
        if statistics == "fresh":
            self.trade.database.execute("vacuum analyze")


def run(report: Report, repetitions: int, *, quick: bool, only: frozenset[str] = frozenset()) -> None:
    """Each call in turns on the small ground and the large one. `only`: names of verbs or reads."""
    large = QUICK_LARGE if quick else LARGE
    # A read takes less than a millisecond: what else the machine does weighs more.
    counts = dict.fromkeys(VERBS, (3, 15)) | dict.fromkeys(_READS, (10, 100))
    with ExitStack() as cleanup:
        grounds = [cleanup.enter_context(_ground(stock)) for stock in (SMALL, large)]
        names = [name for name in grounds[0].calls() if not only or name in only]
        for statistics in ("no", "fresh"):
            for ground in grounds:
                ground.believe(statistics)
            for name in names:
                case = _case(name, statistics, large)
                report.bars.append(Bar(case, "p50_ms", _messages(SMALL), most=MOST))
                for _ in range(repetitions):
                    small_took, large_took = _race(grounds, name, counts[name][0 if quick else 1])
                    report.add(case, "ours", p50_ms=large_took)
                    report.add(case, _messages(SMALL), p50_ms=small_took)


def _case(name: str, statistics: str, large: Stock) -> str:
    return f"{name}, {_messages(large)}, {statistics} statistics"


def _messages(stock: Stock) -> str:
    return f"{stock.messages:,} messages"


@contextmanager
def _ground(stock: Stock) -> Iterator[Ground]:
    with (
        running_stack(functions=None, durable=True) as running,
        psycopg.connect(running.admin_url, autocommit=True) as admin,
    ):
        # Statistics are made when this says so.
        admin.execute("alter system set autovacuum = off")
        admin.execute("select pg_reload_conf()")
        began = time.perf_counter()
        trade = Trade(admin, stock)
        admin.execute("checkpoint")
        print(f"  {_messages(stock)} written in {time.perf_counter() - began:.0f} s", flush=True)
        yield Ground(trade, Reader(admin, "service_role", trade.land.country_id))


def _race(grounds: list[Ground], name: str, count: int) -> tuple[float, float]:
    """The median of each ground in milliseconds, its calls in turns with the other's."""
    took: list[list[float]] = [[] for _ in grounds]
    for turn in range(count + _WARM):
        for ground, times in zip(grounds, took, strict=True):
            call = ground.calls()[name]()
            began = time.perf_counter()
            call()
            if turn >= _WARM:
                times.append((time.perf_counter() - began) * 1000)
            ground.trade.tidy()
    small, large = (sorted(times)[len(times) // 2] for times in took)
    return small, large
