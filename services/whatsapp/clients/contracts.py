"""Contracts of templates, kept for half a minute: they change rarely, and every message of a template needs one."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.whatsapp.meta.templates import Contract

_SECONDS = 30.0
_MOST = 1_000

Key = tuple[str, str | None, str, str]
"""Country, account, name and language."""


class Contracts:
    """Many who ask for one at once share one read. Belongs to one event loop."""

    def __init__(self) -> None:
        self._kept: dict[Key, tuple[float, Contract | None]] = {}
        self._reads: dict[Key, asyncio.Task[Contract | None]] = {}

    async def get(self, key: Key, read: "Callable[[Key], Awaitable[Contract | None]]") -> "Contract | None":
        kept = self._kept.get(key)
        if kept is not None and kept[0] > time.monotonic():
            return kept[1]
        reading = self._reads.get(key)
        if reading is None:
            reading = self._reads[key] = asyncio.get_running_loop().create_task(self._read(key, read))
        return await asyncio.shield(reading)

    def forget(self) -> None:
        """Some have changed. What is being read just now may be of before: it is kept where nobody looks any more."""
        self._kept, self._reads = {}, {}

    async def close(self) -> None:
        """Nobody waits for what is being read any more."""
        reading = list(self._reads.values())
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)

    async def _read(self, key: Key, read: "Callable[[Key], Awaitable[Contract | None]]") -> "Contract | None":
        contracts, reads = self._kept, self._reads
        try:
            contract = await read(key)
        finally:
            del reads[key]
        if len(contracts) >= _MOST:
            contracts.clear()
        contracts[key] = (time.monotonic() + _SECONDS, contract)
        return contract
