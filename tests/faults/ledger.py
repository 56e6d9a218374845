"""Append-only files outside the product: written before anybody acts on what they say.

Each line is a JSON array that begins with a word. The words of Meta's side are in tests/graph/ledger.py; callers write:

    asked     ref, country, account, phone     somebody is about to ask for this message
    answered  ref, status, detail              "yes": 202, it must be kept · "no": refused for good
                                               "nothing": this try has no answer that stands
    wrote     wamid, country, account          a customer's message was handed to Meta
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from tests.graph.ledger import Book

YES, NO, NOTHING = "yes", "no", "nothing"


@dataclass(frozen=True, slots=True)
class Asked:
    """A message somebody asked for. `ref` is the asker's own name for it."""

    ref: str
    country_id: str
    account_id: str
    phone: str


@dataclass(frozen=True, slots=True)
class Taken:
    """A message Meta's stand-in accepted: from then on it is on its way to a person."""

    message_id: str
    number_id: str
    to: str
    wamid: str


@dataclass
class Callers:
    """What callers wrote."""

    asked: dict[str, Asked] = field(default_factory=dict)
    answers: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    ids: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    wrote: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def acknowledged(self) -> list[Asked]:
        return [asked for ref, asked in self.asked.items() if YES in self.answers[ref]]


@dataclass
class Meta:
    """What Meta's stand-in wrote."""

    posted: Counter[str] = field(default_factory=Counter)
    refused: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    taken: dict[str, list[Taken]] = field(default_factory=lambda: defaultdict(list))
    mute: set[str] = field(default_factory=set)
    told: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


def read_callers(path: Path) -> Callers:
    callers = Callers()
    for word, *rest in _lines(path):
        match word:
            case "asked":
                callers.asked[rest[0]] = Asked(*rest)
            case "answered":
                ref, status, detail = rest
                callers.answers[ref].append(status)
                if status == YES and detail:
                    callers.ids[ref].add(detail)
            case "wrote":
                callers.wrote[rest[0]] = (rest[1], rest[2])
    return callers


def read_meta(path: Path) -> Meta:
    meta = Meta()
    for word, *rest in _lines(path):
        match word:
            case "posted":
                meta.posted[rest[0]] += 1
            case "refused":
                meta.refused[rest[0]].append(rest[1])
            case "accepted":
                meta.taken[rest[0]].append(Taken(*rest))
            case "mute":
                meta.mute.add(rest[0])
            case "told":
                meta.told[rest[0]].add(rest[1])
    return meta


def _lines(path: Path) -> Iterator[list[Any]]:
    with path.open("rb") as file:
        for line in file:
            yield orjson.loads(line)


__all__ = ["NO", "NOTHING", "YES", "Asked", "Book", "Callers", "Meta", "Taken", "read_callers", "read_meta"]
