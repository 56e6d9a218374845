"""Rows of a bulk call: counted from 1 over the whole call, and a bad one is refused alone."""

import tracemalloc
from typing import Any

import pytest

from services.whatsapp import rows
from services.whatsapp.refusals import RefusalError, refuse


def only_even(number: int, each: Any) -> dict[str, Any]:
    if each % 2:
        raise refuse("invalid_field", field="n", reason="it is odd")
    return {"row": number, "n": each}


def test_each_row_is_taken_or_refused_under_its_number() -> None:
    good, refused = rows.judge([2, 3, 4], 1000, only_even)
    assert good == [{"row": 1001, "n": 2}, {"row": 1003, "n": 4}]
    [bad] = refused
    assert bad["message"]
    assert (bad["row"], bad["code"], bad["field"], bad["reason"]) == (1002, "invalid_field", "n", "it is odd")


def test_a_refusal_of_the_database_is_put_into_words() -> None:
    [worded] = rows.worded([{"row": 3, "code": "opted_out", "field": "to"}])
    assert (worded["row"], worded["code"], worded["field"]) == (3, "opted_out", "to")
    assert worded["message"]
    assert worded["reason"]


def test_refusals_come_in_the_order_of_the_rows() -> None:
    refused = rows.worded({"row": number, "code": "opted_out", "field": None} for number in (10, 9, 1))
    assert [each["row"] for each in rows.in_order(refused)] == [1, 9, 10]


def test_a_csv_may_hold_what_a_text_holds() -> None:
    text = '\ufeffto,proof\r\n1,"Sí, ""quiero""\nofertas"\r\n2,\r\n'
    assert rows.read_csv(text.encode(), 2) == [{"to": "1", "proof": 'Sí, "quiero"\nofertas'}, {"to": "2", "proof": ""}]


@pytest.mark.parametrize(
    ("raw", "code", "words"),
    [
        (b"to\n1\n2\n3\n", "too_many_recipients", ""),
        (b"to\n1\n\xff\n", "invalid_csv", "not UTF-8"),
        (b"to\n" + b"\n" * 300_000, "invalid_csv", "a row has more than"),
        (b"to,a,b\n1" + b',"\n"' * 100_000, "invalid_csv", "a row has more than"),
        (b"to" + b",x" * 200_000, "invalid_csv", "a row has more than"),
        (b"to," + b",".join(b"%d" % n for n in range(1000)), "invalid_csv", "columns"),
    ],
)
def test_a_csv_is_read_no_further_than_it_must_be(raw: bytes, code: str, words: str) -> None:
    with pytest.raises(RefusalError) as refused:
        rows.read_csv(raw, 2)
    assert refused.value.code == code
    assert words in str(refused.value.reason)


def test_rows_beyond_the_most_are_never_made() -> None:
    """Two million rows of one digit: they would take half a gigabyte."""
    raw = b"to\n" + b"1\n" * 2_000_000
    tracemalloc.start()
    try:
        with pytest.raises(RefusalError) as refused:
            rows.read_csv(raw, 10_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused.value.code == "too_many_recipients"
    assert peak < 16 * 1024 * 1024
