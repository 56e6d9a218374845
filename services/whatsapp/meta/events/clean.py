"""The JSON of a webhook made safe to keep: nothing in it that a writer or Postgres refuses, no id of Meta's.

A payload is kept whole, whatever its size (the function takes 4 MB at the most): half a JSON helps nobody.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

META_ID_KEYS = frozenset(
    (
        "phone_number_id",
        "waba_id",
        "business_id",
        "owner_business_id",
        "messaging_account_id",
        "paid_messaging_account_id",
        "partner_app_id",
        "entity_id",
    )
)
"""Keys whose values are Meta's names of a number, an account or a business: never kept."""
_ESCAPED = re.compile(rb"\\u00(?:00|3)")
_DEEPEST = 200
"""orjson refuses to write more than 254 levels."""


def is_suspicious(body: bytes) -> bool:
    """Whether a body writes a NUL or a digit as an escape: the bytes then do not show what the document says.

    A search for one byte, then one pattern from there: faster than `in` with a few bytes, and every body pays for it.
    """
    first = body.find(b"\\")
    return first >= 0 and _ESCAPED.search(body, first) is not None


def load(body: bytes, suspicious: bool = True) -> Any:
    """The JSON of a body with nothing in it that Postgres or a JSON writer refuses; None if it is no JSON."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _load_tolerantly(body)
    if suspicious or _is_deep(document):
        return _clean(document)
    return document


def dump(value: object) -> bytes:
    """The one text of a JSON value: equal values are equal texts, in whatever order their keys came."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _is_deep(document: object) -> bool:
    """To write it is the cheapest way to know; counting brackets costs more."""
    try:
        orjson.dumps(document)
    except orjson.JSONEncodeError:
        return True
    return False


def _load_tolerantly(body: bytes) -> Any:
    """For bodies orjson refuses: broken UTF-8, lone surrogates, NaN. Rare enough for the slow parser."""
    try:
        return _clean(json.loads(body.decode("utf-8", "replace")))
    except (ValueError, RecursionError):
        return None


def _clean(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "�").encode("utf-8", "replace").decode()
    if depth > _DEEPEST:
        return None
    if isinstance(value, dict):
        return {_clean(name): _clean(part, depth + 1) for name, part in value.items()}
    if isinstance(value, list):
        return [_clean(part, depth + 1) for part in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return None
    return value


# ── Meta's ids ────────────────────────────────────────────────────────────────────────────────────


def is_meta_id(text: str) -> bool:
    """Whether a text is worth hiding: replacing every "0" of a test webhook would wreck its events."""
    return len(text) >= 6 and text.isdigit()


def leaked_ids(body: bytes, mentions: Mapping[str, int], suspicious: bool) -> list[str]:
    """Which ids of Meta occur anywhere in the body but where they belong; `mentions` counts where they do.

    Counting in the bytes is cheap enough to do for every body. Where digits are escapes the bytes say nothing, and
    every id counts as leaked.
    """
    found = []
    for meta_id, times in mentions.items():
        if (suspicious or body.count(meta_id.encode()) != times) and is_meta_id(meta_id):
            found.append(meta_id)
    return sorted(found, key=len, reverse=True) if found else found


_LIKE_AN_ID = re.compile(r"[0-9]{5}")


def redact(value: Any, ids: Iterable[str], *, drop_keys: bool = False) -> Any:
    """A copy without the ids, and without the keys that hold ids of Meta's if `drop_keys`."""
    if isinstance(value, str):
        # Ids are digits, five or more. Most texts hold none, and a team may have hundreds of ids.
        if _LIKE_AN_ID.search(value) is None:
            return value
        for meta_id in ids:
            if meta_id in value:
                value = value.replace(meta_id, "…")
        return value
    if isinstance(value, dict):
        return {
            redact(name, ids): redact(part, ids, drop_keys=drop_keys)
            for name, part in value.items()
            if not (drop_keys and name in META_ID_KEYS)
        }
    if isinstance(value, list):
        return [redact(part, ids, drop_keys=drop_keys) for part in value]
    if isinstance(value, int | float) and any(meta_id in str(value) for meta_id in ids):
        return None
    return value


_ID_IN_TEXT = re.compile(
    r'("(?:id|[a-z_]*(?:waba|business|account|phone_number|partner_app|entity)_id)"\s*:\s*"?)[0-9]{6,}'
)
_ESCAPED_DIGIT = re.compile(r"\\+u003([0-9])")


def redact_text(body: bytes, ids: Iterable[str]) -> str:
    """The text of a body that is no JSON, without ids however they are written."""
    text = body.decode("utf-8", "replace").replace("\0", "�")
    text = _ID_IN_TEXT.sub(r"\1…", _ESCAPED_DIGIT.sub(r"\1", text))
    return str(redact(text, ids))
