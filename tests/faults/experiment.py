"""One run: start the site, let traffic and faults loose on it, let it come to rest, compare the books."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psycopg

from tests.faults import schedule, wrongs
from tests.faults.books import Books, compare
from tests.faults.site import Site, Size, running_site
from tests.faults.traffic import Traffic, Volume, cron

PATIENCE = 600.0
"""Seconds after the last fault in which something must come nearer to its end, again and again until all has ended: an
unknown outcome waits as long after the last gap of its feed as it had waited before."""
_GROWTH = 1.3
_SLACK_KB = 24_000
_THREADS = 32
"""For all that blocks: by default there are a few, and whoever mends would wait for whoever writes."""
_ENOUGH = 20
"""Samples of memory that are worth a verdict: a short run ends while everything still warms up."""


@dataclass
class Run:
    """What happened and what came out."""

    seed: int
    faults: list[schedule.Fault]
    books: Books = field(default_factory=Books)
    inflicted: Counter[str] = field(default_factory=Counter)
    memory: dict[str, list[int]] = field(default_factory=dict)
    seconds: float = 0
    rest: float = 0
    resumed: int = 0
    gateway_starts: Counter[str] = field(default_factory=Counter)
    """How often Supabase Lite was started again though no fault had killed it, and why."""
    noise: Counter[str] = field(default_factory=Counter)
    """Lines of the workers' logs that should not be there."""


async def run(folder: Path, *, messages: int, faults: int, seed: int, seconds: float, size: Size | None = None) -> Run:
    """`messages` and `faults` spread over `seconds`; returns when the books have been compared."""
    begin = time.monotonic()
    done = Run(seed, schedule.draw(seed, faults, seconds))
    for fault in done.faults:
        print(fault, flush=True)
    random = Random(seed)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
    async with running_site(folder, size or Size(), random) as site:
        volume = Volume(messages, seconds, rows=min(1000, max(20, messages // 100)))
        async with (
            contextlib.aclosing(_Traffic(site, volume, random)) as traffic,
            _in_background(site.keep_alive(), site.keep_gateway_alive(), cron(site), _watch_memory(site, done)),
        ):
            await asyncio.gather(traffic.run(), _inflict(site, done))
            await _come_to_rest(site, traffic, done)
            done.books = await asyncio.to_thread(compare, site)
        done.gateway_starts = site.gateway_starts
        _read_logs(site, done)
    _check_memory(done)
    done.seconds = time.monotonic() - begin
    return done


class _Traffic(Traffic):
    async def aclose(self) -> None:
        await self.close()


@contextlib.asynccontextmanager
async def _in_background(*forever: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run these until the block ends. One that fails ends the block: without it the rest proves nothing."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in forever]
        yield
        for task in tasks:
            task.cancel()


async def _inflict(site: Site, done: Run) -> None:
    """Every fault at its time, whatever else is going wrong just then."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    async with asyncio.TaskGroup() as tasks:
        for fault in done.faults:
            await asyncio.sleep(begin + fault.at - loop.time())
            done.inflicted[fault.kind] += 1
            tasks.create_task(wrongs.inflict(site, fault))


async def _come_to_rest(site: Site, traffic: Traffic, done: Run) -> None:
    """No more faults. Customers go on writing now and then, so that the feed proves itself alive."""
    begin = moved = time.monotonic()
    least: int | None = None
    await asyncio.to_thread(site.wake_everything)
    while time.monotonic() - moved < PATIENCE:
        for number in site.graph.world.numbers:
            await traffic.customer_writes(number.country_id, number.account_id, "+" + number.display_phone_number)
        left = await asyncio.to_thread(_left, site, done)
        if left == 0:
            break
        if left is not None and (least is None or left < least):
            least, moved = left, time.monotonic()
        await asyncio.sleep(1)
    done.rest = time.monotonic() - begin


def _left(site: Site, done: Run) -> int | None:
    """How much is left to send, or, when that is nothing, whether something is left to tell; None if nobody can say.
    A campaign that paused for its failures is resumed, as by a person."""
    try:
        for row in site.all("select country_id, campaign_id from whatsapp.campaigns where state = 'paused'"):
            site.all(
                "select whatsapp.control_campaign(%s, %s, 'resume', null)", row["country_id"], str(row["campaign_id"])
            )
            done.resumed += 1
        left = "select from whatsapp.queue union all select from whatsapp.campaigns where state = 'running'"
        waiting = int(site.all(f"select count(*) as n from ({left}) left_over")[0]["n"])
    except psycopg.OperationalError:
        return None
    return waiting or (0 if site.graph.counts().webhooks.settled else 1)


async def _watch_memory(site: Site, done: Run) -> None:
    while True:
        for name, size in (await asyncio.to_thread(site.memory)).items():
            done.memory.setdefault(name, []).append(size)
        await asyncio.sleep(5)


def _check_memory(done: Run) -> None:
    """A process that lived long must not have grown since it was warm."""
    for name, samples in done.memory.items():
        if len(samples) >= _ENOUGH:
            early, late = max(samples[len(samples) // 4 : len(samples) // 2]), max(samples[-len(samples) // 4 :])
            if late > early * _GROWTH + _SLACK_KB:
                done.books.broken.append(f"memory of {name} grew from {early} to {late} KB")


_NOISE = ("Traceback", "RecursionError", "never retrieved", "AssertionError", "TypeError", "KeyError")


def _read_logs(site: Site, done: Run) -> None:
    for worker in site.workers:
        for line in worker.log.splitlines():
            for word in _NOISE:
                if word in line:
                    done.noise[word] += 1
    log = (site.stack.data_dir / "postgres.log").read_text(errors="replace")
    done.noise["deadlock detected"] += log.count("deadlock detected")
