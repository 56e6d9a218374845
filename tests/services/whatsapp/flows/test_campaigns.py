"""The pure parts of the flow of campaigns: reading a CSV, judging rows, the opening."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.whatsapp.actors import Member, Server
from services.whatsapp.flows import campaigns
from services.whatsapp.meta.templates import contract_of
from services.whatsapp.refusals import RefusalError
from services.whatsapp.rows import judge as judge_rows

QUERY = {"country_id": "MX", "name": "spring", "template": "order_update", "language": "es_MX"}
BODY = contract_of([{"type": "BODY", "text": "Hola {{1}}, su pedido {{2}} va en camino."}], "UTILITY")
PLACE = contract_of([{"type": "HEADER", "format": "LOCATION"}, {"type": "BODY", "text": "Aquí."}], "UTILITY")
PICTURE = contract_of(
    [{"type": "HEADER", "format": "IMAGE"}, {"type": "BODY", "text": "Hola {{1}}, mire esto."}], "MARKETING"
)
PHONE = "+525512345678"
ROW: dict[str, Any] = {"to": PHONE, "parameters": ["Ana", "A1"]}


# ── CSV ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_csv_becomes_the_call_that_json_would_be() -> None:
    text = 'to,body.1,body.2,ref\n+525512345678,Ana,"A,1",r1\n+525512345679,"José ""Pepe""",A2,\n'
    assert campaigns.read_csv(text.encode(), QUERY | {"valid_until": "2026-12-24T09:00:00Z"}) == {
        "country_id": "MX",
        "name": "spring",
        "valid_until": "2026-12-24T09:00:00Z",
        "template": {"name": "order_update", "language": "es_MX"},
        "recipients": [
            {"to": "+525512345678", "parameters": {"body.1": "Ana", "body.2": "A,1"}, "ref": "r1"},
            {"to": "+525512345679", "parameters": {"body.1": 'José "Pepe"', "body.2": "A2"}},
        ],
    }


@pytest.mark.parametrize("text", ["\ufeffto\r\n+525512345678\r\n", "to\n\n+525512345678\n\n", "to\n+525512345678"])
def test_a_csv_may_come_from_a_spreadsheet(text: str) -> None:
    assert campaigns.read_csv(text.encode(), QUERY)["recipients"] == [{"to": PHONE, "parameters": {}}]


def test_a_csv_that_appends_names_the_campaign_only() -> None:
    query = {"country_id": "MX", "campaign_id": "01a2", "forceFunctionRegion": "any"}
    call = campaigns.read_csv(b"to\n+525512345678\n", query)
    assert call == {"country_id": "MX", "campaign_id": "01a2", "recipients": [{"to": PHONE, "parameters": {}}]}


def test_a_misspelt_query_is_kept_to_be_refused() -> None:
    assert "valid_til" in campaigns.read_csv(b"to\n1\n", QUERY | {"valid_til": "2026-12-24T09:00:00Z"})


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
        campaigns.read_csv(text.encode(), QUERY)
    assert refused.value.code == "invalid_csv"
    assert words in str(refused.value.reason)


# ── Rows ──────────────────────────────────────────────────────────────────────────────────────────


def judge(*recipients: Any, contract: Any = BODY, start: int = 0) -> tuple[list[Any], list[Any]]:
    return judge_rows(recipients, start, campaigns._Judge(contract, "MX").row)


def test_a_good_row_is_ready_for_the_database() -> None:
    rows, refused = judge(ROW | {"ref": "r1"}, {"to": PHONE, "parameters": {"body.2": "A1", "body.1": "Ana"}})
    assert refused == []
    assert rows[0] == {
        "row": 1,
        "phone": PHONE,
        "match_key": "525512345678",
        "bsuid": None,
        "contact_id": None,
        "components": [
            {"type": "body", "parameters": [{"type": "text", "text": "Ana"}, {"type": "text", "text": "A1"}]}
        ],
        "ref": "r1",
    }
    assert rows[1]["components"] == rows[0]["components"]


@pytest.mark.parametrize(
    ("row", "code", "field"),
    [
        ("+525512345678", "invalid_recipient", "to"),
        ({"parameters": ["Ana", "A1"]}, "missing_field", "to"),
        (ROW | {"to": "12"}, "invalid_phone", "to"),
        (ROW | {"to": {"bsuid": "?"}}, "invalid_bsuid", "to.bsuid"),
        (ROW | {"parameter": []}, "unknown_field", "parameter"),
        (ROW | {"ref": 5}, "invalid_field", "ref"),
        (ROW | {"parameters": ["Ana"]}, "template_parameters", "parameters.body.2"),
        (ROW | {"parameters": ["Ana", "A1", "x"]}, "template_parameters", "parameters.body.3"),
        (ROW | {"parameters": {"body.1": "Ana", "body.2": "two\nlines"}}, "template_parameters", "parameters.body.2"),
        (ROW | {"parameters": {"body.1": "Ana", "body.2": 5}}, "template_parameters", "parameters.body.2"),
        (ROW | {"parameters": "Ana"}, "template_parameters", "parameters"),
        (ROW | {"parameters": ["Ana", "nul \0"]}, "template_parameters", "parameters"),
        ({"to": PHONE}, "template_parameters", "parameters.body.1"),
    ],
)
def test_a_bad_row_is_refused_alone_with_its_number(row: Any, code: str, field: str) -> None:
    rows, refused = judge(ROW, row, ROW, start=1000)
    assert [good["row"] for good in rows] == [1001, 1003]
    [bad] = refused
    assert (bad["row"], bad["code"]) == (1002, code)
    assert str(bad["field"]).startswith(field)
    assert bad["message"]


@pytest.mark.parametrize(
    "place", [{}, {"latitude": "north", "longitude": "0"}, {"latitude": "0", "longitude": "0", "planet": "Mars"}]
)
def test_an_object_that_is_not_metas_is_refused_too(place: dict[str, str]) -> None:
    [bad] = judge({"to": PHONE, "parameters": {"header.location": place}}, contract=PLACE)[1]
    assert bad["code"] == "template_parameters"
    assert "location" in bad["reason"]


VALUES = st.sampled_from(
    ["Ana", "", " ", "two\nlines", "nul \0", "half \ud83d", "x" * 1025, "a     b", 5, None, {"link": 1}]
)
PICTURES = st.sampled_from(
    ["https://shop.example/a.jpg", "https://", "a.jpg", {"id": "1"}, {"id": ""}, {"id": "1", "x": 1}]
)


@given(st.lists(st.fixed_dictionaries({}, optional={"header.image": PICTURES, "body.1": VALUES}), max_size=6))
def test_a_row_is_judged_the_same_whatever_rows_came_before_it(several: list[dict[str, Any]]) -> None:
    recipients = [{"to": PHONE, "parameters": parameters} for parameters in several]
    rows, refused = judge(*recipients, contract=PICTURE)
    alone = [judge(recipient, contract=PICTURE, start=number) for number, recipient in enumerate(recipients)]
    assert rows == [row for good, _ in alone for row in good]
    assert refused == [row for _, bad in alone for row in bad]


def test_nobody_is_sent_a_template_whose_needs_are_unknown() -> None:
    rows, [bad] = judge(ROW, contract={"unsupported": "component HOLOGRAM is not known"})
    assert rows == []
    assert (bad["code"], bad["reason"]) == ("template_parameters", "component HOLOGRAM is not known")


# ── The opening ───────────────────────────────────────────────────────────────────────────────────

ANA = Member("01a20c70-3896-7e4d-8844-cea70f3dc7be", "a token")
OPENING: dict[str, Any] = {
    "country_id": "MX",
    "name": "spring",
    "template": {"name": "plain", "language": "es-MX"},
    "recipients": [ROW],
}


def test_recipients_are_no_part_of_what_opens_a_campaign() -> None:
    opening = campaigns._opening(OPENING, "k", ANA)
    assert opening == campaigns._opening(OPENING | {"recipients": [ROW, ROW]}, "k", ANA)
    assert opening["fingerprint"] != campaigns._opening(OPENING | {"name": "summer"}, "k", ANA)["fingerprint"]
    assert (opening["template_name"], opening["template_language"]) == ("plain", "es_MX")


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"name": None}, "invalid_field", "name"),
        ({"name": " "}, "invalid_field", "name"),
        ({"name": "a" * 201}, "invalid_field", "name"),
        ({"name": "a\0"}, "invalid_field", "name"),
        ({"template": None}, "bulk_needs_template", "template"),
        ({"template": "plain"}, "invalid_field", "template"),
        ({"template": {"name": "plain"}}, "invalid_field", "template"),
        ({"template": {"name": "", "language": "es"}}, "invalid_field", "template"),
        ({"template": {"name": "pl\0", "language": "es"}}, "invalid_field", "template"),
        ({"template": {"name": "plain", "language": 5}}, "invalid_field", "template"),
        ({"send_at": "2026-12-24"}, "invalid_send_at", "send_at"),
        ({"valid_until": "soon"}, "invalid_field", "valid_until"),
        ({"campaign_id": "01a20c70-3896-7e4d-8844-cea70f3dc7be"}, "invalid_field", "name"),
    ],
)
def test_a_wrong_opening_is_refused(change: dict[str, Any], code: str, field: str) -> None:
    with pytest.raises(RefusalError) as refused:
        campaigns._opening(OPENING | change, "k", Server())
    assert (refused.value.code, refused.value.field) == (code, field)
