"""The fields that requests have in common: each reader gives a checked value, or a refusal that names the field."""

import re
from collections.abc import Container, Iterable, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any
from uuid import UUID

import orjson

from services.whatsapp.identity import InvalidRecipient, Person, parse_recipient
from services.whatsapp.refusals import refuse

_COUNTRY = re.compile(r"[A-Z]{2}")
_ACCOUNT = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_KEY = re.compile(r"[!-~]([ -~]{0,198}[!-~])?")
_LONGEST_REF = 200


def only(names: Iterable[str], known: Container[str]) -> None:
    """Refuses `unknown_field` for a name that is not one of `known`."""
    for name in names:
        if name not in known:
            raise refuse("unknown_field", field=str(name))


def country(request: Mapping[str, Any]) -> str:
    """`country_id`, required. Refuses `missing_field` and `invalid_field`."""
    if request.get("country_id") is None:
        raise refuse("missing_field", field="country_id")
    return _text(
        request["country_id"], "country_id", _COUNTRY, "a country is two capital letters (ISO 3166-1), such as MX"
    )


def account(request: Mapping[str, Any]) -> str | None:
    """`account`, the alias of an account of the country; None for its default."""
    if request.get("account") is None:
        return None
    return _text(request["account"], "account", _ACCOUNT, "an account is lower-case letters, digits and hyphens")


def recipient(value: object, country_id: str) -> Person:
    """Who a message goes to. Refuses what parse_recipient does."""
    try:
        found = parse_recipient(value, country_id)
    except InvalidRecipient as error:
        raise refuse(error.code, field=error.field, reason=error.reason) from None
    return {
        "phone": found.phone,
        "match_key": found.match_key,
        "bsuid": found.bsuid,
        "contact_id": found.contact_id,
    }


def uuid(value: object, field: str, code: str = "invalid_field") -> str:
    """An id of ours, spelled as we spell it, whatever spelling of a UUID was given. Refuses `code`."""
    try:
        # Python takes the digits of any script for digits.
        if not isinstance(value, str) or not value.isascii():
            raise ValueError
        return str(UUID(value))
    except ValueError:
        raise refuse(code, field=field, reason="it is not a UUID") from None


def ref(request: Mapping[str, Any]) -> str | None:
    """`ref`, the caller's own reference."""
    value = request.get("ref")
    if value is not None and not (isinstance(value, str) and 0 < len(value) <= _LONGEST_REF and "\0" not in value):
        raise refuse("invalid_field", field="ref", reason=f"it must be a text of 1 to {_LONGEST_REF} characters")
    return value


def key(value: str | None) -> str:
    """The Idempotency-Key header: 1 to 200 printable ASCII characters."""
    if not value:
        raise refuse("idempotency_key_missing", field="Idempotency-Key")
    if not _KEY.fullmatch(value):
        raise refuse("idempotency_key_invalid", field="Idempotency-Key")
    return value


def time(request: Mapping[str, Any], name: str) -> str | None:
    """An ISO 8601 time with its offset, as ISO 8601 in UTC; None where it is not given."""
    value = request.get(name)
    if value is None:
        return None
    code = "invalid_send_at" if name == "send_at" else "invalid_field"
    reason = "it must be an ISO 8601 time with its offset, such as 2026-12-24T09:00:00-06:00"
    try:
        given = datetime.fromisoformat(value)
        if given.tzinfo is None or not value.isascii():
            raise ValueError
        return given.astimezone(UTC).isoformat()
    except (ValueError, TypeError, OverflowError):
        raise refuse(code, field=name, reason=reason) from None


def fingerprint(request: object) -> str:
    """A digest of what was asked, by which a repeated key is told from a reused one."""
    return blake2b(orjson.dumps(request, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()


def _text(value: object, name: str, pattern: re.Pattern[str], reason: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise refuse("invalid_field", field=name, reason=reason)
    return value
