"""The body of `POST /{phone-number-id}/messages` around a stored message.

Plain dicts: the drainer works from stored content and needs no models.
"""

from collections.abc import Mapping
from typing import Any

_BESIDE = ("context", "recipient_identity_key_hash")
"""Members of a message that stand beside its object."""


def graph_body(content: Mapping[str, Any], *, to: str | None, recipient: str | None, message_id: str) -> dict[str, Any]:
    """The full body. `content` is a message as `Message.content()` gave it.

    `to` is a phone with its "+", `recipient` a BSUID. Exactly one of the two is given (ValueError otherwise):
    Meta silently prefers `to` when it gets both.
    `message_id` is our id of the message; Meta echoes it in every status webhook. It is a tag, Meta does not
    deduplicate by it. Source: messages/send-messages, business-scoped-user-ids.
    """
    if (to is None) == (recipient is None):
        raise ValueError("a message has either a phone number or a user id as its recipient")
    kind = content["type"]
    body = {"messaging_product": "whatsapp", "recipient_type": "individual", "type": kind, kind: content[kind]}
    body |= {name: content[name] for name in _BESIDE if name in content}
    body |= {"to": to} if to is not None else {"recipient": recipient}
    body["biz_opaque_callback_data"] = message_id
    return body
