"""Members of a webhook's JSON as what they should be, or as nothing: no word of it is trusted to be of a type."""

import re
from typing import Any

Json = dict[str, Any]
"""An object of Meta's. What a member of it is, nobody knows before it has been looked at."""

_UUID = re.compile("-".join(f"[0-9a-fA-F]{{{length}}}" for length in (8, 4, 4, 4, 12)))
_NOT_DIGIT = re.compile(r"[^0-9]")
_LATEST = 4_102_444_800  # 2100: beyond it a time is garbage, and Postgres might refuse it


def text(value: object, longest: int) -> str | None:
    """A string of 1 to `longest` characters, else None: longer ones would not fit an index."""
    return value if isinstance(value, str) and 0 < len(value) <= longest else None


def list_of(value: Json, name: str) -> list[Any]:
    found = value.get(name)
    return found if isinstance(found, list) else []


def id_of(value: object) -> str:
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) else ""


def own_digits(value: object) -> str | None:
    """The digits of a business number, which Meta shows in whatever form the business likes."""
    digits = _NOT_DIGIT.sub("", value) if isinstance(value, str) else ""
    return digits if 0 < len(digits) <= 15 else None


def uuid_of(value: object) -> str | None:
    return value.lower() if isinstance(value, str) and _UUID.fullmatch(value) else None


def time_of(value: object) -> int | None:
    """Meta writes times of messages as text and of accounts as numbers."""
    if isinstance(value, str) and len(value) <= 12 and value.isdigit() and value.isascii():
        value = int(value)
    return value if type(value) is int and 0 < value < _LATEST else None
