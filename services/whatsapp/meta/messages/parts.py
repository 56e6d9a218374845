"""What messages of every kind are made of: kinds of text, files, places, and how repeats are refused.

Shapes and limits: Meta's pages messages/*-messages.
"""

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, StringConstraints, model_validator


class InvalidMessage(ValueError):
    """The message cannot be sent as it is.

    `code` is invalid_message, message_type_unknown or message_type_not_implemented; `field` a path such as
    "message.template.components[0].parameters[1].text"; `reason` says what is wrong, without the value.
    """

    def __init__(self, code: str, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.code = code
        self.field = field
        self.reason = reason


class Part(BaseModel):
    """Anything in a message. Strict: the text "1" is no number, and unknown keys are refused.

    Built at first use: a process that sends texts never pays for carousels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


# ── Kinds of text ─────────────────────────────────────────────────────────────────────────────────

_NOT_IN_PARAMETERS = re.compile(r"[\n\r\t]| {5,}")
_DEGREES = re.compile(r"-?[0-9]{1,3}(\.[0-9]{1,20})?")
_WEB = re.compile(r"https?://[^\s/]\S*", re.IGNORECASE)


def not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def fit_for_template(text: str) -> str:
    """Meta refuses the message otherwise (132018)."""
    if _NOT_IN_PARAMETERS.search(not_blank(text)):
        raise ValueError("must not contain line breaks, tabs or more than 4 spaces in a row")
    return text


def _is_web_address(text: str) -> str:
    if not _WEB.fullmatch(text):
        raise ValueError("must be a link that begins with https:// or http://")
    return text


def _index_as_text(value: object) -> object:
    """Meta's own examples write 0 and "0"; the text is safe everywhere."""
    return str(value) if type(value) is int else value


def _coordinate(value: object) -> object:
    """Decimal degrees; Meta takes numbers and text."""
    if isinstance(value, str) and _DEGREES.fullmatch(value):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise ValueError("must be decimal degrees")


Words = Annotated[str, AfterValidator(not_blank)]
Wamid = Annotated[str, StringConstraints(min_length=1, max_length=512), AfterValidator(not_blank)]
Id = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(not_blank)]
Link = Annotated[str, StringConstraints(max_length=2_000), AfterValidator(_is_web_address)]
ParameterText = Annotated[str, StringConstraints(max_length=1_024), AfterValidator(fit_for_template)]
Index = Annotated[str, BeforeValidator(_index_as_text), StringConstraints(pattern=r"^[0-9]{1,2}$")]
Coordinate = Annotated[Any, AfterValidator(_coordinate)]


# ── Message ───────────────────────────────────────────────────────────────────────────────────────


class Message(Part):
    """One outbound message, whatever its kind."""

    type: str
    recipient_identity_key_hash: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = None
    """Meta sends it only to the person of this hash (137000): for what nobody else may read."""

    def content(self) -> dict[str, Any]:
        """Meta's own object with only what was given: `type` and the object named like it, `context` if any.

        This is what the database stores and `envelope.graph_body` completes.
        """
        return self.model_dump(mode="json", exclude_unset=True, exclude_none=True)

    @property
    def template_key(self) -> tuple[str, str] | None:
        """(name, language) of the template; None for a free-form message, which needs an open window."""
        return None


class Context(Part):
    """The message replied to."""

    message_id: Wamid


class Quoting(Message):
    """A message that may quote the one it replies to: every kind but a reaction."""

    context: Context | None = None


def type_tag(value: object) -> str | None:
    return tag(value, "type")


def tag(value: object, key: str) -> str | None:
    found = value.get(key) if isinstance(value, dict) else getattr(value, key, None)
    return f"<{found}>" if isinstance(found, str) else None


class Media(Part):
    """Either an uploaded file or a link that Meta fetches itself (and caches for 10 minutes)."""

    id: Id | None = None
    link: Link | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.id is None) == (self.link is None):
            raise ValueError("needs either id or link")
        return self


class Document(Media):
    filename: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = None


class Location(Part):
    latitude: Coordinate
    longitude: Coordinate
    name: Annotated[str, StringConstraints(max_length=1_000)] | None = None
    address: Annotated[str, StringConstraints(max_length=1_000)] | None = None

    @model_validator(mode="after")
    def _on_earth(self) -> Self:
        if not (abs(float(self.latitude)) <= 90 and abs(float(self.longitude)) <= 180):
            raise ValueError("latitude must be within -90..90 and longitude within -180..180")
        return self


class ProductItem(Part):
    product_retailer_id: Id


class BodyText(Part):
    text: Annotated[str, StringConstraints(max_length=1_024), AfterValidator(not_blank)]


def refuse_twice(values: Sequence[Hashable], what: str) -> None:
    repeated = [value for value, times in Counter(values).items() if times > 1]
    if repeated:
        raise ValueError(f"{what} {repeated[0]} is given twice")
