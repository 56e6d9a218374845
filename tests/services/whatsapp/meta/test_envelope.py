"""The POST body around a stored message."""

from typing import Any

import pytest

from services.whatsapp.meta.envelope import graph_body

CONTENT: dict[str, Any] = {"type": "text", "text": {"body": "Hola"}, "context": {"message_id": "wamid.1"}}
OUR_ID = "0192f5a4-7b1c-7c3e-9d2a-1b2c3d4e5f60"


def test_a_message_to_a_phone() -> None:
    assert graph_body(CONTENT, to="+525512345678", recipient=None, message_id=OUR_ID) == {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "to": "+525512345678",
        "type": "text",
        "text": {"body": "Hola"},
        "context": {"message_id": "wamid.1"},
        "biz_opaque_callback_data": OUR_ID,
    }


def test_a_message_to_a_user_id() -> None:
    body = graph_body(CONTENT, to=None, recipient="MX.1A2b3C", message_id=OUR_ID)
    assert body["recipient"] == "MX.1A2b3C"
    assert "to" not in body


def test_stored_content_can_never_redirect_a_message() -> None:
    body = graph_body(
        CONTENT | {"to": "+10000000000", "biz_opaque_callback_data": "x"},
        to="+525512345678",
        recipient=None,
        message_id=OUR_ID,
    )
    assert body["to"] == "+525512345678"
    assert body["biz_opaque_callback_data"] == OUR_ID


@pytest.mark.parametrize(("to", "recipient"), [(None, None), ("+525512345678", "MX.1A2b3C")])
def test_never_nobody_and_never_two_recipients(to: str | None, recipient: str | None) -> None:
    with pytest.raises(ValueError, match="either a phone number or a user id"):
        graph_body(CONTENT, to=to, recipient=recipient, message_id=OUR_ID)
