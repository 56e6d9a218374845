"""The list of the demo's campaign: who is on it, and the rows that are wrong, as real lists have them."""

import csv
import io
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

from tests.graph.world import random_phone

Json = dict[str, Any]

_NAMES = ("Ana", "José", "Sofía", "Luis", "María", "Íñigo", "Lucía", "Andrés")
_COLUMNS = ("to", "header.image", "body.1")
_FEWEST = 150


@dataclass(frozen=True)
class Line:
    """A row of the list: a phone as somebody typed it, and the two parameters of the template `spring_offer`."""

    to: str
    picture: str
    name: str

    @property
    def parameters(self) -> Json:
        return {"header.image": self.picture, "body.1": self.name}

    def recipient(self) -> Json:
        return {"to": self.to, "parameters": {key: value for key, value in self.parameters.items() if value}}


@dataclass
class Part:
    """The rows of one call, and which must come back: row number, code and field."""

    lines: list[Line]
    wrong: list[tuple[int, str, str]] = field(default_factory=list)

    def spoil(self, row: int, line: Line, code: str, where: str) -> None:
        self.lines[row - 1] = line
        self.wrong.append((row, code, where))

    @property
    def good(self) -> list[Line]:
        bad = {row for row, _, _ in self.wrong}
        return [line for row, line in enumerate(self.lines, 1) if row not in bad]

    def recipients(self) -> list[Json]:
        return [line.recipient() for line in self.lines]

    def csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(_COLUMNS)
        writer.writerows((line.to, line.picture, line.name) for line in self.lines)
        return text.getvalue()


@dataclass(frozen=True)
class Audience:
    """Two calls' worth of rows. `stopped` is the phone of somebody on the list who wants no marketing."""

    opening: Part
    more: Part
    stopped: str

    @property
    def invited(self) -> dict[str, Json]:
        """The parameters of everybody who must get the message, by phone."""
        return {line.to: line.parameters for line in (*self.opening.good, *self.more.good)}


def gather(rows: int) -> Audience:
    """A list of so many Mexicans. Four fifths open the campaign, the others are appended."""
    if rows < _FEWEST:
        raise ValueError(f"a campaign of the demo has at least {_FEWEST} rows")
    lines = [
        Line(phone, f"https://shop.example/spring/{number}.jpg", name)
        for number, (phone, name) in enumerate(zip(_phones(rows), cycle(_NAMES), strict=False), 1)
    ]
    opening, more = Part(lines[: rows * 4 // 5]), Part(lines[rows * 4 // 5 :])
    stopped = opening.lines[98]
    opening.spoil(17, Line("55 1234", opening.lines[16].picture, "Ana"), "invalid_phone", "to")
    opening.spoil(41, _typed_otherwise(opening.lines[2]), "duplicate_recipient", "to")
    opening.spoil(60, _without_name(opening.lines[59]), "template_parameters", "parameters.body.1")
    opening.spoil(99, stopped, "opted_out", "to")
    more.spoil(5, opening.lines[4], "duplicate_recipient", "to")
    more.spoil(12, Line("ask Luis", more.lines[11].picture, "Eva"), "invalid_phone", "to")
    more.spoil(20, _without_name(more.lines[19]), "template_parameters", "parameters.body.1")
    return Audience(opening, more, stopped.to)


def _typed_otherwise(line: Line) -> Line:
    return Line(f"{line.to[:3]} {line.to[3:5]} {line.to[5:9]}-{line.to[9:]}", line.picture, line.name)


def _without_name(line: Line) -> Line:
    return Line(line.to, line.picture, "")


def _phones(count: int) -> list[str]:
    phones: set[str] = set()
    while len(phones) < count:
        phones.add(random_phone("MX"))
    return list(phones)
