"""Who a message goes to or comes from: phone numbers, match keys and Meta's business-scoped user ids (BSUID).

A person may be known by a phone, by a `wa_id` (Meta's digits for a phone, which can differ from the dialled
number) or only by a BSUID. Nothing here rewrites what Meta reported; a match key only says that two spellings
are one person.
"""

import re
from dataclasses import dataclass

_NOT_DIGIT = re.compile(r"[^0-9]")
_BSUID = re.compile(r"[A-Z]{2}\.(?:ENT\.)?[0-9A-Za-z]{1,128}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_PHONE_TEXT = re.compile(r"\+?[0-9][0-9\s().\-/]*|\+?\([0-9][0-9\s().\-/]*")
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


@dataclass(frozen=True, slots=True)
class Recipient:
    """Exactly one of phone (with its match key), bsuid and contact_id."""

    phone: str | None = None
    match_key: str | None = None
    bsuid: str | None = None
    contact_id: str | None = None


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
    import phonenumbers  # 20 ms to import: the webhook needs match keys, never this

    text = text.strip()
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
    return Phone(e164, match_key(e164))


def _as_dialled_today(e164: str) -> str:
    for old, today in _OLD_SPELLINGS:
        if old.fullmatch(e164):
            return old.sub(today, e164)
    return e164


def parse_recipient(value: object, region: str) -> Recipient:
    """Read the `to` of a request: "+52…", {"bsuid": "MX.…"} or {"contact_id": "<uuid>"}.

    Raises InvalidRecipient.
    """
    if isinstance(value, str):
        try:
            phone = parse_phone(value, region)
        except InvalidPhone as error:
            raise InvalidRecipient("invalid_phone", "to", error.reason) from None
        return Recipient(phone=phone.e164, match_key=phone.match_key)
    if not isinstance(value, dict) or len(value) != 1 or not value.keys() <= {"bsuid", "contact_id"}:
        raise InvalidRecipient(
            "invalid_recipient",
            "to",
            'expected a phone number as text, {"bsuid": …} or {"contact_id": …}, and only one',
        )
    if "bsuid" in value:
        return Recipient(bsuid=_parse_bsuid(value["bsuid"]))
    return Recipient(contact_id=_parse_contact_id(value["contact_id"]))


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
