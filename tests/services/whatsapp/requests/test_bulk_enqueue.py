"""Opening, appending, controlling, and the rows of a call."""

from typing import Any

import pytest

from services.whatsapp.refusals import RefusalError
from services.whatsapp.requests.bulk_enqueue import Appending, Control, Opening, Recipient, read, read_csv

CAMPAIGN = "01a20c70-3896-7e4d-8844-cea70f3dc7be"
PHONE = "+525512345678"
OPENING: dict[str, Any] = {
    "country_id": "MX",
    "name": "spring",
    "template": {"name": "plain", "language": "es-MX"},
    "recipients": [{"to": PHONE}],
}
APPENDING: dict[str, Any] = {"country_id": "MX", "campaign_id": CAMPAIGN, "recipients": [{"to": PHONE}]}


def test_an_opening_says_what_is_fixed() -> None:
    opening = read("k", OPENING | {"draft": "true"})
    assert isinstance(opening, Opening)
    assert (opening.template, opening.draft, opening.key) == (("plain", "es_MX"), True, "k")
    assert opening.recipients == [{"to": PHONE}]


def test_recipients_are_no_part_of_what_opens_a_campaign() -> None:
    opening = read("k", OPENING)
    assert opening.fingerprint == read("k", OPENING | {"recipients": [5, 6]}).fingerprint
    assert opening.fingerprint != read("k", OPENING | {"name": "summer"}).fingerprint


def test_appending_names_the_campaign() -> None:
    appending = read("k", APPENDING | {"campaign_id": CAMPAIGN.upper()})
    assert isinstance(appending, Appending)
    assert appending.campaign_id == CAMPAIGN


@pytest.mark.parametrize(
    ("given", "code", "field"),
    [
        (OPENING | {"name": None}, "invalid_field", "name"),
        (OPENING | {"name": " "}, "invalid_field", "name"),
        (OPENING | {"name": "a" * 201}, "invalid_field", "name"),
        (OPENING | {"name": "a\0"}, "invalid_field", "name"),
        (OPENING | {"template": None}, "bulk_needs_template", "template"),
        (OPENING | {"template": "plain"}, "invalid_field", "template"),
        (OPENING | {"template": {"name": "plain"}}, "invalid_field", "template"),
        (OPENING | {"template": {"name": "", "language": "es"}}, "invalid_field", "template"),
        (OPENING | {"template": {"name": "pl\0", "language": "es"}}, "invalid_field", "template"),
        (OPENING | {"template": {"name": "plain", "language": 5}}, "invalid_field", "template"),
        (OPENING | {"send_at": "2026-12-24"}, "invalid_send_at", "send_at"),
        (OPENING | {"valid_until": "soon"}, "invalid_field", "valid_until"),
        (OPENING | {"draft": "yes"}, "invalid_field", "draft"),
        (OPENING | {"draft": 1}, "invalid_field", "draft"),
        (OPENING | {"message": {}}, "bulk_needs_template", "message"),
        (OPENING | {"recipients": []}, "invalid_field", "recipients"),
        (OPENING | {"recipients": {}}, "invalid_field", "recipients"),
        (OPENING | {"recipients": [1] * 10_001}, "too_many_recipients", "recipients"),
        ({"country_id": "MX", "recipients": [1]}, "bulk_needs_template", "template"),
        (APPENDING | {"message": {}}, "bulk_needs_template", "message"),
        (APPENDING | {"campaign_id": None}, "invalid_field", "campaign_id"),
        (APPENDING | {"nmae": "x"}, "unknown_field", "nmae"),
        *(
            (APPENDING | {name: None}, "invalid_field", name)
            for name in ("account", "name", "template", "send_at", "valid_until", "draft")
        ),
    ],
)
def test_any_other_call_is_refused(given: dict[str, Any], code: str, field: str) -> None:
    with pytest.raises(RefusalError) as refused:
        read("k", given)
    assert (refused.value.code, refused.value.field) == (code, field)


def test_what_was_fixed_is_told_so() -> None:
    with pytest.raises(RefusalError) as refused:
        read("k", APPENDING | {"name": "spring"})
    assert refused.value.reason == "it was fixed when the campaign was opened"


def test_the_most_recipients_are_taken() -> None:
    assert len(read("k", OPENING | {"recipients": [1] * 10_000}).recipients) == 10_000


def test_a_row_is_read_in_its_country() -> None:
    row = Recipient.read({"to": "55 1234 5678", "parameters": ["Ana", {"id": "1"}]}, {"country_id": "MX"})
    assert row.to == {"phone": PHONE, "match_key": "525512345678", "bsuid": None, "contact_id": None}
    assert row.parameters == {"body.1": "Ana", "body.2": {"id": "1"}}
    assert Recipient.read({"to": PHONE}, {"country_id": "MX"}).parameters == {}


@pytest.mark.parametrize(
    ("row", "code", "field"),
    [
        (PHONE, "invalid_recipient", "to"),
        ({}, "missing_field", "to"),
        ({"to": None}, "invalid_recipient", "to"),
        ({"to": {"bsuid": "?"}}, "invalid_bsuid", "to.bsuid"),
        ({"to": "12", "reff": 5}, "unknown_field", "reff"),
        ({"to": PHONE, "ref": 5}, "invalid_field", "ref"),
        ({"to": PHONE, "parameters": "Ana"}, "template_parameters", "parameters"),
        ({"to": PHONE, "parameters": None}, "template_parameters", "parameters"),
    ],
)
def test_a_bad_row_is_refused_with_its_path(row: object, code: str, field: str) -> None:
    with pytest.raises(RefusalError) as refused:
        Recipient.read(row, {"country_id": "MX"})
    assert (refused.value.code, refused.value.field) == (code, field)


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"action": "stop"}, "invalid_field", "action"),
        ({"action": ["pause"]}, "invalid_field", "action"),
        ({"campaign_id": "spring"}, "invalid_field", "campaign_id"),
        ({"country_id": None}, "missing_field", "country_id"),
        ({"name": "x"}, "unknown_field", "name"),
    ],
)
def test_a_wrong_control_is_refused(change: dict[str, Any], code: str, field: str) -> None:
    with pytest.raises(RefusalError) as refused:
        Control.read({"country_id": "MX", "campaign_id": CAMPAIGN, "action": "pause"} | change)
    assert (refused.value.code, refused.value.field) == (code, field)


# ── CSV ───────────────────────────────────────────────────────────────────────────────────────────

QUERY = {"country_id": "MX", "name": "spring", "template": "order_update", "language": "es-MX"}


def test_a_csv_becomes_the_call_that_json_would_be() -> None:
    text = 'to,body.1,body.2,ref\n+525512345678,Ana,"A,1",r1\n+525512345679,"José ""Pepe""",A2,\n'
    call = read_csv("k", text.encode(), QUERY | {"valid_until": "2026-12-24T09:00:00Z", "draft": "true"})
    assert isinstance(call, Opening)
    assert (call.key, call.country_id, call.name, call.template) == ("k", "MX", "spring", ("order_update", "es_MX"))
    assert (call.valid_until, call.draft) == ("2026-12-24T09:00:00+00:00", True)
    assert call.recipients == [
        {"to": "+525512345678", "parameters": {"body.1": "Ana", "body.2": "A,1"}, "ref": "r1"},
        {"to": "+525512345679", "parameters": {"body.1": 'José "Pepe"', "body.2": "A2"}},
    ]


@pytest.mark.parametrize("text", ["\ufeffto\r\n+525512345678\r\n", "to\n\n+525512345678\n\n", "to\n+525512345678"])
def test_a_csv_may_come_from_a_spreadsheet(text: str) -> None:
    assert read_csv("k", text.encode(), QUERY).recipients == [{"to": PHONE, "parameters": {}}]


def test_a_csv_that_appends_names_the_campaign_only() -> None:
    query = {"country_id": "MX", "campaign_id": CAMPAIGN, "forceFunctionRegion": "any"}
    call = read_csv("k", b"to\n+525512345678\n", query)
    assert isinstance(call, Appending)
    assert (call.campaign_id, call.recipients) == (CAMPAIGN, [{"to": PHONE, "parameters": {}}])


@pytest.mark.parametrize(
    ("query", "code", "field"),
    [
        (QUERY | {"valid_til": "2026-12-24T09:00:00Z"}, "unknown_field", "valid_til"),
        ({"country_id": "MX", "name": "spring"}, "bulk_needs_template", "template"),
        ({"country_id": "MX", "name": "spring", "language": "es"}, "invalid_field", "template"),
    ],
)
def test_a_wrong_query_is_refused(query: dict[str, str], code: str, field: str) -> None:
    with pytest.raises(RefusalError) as refused:
        read_csv("k", b"to\n1\n", query)
    assert (refused.value.code, refused.value.field) == (code, field)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the first row must name the columns"),
        ("phone,body.1\n1,a\n", "one of them must be `to`"),
        ("to,body.1,body.1\n1,a,b\n", "a column is named twice"),
        ("to,body.1\n1,a\n2\n", "row 2 has more or fewer fields"),
        ("to,body.1\n1,a,b\n", "row 1 has more or fewer fields"),
        ('to,body.1\n1,"a\n', "unexpected end"),
    ],
)
def test_a_broken_csv_is_refused_with_its_place(text: str, words: str) -> None:
    with pytest.raises(RefusalError) as refused:
        read_csv("k", text.encode(), QUERY)
    assert refused.value.code == "invalid_csv"
    assert words in str(refused.value.reason)
