"""What really arrived at the stand-in for Meta (tests only): one line for every POST of a message.

With a `Book`, what counts is also appended to a file, before anybody is answered: a proof that does not rest on any
memory. Its lines, JSON arrays, all begin with a word:

    posted    our message id, number id          a POST arrived
    refused   our message id, Meta's code
    accepted  our message id, number id, to, wamid
    mute      wamid                              none of its statuses will ever be delivered
    told      wamid, status or "received"        a webhook that said so was answered 200
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time
from typing import Any

import orjson


@dataclass(slots=True)
class Arrival:
    """A message POST and what became of it.

    `code` is Meta's error code, None when accepted. `fate`: pending, answered, lost (accepted, connection
    closed), hung (no answer on purpose), client_gone (the client left before the answer).
    """

    seq: int
    number_id: str
    body: bytes
    wall: float
    monotonic: float
    to: str | None = None
    type: str | None = None
    template: str | None = None
    callback_data: str | None = None
    wamid: str | None = None
    http_status: int | None = None
    code: int | None = None
    fate: str = "pending"

    def to_dict(self) -> dict[str, Any]:
        """As JSON; the body is passed through unread, as text when it is not JSON."""
        line = {name: getattr(self, name) for name in self.__slots__ if name != "body"}
        try:
            line["body"] = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            line["body"] = self.body.decode("utf-8", "replace")
        return line


@dataclass(slots=True)
class Tally:
    """Counters of one number. `per_second` is keyed by unix second of arrival."""

    arrived: int = 0
    accepted: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    per_second: Counter[int] = field(default_factory=Counter)


class Book:
    """Appends lines to a file at once, unbuffered; without a path it writes nothing."""

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, *line: object) -> None:
        if self._file is not None:
            os.write(self._file, orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


class Ledger:
    """Every arrival in order, with counters kept as it grows so that asking for them is cheap."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.arrivals: list[Arrival] = []
        self.tallies: dict[str, Tally] = {}
        self.arrivals_of: Counter[str] = Counter()
        self.accepts_of: Counter[str] = Counter()
        self.repeated = 0
        self.double_sent = 0
        self.closed_unread = 0
        self.receipts = 0

    def arrive(self, number_id: str, body: bytes) -> Arrival:
        now = time()
        arrival = Arrival(len(self.arrivals) + 1, number_id, body, now, monotonic())
        self.arrivals.append(arrival)
        tally = self.tallies.get(number_id)
        if tally is None:
            tally = self.tallies[number_id] = Tally()
        tally.arrived += 1
        tally.per_second[int(now)] += 1
        return arrival

    def named(self, arrival: Arrival, callback_data: str) -> None:
        """Count an arrival under the tag its sender gave it."""
        arrival.callback_data = callback_data
        self.book.write("posted", callback_data, arrival.number_id)
        self.arrivals_of[callback_data] += 1
        if self.arrivals_of[callback_data] == 2:
            self.repeated += 1

    def accept(self, arrival: Arrival, wamid: str) -> None:
        """Meta took it: from here on it is sent, whatever the client gets to know."""
        self.book.write("accepted", arrival.callback_data, arrival.number_id, arrival.to, wamid)
        arrival.wamid = wamid
        self.tallies[arrival.number_id].accepted += 1
        if arrival.callback_data is not None:
            self.accepts_of[arrival.callback_data] += 1
            if self.accepts_of[arrival.callback_data] == 2:
                self.double_sent += 1

    def refuse(self, arrival: Arrival, code: int) -> None:
        self.book.write("refused", arrival.callback_data, code)
        arrival.code = code
        self.tallies[arrival.number_id].codes[code] += 1

    def counts(self) -> dict[str, Any]:
        """Totals, and the same per number."""
        numbers = {
            number_id: {
                "arrived": tally.arrived,
                "accepted": tally.accepted,
                "codes": {str(code): count for code, count in tally.codes.items()},
                "per_second": {str(second): count for second, count in tally.per_second.items()},
            }
            for number_id, tally in self.tallies.items()
        }
        codes: Counter[int] = sum((tally.codes for tally in self.tallies.values()), Counter())
        return {
            "arrived": len(self.arrivals),
            "accepted": sum(tally.accepted for tally in self.tallies.values()),
            "codes": {str(code): count for code, count in codes.items()},
            "repeated": self.repeated,
            "double_sent": self.double_sent,
            "closed_unread": self.closed_unread,
            "receipts": self.receipts,
            "numbers": numbers,
        }

    def peak(self, number_id: str, *, seconds: float = 1.0) -> int:
        """Most arrivals of a number within any span of `seconds` (a moving span, not clock seconds)."""
        times = [one.monotonic for one in self.arrivals if one.number_id == number_id]
        first, most = 0, 0
        for last, now in enumerate(times):
            while times[first] <= now - seconds:
                first += 1
            most = max(most, last - first + 1)
        return most

    def after(self, seq: int, limit: int) -> Iterator[Arrival]:
        return iter(self.arrivals[seq : seq + limit])
