"""Phones, match keys and recipients: one person is one contact, however Meta or a user spells their number."""

import uuid
from typing import Any

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.whatsapp.identity import (
    InvalidPhone,
    InvalidRecipient,
    Person,
    is_bsuid,
    is_e164_as_it_stands,
    match_key,
    parse_phone,
    parse_recipient,
)

DIGITS = st.text("0123456789", max_size=20)


@pytest.mark.parametrize(
    ("spellings", "key"),
    [
        (["5215512345678", "525512345678", "+52 1 55 1234 5678"], "525512345678"),
        (["5491123456789", "541123456789"], "541123456789"),
        (["5531981234567", "553181234567"], "553181234567"),
        (["5511961234567", "551161234567"], "551161234567"),
        (["16505551234", "+1 (650) 555-1234"], "16505551234"),
        (["34612345678"], "34612345678"),
        (["", "+", "abc"], ""),
    ],
)
def test_all_spellings_of_a_number_meet(spellings: list[str], key: str) -> None:
    assert {match_key(spelling) for spelling in spellings} == {key}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("5511923456789", "551123456789"),  # a mobile born with nine digits, and a landline
        ("5215512345678", "5215512345679"),
        ("521551234567", "5251551234567"),  # 521 and nine digits is an ordinary number
        ("5491123456789", "5511923456789"),
    ],
)
def test_different_people_never_meet(one: str, other: str) -> None:
    assert match_key(one) != match_key(other)


@given(st.text() | DIGITS)
def test_a_match_key_is_total_and_settles(text: str) -> None:
    key = match_key(text)
    assert match_key(key) == key
    assert all(letter in "0123456789" for letter in key)


@given(st.text("0123456789", min_size=10, max_size=10))
def test_the_extra_digit_of_mexico_and_argentina_never_matters(national: str) -> None:
    assert match_key(f"521{national}") == match_key(f"52{national}") == f"52{national}"
    assert match_key(f"549{national}") == match_key(f"54{national}") == f"54{national}"


@given(st.text("123456789", min_size=2, max_size=2), st.from_regex(r"[6-9][0-9]{7}", fullmatch=True))
def test_the_ninth_digit_of_brazil_never_matters(area: str, number: str) -> None:
    assert match_key(f"55{area}9{number}") == match_key(f"55{area}{number}")


@given(DIGITS.filter(lambda digits: not digits.startswith(("521", "549", "55"))))
def test_every_other_number_is_its_own_key(digits: str) -> None:
    assert match_key(digits) == digits


@pytest.mark.parametrize(
    ("text", "region", "e164"),
    [
        ("+525512345678", "MX", "+525512345678"),
        ("55 1234 5678", "MX", "+525512345678"),
        ("+5215512345678", "MX", "+525512345678"),
        ("+52 1 55 1234 5678", "ES", "+525512345678"),
        ("+553181234567", "BR", "+5531981234567"),
        ("(31) 98123-4567", "BR", "+5531981234567"),
        ("+5491123456789", "AR", "+5491123456789"),
        ("612 34 56 78", "ES", "+34612345678"),
        (" +1 650-253-0000 ", "MX", "+16502530000"),
    ],
)
def test_a_phone_is_read_as_its_country_writes_it(text: str, region: str, e164: str) -> None:
    phone = parse_phone(text, region)
    assert phone.e164 == e164
    assert phone.match_key == match_key(e164)


@pytest.mark.parametrize(
    ("text", "region", "reason"),
    [
        ("", "MX", "only digits"),
        ("hello", "MX", "only digits"),
        ("1-800-FLOWERS", "US", "only digits"),
        ("+52 55 1234 5678 ext 9", "MX", "only digits"),
        ("5" * 50, "MX", "only digits"),
        ("\u0665\u0665", "MX", "only digits"),
        ("+", "MX", "only digits"),
        ("+999123456789", "MX", "not a phone number for country MX"),
        ("5512345678", "QQ", "not a phone number for country QQ"),
        ("123", "MX", "no such number exists"),
        ("+521234", "MX", "no such number exists"),
        ("+4930123456789012", "MX", "a phone number has 15 digits at the most"),
        ("030 123456789012", "DE", "a phone number has 15 digits at the most"),
    ],
)
def test_what_is_no_phone_is_refused_with_a_reason(text: str, region: str, reason: str) -> None:
    with pytest.raises(InvalidPhone) as refusal:
        parse_phone(text, region)
    assert refusal.value.reason.startswith(reason)


PHONE_LIKE = st.from_regex(r"\+?[0-9 ()-]{6,16}", fullmatch=True) | st.text()


@given(PHONE_LIKE, st.sampled_from(["MX", "BR", "AR", "US", "QQ", ""]))
def test_any_text_is_a_phone_or_refused(text: str, region: str) -> None:
    try:
        phone = parse_phone(text, region)
    except InvalidPhone:
        return
    assert phone.e164.startswith("+")
    assert parse_phone(phone.e164, "MX") == phone


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("US.13491208655302741918", True),
        ("MX.1a2B", True),
        ("US.ENT.11815799212886844830", True),
        ("us.1349", False),
        ("USA.1349", False),
        ("US.", False),
        ("US.13 49", False),
        ("US.1349\n", False),
        ("US." + "1" * 129, False),
    ],
)
def test_bsuid(text: str, valid: bool) -> None:
    assert is_bsuid(text) is valid


CONTACT_ID = "0192f5a4-7b1c-7c3e-9d2a-1b2c3d4e5f60"


def person(**known: str) -> Any:
    return {"phone": None, "match_key": None, "bsuid": None, "contact_id": None} | known


@pytest.mark.parametrize(
    ("value", "recipient"),
    [
        ("+5215512345678", person(phone="+525512345678", match_key="525512345678")),
        ({"bsuid": "MX.1A2b3C"}, person(bsuid="MX.1A2b3C")),
        ({"contact_id": CONTACT_ID.upper()}, person(contact_id=CONTACT_ID)),
    ],
)
def test_a_recipient_is_exactly_one_thing(value: Any, recipient: Person) -> None:
    assert parse_recipient(value, "MX") == recipient


@pytest.mark.parametrize(
    ("value", "code", "field"),
    [
        ("hello", "invalid_phone", "to"),
        (525512345678, "invalid_recipient", "to"),
        (None, "invalid_recipient", "to"),
        ([], "invalid_recipient", "to"),
        ({}, "invalid_recipient", "to"),
        ({"phone": "+525512345678"}, "invalid_recipient", "to"),
        ({"bsuid": "MX.1", "contact_id": CONTACT_ID}, "invalid_recipient", "to"),
        ({"bsuid": None}, "invalid_bsuid", "to.bsuid"),
        ({"bsuid": "1A2b3C"}, "invalid_bsuid", "to.bsuid"),
        ({"contact_id": 7}, "invalid_contact_id", "to.contact_id"),
        ({"contact_id": f"{{{CONTACT_ID}}}"}, "invalid_contact_id", "to.contact_id"),
        ({"contact_id": CONTACT_ID[:-1]}, "invalid_contact_id", "to.contact_id"),
    ],
)
def test_a_bad_recipient_says_which_field_is_wrong(value: Any, code: str, field: str) -> None:
    with pytest.raises(InvalidRecipient) as refusal:
        parse_recipient(value, "MX")
    assert (refusal.value.code, refusal.value.field) == (code, field)
    assert refusal.value.reason


@given(st.uuids())
def test_every_uuid_may_be_a_contact(contact_id: uuid.UUID) -> None:
    assert parse_recipient({"contact_id": str(contact_id)}, "MX")["contact_id"] == str(contact_id)


CALLING_CODES = sorted(phonenumbers.COUNTRY_CODE_TO_REGION_CODE)
EXAMPLES = [
    phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    for region in sorted(phonenumbers.SUPPORTED_REGIONS)
    for kind in range(11)
    if (number := phonenumbers.example_number_for_type(region, kind)) is not None
]


def check_the_library_agrees(text: str) -> None:
    if is_e164_as_it_stands(text):
        number = phonenumbers.parse(text, "MX")
        assert phonenumbers.is_valid_number(number)
        assert phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164) == text


@given(st.sampled_from(CALLING_CODES), st.text("0123456789", min_size=4, max_size=13))
def test_what_is_taken_as_it_stands_is_what_the_library_says(code: int, national: str) -> None:
    check_the_library_agrees(f"+{code}{national}")


@given(st.sampled_from(EXAMPLES), st.integers(2, 14), st.text("0123456789", max_size=3))
def test_the_library_agrees_near_numbers_that_exist(number: str, place: int, digits: str) -> None:
    check_the_library_agrees(number)
    check_the_library_agrees(number[:place] + digits + number[place:])
    check_the_library_agrees(number[:place] + digits + number[place + len(digits) :])


def test_ordinary_numbers_need_no_library() -> None:
    assert all(map(is_e164_as_it_stands, ("+525512345678", "+5511961234567", "+573001234567", "+541123456789")))
    assert not any(map(is_e164_as_it_stands, ("+5215512345678", "+52 5512345678", "525512345678", "+5255", "", "+")))
