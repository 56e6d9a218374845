"""Logs say what happened and never to whom, with which token or in which words."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from services.whatsapp import log

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[3]
LONG_NUMBER = re.compile(r"\d{8}")
UUIDS = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)

secrets = st.one_of(
    st.from_regex(r"EAA[A-Za-z0-9]{20,60}", fullmatch=True),
    st.from_regex(r"sb_secret_[A-Za-z0-9_-]{16,40}", fullmatch=True),
    st.from_regex(r"eyJ[A-Za-z0-9_-]{20,40}\.[A-Za-z0-9_-]{20,40}\.[A-Za-z0-9_-]{20,40}", fullmatch=True),
    st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
)
long_numbers = st.from_regex(r"[0-9]{8,15}", fullmatch=True)
around = st.text(alphabet=st.sampled_from(" \n\"':=,;()[]{}+éñ.!?"), max_size=5)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.uuids() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4) | st.tuples(inner),
    max_leaves=8,
)


def line_of(capsys: Capture) -> dict[str, Any]:
    line = json.loads(capsys.readouterr().out)
    assert isinstance(line, dict)
    return line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("+52 55 1234 5678", "+52******78"),
        ("to 5215512345678.", "to 52******78."),
        ("+16505551234", "+1******34"),
        ("+351 912 345 678", "+351******78"),
        ("(55) 1234-5678", "55******78"),
        ("order 1234567", "order 1234567"),
        ("at 2026-11-24T05:57:01.123456+00:00", "at 2026-11-24T05:57:01.123456+00:00"),
        ("019aa000-1111-7222-8333-123456789012", "019aa000-1111-7222-8333-123456789012"),
        ("Authorization: Bearer abc.def", "Authorization: [redacted]"),
        ("token EAAGm0PX4ZCpsBAKx9 used", "token [redacted] used"),
        ("1234567890|s3cr3t-x", "[redacted]"),
        ("sb_secret_abc_DEF-1", "[redacted]"),
        ("at postgresql://postgres:p%40ss!w@db.example:5432/postgres?sslmode=require now", "at [redacted] now"),
        ("postgres://a:b@c", "[redacted]"),
        ("sha256=" + "ab" * 32, "sha256=[redacted]"),
        ("wamid.HBgLMTY1MDM4Nzk0MzkVAgARGBI5QTNDQTVCM0Q0Q0Q2RTY3RTcA", "wamid.…Y3RTcA"),
    ],
)
def test_scrub(text: str, shown: str) -> None:
    assert log.scrub(text) == shown


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("access_token", "[redacted]"),
        ("Authorization", "[redacted]"),
        ("apikey", "[redacted]"),
        ("app_secret", "[redacted]"),
        ("email", "[redacted]"),
        ("body", "[dropped]"),
        ("text", "[dropped]"),
        ("payload", "[dropped]"),
        ("content", "[dropped]"),
        ("status", "hola"),
    ],
)
def test_keys_that_hold_secrets_or_words_are_not_shown(capsys: Capture, key: str, shown: str) -> None:
    log.get("send").info("tried", inner=[{key: "hola"}], **{key: "hola"})
    line = line_of(capsys)
    assert line[key] == shown
    assert line["inner"] == [{key: shown}]


def test_a_line_is_one_json_object(capsys: Capture) -> None:
    log.request_id.set("ab12-cd34")
    log.get("send").bind(country_id="MX").warning("slow\nforged", seconds=1.5, count=3, done=True)
    line = line_of(capsys)
    assert datetime.fromisoformat(line.pop("timestamp")).tzinfo == UTC
    assert line == {
        "log": "send",
        "country_id": "MX",
        "event": "slow\nforged",
        "level": "warning",
        "seconds": 1.5,
        "count": 3,
        "done": True,
        "request_id": "ab12-cd34",
    }


@given(st.uuids())
@example(UUID("019aa000-1111-7222-8333-123456789012"))
@example(UUID("019aa000-1111-7222-8333-eaa123456789"))
def test_ids_stay_readable(message_id: UUID) -> None:
    assert log.redact(message_id) == str(message_id)


def test_times_stay_readable() -> None:
    assert log.redact(datetime(2026, 11, 24, 5, 57, tzinfo=UTC)) == "2026-11-24 05:57:00+00:00"


def test_an_unknown_object_shows_its_type_only() -> None:
    class Message:
        def __repr__(self) -> str:
            return "Message('hola')"

    assert log.redact({"message": Message()}) == {"message": "<Message>"}


def test_a_foreign_exception_keeps_its_words_to_itself(capsys: Capture) -> None:
    foreign = type("RowError", (Exception,), {"__module__": "database", "code": "23514"})
    try:
        raise foreign("failing row contains (hola)")
    except Exception as error:
        log.get("store").error("failed", error=error)
    line = line_of(capsys)
    assert line["error_type"] == "RowError"
    assert line["error_code"] == "23514"
    assert line["error_at"][-1].startswith("whatsapp/test_log.py:")
    assert "hola" not in json.dumps(line)


def test_a_level_below_the_threshold_is_not_written(capsys: Capture) -> None:
    log.set_level("warning")
    try:
        log.get("send").info("quiet")
        assert capsys.readouterr().out == ""
    finally:
        log.set_level("info")


@pytest.mark.parametrize("piece", ["1", "a", "1 ", "EAA", "eyJ.", "bearer ", "wamid.", "1|", "2026-11-24", "(("])
def test_an_endless_text_is_cut(piece: str) -> None:
    assert len(log.scrub(piece * 1_000_000)) <= 1_001


@given(anything)
@example({"٠١٢٣٤٥٦٧٨٩": "٠١٢٣٤٥٦٧٨٩"})
@example([12345678, 1e15, 123456.123456789, -99999999.5])
def test_no_long_number_survives(value: object) -> None:
    shown = json.dumps(log.redact(value), ensure_ascii=False)
    assert not LONG_NUMBER.search(UUIDS.sub("", shown))


@given(around, long_numbers, around)
def test_no_phone_survives_in_a_text(before: str, number: str, after: str) -> None:
    assert number not in log.scrub(before + number + after)
    assert not LONG_NUMBER.search(log.scrub(before + number + after))


@given(around, secrets, around)
def test_no_secret_survives_in_a_text(before: str, secret: str, after: str) -> None:
    shown = log.scrub(before + secret + after)
    assert secret not in shown
    # Nor a useful part of it.
    assert not any(secret[start : start + 12] in shown for start in range(len(secret) - 12))


@given(st.text(), secrets | long_numbers)
def test_nothing_survives_a_whole_line(text: str, hidden: str) -> None:
    assume(hidden not in text)
    shown = json.dumps(log.redact({"detail": f"{text} {hidden} {text}", hidden: [hidden, {"a": (hidden,)}]}))
    assert hidden not in shown


def test_structlog_is_not_imported_before_the_first_line() -> None:
    code = (
        "import sys; from services.whatsapp import log; log.get('a').debug('x');"
        " print(any(name in sys.modules for name in ('structlog', 'pydantic', 'httpx')));"
        " log.get('a').info('x'); print('structlog' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    first, _, last = run.stdout.splitlines()
    assert (first, last) == ("False", "True")
