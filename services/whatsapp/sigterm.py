"""SIGTERM stops the drainers of this process, then goes on to whoever handled it before.

Servers wait for open requests before they tell the app to stop, so a drain would otherwise run to the end of its
budget. However many drainers overlap, there is one handler: it comes with the first of them and goes with the last.
"""

import asyncio
import contextlib
import signal
import weakref
from collections.abc import Callable, Iterator
from types import FrameType

Stop = Callable[[], object]

_running: "weakref.WeakSet[_Running]" = weakref.WeakSet()
"""Held by those who run, so that a loop that is dropped in the middle is not kept by this."""
_installed: Callable[[int, FrameType | None], None] | None = None
_before: Callable[[int, FrameType | None], object] | int | None = None


class _Running:
    """Something that can be stopped, in its own event loop."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._loop = asyncio.get_running_loop()

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing runs there any more
            self._loop.call_soon_threadsafe(self._stop)


@contextlib.contextmanager
def stop_on_sigterm(stop: Stop) -> Iterator[None]:
    """Within, SIGTERM calls `stop` in this event loop."""
    running = _Running(stop)
    _running.add(running)
    _install()
    try:
        yield
    finally:
        _running.discard(running)
        if not _running:
            _remove()


def _install() -> None:
    global _installed, _before
    before = signal.getsignal(signal.SIGTERM)
    if _installed is not None and before is _installed:
        return

    def handle(number: int, frame: FrameType | None) -> None:
        for each in tuple(_running):
            each.stop()
        if callable(before):
            before(number, frame)

    with contextlib.suppress(ValueError):  # only the main thread may
        signal.signal(signal.SIGTERM, handle)
        _installed, _before = handle, before


def _remove() -> None:
    """Put back what was there before, unless somebody has put their own handler over ours: that one may call it."""
    global _installed, _before
    if _installed is None or signal.getsignal(signal.SIGTERM) is not _installed:
        _installed = None
        return
    with contextlib.suppress(ValueError):  # another thread's drainer was the last: ours stays, and stops nobody
        signal.signal(signal.SIGTERM, _before)
        _installed = _before = None
