"""Opening, appending, controlling, and the rows of a call."""

from typing import Any

import pytest

from services.whatsapp.identity import Recipient as Person
from services.whatsapp.refusals import RefusalError
from services.whatsapp.requests.bulk_enqueue import Appending, Control, Opening, Recipient, read

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
    assert row.to == Person(phone=PHONE, match_key="525512345678")
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
