"""The kinds of outbound messages: what the `send` function takes, checked before anything is stored.

A key Meta does not have is refused, not passed on: a misspelling is an error here, and not a message without its
picture. A new kind of message is a model and one more row in `KINDS`.
"""

from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from services.whatsapp.meta.messages.contacts import ContactsMessage
from services.whatsapp.meta.messages.interactive import InteractiveMessage
from services.whatsapp.meta.messages.location import LocationMessage
from services.whatsapp.meta.messages.media import (
    AudioMessage,
    DocumentMessage,
    ImageMessage,
    StickerMessage,
    VideoMessage,
)
from services.whatsapp.meta.messages.parts import InvalidMessage, Message
from services.whatsapp.meta.messages.reaction import ReactionMessage
from services.whatsapp.meta.messages.template import TemplateMessage
from services.whatsapp.meta.messages.text import TextMessage

KINDS: dict[str, type[Message]] = {
    "text": TextMessage,
    "template": TemplateMessage,
    "reaction": ReactionMessage,
    "image": ImageMessage,
    "video": VideoMessage,
    "audio": AudioMessage,
    "document": DocumentMessage,
    "sticker": StickerMessage,
    "location": LocationMessage,
    "contacts": ContactsMessage,
    "interactive": InteractiveMessage,
}

# TODO: the Calling API, payments, groups and Direct Send are not implemented.
_CALLING = "it belongs to the Calling API, which is not implemented"
_PAYMENTS = "it belongs to payments, which are not implemented"
_GROUPS = "it belongs to groups, which are not implemented"
_DIRECT_SEND = "it belongs to Direct Send, which is not implemented: send a template"
_NOT_IMPLEMENTED = {"pin": _GROUPS}
_MEMBERS_NOT_IMPLEMENTED = {
    "recipient_type": _GROUPS,
    "category": _DIRECT_SEND,
    "ttl_seconds": _DIRECT_SEND,
    "direct_send_config": _DIRECT_SEND,
}
_TAGS_NOT_IMPLEMENTED = {
    "<order_details>": _PAYMENTS,
    "<ORDER_DETAILS>": _PAYMENTS,
    "<order_status>": _PAYMENTS,
    "<voice_call>": _CALLING,
    "<call_permission_request>": _CALLING,
    "<address_message>": "Meta has it in India only, and it is not implemented",
}
_DEEPEST = 64


def parse_message(value: object) -> Message:
    """Read Meta's message object, as JSON gave it. Raises InvalidMessage."""
    if not isinstance(value, dict):
        raise InvalidMessage("invalid_message", "message", "must be an object")
    kind = value.get("type")
    if not isinstance(kind, str):
        raise InvalidMessage("invalid_message", "message.type", "is required" if kind is None else "must be text")
    if kind in _NOT_IMPLEMENTED:
        raise InvalidMessage("message_type_not_implemented", "message.type", _NOT_IMPLEMENTED[kind])
    if kind not in KINDS:
        raise InvalidMessage("message_type_unknown", "message.type", "Meta knows no such type")
    for name, reason in _MEMBERS_NOT_IMPLEMENTED.items():
        if name in value and value[name] != "individual":
            raise InvalidMessage("message_type_not_implemented", f"message.{name}", reason)
    _refuse_unstorable(value, "message", 0)
    try:
        return KINDS[kind].model_validate(value)
    except ValidationError as error:
        raise _explain(error.errors(include_url=False)[0]) from None


def _refuse_unstorable(value: object, path: str, depth: int) -> None:
    """What Postgres or a JSON writer would refuse later, when the message has been accepted already."""
    if depth > _DEEPEST:
        raise InvalidMessage("invalid_message", path, "is nested too deeply")
    if isinstance(value, dict):
        for name, part in value.items():
            _refuse_unstorable(name, path, depth + 1)
            _refuse_unstorable(part, f"{path}.{name}", depth + 1)
    elif isinstance(value, list):
        for position, part in enumerate(value):
            _refuse_unstorable(part, f"{path}[{position}]", depth + 1)
    elif isinstance(value, str) and ("\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value)):
        raise InvalidMessage("invalid_message", path, "contains a character that cannot be stored")
    elif isinstance(value, int | float) and not abs(value) < 2**63:
        raise InvalidMessage("invalid_message", path, "is a number that cannot be stored")


_REASONS = {
    "missing": "is required",
    "extra_forbidden": "does not exist here",
    "model_type": "must be an object",
    "dict_type": "must be an object",
    "list_type": "must be a list",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters; shorten it",
    "string_pattern_mismatch": "must match {pattern}",
    "too_short": "needs at least {min_length} of them",
    "too_long": "takes at most {max_length} of them; leave some out",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "value_error": "{error}",
    "union_tag_not_found": "needs its type (a button also its sub_type)",
}


def _explain(error: ErrorDetails) -> InvalidMessage:
    """A validation error in our words. Never with the value: it may be somebody's private message."""
    field = _path(error["loc"])
    context = error.get("ctx", {})
    if error["type"] == "union_tag_invalid":
        return _explain_tag(field, context)
    reason = _REASONS.get(error["type"], "is not valid").format(**context)
    return InvalidMessage("invalid_message", field, reason)


def _explain_tag(field: str, context: dict[str, Any]) -> InvalidMessage:
    if context["tag"] in _TAGS_NOT_IMPLEMENTED:
        name = (
            "sub_type" if field.startswith("message.template") and "order_details" in context["tag"].lower() else "type"
        )
        return InvalidMessage("message_type_not_implemented", f"{field}.{name}", _TAGS_NOT_IMPLEMENTED[context["tag"]])
    expected = str(context["expected_tags"]).replace("'<", "").replace(">'", "")
    return InvalidMessage("invalid_message", field, f"its type must be one of {expected}")


def _path(location: tuple[int | str, ...]) -> str:
    path = "message"
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif not step.startswith("<"):
            path += f".{step}"
    return path
