"""SIGTERM reaches every drainer and whoever else listens, however many there were before."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from services.whatsapp.sigterm import stop_on_sigterm


class Before:
    """The handler of somebody else, such as a server."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *_: object) -> None:
        self.calls += 1


@pytest.fixture
def before() -> Iterator[Before]:
    handler = Before()
    original = signal.signal(signal.SIGTERM, handler)
    yield handler
    signal.signal(signal.SIGTERM, original)


async def drain(began: asyncio.Event | None = None) -> None:
    stopped = asyncio.Event()
    with stop_on_sigterm(stopped.set):
        if began is not None:
            began.set()
        await stopped.wait()


async def test_it_stops_every_drainer_and_then_goes_on(before: Before) -> None:
    tasks = [asyncio.create_task(drain()) for _ in range(3)]
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(asyncio.gather(*tasks), 10)

    assert before.calls == 1
    assert signal.getsignal(signal.SIGTERM) is before


async def test_two_thousand_that_overlap_leave_no_chain(before: Before) -> None:
    """Each begins before the one before it has ended, as cron's do."""
    running = stop_on_sigterm(lambda: None)
    running.__enter__()
    for _ in range(2_000):
        following = stop_on_sigterm(lambda: None)
        following.__enter__()
        running.__exit__(None, None, None)
        running = following
    os.kill(os.getpid(), signal.SIGTERM)
    running.__exit__(None, None, None)

    assert before.calls == 1
    assert signal.getsignal(signal.SIGTERM) is before


async def test_a_handler_that_came_after_ours_and_calls_it_makes_no_circle(before: Before) -> None:
    stopped: list[str] = []
    first = stop_on_sigterm(lambda: stopped.append("first"))
    first.__enter__()
    ours = signal.getsignal(signal.SIGTERM)
    later = Before()

    def over(number: int, frame: object) -> None:
        later()
        assert callable(ours)
        ours(number, None)

    signal.signal(signal.SIGTERM, over)
    first.__exit__(None, None, None)
    with stop_on_sigterm(lambda: stopped.append("second")):
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    assert (before.calls, later.calls) == (1, 1)
    assert "second" in stopped
    assert signal.getsignal(signal.SIGTERM) is over


async def test_in_another_thread_it_takes_part_without_a_handler_of_its_own(before: Before) -> None:
    began, ended = threading.Event(), threading.Event()

    async def elsewhere() -> None:
        in_loop = asyncio.Event()
        task = asyncio.create_task(drain(in_loop))
        await in_loop.wait()
        began.set()
        await task
        ended.set()

    thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    thread.start()
    await asyncio.to_thread(began.wait, 10)
    with stop_on_sigterm(lambda: None):
        os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.to_thread(ended.wait, 10)
    thread.join(10)

    assert before.calls == 1
    assert signal.getsignal(signal.SIGTERM) is before
