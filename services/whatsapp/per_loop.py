"""One thing an event loop: connections and futures belong to the loop they were made in."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

Thing = TypeVar("Thing")


class PerLoop(Generic[Thing]):
    """Keeps a thing for each running loop, made at first use.

    A thing may hold on to its loop, as connections do, so neither would ever go by itself: things of closed loops are
    let go of when the next thing comes.
    """

    def __init__(self) -> None:
        self._things: dict[asyncio.AbstractEventLoop, Thing] = {}

    def get(self, make: Callable[[], Thing]) -> Thing:
        """This loop's thing; `make` is called if there is none yet."""
        thing = self.find()
        if thing is None:
            thing = make()
            self.put(thing)
        return thing

    def put(self, thing: Thing) -> None:
        """Make `thing` this loop's."""
        for closed in [each for each in tuple(self._things) if each.is_closed()]:
            self._things.pop(closed, None)
        self._things[asyncio.get_running_loop()] = thing

    def find(self) -> Thing | None:
        """This loop's thing, if it has one."""
        return self._things.get(asyncio.get_running_loop())

    def pop(self) -> Thing | None:
        """This loop's thing, which is forgotten here; None if there is none."""
        return self._things.pop(asyncio.get_running_loop(), None)
