"""The pure part of the flow of campaigns: judging rows by the template's contract."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.whatsapp.flows.campaigns import _Judge
from services.whatsapp.meta.templates import contract_of
from services.whatsapp.rows import judge as judge_rows

BODY = contract_of([{"type": "BODY", "text": "Hola {{1}}, su pedido {{2}} va en camino."}], "UTILITY")
PLACE = contract_of([{"type": "HEADER", "format": "LOCATION"}, {"type": "BODY", "text": "Aquí."}], "UTILITY")
PICTURE = contract_of(
    [{"type": "HEADER", "format": "IMAGE"}, {"type": "BODY", "text": "Hola {{1}}, mire esto."}], "MARKETING"
)
PHONE = "+525512345678"
ROW: dict[str, Any] = {"to": PHONE, "parameters": ["Ana", "A1"]}


def judge(*recipients: Any, contract: Any = BODY, start: int = 0) -> tuple[list[Any], list[Any]]:
    return judge_rows(recipients, start, _Judge(contract, "MX").row)


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
