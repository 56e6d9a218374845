"""Our refusal codes: a well-formed table, refusals a caller can act on, and complete documentation."""

import re
from pathlib import Path

import pytest

from services.whatsapp.refusals import Refusal, as_markdown, describe, refuse, table

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "whatsapp.md"
BEGIN, END = "<!-- refusals:begin -->", "<!-- refusals:end -->"
PLACEHOLDERS = {"version": 1, "needed": 2, "limit": 10, "method": "PUT", "type": "sticker"}
ROWS = [pytest.param(row, id=row.code) for row in table()]


def test_no_code_is_listed_twice() -> None:
    codes = [row.code for row in table()]
    assert sorted(set(codes)) == sorted(codes)


@pytest.mark.parametrize("row", ROWS)
def test_each_row_is_usable(row: Refusal) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", row.code)
    assert row.is_notice == (row.status == 202)
    assert row.is_notice or 400 <= row.status <= 504
    for sentence in (row.message, row.remedy):
        assert re.fullmatch(r"[A-Z].*\.", sentence)
        assert "|" not in sentence, "it would break the Markdown table"


@pytest.mark.parametrize("row", [row for row in table() if not row.is_notice], ids=lambda row: row.code)
def test_each_refusal_becomes_an_error_body(row: Refusal) -> None:
    error = refuse(row.code, field="to", reason="is odd", **PLACEHOLDERS)
    body = error.body()
    assert list(body) == ["code", "message", "details", "hint", "error"]
    assert body["code"] == row.code
    assert body["details"] == "to: is odd"
    assert body["hint"] == row.remedy
    assert body["error"] == body["message"]
    assert "{" not in error.message


@pytest.mark.parametrize(
    ("field", "reason", "details"),
    [("to", "is odd", "to: is odd"), ("to", None, "to"), (None, "is odd", "is odd"), (None, None, None)],
)
def test_details_say_where_and_why(field: str | None, reason: str | None, details: str | None) -> None:
    assert refuse("invalid_field", field=field, reason=reason).body()["details"] == details


def test_the_message_is_filled() -> None:
    assert refuse("body_too_large", limit=7).message == "The request body is larger than 7 bytes."
    assert refuse("missing_field", field="to").message == "A required field is missing: to."


def test_braces_in_a_value_are_not_filled_again() -> None:
    assert "{limit}" in refuse("message_type_unknown", type="{limit}", limit=3).message


def test_mistakes_of_ours_are_loud() -> None:
    with pytest.raises(KeyError):
        refuse("no_such_code")
    with pytest.raises(TypeError, match="limit"):
        refuse("body_too_large")
    with pytest.raises(ValueError, match="notice"):
        refuse("account_without_credentials")


def test_a_code_of_the_database_may_be_unknown() -> None:
    gate = describe("opted_out")
    assert gate is not None
    assert gate.status == 409
    assert describe("no_such_code") is None


def test_markdown_has_a_row_for_each_code() -> None:
    lines = as_markdown().splitlines()
    assert len(lines) == 2 + len(table())
    assert all(line.count(" | ") == 3 for line in lines[2:])


def test_documentation_holds_this_table() -> None:
    assert DOCUMENTATION.is_file(), "docs/whatsapp.md is missing: it documents every refusal code"
    text = DOCUMENTATION.read_text(encoding="utf-8")
    assert BEGIN in text, f"docs/whatsapp.md lacks the markers {BEGIN} and {END}"
    assert END in text, f"docs/whatsapp.md lacks the markers {BEGIN} and {END}"
    shown = text.partition(BEGIN)[2].partition(END)[0].strip()
    assert shown == as_markdown(), (
        "the table in docs/whatsapp.md is stale: put the output of services.whatsapp.refusals.as_markdown() "
        "between its markers"
    )
