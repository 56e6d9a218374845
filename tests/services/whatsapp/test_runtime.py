"""What belongs to an event loop is made in it, shared with no other, and goes with it."""

import asyncio
import gc
import os
import re
import signal
import threading
import uuid
import weakref
from collections import defaultdict
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import psycopg
import pytest

from services.whatsapp.actors import Member, Server
from services.whatsapp.clients.graph import Graph
from services.whatsapp.flows import members
from services.whatsapp.flows.watching import Watch
from services.whatsapp.runtime import Runtime
from services.whatsapp.settings import Settings, settings
from tests.graph import World
from tests.local.stack import Stack
from tests.proofs.house import until

Value = TypeVar("Value")
MARK = re.compile(rb"mark-\d+")
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n[]"


class Peer:
    """Somebody who answers everything, in a thread of its own: who is connected, and whose marks came over which
    connection."""

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.marks: dict[int, set[bytes]] = defaultdict(set)
        self.silent = False
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._answer, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("peername")[1]
        self.open.add(port)
        try:
            while asked := await reader.read(64 * 1024):
                self.marks[port] |= set(MARK.findall(asked))
                if not self.silent:
                    writer.write(ANSWER * asked.count(b" HTTP/1.1\r\n"))
        except ConnectionError:
            pass
        finally:
            self.open.discard(port)
            writer.close()

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture(autouse=True)
def environment(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """The settings of this process; whoever is called is the peer."""
    given = {"SUPABASE_URL": peer.url, "SUPABASE_SECRET_KEY": "sb_secret_x", "WHATSAPP_DOTENV": "off"}
    for name, value in (given | World.random(("MX",)).env(peer.url)).items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    yield settings()
    settings.cache_clear()


class Thing:
    """Holds on to its loop, as connections do."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.closed = False

    async def close(self) -> None:
        self.closed = True


class Stubborn(Thing):
    async def close(self) -> None:
        raise RuntimeError("cannot be closed")


def thing(_: Runtime) -> Thing:
    return Thing()


def stubborn(_: Runtime) -> Stubborn:
    return Stubborn()


def other_thing(_: Runtime) -> Thing:
    return Thing()


async def use_everything(runtime: Runtime, mark: str) -> None:
    """Every client has several connections, each of which has told whose it is."""
    [account] = runtime.settings.directory
    await asyncio.gather(
        *(runtime.graph.send(account, {"to": mark}) for _ in range(5)),
        *(runtime.verbs.roles_of(mark) for _ in range(5)),
        *(runtime.reads.messages([mark], Server()) for _ in range(5)),
    )


def what_there_is(runtime: Runtime) -> list[weakref.ref[object]]:
    held = [runtime, runtime.verbs, runtime.reads, runtime.graph, runtime.part(thing), asyncio.get_running_loop()]
    return [weakref.ref(each) for each in held]


def in_a_thread(work: Coroutine[Any, Any, Value]) -> tuple[threading.Thread, list[Value]]:
    done: list[Value] = []
    thread = threading.Thread(target=lambda: done.append(asyncio.run(work)))
    thread.start()
    return thread, done


def test_a_loop_has_one_runtime_and_another_loop_another() -> None:
    async def twice() -> tuple[Runtime, Runtime]:
        return Runtime.of_loop(), Runtime.of_loop()

    first, again = asyncio.run(twice())
    other, _ = asyncio.run(twice())
    assert first is again
    assert other is not first


async def test_a_part_is_made_once_a_runtime(environment: Settings) -> None:
    one, two = Runtime(environment), Runtime(environment)
    assert one.part(thing) is one.part(thing)
    assert one.part(thing) is not one.part(other_thing)
    assert one.part(thing) is not two.part(thing)


def test_two_loops_in_two_threads_never_share_a_connection(peer: Peer) -> None:
    together = threading.Barrier(2)

    async def use(mark: str) -> Runtime:
        runtime = Runtime.of_loop()
        for _ in range(3):
            # Both have connections that lie idle when the other one asks.
            await asyncio.to_thread(together.wait, 10)
            await use_everything(runtime, mark)
        await asyncio.to_thread(together.wait, 10)
        await Runtime.close_of_loop()
        return runtime

    threads = [in_a_thread(use("mark-1")), in_a_thread(use("mark-2"))]
    for thread, _ in threads:
        thread.join(20)

    [one], [two] = [done for _, done in threads]
    assert one is not two
    seen = [marks for marks in peer.marks.values() if marks]
    assert {mark for marks in seen for mark in marks} == {b"mark-1", b"mark-2"}
    assert all(len(marks) == 1 for marks in seen)


async def test_a_closed_runtime_leaves_nothing_behind(peer: Peer) -> None:
    async def live() -> list[weakref.ref[object]]:
        runtime = Runtime.of_loop()
        await use_everything(runtime, "mark-1")
        assert len(peer.open) >= 3
        left = what_there_is(runtime)
        await Runtime.close_of_loop()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return left

    thread, done = in_a_thread(live())
    await asyncio.to_thread(thread.join, 20)
    [left] = done

    await until(lambda: not peer.open)
    gc.collect()
    assert [each() for each in left] == [None] * len(left)


@pytest.mark.filterwarnings("ignore:.*[Uu]nclosed", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_loop_that_nobody_closed_politely_takes_everything_with_it(peer: Peer) -> None:
    """A host may run each request in a loop of its own, and end none of them with a word. No next one need come."""

    def live() -> list[weakref.ref[object]]:
        async def begin() -> list[weakref.ref[object]]:
            runtime = Runtime.of_loop()
            await use_everything(runtime, "mark-1")
            worker = Worker(runtime)
            kept.append(asyncio.create_task(worker.run()))
            await asyncio.sleep(0)
            return [*what_there_is(runtime), weakref.ref(worker)]

        kept: list[asyncio.Task[None]] = []
        loop = asyncio.new_event_loop()
        left = loop.run_until_complete(begin())
        loop.close()
        return left

    left = await asyncio.to_thread(live)

    gc.collect()
    assert [each() for each in left] == [None] * len(left)
    await until(lambda: not peer.open)


@pytest.mark.parametrize("politely", [True, False])
@pytest.mark.filterwarnings("ignore:.*[Uu]nclosed", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_connections_to_postgres_go_with_their_loop(
    stack: Stack, database: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, politely: bool
) -> None:
    monkeypatch.setenv("SUPABASE_DB_URL", f"{stack.database_url}?application_name=of_a_loop")
    settings.cache_clear()
    opened: list[int] = []

    def connections() -> int:
        found = database.execute("select count(*) from pg_stat_activity where application_name = 'of_a_loop'")
        return sum(n for (n,) in found)

    def live() -> list[weakref.ref[object]]:
        async def begin() -> list[weakref.ref[object]]:
            runtime = Runtime.of_loop()
            await asyncio.gather(*(runtime.verbs.roles_of(str(uuid.uuid4())) for _ in range(3)))
            opened.append(connections())
            return [weakref.ref(each) for each in (loop, runtime, runtime.verbs)]

        loop = asyncio.new_event_loop()
        left = loop.run_until_complete(begin())
        if politely:
            loop.run_until_complete(end())
        loop.close()
        return left

    async def end() -> None:
        kept = Runtime.of_loop().verbs  # so that nothing but being closed can close its connections
        await Runtime.close_of_loop()
        await until(lambda: connections() == 0)
        del kept

    left = await asyncio.to_thread(live)
    gc.collect()
    assert [each() for each in left] == [None] * len(left)
    await until(lambda: connections() == 0)
    assert opened == [3]


async def test_what_flows_began_ends_with_the_runtime(peer: Peer, environment: Settings) -> None:
    """They share what they ask for: if one hangs up, the others still wait for it."""
    peer.silent = True
    ana = Member("ana", "eyJ")
    async with Runtime(environment) as runtime:
        watch = runtime.part(lambda _: Watch(lambda *_: runtime.verbs.roles_of("ana"), every=0.01))
        asked: list[asyncio.Task[object]] = [
            asyncio.create_task(members.check(runtime, ana, "MX")),
            asyncio.create_task(runtime.verbs.template_contract("MX", "main", "plain", "es")),
            asyncio.create_task(watch.look(ana, ["ana"])),
        ]
        await until(lambda: len(peer.open) == len(asked))
        for each in asked[:2]:
            each.cancel()
        await asyncio.wait(asked[:2])

    await asyncio.wait(asked)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await until(lambda: not peer.open)


async def test_what_cannot_be_closed_keeps_nothing_else_open(peer: Peer, environment: Settings) -> None:
    async with Runtime(environment) as runtime:
        first, second = runtime.part(stubborn), runtime.part(thing)
        await use_everything(runtime, "mark-1")
    assert (first.closed, second.closed) == (False, True)
    await until(lambda: not peer.open)


async def test_after_closing_the_loop_begins_anew() -> None:
    before = Runtime.of_loop()
    kept, graph = before.part(thing), before.graph
    await Runtime.close_of_loop()
    assert kept.closed
    assert Runtime.of_loop() is not before
    assert isinstance(Runtime.of_loop().graph, Graph)
    assert Runtime.of_loop().graph is not graph
    await Runtime.close_of_loop()
    await Runtime.close_of_loop()  # and once more, for nothing


class Worker:
    """Goes on until it is told to stop, and then takes its time."""

    def __init__(self, runtime: Runtime) -> None:
        self.told = asyncio.Event()
        self.may_end = asyncio.Event()
        self._runtime = runtime

    def stop(self) -> None:
        self.told.set()

    async def run(self) -> None:
        with self._runtime.running(self):
            await self.told.wait()
            await self.may_end.wait()


async def test_closing_stops_what_runs_and_waits_for_it_before_it_takes_the_clients_away(environment: Settings) -> None:
    runtime = Runtime(environment)
    held = runtime.part(thing)
    workers = [Worker(runtime) for _ in range(2)]
    running = [asyncio.create_task(each.run()) for each in workers]
    await asyncio.sleep(0)

    closing = asyncio.create_task(runtime.close())
    await asyncio.gather(*(each.told.wait() for each in workers))
    workers[0].may_end.set()
    await running[0]
    closed = [held.closed]
    workers[1].may_end.set()
    await closing
    assert [*closed, held.closed] == [False, True]
    await asyncio.gather(*running)


async def test_sigterm_stops_what_runs_in_every_loop(environment: Settings) -> None:
    original = signal.signal(signal.SIGTERM, lambda *_: None)
    began = threading.Event()

    async def elsewhere() -> bool:
        worker = Worker(Runtime.of_loop())
        worker.may_end.set()
        running = asyncio.create_task(worker.run())
        await asyncio.sleep(0)
        began.set()
        await running
        return worker.told.is_set()

    try:
        thread, done = in_a_thread(elsewhere())
        assert await asyncio.to_thread(began.wait, 10)
        here = Worker(Runtime(environment))
        here.may_end.set()
        running = asyncio.create_task(here.run())
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        await running
        await asyncio.to_thread(thread.join, 10)
    finally:
        signal.signal(signal.SIGTERM, original)
    assert done == [True]
