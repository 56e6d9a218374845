"""Reading a request to send: what is wrong with it is refused in words, whatever the kind of message."""

from typing import Any

import pytest

from services.whatsapp.flows.sending import read_request
from services.whatsapp.refusals import RefusalError

REQUEST: dict[str, Any] = {
    "country_id": "MX",
    "to": "+525512345678",
    "message": {"type": "text", "text": {"body": "Hola"}},
}


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        ("image", "message_type_not_implemented", "Messages of type image are not implemented."),
        ("interactive", "message_type_not_implemented", "Messages of type interactive are not implemented."),
        ("fax", "message_type_unknown", "Meta knows no message type fax."),
    ],
)
def test_a_kind_we_do_not_send_is_refused_by_name(kind: str, code: str, words: str) -> None:
    with pytest.raises(RefusalError) as refused:
        read_request(REQUEST | {"message": {"type": kind, kind: {}}}, "key")
    assert refused.value.code == code
    assert refused.value.status == 422
    assert refused.value.message == words
    assert refused.value.field == "message.type"


def test_a_long_kind_is_not_repeated_at_length() -> None:
    with pytest.raises(RefusalError) as refused:
        read_request(REQUEST | {"message": {"type": "x" * 10_000}}, "key")
    assert len(refused.value.message) < 200
