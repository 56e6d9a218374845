"""Logs: one JSON object a line on stdout, from which no token, phone number or message body can be read.

structlog is imported with the first line written, not before: it would add about a third to the cold start of
the webhook, which usually has nothing to say. No global configuration is touched, so a host's own structlog
stays as is.
"""

import functools
import logging
import math
import re
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from datetime import date, datetime, time
from types import TracebackType
from typing import Any
from uuid import UUID

# httpx names every URL at INFO, and Meta's URLs hold phone number ids.
for _library in ("httpx", "httpcore"):
    logging.getLogger(_library).setLevel(logging.WARNING)

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request being answered; every line logged meanwhile carries it."""

_threshold = LEVELS["info"]

_LONGEST_TEXT = 1_000
_LONGEST_SCRUBBED = 20_000
_LONGEST_LIST = 50
_DEEPEST = 6

_SECRET_KEY = re.compile(
    r"token|secret|authori[sz]ation|api_?key|password|cookie|jwt|credential|signature|e_?mail|bearer",
    re.IGNORECASE,
)
_BODY_KEYS = frozenset({"body", "text", "payload", "content", "caption"})

_SECRET = re.compile(
    r"""
    (?-i:EAA)[A-Za-z0-9]{6,}                    # Meta's access tokens; in lower case it may be part of a UUID
    | (?<!\d)\d{5,}\|[\w-]+                     # Meta's app tokens: app id, bar, secret
    | sb_secret_[\w-]*                          # Supabase's secret keys
    | postgres(?:ql)?://[^\s"',;]+               # a database's address with its password
    | bearer\s+[^\s"',;]+
    | (?-i:eyJ)[\w-]{4,}(?:\.[\w-]*){0,4}       # JWTs, whole or cut
    | (?<![0-9A-Za-z])[0-9a-f]{32,}(?![0-9A-Za-z])    # app secrets and signatures are long hexadecimal
    """,
    re.IGNORECASE | re.VERBOSE,
)
_KEEP_OR_MASK = re.compile(
    r"""
    (?P<uuid>(?<![0-9a-f-])[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?![0-9a-f-]))
    | (?P<wamid>wamid\.[\w+/=-]*)                # Meta's message ids hold the phone number in base64
    | (?P<date>(?<!\d)\d{4}-\d\d-\d\d(?!\d)(?:[T ]\d\d:\d\d(?::\d\d)?)?)
    | (?P<number>\+?\(?\d(?:[ ()-]{0,3}\d)*)
    """,
    re.IGNORECASE | re.VERBOSE,
)
_TWO_DIGIT_CALLING_CODES = re.compile(r"20|27|3[0-469]|4[01345-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]")


class Log:
    """A named log.

    Fields are keyword arguments; events are short snake_case words, never sentences with values.
    """

    def __init__(self, name: str, **fields: object) -> None:
        self._fields = {"log": name, **fields}

    def bind(self, **fields: object) -> "Log":
        """A log whose every line also carries `fields`."""
        bound = Log.__new__(Log)
        bound._fields = {**self._fields, **fields}
        return bound

    def debug(self, event: str, **fields: object) -> None:
        self._write("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._write("warning", event, fields)

    def error(self, event: str, *, error: BaseException | None = None, **fields: object) -> None:
        """An error line; `error` adds the exception's type, place and, where they hold no body, its words."""
        self._write("error", event, fields | (describe_error(error) if error else {}))

    def _write(self, level: str, event: str, fields: Mapping[str, object]) -> None:
        if LEVELS[level] >= _threshold:
            getattr(_logger(), level)(event, **{**self._fields, **fields})


def get(name: str) -> Log:
    """The log of one part of the house, such as `send` or `graph`."""
    return Log(name)


def set_level(level: str) -> None:
    """Writes lines of `level` (debug, info, warning, error) and above. Raises KeyError for another word."""
    global _threshold
    _threshold = LEVELS[level]


def redact(value: object, depth: int = 0) -> object:
    """`value` as a log may show it: plain JSON types, without secrets, phone numbers and bodies."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, int):
        return value if abs(value) < 10_000_000 else scrub(int.__repr__(value))
    if isinstance(value, float):
        return _redact_float(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    if isinstance(value, date | datetime | time | UUID):
        return scrub(str(value))
    if depth >= _DEEPEST:
        return "[deep]"
    if isinstance(value, Mapping):
        return {scrub(str(key)): _redact_field(str(key), item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item, depth + 1) for item in list(value)[:_LONGEST_LIST]]
    # Anything else may hold a body in its repr.
    return f"<{type(value).__name__}>"


def scrub(text: str) -> str:
    """`text` with tokens removed and phone numbers masked: country code and last two digits stay."""
    # A caller may name a field as long as a body; cut well behind what is shown, so that no token is cut in two.
    text = _KEEP_OR_MASK.sub(_mask, _SECRET.sub("[redacted]", text[:_LONGEST_SCRUBBED]))
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "…"


def describe_error(error: BaseException) -> dict[str, object]:
    """Type, place and code of an exception. Its words only where they are Python's own.

    A validation or database error quotes the row it dislikes, and the row holds what people wrote.
    """
    described: dict[str, object] = {
        "error_type": type(error).__qualname__,
        "error_at": _frames(error.__traceback__),
    }
    code = getattr(error, "code", None)
    if isinstance(code, str):
        described["error_code"] = code
    if type(error).__module__ == "builtins":
        described["error_words"] = str(error)[:200]
    if error.__cause__ is not None:
        described["error_cause"] = type(error.__cause__).__qualname__
    return described


def _frames(trace: TracebackType | None) -> list[str]:
    frames = traceback.extract_tb(trace)[-8:]
    return [f"{'/'.join(frame.filename.split('/')[-2:])}:{frame.lineno} {frame.name}" for frame in frames]


def _redact_field(key: str, value: object, depth: int) -> object:
    if key.lower() in _BODY_KEYS:
        return "[dropped]"
    if _SECRET_KEY.search(key):
        return "[redacted]"
    return redact(value, depth)


def _redact_float(value: float) -> object:
    if not math.isfinite(value):
        return str(value)
    rounded = round(value, 6)
    return rounded if abs(rounded) < 10_000_000 else scrub(repr(rounded))


def _mask(match: re.Match[str]) -> str:
    found = match[0]
    if match["uuid"] or match["date"]:
        return found
    if match["wamid"]:
        return f"wamid.…{found[-6:]}"
    digits = "".join(character for character in found if character.isdecimal())
    if len(digits) < 8:
        return found
    plus = "+" if found.startswith("+") else ""
    return f"{plus}{_calling_code(digits)}{'*' * 6}{digits[-2:]}"


def _calling_code(digits: str) -> str:
    """Country calling codes are prefix-free (ITU-T E.164): 1 and 7 alone, some of two digits, the rest of
    three.
    """
    if digits[0] in "17":
        return digits[0]
    return digits[:2] if _TWO_DIGIT_CALLING_CODES.match(digits) else digits[:3]


def _redact_line(_logger: object, _level: str, line: MutableMapping[str, Any]) -> dict[str, Any]:
    return {scrub(key): _redact_field(key, value, 0) for key, value in line.items()}


def _add_request(_logger: object, _level: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # After redaction: a request id is random digits and letters, and must stay whole.
    current = request_id.get()
    if current:
        line["request_id"] = current
    return line


def _render(_logger: object, _level: str, line: MutableMapping[str, Any]) -> str:
    import orjson

    return orjson.dumps(dict(line)).decode()


@functools.cache
def _processors() -> tuple[Any, ...]:
    from structlog import processors

    stamp = processors.TimeStamper(fmt="iso", utc=True)
    return processors.add_log_level, _redact_line, stamp, _add_request, _render


def _logger() -> Any:
    from structlog import BoundLogger, PrintLogger

    # Made anew for each line, since whoever runs us may exchange sys.stdout.
    return BoundLogger(PrintLogger(sys.stdout), _processors(), {})
