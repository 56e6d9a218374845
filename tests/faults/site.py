"""The house under attack: durable Postgres, Supabase Lite, the way to it, our functions, drainers, Meta's stand-in.

Everything runs as a process of its own and can be killed, frozen and started again. `functions` share one listening
socket, as replicas behind one address do; each drainer has a port of its own, where cron finds it.
"""

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx
import psycopg
from psycopg.rows import dict_row

from tests.faults.way import Way, running_way
from tests.graph import Graph, World, graph_process
from tests.local import processes
from tests.local.stack import ROOT, Stack, clean_environment, running_stack

Row = dict[str, Any]
COUNTRIES = ("MX", "CO")
POLICIES = {"main": "requeue_once", "strict": "fail"}
"""The accounts of each country, and what becomes of their messages whose outcome stays unknown."""
_GATEWAY_TRIES = 5
_GATEWAY_SILENT = 20.0
"""Seconds without an answer after which Supabase Lite is taken for hung: more than any of our calls may take."""


@dataclass(frozen=True)
class Size:
    """How many processes there are, and how long the product's spans are here, in seconds."""

    functions: int = 2
    drainers: int = 2
    lease: float = 8
    post: float = 1.5
    deadline: float = 6
    rate: int = 300
    clocks: tuple[float, ...] = (0, 120, -120)
    """By how much the processes' clocks are wrong, in turn."""


class Worker:
    """One process of our functions, kept alive: when it ends, another takes its place."""

    def __init__(self, name: str, listener: socket.socket, arguments: list[str], env: Mapping[str, str], log: Path):
        self.name = name
        self._listener = listener
        command = [sys.executable, "-m", "tests.faults.worker", "--socket", str(listener.fileno()), *arguments]
        self._command, self._env, self._log = command, env, log
        self._child: processes.Child | None = None
        self._resting = False
        self.starts = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def pid(self) -> int:
        return 0 if self._child is None else self._child.process.pid

    def start(self) -> None:
        self._resting = False
        self.starts += 1
        self._child = processes.spawn(
            self.name, self._command, self._log, env=self._env, cwd=ROOT, pass_fds=[self._listener.fileno()]
        )

    def revive(self) -> None:
        """Start it again if it has ended without being told to rest."""
        if self._child is not None and not self._resting and self._child.process.poll() is not None:
            self._child.stop()
            self.start()

    def send(self, number: signal.Signals) -> None:
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                self._child.process.send_signal(number)

    def rest(self, number: signal.Signals) -> None:
        """End it, and do not start it again by itself."""
        self._resting = True
        self.send(number)

    def stop(self) -> None:
        if self._child is not None:
            self._resting = True
            self.send(signal.SIGCONT)
            self._child.stop()
            self._child = None

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""


@dataclass
class Site:
    """The running house. `url` is where callers and Meta find the functions."""

    stack: Stack
    graph: Graph
    way: Way
    size: Size
    folder: Path
    url: str
    functions: list[Worker]
    drainers: list[Worker]
    extra: list[Worker] = field(default_factory=list)
    """Drainers beyond the usual ones; they rest until they are called in."""
    repairs: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by whoever breaks or mends the database or the gateway: one at a time."""
    gateway_starts: Counter[str] = field(default_factory=Counter)
    """How often it was started again beyond the faults, and why."""

    @property
    def workers(self) -> list[Worker]:
        return [*self.functions, *self.drainers, *self.extra]

    async def keep_alive(self) -> None:
        """Start again whatever has ended, for ever: what a host does."""
        while True:
            for worker in self.workers:
                worker.revive()
            await asyncio.sleep(0.2)

    async def keep_gateway_alive(self) -> None:
        """Start Supabase Lite again, for ever, when it has ended, as it does where its driver meets a Postgres that is
        just starting, and when it is there and answers nobody any more, as it is after many crashes of Postgres."""
        silent_since: float | None = None
        async with httpx.AsyncClient(timeout=_GATEWAY_SILENT, trust_env=False) as http:
            while True:
                await asyncio.sleep(0.2)
                asked = time.monotonic()
                if self.repairs.locked() or await self._gateway_answers(http) or self.repairs.locked():
                    silent_since = None
                    continue
                ended = self.stack.lite.process.process.poll() is not None
                silent_since = silent_since or asked
                if ended or time.monotonic() - silent_since > _GATEWAY_SILENT:
                    async with self.repairs:
                        await asyncio.to_thread(self.start_gateway)
                    self.gateway_starts["ended" if ended else "hung"] += 1

    async def _gateway_answers(self, http: httpx.AsyncClient) -> bool:
        """Whether a call gets to the database and back; no call of ours, which could be held up by a lock."""
        headers = {"apikey": self.stack.secret_key, "content-profile": "whatsapp"}
        try:
            answer = await http.post(f"{self.stack.rest_url}/rest/v1/rpc/clock", json={}, headers=headers)
        except httpx.TransportError:
            return False
        return answer.is_success

    def start_gateway(self) -> None:
        """Start Supabase Lite as soon as Postgres is up, again if it ends at once or does not answer."""
        for _ in range(_GATEWAY_TRIES - 1):
            self.stack.lite.crash()
            self.stack.postgres.wait_until_up()
            with contextlib.suppress(RuntimeError):
                return self.stack.lite.start_again()
        self.stack.lite.crash()
        return self.stack.lite.start_again()

    def wake_everything(self) -> None:
        """Whatever was frozen, killed or resting runs again."""
        for worker in (*self.functions, *self.drainers):
            worker.send(signal.SIGCONT)
            worker.revive()
        self.way.behave()
        self.graph.clear_faults()
        self.graph.accept_connections()
        self.graph.pause_webhooks(False)

    def all(self, query: str, *arguments: object) -> list[Row]:
        """Rows, straight from the database, past everything that may lie."""
        with psycopg.connect(self.stack.database_url, autocommit=True) as database:
            cursor = database.cursor(row_factory=dict_row)
            return cursor.execute(query.encode(), arguments).fetchall()

    def memory(self) -> dict[str, int]:
        """Kilobytes of memory of each worker that runs."""
        pids = {worker.pid: worker for worker in self.workers if worker.pid}
        asked = ["ps", "-o", "pid=,rss=", "-p", ",".join(map(str, pids))]
        lines = subprocess.run(asked, check=False, capture_output=True, text=True).stdout.splitlines()
        sizes = {int(pid): int(size) for pid, size in (line.split() for line in lines)}
        return {f"{pids[pid].name} #{pids[pid].starts}": size for pid, size in sizes.items()}


@contextlib.asynccontextmanager
async def running_site(folder: Path, size: Size, random: Random) -> AsyncIterator[Site]:
    """Start everything, with accounts and templates; stop everything at the end."""
    world = World.random(COUNTRIES, tuple(POLICIES))
    for number in world.numbers:
        number.messaging_limit, number.throughput = "TIER_UNLIMITED", "HIGH"
    async with contextlib.AsyncExitStack() as cleanup:
        listener = cleanup.enter_context(listening())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        plan: Row = {"sent_ms": 5, "delivered_ms": 60, "read_ms": 150, "jitter": 0.5, "batch": 20, "batch_wait_ms": 50}
        plan |= {"shuffle_share": 0.1, "duplicate_share": 0.1, "lost_share": 0.02, "read_share": 0.6}
        graph = cleanup.enter_context(
            graph_process(world, latency_ms=30, callback_url=f"{url}/webhook", book=folder / "meta.jsonl", **plan)
        )
        graph.callback(f"{url}/webhook", timeout_ms=5_000, retry_ms=200, retry_most_ms=1_000, connections=32)
        stack = await asyncio.to_thread(cleanup.enter_context, running_stack(functions=None, durable=True))
        way = cleanup.enter_context(running_way(stack.rest_url, random.getrandbits(32), folder / "way.log"))
        env = clean_environment() | stack.env() | graph.env()
        env |= {"SUPABASE_URL": way.url, "WHATSAPP_DRAIN_CONCURRENCY": "60", "WHATSAPP_LOG_LEVEL": "warning"}
        site = Site(stack, graph, way, size, folder, url, [], [])
        open_accounts(site)
        recruit(site, listener, env, cleanup)
        for worker in (*site.functions, *site.drainers):
            worker.start()
        await asyncio.to_thread(sync_templates, site)
        yield site


def recruit(site: Site, listener: socket.socket, env: Mapping[str, str], cleanup: contextlib.AsyncExitStack) -> None:
    """The workers, not yet started: functions at the common socket, drainers at sockets of their own."""
    size = site.size
    clocks = [clock for _ in range(20) for clock in size.clocks]

    def worker(name: str, listener: socket.socket, clock: float) -> Worker:
        arguments = ["--lease", str(size.lease), "--post", str(size.post), "--clock", str(clock)]
        made = Worker(name, listener, arguments, env, site.folder / f"{name.replace(' ', '-')}.log")
        cleanup.push_async_callback(asyncio.to_thread, made.stop)
        return made

    for number in range(size.functions):
        site.functions.append(worker(f"functions {number + 1}", listener, clocks[number]))
    for number in range(8):
        listener = cleanup.enter_context(listening())
        made = worker(f"drainer {number + 1}", listener, clocks[number + 1])
        (site.drainers if number < size.drainers else site.extra).append(made)


def open_accounts(site: Site) -> None:
    with psycopg.connect(site.stack.database_url, autocommit=True) as database:
        for number in site.graph.world.numbers:
            database.execute(
                "insert into whatsapp.accounts (country_id, account_id, is_default, portfolio, messages_per_second,"
                " unknown_policy, unknown_deadline) values (%s, %s, %s, %s, %s, %s, %s)"
                " on conflict (country_id, account_id) do update set (portfolio, messages_per_second, unknown_policy,"
                " unknown_deadline) = (excluded.portfolio, excluded.messages_per_second, excluded.unknown_policy,"
                " excluded.unknown_deadline)",
                (
                    number.country_id,
                    number.account_id,
                    number.account_id == "main",
                    f"{number.country_id}-{number.account_id}",
                    site.size.rate,
                    POLICIES[number.account_id],
                    f"{site.size.deadline} seconds",
                ),
            )


def sync_templates(site: Site) -> None:
    """Copy the templates and limits, as cron does."""
    headers = {"apikey": site.stack.secret_key}
    answer = httpx.post(f"{site.url}/templates-sync", headers=headers, timeout=30, trust_env=False)
    if answer.status_code != httpx.codes.OK:
        raise RuntimeError(f"templates-sync: {answer.text}")


@contextlib.contextmanager
def listening() -> Iterator[socket.socket]:
    """A listening socket of the loopback interface, for processes that inherit it."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.set_inheritable(True)
        yield listener
