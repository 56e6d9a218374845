"""Fields that requests have in common: what is taken, and what is refused with the field's name."""

from collections.abc import Callable
from typing import Any

import pytest

from services.whatsapp import requests
from services.whatsapp.refusals import RefusalError


def refused(read: Callable[..., object], *arguments: object) -> tuple[str, str | None]:
    with pytest.raises(RefusalError) as error:
        read(*arguments)
    return error.value.code, error.value.field


def test_country() -> None:
    assert requests.country({"country_id": "MX"}) == "MX"
    assert refused(requests.country, {}) == ("missing_field", "country_id")
    for value in ("mx", "MEX", "M", "", "M1", "MX\n", 52, ["MX"]):
        assert refused(requests.country, {"country_id": value}) == ("invalid_field", "country_id")


def test_account() -> None:
    assert requests.account({}) is None
    assert requests.account({"account": None}) is None
    assert requests.account({"account": "north-2"}) == "north-2"
    for value in ("North", "-north", "north-", "a--b", "", "a b", "main\n", 5):
        assert refused(requests.account, {"account": value}) == ("invalid_field", "account")


def test_ref() -> None:
    assert requests.ref({}) is None
    assert requests.ref({"ref": "ñ" * 200}) == "ñ" * 200
    for value in ("", "a" * 201, "a\0b", 5):
        assert refused(requests.ref, {"ref": value}) == ("invalid_field", "ref")


@pytest.mark.parametrize("value", ["a", "a" * 200, "with space", "!~"])
def test_a_key_of_printable_ascii_is_taken_as_it_is(value: str) -> None:
    assert requests.key(value) == value


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "idempotency_key_missing"),
        ("", "idempotency_key_missing"),
        *((value, "idempotency_key_invalid") for value in ("a" * 201, " a", "a ", "ñ", "a\nb", "a\0")),
    ],
)
def test_any_other_key_is_refused(value: str | None, code: str) -> None:
    assert refused(requests.key, value) == (code, "Idempotency-Key")


@pytest.mark.parametrize(
    ("given", "utc"),
    [
        ("2026-12-24T09:00:00-06:00", "2026-12-24T15:00:00+00:00"),
        ("2026-12-24T09:00:00Z", "2026-12-24T09:00:00+00:00"),
        (None, None),
    ],
)
def test_time_is_given_with_its_offset_and_read_as_utc(given: str | None, utc: str | None) -> None:
    assert requests.time({"send_at": given}, "send_at") == utc


@pytest.mark.parametrize("value", ["2026-12-24T09:00:00", "tomorrow", "", 5, [], "0001-01-01T00:00:00+10:00"])
def test_any_other_time_is_refused(value: Any) -> None:
    assert refused(requests.time, {"send_at": value}, "send_at") == ("invalid_send_at", "send_at")
    assert refused(requests.time, {"valid_until": value}, "valid_until") == ("invalid_field", "valid_until")


def test_a_fingerprint_depends_on_what_is_said_and_not_on_its_order() -> None:
    assert requests.fingerprint({"a": 1, "b": [1, 2]}) == requests.fingerprint({"b": [1, 2], "a": 1})
    assert requests.fingerprint({"a": 1, "b": [1, 2]}) != requests.fingerprint({"a": 1, "b": [2, 1]})
    assert requests.fingerprint({"a": 1}) != requests.fingerprint({"a": "1"})
