"""What all requests have in common: which of several faults is told, by which path, and never with the value."""

from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from services.whatsapp.refusals import RefusalError
from services.whatsapp.requests.repeatable import Repeatable
from services.whatsapp.requests.request import Else, Request, fault


class Stop(BaseModel):
    at: Annotated[int, Field(ge=0), Else("invalid_field", "it must be a number of 0 or more")]


class Trip(Repeatable):
    as_null = frozenset({"by"})
    elsewhere = {"from": ("invalid_field", "it is where you are")}  # noqa: RUF012 - a constant of the class
    apart = frozenset({"stops"})

    country_id: Annotated[str, Else("invalid_field", "it must be a text")]
    to: str
    by: Annotated[str, Else("invalid_field", "it must be a vehicle")]
    stops: list[Stop] = []  # noqa: RUF012


class Row(Request):
    not_an_object = ("invalid_recipient", "to", "a row is an object")

    to: str = "somewhere"


GOOD: dict[str, Any] = {"country_id": "MX", "to": "sea", "by": "car"}


def refused(given: object, kind: type[Request] = Trip) -> tuple[str, str | None, str | None]:
    with pytest.raises(RefusalError) as error:
        kind.read(given)
    return error.value.code, error.value.field, error.value.reason


@pytest.mark.parametrize(
    ("given", "code", "field"),
    [
        ({"fare": 1, "from": 5, "country_id": 5}, "unknown_field", "fare"),
        (GOOD | {"country_id": 5, "to": None, "from": "here"}, "invalid_field", "from"),
        ({"to": "sea", "by": "car", "stops": [{}]}, "missing_field", "country_id"),
        (GOOD | {"country_id": None, "to": 5}, "missing_field", "country_id"),
        (GOOD | {"country_id": 5, "stops": 5}, "invalid_field", "country_id"),
        (GOOD | {"stops": [{"at": 1}, {"at": -1}]}, "invalid_field", "stops[1].at"),
        (GOOD | {"stops": [{}]}, "missing_field", "stops[0].at"),
        (GOOD | {"to": 5}, "invalid_field", "to"),
        ({"by": "car", "country_id": 5}, "missing_field", "to"),
        ({"to": "sea", "country_id": "MX"}, "invalid_field", "by"),
        ({"to": "sea", "country_id": 5}, "invalid_field", "country_id"),
    ],
)
def test_the_first_fault_is_told_with_its_path(given: object, code: str, field: str) -> None:
    """What is not known, then what is missing, then what is wrong in the order of the fields."""
    assert refused(given)[:2] == (code, field)


def test_a_fault_has_its_reason() -> None:
    assert refused(GOOD | {"from": "here"})[2] == "it is where you are"
    assert refused(GOOD | {"country_id": 5})[2] == "it must be a text"
    assert refused({"to": "sea", "country_id": "MX"})[2] == "it must be a vehicle"


@pytest.mark.parametrize("given", [None, 5, "row", []])
def test_a_row_that_is_no_object_is_refused_as_one(given: object) -> None:
    assert refused(given, Row) == ("invalid_recipient", "to", "a row is an object")


def test_a_refusal_does_not_repeat_the_value() -> None:
    with pytest.raises(RefusalError) as error:
        Trip.read(GOOD | {"to": {"a secret": "a secret"}})
    assert "a secret" not in str(error.value.body())
    assert error.value.__cause__ is None
    assert error.value.__context__ is None


def test_a_part_of_a_value_is_named_and_so_is_what_the_message_needs() -> None:
    def read(value: object) -> object:
        raise fault("message_type_unknown", "Meta knows no {type}", field="to.type", type="fax")

    from pydantic import PlainValidator

    class Named(Request):
        to: Annotated[str, PlainValidator(read)]

    assert refused({"to": 1}, Named) == ("message_type_unknown", "to.type", "Meta knows no fax")


@pytest.mark.parametrize("key", ["a", "a" * 200, "with space", "!~"])
def test_a_key_of_printable_ascii_is_taken_as_it_is(key: str) -> None:
    assert Trip.read_with(key, GOOD).key == key


@pytest.mark.parametrize(
    ("key", "code"),
    [
        (None, "idempotency_key_missing"),
        ("", "idempotency_key_missing"),
        *((key, "idempotency_key_invalid") for key in ("a" * 201, " a", "a ", "ñ", "a\nb", "a\n", "a\0")),
    ],
)
def test_any_other_key_is_refused(key: str | None, code: str) -> None:
    with pytest.raises(RefusalError) as error:
        Trip.read_with(key, GOOD)
    assert (error.value.code, error.value.field) == (code, "Idempotency-Key")


def test_a_call_is_known_by_what_was_said_but_for_what_has_a_fingerprint_of_its_own() -> None:
    call = Trip.read_with("k", GOOD)
    assert call.fingerprint == Trip.read_with("l", GOOD | {"stops": [{"at": 1}]}).fingerprint
    assert call.fingerprint != Trip.read_with("k", GOOD | {"to": "lake"}).fingerprint
