"""Reading a request to send: what is wrong with it is refused in words, whatever the kind of message."""

from typing import Any

import pytest

from services.whatsapp.meta.messages import Message
from services.whatsapp.refusals import RefusalError
from services.whatsapp.requests.send import Send

REQUEST: dict[str, Any] = {
    "country_id": "MX",
    "to": "+525512345678",
    "message": {"type": "text", "text": {"body": "Hola"}},
}


def refused(given: dict[str, Any]) -> RefusalError:
    with pytest.raises(RefusalError) as refused:
        Send.read_with("key", given)
    return refused.value


def test_a_request_becomes_what_it_means() -> None:
    asked = Send.read_with("key", REQUEST | {"to": "55 1234 5678", "send_at": "2026-12-24T09:00:00-06:00"})
    assert asked.to == {"phone": "+525512345678", "match_key": "525512345678", "bsuid": None, "contact_id": None}
    assert isinstance(asked.message, Message)
    assert asked.message.content() == REQUEST["message"]
    assert (asked.send_at, asked.expires_at, asked.account) == ("2026-12-24T15:00:00+00:00", None, None)


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        ("pin", "message_type_not_implemented", "Messages of type pin are not implemented."),
        ("fax", "message_type_unknown", "Meta knows no message type fax."),
    ],
)
def test_a_kind_we_do_not_send_is_refused_by_name(kind: str, code: str, words: str) -> None:
    error = refused(REQUEST | {"message": {"type": kind, kind: {}}})
    assert (error.code, error.status, error.message, error.field) == (code, 422, words, "message.type")


def test_a_long_kind_is_not_repeated_at_length() -> None:
    assert len(refused(REQUEST | {"message": {"type": "x" * 10_000}}).message) < 200


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"to": None}, "invalid_recipient", "to"),
        ({"to": "12"}, "invalid_phone", "to"),
        ({"to": {"bsuid": "?"}}, "invalid_bsuid", "to.bsuid"),
        ({"to": {"contact_id": "?"}}, "invalid_contact_id", "to.contact_id"),
        ({"country_id": "mx", "to": "12"}, "invalid_field", "country_id"),
        ({"message": {"type": "text", "text": {"body": 5}}}, "invalid_message", "message.text.body"),
        ({"to": "12", "message": None}, "invalid_phone", "to"),
        ({"acount": "main", "to": "12"}, "unknown_field", "acount"),
    ],
)
def test_a_fault_is_told_with_its_path(change: dict[str, Any], code: str, field: str) -> None:
    error = refused(REQUEST | change)
    assert (error.code, error.field) == (code, field)
