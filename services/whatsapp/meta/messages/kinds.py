"""The kinds of outbound messages: what the `send` function takes, checked before anything is stored.

A key Meta does not have is refused, not passed on: a misspelling is an error here, and not a message without its
picture. A new kind of message is a model and one more row in `KINDS`.
"""

from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from services.whatsapp.meta.messages.parts import InvalidMessage, Message
from services.whatsapp.meta.messages.reaction import ReactionMessage
from services.whatsapp.meta.messages.template import TemplateMessage
from services.whatsapp.meta.messages.text import TextMessage

KINDS: dict[str, type[Message]] = {
    "text": TextMessage,
    "template": TemplateMessage,
    "reaction": ReactionMessage,
}

# TODO: these kinds exist at Meta and are not implemented.
_NOT_IMPLEMENTED = frozenset(
    (
        "image",
        "video",
        "audio",
        "document",
        "sticker",
        "location",
        "contacts",
        "interactive",
        "pin",
    )
)
_BUTTONS_NOT_IMPLEMENTED = frozenset(("<order_details>", "<ORDER_DETAILS>"))
_DEEPEST = 64


def parse_message(value: object) -> Message:
    """Read Meta's message object, as JSON gave it. Raises InvalidMessage."""
    if not isinstance(value, dict):
        raise InvalidMessage("invalid_message", "message", "must be an object")
    kind = value.get("type")
    if not isinstance(kind, str):
        raise InvalidMessage("invalid_message", "message.type", "is required" if kind is None else "must be text")
    if kind in _NOT_IMPLEMENTED:
        reason = f"messages of type {kind} are not implemented yet"
        raise InvalidMessage("message_type_not_implemented", "message.type", reason)
    if kind not in KINDS:
        raise InvalidMessage("message_type_unknown", "message.type", "Meta knows no such type")
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
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "too_short": "needs at least {min_length} of them",
    "too_long": "takes at most {max_length} of them",
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
    if context["tag"] in _BUTTONS_NOT_IMPLEMENTED:
        reason = "this kind of button is not implemented"
        return InvalidMessage("message_type_not_implemented", f"{field}.sub_type", reason)
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
