"""What a row of consents may say."""

from typing import Any

import pytest

from services.whatsapp.refusals import RefusalError
from services.whatsapp.requests.consents import Consent, Consents, read_csv

PHONE = "+525512345678"
ROW: dict[str, Any] = {"to": PHONE, "action": "opt_in", "how": "web form"}
CONTEXT = {"country_id": "MX"}


def test_a_row_is_what_somebody_said() -> None:
    given = ROW | {"scope": "marketing", "at": "2026-01-02T03:04:05-06:00", "proof": "Sí, quiero"}
    said = Consent.read(given, CONTEXT)
    assert said.to == {"phone": PHONE, "match_key": "525512345678", "bsuid": None, "contact_id": None}
    assert (said.action, said.scope, said.at) == ("opt_in", "marketing", "2026-01-02T09:04:05+00:00")
    assert (said.how, said.proof) == ("web form", "Sí, quiero")


def test_what_is_not_said_is_everything_and_now() -> None:
    said = Consent.read(ROW | {"action": "opt_out"}, CONTEXT)
    assert (said.action, said.scope, said.at, said.proof) == ("opt_out", "all", None, None)


@pytest.mark.parametrize(
    ("row", "code", "field"),
    [
        (PHONE, "invalid_recipient", "to"),
        ({"action": "opt_in", "how": "x"}, "missing_field", "to"),
        ({"to": PHONE, "how": "x"}, "missing_field", "action"),
        ({"to": PHONE, "action": "opt_in"}, "missing_field", "how"),
        (ROW | {"to": None}, "missing_field", "to"),
        (ROW | {"action": None}, "missing_field", "action"),
        (ROW | {"how": None}, "missing_field", "how"),
        (ROW | {"to": "12"}, "invalid_phone", "to"),
        (ROW | {"action": "optin"}, "invalid_field", "action"),
        (ROW | {"action": ["opt_in"]}, "invalid_field", "action"),
        (ROW | {"scope": "utility"}, "invalid_field", "scope"),
        (ROW | {"scope": ""}, "invalid_field", "scope"),
        (ROW | {"scope": None}, "invalid_field", "scope"),
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
def test_a_wrong_row_is_refused_with_its_field(row: object, code: str, field: str) -> None:
    with pytest.raises(RefusalError) as refused:
        Consent.read(row, CONTEXT)
    assert (refused.value.code, refused.value.field) == (code, field)


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"consents": []}, "invalid_field", "consents"),
        ({"consents": [1] * 10_001}, "too_many_recipients", "consents"),
        ({"country": "MX"}, "unknown_field", "country"),
    ],
)
def test_a_wrong_call_is_refused(change: dict[str, Any], code: str, field: str) -> None:
    with pytest.raises(RefusalError) as refused:
        Consents.read_with("k", {"country_id": "MX", "consents": [ROW]} | change)
    assert (refused.value.code, refused.value.field) == (code, field)


def test_a_csv_becomes_the_call_that_json_would_be() -> None:
    text = (
        'to,action,scope,how,proof\n+525512345678,opt_in,marketing,web form,"Sí, quiero"\n+525512345679,opt_out,,x,\n'
    )
    call = read_csv("k", text.encode(), {"country_id": "MX", "forceFunctionRegion": "any"})
    assert (call.key, call.country_id) == ("k", "MX")
    assert call.consents == [
        {"to": PHONE, "action": "opt_in", "scope": "marketing", "how": "web form", "proof": "Sí, quiero"},
        {"to": "+525512345679", "action": "opt_out", "how": "x"},
    ]


def test_a_misspelt_query_is_refused() -> None:
    with pytest.raises(RefusalError) as refused:
        read_csv("k", b"to\n1\n", {"country": "MX"})
    assert (refused.value.code, refused.value.field) == ("unknown_field", "country")
