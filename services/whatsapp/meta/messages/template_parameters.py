"""The parameters of a template's components. Source: Meta's pages templates/*."""

from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, Discriminator, Field, JsonValue, StringConstraints, Tag, model_validator

from services.whatsapp.meta.messages.parts import (
    Document,
    Id,
    Link,
    Location,
    Media,
    ParameterText,
    Part,
    ProductItem,
    fit_for_template,
    type_tag,
)


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
    coupon_code: Annotated[str, StringConstraints(max_length=15), AfterValidator(fit_for_template)]


class UrlTextParameter(Part):
    """The suffix that replaces the variable of the button's link; percent-encode it yourself."""

    type: Literal["text"]
    text: Annotated[str, StringConstraints(max_length=2_000), AfterValidator(fit_for_template)]


class TtlMinutesParameter(Part):
    type: Literal["ttl_minutes"]
    ttl_minutes: Annotated[int, Field(gt=0)]


class FlowAction(Part):
    flow_token: Annotated[str, StringConstraints(min_length=1)] | None = None
    flow_action_data: dict[str, JsonValue] | None = None


class FlowParameter(Part):
    type: Literal["action"]
    action: FlowAction


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
    Discriminator(type_tag),
]
BodyParameter = Annotated[
    Annotated[TextParameter, Tag("<text>")]
    | Annotated[CurrencyParameter, Tag("<currency>")]
    | Annotated[DateTimeParameter, Tag("<date_time>")],
    Discriminator(type_tag),
]
VoiceCallParameter = Annotated[
    Annotated[TtlMinutesParameter, Tag("<ttl_minutes>")] | Annotated[PayloadParameter, Tag("<payload>")],
    Discriminator(type_tag),
]
