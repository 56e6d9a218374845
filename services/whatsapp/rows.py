"""The rows of a bulk call: read from a list or a CSV, counted from 1, judged one by one. A bad one is refused alone."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Self, TypedDict, TypeVar

from services.whatsapp.refusals import RefusalError, describe, refuse

Good = TypeVar("Good")

_LONGEST_ROW = 256 * 1024
"""Characters of a row of CSV: the parser holds everybody up until it has read one."""
_MOST_COLUMNS = 500


def read_csv(raw: bytes, most: int) -> list[dict[str, str]]:
    """The rows below a header that names `to` and whatever else.

    Reads no further than it must to say that there are more than `most`. Refuses `invalid_csv` and
    `too_many_recipients`.
    """
    lines = _Lines(raw)
    reader = csv.DictReader(lines, strict=True)
    try:
        names = reader.fieldnames
        if not names or "to" not in names:
            raise refuse("invalid_csv", reason="the first row must name the columns, and one of them must be `to`")
        if len(names) > _MOST_COLUMNS:
            raise refuse("invalid_csv", reason=f"it has more than {_MOST_COLUMNS} columns")
        if len(set(names)) != len(names):
            raise refuse("invalid_csv", reason="a column is named twice")
        found = []
        for number, row in enumerate(reader, 1):
            if number > most:
                raise refuse("too_many_recipients", limit=most)
            found.append(_whole(row, number))
            lines.begin_row()
        return found
    except csv.Error as error:
        raise refuse("invalid_csv", reason=f"line {reader.line_num}: {error}") from None
    except UnicodeDecodeError:
        raise refuse("invalid_csv", reason="it is not UTF-8") from None


class _Lines:
    """The lines of a CSV, decoded as they are asked for. Refuses `invalid_csv` for a row that does not end."""

    def __init__(self, raw: bytes) -> None:
        self._text = io.TextIOWrapper(io.BytesIO(raw), "utf-8-sig", newline="\n")
        self._left = _LONGEST_ROW

    def begin_row(self) -> None:
        self._left = _LONGEST_ROW

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = self._text.readline(self._left + 1)
        self._left -= len(line)
        if self._left < 0:
            raise refuse("invalid_csv", reason=f"a row has more than {_LONGEST_ROW} characters")
        if not line:
            raise StopIteration
        return line


class Numbered(TypedDict):
    """A row of a call, counted from 1."""

    row: int


class Refused(Numbered):
    """Why a row was not taken, as the database says it."""

    code: str
    field: str | None


class Told(Refused):
    """The same, as the caller is told."""

    message: str
    reason: str | None


def judge(given: Sequence[object], start: int, read: Callable[[int, object], Good]) -> tuple[list[Good], list[Told]]:
    """What `read` took, by number and row, and the refusals of the others; `start` rows came before."""
    good: list[Good] = []
    refused: list[Told] = []
    for number, each in enumerate(given, start + 1):
        try:
            good.append(read(number, each))
        except RefusalError as error:
            refused.append(
                {
                    "row": number,
                    "code": error.code,
                    "field": error.field,
                    "message": error.message,
                    "reason": error.reason,
                }
            )
    return good, refused


def worded(refused: Iterable[Refused]) -> list[Told]:
    """Refusals of the database, in the words of their codes."""
    return [_worded(each) for each in refused]


def _worded(each: Refused) -> Told:
    known = describe(each["code"])
    return {
        "row": each["row"],
        "code": each["code"],
        "field": each["field"],
        "message": known.message if known else each["code"],
        "reason": known.remedy if known else None,
    }


def unstorable(row: Numbered) -> Refused:
    """The refusal of a row that the database would not take, for a reason it did not foresee."""
    return {"row": row["row"], "code": "invalid_item", "field": None}


def part_of(key: str, whole: int, part: Sequence[Numbered]) -> str:
    """The key of a chunk of `whole` rows that are good, or of a part of it: a repeated call makes the same ones."""
    return key if len(part) == whole else f"{key}.{part[0]['row']}-{part[-1]['row']}"


def in_order(refused: Iterable[Told]) -> list[Told]:
    return sorted(refused, key=lambda each: each["row"])


def _whole(row: Mapping[str | None, object], number: int) -> dict[str, str]:
    if None in row or None in row.values():
        raise refuse("invalid_csv", reason=f"row {number} has more or fewer fields than the header")
    return {str(name): str(value) for name, value in row.items()}
