"""Who a message goes to or comes from: phone numbers, match keys and Meta's business-scoped user ids (BSUID).

A person may be known by a phone, by a `wa_id` (Meta's digits for a phone, which can differ from the dialled
number) or only by a BSUID. Nothing here rewrites what Meta reported; a match key only says that two spellings
are one person.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any, TypedDict

_NOT_DIGIT = re.compile(r"[^0-9]")
_BSUID = re.compile(r"[A-Z]{2}\.(?:ENT\.)?[0-9A-Za-z]{1,128}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_PHONE_TEXT = re.compile(r"\+?[0-9][0-9\s().\-/]*|\+?\([0-9][0-9\s().\-/]*")
_LONGEST = 15
"""Digits of a number in E.164, calling code included. The library finds longer ones possible in some countries."""
_PLAIN_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
_OLD_SPELLINGS = (
    (re.compile(r"\+521([0-9]{10})"), r"+52\1"),  # Mexico's mobile 1, gone since 2019
    (
        re.compile(r"\+55([1-9]{2})([6-9][0-9]{7})"),
        r"+55\g<1>9\2",
    ),  # a Brazilian mobile before its ninth digit
)


class InvalidPhone(ValueError):
    """The text is no phone number one could send to. `reason` is for the user."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class InvalidRecipient(ValueError):
    """The recipient of a request cannot be used.

    `code` is one of invalid_phone, invalid_bsuid, invalid_contact_id, invalid_recipient; `field` a path such
    as "to.bsuid"; `reason` is for the user.
    """

    def __init__(self, code: str, field: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.field = field
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Phone:
    """A phone number: `e164` with its leading "+" (Meta would prepend its own country code without it)."""

    e164: str
    match_key: str


class Person(TypedDict):
    """Whom a message or a fact is about, as the verbs take it: exactly one of phone (with its match key), bsuid and
    contact_id."""

    phone: str | None
    match_key: str | None
    bsuid: str | None
    contact_id: str | None


def match_key(digits: str) -> str:
    """The digits under which all spellings of one phone number meet. Total, idempotent; non-digits drop out.

    Mexico `521` + 10 digits is `52` + 10; Argentina `549` + 10 is `54` + 10; a Brazilian mobile without its
    ninth digit is the same with it. Sources: the prefixes Meta says it may modify (messages/send-messages),
    and what senders see in practice. Brazil's nine is only dropped before 6-9: numbers 9[1-5]… were born with
    nine digits, and without the 9 they would be somebody's landline.
    """
    if not (digits.isascii() and digits.isdigit()):
        digits = _NOT_DIGIT.sub("", digits)
    if len(digits) != 13:
        return digits
    if digits.startswith("521"):
        return "52" + digits[3:]
    if digits.startswith("549"):
        return "54" + digits[3:]
    if digits.startswith("55") and digits[4] == "9" and digits[5] in "6789":
        return digits[:4] + digits[5:]
    return digits


def is_bsuid(text: str) -> bool:
    """Whether the text is a BSUID ("MX.1A2b…") or a parent BSUID ("MX.ENT.1A2b…")."""
    return _BSUID.fullmatch(text) is not None


def parse_phone(text: str, region: str) -> Phone:
    """Read a phone number as a person of `region` (a country_id) writes it; "+…" is international anywhere.

    Old spellings which Meta still reports as `wa_id` (Mexico, Brazil) are read as the number they are today.
    Raises InvalidPhone.
    """
    text = text.strip()
    if is_e164_as_it_stands(text):
        return Phone(text, match_key(text[1:]))
    import phonenumbers  # 20 ms to import: the webhook needs match keys, never this

    if len(text) > 40 or not _PHONE_TEXT.fullmatch(text):
        raise InvalidPhone("only digits, spaces, brackets, dots and hyphens after an optional + make a phone number")
    try:
        number = phonenumbers.parse(text, region)
        e164 = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
        if not phonenumbers.is_valid_number(number):
            e164 = _as_dialled_today(e164)
            number = phonenumbers.parse(e164)
    except phonenumbers.NumberParseException as error:
        raise InvalidPhone(f"not a phone number for country {region}: {error}") from None
    if not phonenumbers.is_valid_number(number):
        raise InvalidPhone("no such number exists in its country: check the digits, and the country code after the +")
    if len(e164) > 1 + _LONGEST:
        raise InvalidPhone(f"a phone number has {_LONGEST} digits at the most, the country code included (E.164)")
    return Phone(e164, match_key(e164))


def is_e164_as_it_stands(text: str) -> bool:
    """Whether the library would find `text` valid and write it just so. No says nothing: then ask the library.

    It decides by the library's own metadata, ten times as fast as parsing, formatting and judging do, which is what
    ten thousand recipients of one call take longest with. Only for calling codes of a single country.
    """
    found = _PLAIN_E164.fullmatch(text)
    if found is None:
        return False
    for length in (2, 1, 3):
        numbers = _numbers(int(text[1 : 1 + length]))
        if numbers is not None:
            return numbers.are_so(text[1 + length :])
    return False


@dataclass(frozen=True, slots=True)
class _Numbers:
    """The national numbers of a calling code: `kinds` are mobile, fixed …, `prefix` is what the library cuts off."""

    general: tuple[re.Pattern[str], frozenset[int]]
    kinds: tuple[tuple[re.Pattern[str], frozenset[int]], ...]
    prefix: re.Pattern[str] | None

    def are_so(self, number: str) -> bool:
        if number.startswith("0"):
            return False
        cut = self.prefix and self.prefix.match(number)
        if cut and cut.end():
            return False
        return _is_one(number, self.general) and any(_is_one(number, kind) for kind in self.kinds)


def _is_one(number: str, kind: tuple[re.Pattern[str], frozenset[int]]) -> bool:
    pattern, lengths = kind
    return (not lengths or len(number) in lengths) and pattern.fullmatch(number) is not None


@cache
def _numbers(calling_code: int) -> _Numbers | None:
    import phonenumbers

    regions = phonenumbers.COUNTRY_CODE_TO_REGION_CODE.get(calling_code, ())
    known = phonenumbers.PhoneMetadata.metadata_for_region(regions[0]) if len(regions) == 1 else None
    if known is None or known.general_desc is None:
        return None
    # The commonest first; any of them makes a number valid.
    kinds = (
        *(known.mobile, known.fixed_line, known.voip, known.toll_free, known.premium_rate, known.shared_cost),
        *(known.personal_number, known.pager, known.uan, known.voicemail),
    )
    return _Numbers(
        _compiled(known.general_desc),
        tuple(_compiled(kind) for kind in kinds if kind is not None and kind.national_number_pattern),
        re.compile(known.national_prefix_for_parsing) if known.national_prefix_for_parsing else None,
    )


def _compiled(kind: Any) -> tuple[re.Pattern[str], frozenset[int]]:
    return re.compile(kind.national_number_pattern or ""), frozenset(kind.possible_length or ())


def _as_dialled_today(e164: str) -> str:
    for old, today in _OLD_SPELLINGS:
        if old.fullmatch(e164):
            return old.sub(today, e164)
    return e164


def parse_recipient(value: object, region: str) -> Person:
    """Read the `to` of a request: "+52…", {"bsuid": "MX.…"} or {"contact_id": "<uuid>"}.

    Raises InvalidRecipient.
    """
    if isinstance(value, str):
        try:
            phone = parse_phone(value, region)
        except InvalidPhone as error:
            raise InvalidRecipient("invalid_phone", "to", error.reason) from None
        return {"phone": phone.e164, "match_key": phone.match_key, "bsuid": None, "contact_id": None}
    if not isinstance(value, dict) or len(value) != 1 or not value.keys() <= {"bsuid", "contact_id"}:
        raise InvalidRecipient(
            "invalid_recipient",
            "to",
            'expected a phone number as text, {"bsuid": …} or {"contact_id": …}, and only one',
        )
    if "bsuid" in value:
        return {"phone": None, "match_key": None, "bsuid": _parse_bsuid(value["bsuid"]), "contact_id": None}
    contact_id = _parse_contact_id(value["contact_id"])
    return {"phone": None, "match_key": None, "bsuid": None, "contact_id": contact_id}


def _parse_bsuid(value: object) -> str:
    if not isinstance(value, str) or not is_bsuid(value):
        raise InvalidRecipient(
            "invalid_bsuid",
            "to.bsuid",
            "expected the id as Meta reported it: a country, a dot, letters and digits",
        )
    return value


def _parse_contact_id(value: object) -> str:
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        raise InvalidRecipient("invalid_contact_id", "to.contact_id", "expected the uuid of a contact")
    return value.lower()
