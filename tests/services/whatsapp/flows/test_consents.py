"""The pure parts of the flow of consent: reading a CSV, and what a row may say."""

from typing import Any

import pytest

from services.whatsapp.flows import consents
from services.whatsapp.refusals import RefusalError

PHONE = "+525512345678"
ROW: dict[str, Any] = {"to": PHONE, "action": "opt_in", "how": "web form"}


def test_a_row_is_ready_for_the_database() -> None:
    given = ROW | {"scope": "marketing", "at": "2026-01-02T03:04:05-06:00", "proof": "Sí, quiero"}
    assert consents._row(given, "MX") == {
        "phone": PHONE,
        "match_key": "525512345678",
        "bsuid": None,
        "contact_id": None,
        "what": "opt_in",
        "scope": "marketing",
        "at": "2026-01-02T09:04:05+00:00",
        "how": "web form",
        "proof": "Sí, quiero",
    }


def test_what_is_not_said_is_everything_and_now() -> None:
    row = consents._row(ROW | {"action": "opt_out"}, "MX")
    assert (row["what"], row["scope"], row["at"], row["proof"]) == ("opt_out", "all", None, None)


@pytest.mark.parametrize(
    ("row", "code", "field"),
    [
        (PHONE, "invalid_recipient", "to"),
        ({"action": "opt_in", "how": "x"}, "missing_field", "to"),
        ({"to": PHONE, "how": "x"}, "missing_field", "action"),
        ({"to": PHONE, "action": "opt_in"}, "missing_field", "how"),
        (ROW | {"to": "12"}, "invalid_phone", "to"),
        (ROW | {"action": "optin"}, "invalid_field", "action"),
        (ROW | {"action": ["opt_in"]}, "invalid_field", "action"),
        (ROW | {"scope": "utility"}, "invalid_field", "scope"),
        (ROW | {"scope": ""}, "invalid_field", "scope"),
        (ROW | {"at": "2026-01-02"}, "invalid_field", "at"),
        (ROW | {"at": 1767344645}, "invalid_field", "at"),
        (ROW | {"how": ""}, "invalid_field", "how"),
        (ROW | {"how": "x" * 201}, "invalid_field", "how"),
        (ROW | {"how": "meta"}, "invalid_field", "how"),
        (ROW | {"how": "stop_word"}, "invalid_field", "how"),
        (ROW | {"proof": "x" * 4097}, "invalid_field", "proof"),
        (ROW | {"proof": "nul \0"}, "invalid_field", "proof"),
        (ROW | {"source": "x"}, "unknown_field", "source"),
    ],
)
def test_a_wrong_row_is_refused_with_its_field(row: Any, code: str, field: str) -> None:
    with pytest.raises(RefusalError) as refused:
        consents._row(row, "MX")
    assert (refused.value.code, refused.value.field) == (code, field)


def test_a_csv_becomes_the_call_that_json_would_be() -> None:
    text = (
        'to,action,scope,how,proof\n+525512345678,opt_in,marketing,web form,"Sí, quiero"\n+525512345679,opt_out,,x,\n'
    )
    assert consents.read_csv(text.encode(), {"country_id": "MX", "forceFunctionRegion": "any"}) == {
        "country_id": "MX",
        "consents": [
            {"to": PHONE, "action": "opt_in", "scope": "marketing", "how": "web form", "proof": "Sí, quiero"},
            {"to": "+525512345679", "action": "opt_out", "how": "x"},
        ],
    }


def test_a_misspelt_query_is_kept_to_be_refused() -> None:
    assert "country" in consents.read_csv(b"to\n1\n", {"country": "MX"})
