"""A wrong clock for a process of ours: its time of day is off by some seconds, as on a host whose clock nobody sets.

Every way Python code reads the time of day is moved, before anything else is imported. Clocks that only measure spans
(monotonic) stay as they are, for a wrong time of day does not change them.
"""

import datetime as module
import sys
import time


def shift(seconds: float) -> None:
    """Move this process's time of day by `seconds`. Raises RuntimeError when somebody already holds the true clock."""
    if any(name.split(".")[0] in ("services", "functions") for name in sys.modules):
        raise RuntimeError("shift the clock before the product is imported")
    true, true_ns, nanoseconds = time.time, time.time_ns, int(seconds * 1e9)
    time.time = lambda: true() + seconds
    time.time_ns = lambda: true_ns() + nanoseconds

    class Shifted(module.datetime):
        @classmethod
        def now(cls, tz: module.tzinfo | None = None) -> "Shifted":
            return cls.fromtimestamp(time.time(), tz)

    module.datetime = Shifted  # type: ignore[misc]
