"""What becomes of a message by Meta's answer."""

import pytest

from services.whatsapp.clients.graph import Answer
from services.whatsapp.clients.verbs import Result
from services.whatsapp.flows.draining import result_of
from services.whatsapp.meta.errors import TABLE, Disposition, MetaError, from_graph


def result(code: int | None, attempts: int = 1) -> Result:
    return result_of(Answer("refused", failure=from_graph({"code": code})), attempts, 0.5)


@pytest.mark.parametrize("row", [row for row in TABLE.values() if row.attempts], ids=lambda row: str(row.code))
def test_an_error_with_a_bound_is_counted_and_waits(row: MetaError) -> None:
    """Otherwise the message would be posted again and again: 132001, a template that is gone at Meta."""
    settled = result(row.code)
    assert settled["outcome"] == "retry"
    assert settled["max_attempts"] == row.attempts
    assert settled["wait_seconds"] >= 1


@pytest.mark.parametrize(
    "row",
    [row for row in TABLE.values() if row.disposition is Disposition.HOLD and not row.attempts],
    ids=lambda row: str(row.code),
)
def test_a_hold_without_a_bound_costs_no_attempt(row: MetaError) -> None:
    assert result(row.code)["outcome"] == "held"


@pytest.mark.parametrize("code", [131047, 132000, 999_999])
def test_a_permanent_error_fails_the_message(code: int) -> None:
    assert result(code)["outcome"] == "rejected"
