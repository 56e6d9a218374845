"""The rows of a bulk call: read from a list or a CSV, counted from 1, judged one by one. A bad one is refused alone."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from services.whatsapp.refusals import RefusalError, describe, refuse

Row = dict[str, Any]

_LONGEST_ROW = 256 * 1024
"""Characters of a row of CSV: the parser holds everybody up until it has read one."""
_MOST_COLUMNS = 500


def listed(request: Mapping[str, Any], name: str, most: int) -> list[Any]:
    """The list `name` of a request. Refuses `invalid_field` and `too_many_recipients`."""
    given = request.get(name)
    if not isinstance(given, list) or not given:
        raise refuse("invalid_field", field=name, reason="it is a list of at least one row")
    if len(given) > most:
        raise refuse("too_many_recipients", field=name, limit=most)
    return given


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


def judge(given: Sequence[Any], start: int, read: Callable[[Any], Row]) -> tuple[list[Row], list[Row]]:
    """The rows that `read` took, each with its number, and the refusals of the others; `start` rows came before."""
    good: list[Row] = []
    refused: list[Row] = []
    for number, each in enumerate(given, start + 1):
        try:
            good.append({"row": number, **read(each)})
        except RefusalError as error:
            told = {"code": error.code, "field": error.field, "message": error.message, "reason": error.reason}
            refused.append({"row": number} | told)
    return good, refused


def worded(each: Mapping[str, Any]) -> Row:
    """A row's refusal by the database, in the words of its code."""
    known = describe(each["code"])
    return {**each, "message": known.message if known else each["code"], "reason": known.remedy if known else None}


def unstorable(row: Mapping[str, Any]) -> Row:
    """The refusal of a row that the database would not take, for a reason it did not foresee."""
    return {"row": row["row"], "code": "invalid_item", "field": None}


def part_of(key: str, whole: int, part: Sequence[Mapping[str, Any]]) -> str:
    """The key of a chunk of `whole` rows that are good, or of a part of it: a repeated call makes the same ones."""
    return key if len(part) == whole else f"{key}.{part[0]['row']}-{part[-1]['row']}"


def in_order(refused: Sequence[Row]) -> list[Row]:
    return sorted(refused, key=lambda each: int(each["row"]))


def _whole(row: Mapping[str | None, Any], number: int) -> dict[str, str]:
    if None in row or None in row.values():
        raise refuse("invalid_csv", reason=f"row {number} has more or fewer fields than the header")
    return {str(name): value for name, value in row.items()}
