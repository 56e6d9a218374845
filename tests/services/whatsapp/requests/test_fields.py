"""Fields that requests have in common: what is taken, and what is refused with the field's name."""

from typing import Any

import pytest

from services.whatsapp.refusals import RefusalError
from services.whatsapp.requests import fingerprint
from services.whatsapp.requests.fields import Account, Country, Cursor, Ref, SendAt, Time, Uuid
from services.whatsapp.requests.request import Request

ID = "01a20c70-3896-7e4d-8844-cea70f3dc7be"


class Fields(Request):
    country_id: Country = "MX"
    account: Account | None = None
    ref: Ref | None = None
    send_at: SendAt | None = None
    valid_until: Time | None = None
    campaign_id: Uuid | None = None
    after: Cursor | None = None


def refused(**given: object) -> tuple[str, str | None]:
    with pytest.raises(RefusalError) as error:
        Fields.read(given)
    return error.value.code, error.value.field


def test_country() -> None:
    assert Fields.read({"country_id": "MX"}).country_id == "MX"
    assert refused(country_id=None) == ("missing_field", "country_id")
    for value in ("mx", "MEX", "M", "", "M1", "MX\n", "ñX", 52, ["MX"]):
        assert refused(country_id=value) == ("invalid_field", "country_id")


def test_account() -> None:
    assert Fields.read({"account": None}).account is None
    assert Fields.read({"account": "north-2"}).account == "north-2"
    for value in ("North", "-north", "north-", "a--b", "", "a b", "main\n", 5):
        assert refused(account=value) == ("invalid_field", "account")


def test_ref() -> None:
    assert Fields.read({"ref": None}).ref is None
    assert Fields.read({"ref": "ñ" * 200}).ref == "ñ" * 200
    for value in ("", "a" * 201, "a\0b", "\ud83d", 5):
        assert refused(ref=value) == ("invalid_field", "ref")


@pytest.mark.parametrize("spelled", [ID, ID.upper(), f"{{{ID}}}", f"urn:uuid:{ID}", ID.replace("-", "")])
def test_an_id_is_spelled_as_we_spell_it(spelled: str) -> None:
    assert Fields.read({"campaign_id": spelled}).campaign_id == ID


@pytest.mark.parametrize("value", ["", "me", "١" * 32, 5, [ID]])
def test_any_other_id_is_refused_and_a_cursor_by_its_own_name(value: object) -> None:
    assert refused(campaign_id=value) == ("invalid_field", "campaign_id")
    assert refused(after=value) == ("invalid_cursor", "after")


@pytest.mark.parametrize(
    ("given", "utc"),
    [
        ("2026-12-24T09:00:00-06:00", "2026-12-24T15:00:00+00:00"),
        ("2026-12-24T09:00:00Z", "2026-12-24T09:00:00+00:00"),
        (None, None),
    ],
)
def test_time_is_given_with_its_offset_and_read_as_utc(given: str | None, utc: str | None) -> None:
    assert Fields.read({"send_at": given}).send_at == utc


@pytest.mark.parametrize("value", ["2026-12-24T09:00:00", "tomorrow", "", 5, [], "0001-01-01T00:00:00+10:00"])
def test_any_other_time_is_refused(value: Any) -> None:
    assert refused(send_at=value) == ("invalid_send_at", "send_at")
    assert refused(valid_until=value) == ("invalid_field", "valid_until")


def test_a_fingerprint_depends_on_what_is_said_and_not_on_its_order() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1, "b": [1, 2]}) != fingerprint({"a": 1, "b": [2, 1]})
    assert fingerprint({"a": 1}) != fingerprint({"a": "1"})
