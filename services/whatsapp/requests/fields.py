"""The fields that requests have in common, each with the words it is refused with."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from pydantic import (
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    StringConstraints,
    ValidationInfo,
)
from pydantic_core import CoreSchema, core_schema

from services.whatsapp.identity import InvalidRecipient, Person, parse_recipient
from services.whatsapp.requests.request import Else, fault

JsonObject = dict[str, object]

# ── Texts ─────────────────────────────────────────────────────────────────────────────────────────

Country = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Z]{2}$", strict=True),
    Else("invalid_field", "a country is two capital letters (ISO 3166-1), such as MX"),
]
Account = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", strict=True),
    Else("invalid_field", "an account is lower-case letters, digits and hyphens"),
]


def text(longest: int) -> tuple[StringConstraints, Else]:
    """The annotations of a text of 1 to so many characters, such as Postgres takes."""
    return (
        StringConstraints(min_length=1, max_length=longest, pattern=r"^[^\x00]*$", strict=True),
        Else("invalid_field", f"it must be a text of 1 to {longest} characters"),
    )


Ref = Annotated[str, *text(200)]


# ── Ids ───────────────────────────────────────────────────────────────────────────────────────────


def uuid_or(code: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        """As we spell it, whatever spelling of a UUID was given."""
        try:
            # Python takes the digits of any script for digits.
            if not isinstance(value, str) or not value.isascii():
                raise ValueError
            return str(UUID(value))
        except ValueError:
            raise fault(code, "it is not a UUID") from None

    return read


_UUID = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
Uuid = Annotated[str, PlainValidator(uuid_or("invalid_field"), json_schema_input_type=_UUID)]
Cursor = Annotated[str, PlainValidator(uuid_or("invalid_cursor"), json_schema_input_type=_UUID)]


# ── Times ─────────────────────────────────────────────────────────────────────────────────────────


def _utc_or(code: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        """An ISO 8601 time with its offset, as ISO 8601 in UTC."""
        try:
            if not isinstance(value, str) or not value.isascii():
                raise ValueError
            given = datetime.fromisoformat(value)
            if given.tzinfo is None:
                raise ValueError
            return given.astimezone(UTC).isoformat()
        except (ValueError, OverflowError):
            reason = "it must be an ISO 8601 time with its offset, such as 2026-12-24T09:00:00-06:00"
            raise fault(code, reason) from None

    return read


_TIME = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
SendAt = Annotated[str, PlainValidator(_utc_or("invalid_send_at"), json_schema_input_type=_TIME)]
Time = Annotated[str, PlainValidator(_utc_or("invalid_field"), json_schema_input_type=_TIME)]


# ── Recipients ────────────────────────────────────────────────────────────────────────────────────


def _recipient(value: object, info: ValidationInfo) -> Person:
    """Phone numbers are read as a person of the country writes them, which the request names before, or the call."""
    country_id = info.context["country_id"] if info.context else info.data.get("country_id", "")
    try:
        return parse_recipient(value, country_id)
    except InvalidRecipient as error:
        raise fault(error.code, error.reason, field=error.field) from None


class _Read:
    """As a PlainValidator, but that pydantic looks into nothing: into neither what comes out nor what may go in."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(_recipient)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonObject:
        return {"anyOf": [_PHONE, _only("bsuid", _BSUID), _only("contact_id", {"format": "uuid"})]}


_PHONE = {"type": "string", "description": "A phone number in E.164, or as a person of the country writes it."}
_BSUID = {"pattern": r"^[A-Z]{2}\.(ENT\.)?[0-9A-Za-z]{1,128}$"}


def _only(name: str, fits: dict[str, str]) -> JsonObject:
    properties = {name: {"type": "string"} | fits}
    return {"type": "object", "properties": properties, "required": [name], "additionalProperties": False}


To = Annotated[Person, _Read()]
"""Whom a message goes to."""


# ── Rows ──────────────────────────────────────────────────────────────────────────────────────────


def listed(most: int) -> Callable[[object], list[object]]:
    """A list of 1 to `most` rows, of whatever kind."""

    def read(value: object) -> list[object]:
        if not isinstance(value, list) or not value:
            raise fault("invalid_field", "it is a list of at least one row")
        if len(value) > most:
            raise fault("too_many_recipients", limit=most)
        return value

    return read
