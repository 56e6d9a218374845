"""One thing an event loop: connections and futures belong to the loop they were made in."""

import asyncio
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

Thing = TypeVar("Thing")


class PerLoop(Generic[Thing]):
    """Keeps a thing for each running loop, made at first use and forgotten with the loop."""

    def __init__(self) -> None:
        self._things: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Thing] = weakref.WeakKeyDictionary()

    def get(self, make: Callable[[], Thing]) -> Thing:
        """This loop's thing; `make` is called if there is none yet."""
        loop = asyncio.get_running_loop()
        thing = self._things.get(loop)
        if thing is None:
            thing = self._things[loop] = make()
        return thing

    def pop(self) -> Thing | None:
        """This loop's thing, which is forgotten here; None if there is none."""
        return self._things.pop(asyncio.get_running_loop(), None)
