"""What was read a moment ago, or is being read: many who ask for one thing at once share one read."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Kept(Generic[Key, Value]):
    """Keeps what `read` gives for so many seconds from the question, of `most` keys. Belongs to one event loop."""

    def __init__(self, read: Callable[[Key], Coroutine[Any, Any, Value]], *, seconds: float, most: int) -> None:
        self._read = read
        self._seconds = seconds
        self._most = most
        self._asked: dict[Key, tuple[float, asyncio.Task[Value]]] = {}

    async def get(self, key: Key) -> Value:
        """Raises what `read` does; a failure is not kept. Whoever goes away breaks off nobody's read."""
        asked = self._asked.get(key)
        if asked is None or asked[0] <= time.monotonic():
            if len(self._asked) >= self._most:
                self._asked.clear()
            reading = asyncio.get_running_loop().create_task(self._read(key))
            asked = self._asked[key] = (time.monotonic() + self._seconds, reading)
        try:
            return await asyncio.shield(asked[1])
        except Exception:
            if self._asked.get(key) is asked:
                del self._asked[key]
            raise

    def forget(self) -> None:
        """Some have changed. What is being read just now may be of before: it is kept where nobody looks any more."""
        self._asked = {}

    async def close(self) -> None:
        """Nobody waits for what is being read any more."""
        reading = [task for _, task in self._asked.values() if not task.done()]
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
