"""Meta's outbound message objects as models: what the `send` function takes, checked before anything is stored.

Shapes and limits: Meta's pages messages/*-messages and templates/*. A key Meta does not have is refused, not
passed on: a misspelling is an error here, and not a message without its picture. What depends on the
approved template (how many parameters, which media) is judged by `template`, not here.

A new kind of message is one more subclass of `Message`, listed in `_KINDS`.
"""

import re
from collections import Counter
from collections.abc import Hashable
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails


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
    """Anything in a message. Strict: the text "1" is no number, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# ── Kinds of text ─────────────────────────────────────────────────────────────────────────────────

_NOT_IN_PARAMETERS = re.compile(r"[\n\r\t]| {5,}")
_DEGREES = re.compile(r"-?[0-9]{1,3}(\.[0-9]{1,20})?")
_WEB = re.compile(r"https?://[^\s/]\S*", re.IGNORECASE)


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def _fit_for_template(text: str) -> str:
    """Meta refuses the message otherwise (132018)."""
    if _NOT_IN_PARAMETERS.search(_not_blank(text)):
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


Wamid = Annotated[str, StringConstraints(min_length=1, max_length=512), AfterValidator(_not_blank)]
Id = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(_not_blank)]
Link = Annotated[str, StringConstraints(max_length=2_000), AfterValidator(_is_web_address)]
ParameterText = Annotated[str, StringConstraints(max_length=1_024), AfterValidator(_fit_for_template)]
Index = Annotated[str, BeforeValidator(_index_as_text), StringConstraints(pattern=r"^[0-9]{1,2}$")]
Coordinate = Annotated[Any, AfterValidator(_coordinate)]


# ── Message ───────────────────────────────────────────────────────────────────────────────────────


class Message(Part):
    """One outbound message, whatever its kind."""

    type: str

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


class Text(Part):
    body: Annotated[str, StringConstraints(max_length=4_096), AfterValidator(_not_blank)]
    preview_url: bool | None = None


class TextMessage(Message):
    type: Literal["text"]
    text: Text
    context: Context | None = None


class Reaction(Part):
    """An empty emoji takes the reaction back."""

    message_id: Wamid
    emoji: Annotated[str, StringConstraints(max_length=32)]


class ReactionMessage(Message):
    """Without `context`: Meta does not allow it here."""

    type: Literal["reaction"]
    reaction: Reaction


# ── Template parameters ───────────────────────────────────────────────────────────────────────────


def _type_tag(value: object) -> str | None:
    return _tag(value, "type")


def _component_tag(value: object) -> str | None:
    """Components differ by type, buttons by sub_type too."""
    return _tag(value, "type") if _tag(value, "type") != "<button>" else _tag(value, "sub_type")


def _tag(value: object, key: str) -> str | None:
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


class Product(Part):
    product_retailer_id: Id
    catalog_id: Id


class Currency(Part):
    fallback_value: ParameterText
    code: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
    amount_1000: int


Number = int | Annotated[str, StringConstraints(max_length=64)]


class DateTime(Part):
    """Meta shows the fallback only; the parts of the date are of old, and its own examples still carry them."""

    fallback_value: ParameterText
    calendar: Annotated[str, StringConstraints(max_length=64)] | None = None
    day_of_week: Number | None = None
    day_of_month: Number | None = None
    year: Number | None = None
    month: Number | None = None
    hour: Number | None = None
    minute: Number | None = None
    timestamp: Number | None = None


class TextParameter(Part):
    """`parameter_name` for templates with named parameters only."""

    type: Literal["text"]
    parameter_name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,512}$")] | None = None
    text: ParameterText


class CurrencyParameter(Part):
    type: Literal["currency"]
    parameter_name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,512}$")] | None = None
    currency: Currency


class DateTimeParameter(Part):
    type: Literal["date_time"]
    parameter_name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,512}$")] | None = None
    date_time: DateTime


class ImageParameter(Part):
    type: Literal["image"]
    image: Media


class VideoParameter(Part):
    type: Literal["video"]
    video: Media


class DocumentParameter(Part):
    type: Literal["document"]
    document: Document


class LocationParameter(Part):
    type: Literal["location"]
    location: Location


class ProductParameter(Part):
    type: Literal["product"]
    product: Product


class PayloadParameter(Part):
    """Comes back as `button.payload` when the person taps."""

    type: Literal["payload"]
    payload: Annotated[str, StringConstraints(min_length=1, max_length=256)]


class CouponParameter(Part):
    type: Literal["coupon_code"]
    coupon_code: Annotated[str, StringConstraints(max_length=15), AfterValidator(_fit_for_template)]


class UrlTextParameter(Part):
    """The suffix that replaces the variable of the button's link; percent-encode it yourself."""

    type: Literal["text"]
    text: Annotated[str, StringConstraints(max_length=2_000), AfterValidator(_fit_for_template)]


class TtlMinutesParameter(Part):
    type: Literal["ttl_minutes"]
    ttl_minutes: Annotated[int, Field(gt=0)]


class FlowAction(Part):
    flow_token: Annotated[str, StringConstraints(min_length=1)] | None = None
    flow_action_data: dict[str, JsonValue] | None = None


class FlowParameter(Part):
    type: Literal["action"]
    action: FlowAction


class ProductItem(Part):
    product_retailer_id: Id


class Section(Part):
    title: Annotated[str, StringConstraints(min_length=1, max_length=24)]
    product_items: Annotated[list[ProductItem], Field(min_length=1, max_length=30)]


class CatalogAction(Part):
    thumbnail_product_retailer_id: Id | None = None


class CatalogParameter(Part):
    type: Literal["action"]
    action: CatalogAction


class ProductsAction(Part):
    thumbnail_product_retailer_id: Id
    sections: Annotated[list[Section], Field(min_length=1, max_length=10)]

    @model_validator(mode="after")
    def _thirty_products(self) -> Self:
        if sum(len(section.product_items) for section in self.sections) > 30:
            raise ValueError("at most 30 products in all sections together")
        return self


class ProductsParameter(Part):
    type: Literal["action"]
    action: ProductsAction


class Expiration(Part):
    expiration_time_ms: Annotated[int, Field(gt=0)]


class LimitedTimeOfferParameter(Part):
    type: Literal["limited_time_offer"]
    limited_time_offer: Expiration


class TapTarget(Part):
    url: Link
    title: Annotated[str, StringConstraints(min_length=1, max_length=1_024)]


class TapTargetParameter(Part):
    type: Literal["tap_target_configuration"]
    tap_target_configuration: Annotated[list[TapTarget], Field(min_length=1)]


_Parameter = TypeVar("_Parameter")
One = Annotated[list[_Parameter], Field(min_length=1, max_length=1)]
AtMostOne = Annotated[list[_Parameter], Field(max_length=1)]

# The tags carry "<>" so that they can be told from real keys in the path of an error (`_path`).
HeaderParameter = Annotated[
    Annotated[TextParameter, Tag("<text>")]
    | Annotated[CurrencyParameter, Tag("<currency>")]
    | Annotated[DateTimeParameter, Tag("<date_time>")]
    | Annotated[ImageParameter, Tag("<image>")]
    | Annotated[VideoParameter, Tag("<video>")]
    | Annotated[DocumentParameter, Tag("<document>")]
    | Annotated[LocationParameter, Tag("<location>")]
    | Annotated[ProductParameter, Tag("<product>")],
    Discriminator(_type_tag),
]
BodyParameter = Annotated[
    Annotated[TextParameter, Tag("<text>")]
    | Annotated[CurrencyParameter, Tag("<currency>")]
    | Annotated[DateTimeParameter, Tag("<date_time>")],
    Discriminator(_type_tag),
]
VoiceCallParameter = Annotated[
    Annotated[TtlMinutesParameter, Tag("<ttl_minutes>")] | Annotated[PayloadParameter, Tag("<payload>")],
    Discriminator(_type_tag),
]


# ── Template components ───────────────────────────────────────────────────────────────────────────


class Header(Part):
    # TODO: GIF headers (Marketing Messages API) are not implemented.
    type: Literal["header"]
    parameters: One[HeaderParameter]


class Body(Part):
    """Positional parameters in the order of {{1}}, {{2}}…, or named ones in any order, never mixed."""

    type: Literal["body"]
    parameters: Annotated[list[BodyParameter], Field(min_length=1)]

    @model_validator(mode="after")
    def _all_named_or_none(self) -> Self:
        names = [parameter.parameter_name for parameter in self.parameters]
        given = [name for name in names if name is not None]
        if given and len(given) != len(names):
            raise ValueError("either every parameter has a parameter_name or none has")
        _refuse_twice(given, "parameter_name")
        return self


class UrlButton(Part):
    """Also the button of an authentication template, which repeats the code of its body."""

    type: Literal["button"]
    sub_type: Literal["url"]
    index: Index
    parameters: One[UrlTextParameter]


class QuickReplyButton(Part):
    type: Literal["button"]
    sub_type: Literal["quick_reply"]
    index: Index
    parameters: One[PayloadParameter]


class CopyCodeButton(Part):
    """Meta's own example writes this sub_type in capitals."""

    type: Literal["button"]
    sub_type: Literal["copy_code", "COPY_CODE"]
    index: Index
    parameters: One[CouponParameter]


class FlowButton(Part):
    type: Literal["button"]
    sub_type: Literal["flow"]
    index: Index
    parameters: AtMostOne[FlowParameter] | None = None


class CatalogButton(Part):
    """Meta writes this sub_type in capitals."""

    type: Literal["button"]
    sub_type: Literal["CATALOG", "catalog"]
    index: Index
    parameters: AtMostOne[CatalogParameter] | None = None


class ProductsButton(Part):
    type: Literal["button"]
    sub_type: Literal["mpm", "MPM"]
    index: Index
    parameters: One[ProductsParameter]


class VoiceCallButton(Part):
    """A person's way to call us. Everything in it is optional, and so is the component itself."""

    type: Literal["button"]
    sub_type: Literal["voice_call", "VOICE_CALL"]
    index: Index | None = None
    parameters: list[VoiceCallParameter] | None = None

    @model_validator(mode="after")
    def _each_parameter_once(self) -> Self:
        _refuse_twice([parameter.type for parameter in self.parameters or []], "parameter type")
        return self


class LimitedTimeOffer(Part):
    type: Literal["limited_time_offer"]
    parameters: One[LimitedTimeOfferParameter]


class TapTargetConfiguration(Part):
    type: Literal["tap_target_configuration"]
    parameters: One[TapTargetParameter]


CardComponent = Annotated[
    Annotated[Header, Tag("<header>")]
    | Annotated[Body, Tag("<body>")]
    | Annotated[UrlButton, Tag("<url>")]
    | Annotated[QuickReplyButton, Tag("<quick_reply>")],
    Discriminator(_component_tag),
]


class Card(Part):
    card_index: Annotated[int, Field(ge=0, le=9)]
    components: list[CardComponent]

    @model_validator(mode="after")
    def _each_component_once(self) -> Self:
        _refuse_repeated_components(self.components)
        return self


class Carousel(Part):
    type: Literal["carousel"]
    cards: Annotated[list[Card], Field(min_length=1, max_length=10)]

    @model_validator(mode="after")
    def _each_card_once(self) -> Self:
        _refuse_twice([card.card_index for card in self.cards], "card_index")
        return self


# TODO: the button order_details (payments) is not implemented.
Component = Annotated[
    Annotated[Header, Tag("<header>")]
    | Annotated[Body, Tag("<body>")]
    | Annotated[UrlButton, Tag("<url>")]
    | Annotated[QuickReplyButton, Tag("<quick_reply>")]
    | Annotated[CopyCodeButton, Tag("<copy_code>")]
    | Annotated[CopyCodeButton, Tag("<COPY_CODE>")]
    | Annotated[VoiceCallButton, Tag("<voice_call>")]
    | Annotated[VoiceCallButton, Tag("<VOICE_CALL>")]
    | Annotated[FlowButton, Tag("<flow>")]
    | Annotated[CatalogButton, Tag("<CATALOG>")]
    | Annotated[CatalogButton, Tag("<catalog>")]
    | Annotated[ProductsButton, Tag("<mpm>")]
    | Annotated[ProductsButton, Tag("<MPM>")]
    | Annotated[LimitedTimeOffer, Tag("<limited_time_offer>")]
    | Annotated[TapTargetConfiguration, Tag("<tap_target_configuration>")]
    | Annotated[Carousel, Tag("<carousel>")],
    Discriminator(_component_tag),
]


class Language(Part):
    """Must be an approved translation to the letter, else Meta answers 132001. es-MX is taken for es_MX."""

    code: Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}([_-][A-Za-z]{2,4})?$")]
    policy: Literal["deterministic"] | None = None


class Template(Part):
    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,512}$")]
    language: Language
    components: list[Component] | None = None

    @model_validator(mode="after")
    def _each_component_once(self) -> Self:
        _refuse_repeated_components(self.components or [])
        return self


class TemplateMessage(Message):
    type: Literal["template"]
    template: Template
    context: Context | None = None

    @property
    def template_key(self) -> tuple[str, str]:
        return self.template.name, self.template.language.code


def _refuse_repeated_components(components: list[Any]) -> None:
    buttons = [component.index for component in components if component.type == "button"]
    _refuse_twice([int(index) for index in buttons if index is not None], "button index")
    _refuse_twice([component.type for component in components if component.type != "button"], "component type")


def _refuse_twice(values: list[Any], what: str) -> None:
    repeated = [value for value, times in Counter[Hashable](values).items() if times > 1]
    if repeated:
        raise ValueError(f"{what} {repeated[0]} is given twice")


# ── Parsing ───────────────────────────────────────────────────────────────────────────────────────

_KINDS: dict[str, type[Message]] = {
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
    if kind not in _KINDS:
        raise InvalidMessage("message_type_unknown", "message.type", "Meta knows no such type")
    _refuse_unstorable(value, "message", 0)
    try:
        return _KINDS[kind].model_validate(value)
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
