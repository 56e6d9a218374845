"""What belongs to one event loop: its settings, its clients, and whatever flows keep from one request to the next.

Connections and futures belong to the loop they were made in, so two loops share nothing. A loop carries its runtime:
when it is dropped, politely or not, everything is. Nothing is made, nor even imported, before it is used: a cold start
pays for no client it does not need.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeVar, cast, runtime_checkable

from services.whatsapp import log
from services.whatsapp.settings import ConfigurationError, Settings, settings
from services.whatsapp.sigterm import stop_on_sigterm

if TYPE_CHECKING:
    from types import TracebackType

    from services.whatsapp.clients.graph import Graph
    from services.whatsapp.clients.postgrest import Reads
    from services.whatsapp.clients.verbs import Verbs

Part = TypeVar("Part")

_NAME = "_whatsapp_runtime"
_CLIENTS = ("verbs", "reads", "graph")

_log = log.get("runtime")


class Run(Protocol):
    """Something that goes on by itself until it is told to stop, such as a drainer."""

    def stop(self) -> None: ...


@runtime_checkable
class Closes(Protocol):
    """What has something to end or to let go of."""

    def close(self) -> Awaitable[None]: ...


class Runtime:
    """Flows get it as their first argument. `of_loop` gives that of the running loop; tests make their own."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._parts: dict[Callable[[Runtime], object], object] = {}
        self._runs: dict[Run, asyncio.Event] = {}

    @classmethod
    def of_loop(cls) -> "Runtime":
        """The runtime of the running loop, made at the first call. Raises ConfigurationError."""
        # An attribute of the loop, and no table of ours: a table would keep the connections, and they their loop.
        carried = vars(asyncio.get_running_loop())
        runtime = carried.get(_NAME)
        if not isinstance(runtime, Runtime):
            runtime = carried[_NAME] = cls(settings())
        return runtime

    @classmethod
    async def close_of_loop(cls) -> None:
        """Close the runtime of the running loop, if it has one."""
        runtime = vars(asyncio.get_running_loop()).pop(_NAME, None)
        if isinstance(runtime, Runtime):
            await runtime.close()

    @cached_property
    def verbs(self) -> "Verbs":
        """The database, as the server. Raises ConfigurationError."""
        if self.settings.database_url is None:
            from services.whatsapp.clients.postgrest import Postgrest

            return Postgrest(self.settings)
        try:
            from services.whatsapp.clients.postgres import Postgres
        except ModuleNotFoundError as error:
            if error.name != "asyncpg":
                raise
            raise ConfigurationError("SUPABASE_DB_URL", "needs asyncpg: install the extra `direct`") from None
        return Postgres(self.settings)

    @cached_property
    def reads(self) -> "Reads":
        """The database, for those who only look, with connections of its own: however many they are, no send waits."""
        from services.whatsapp.clients.postgrest import Reads

        return Reads(self.settings)

    @cached_property
    def graph(self) -> "Graph":
        """Meta."""
        from services.whatsapp.clients.graph import Graph

        return Graph(self.settings)

    def part(self, make: "Callable[[Runtime], Part]") -> Part:
        """What `make` makes, made at the first call and kept: a group commit, a watch, whatever a flow shares."""
        if make not in self._parts:
            self._parts[make] = make(self)
        return cast("Part", self._parts[make])

    @contextmanager
    def running(self, run: Run) -> Iterator[None]:
        """Within, `run` is told to stop by SIGTERM, and when the runtime closes, which waits for it."""
        ended = self._runs[run] = asyncio.Event()
        try:
            with stop_on_sigterm(run.stop):
                yield
        finally:
            del self._runs[run]
            ended.set()

    async def close(self) -> None:
        """End what runs, then let go of everything, the clients last. What fails is logged and stops nothing else."""
        runs = dict(self._runs)
        for run in runs:
            run.stop()
        for ended in runs.values():
            await ended.wait()
        parts, self._parts = list(self._parts.values()), {}
        clients = [vars(self).pop(name) for name in _CLIENTS if name in vars(self)]
        for each in [*parts, *clients]:
            if isinstance(each, Closes):
                await _close(each)

    async def __aenter__(self) -> "Runtime":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        await self.close()


async def _close(thing: Closes) -> None:
    try:
        await thing.close()
    except Exception as error:
        _log.error("close_failed", what=type(thing).__name__, error=error)
