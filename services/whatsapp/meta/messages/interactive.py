"""Messages a person answers by tapping. Source: Meta's pages messages/interactive-*-messages.

What Meta's pages call advice and no error (30 characters on the button of a flow) is passed on. A new kind is a model
and one more row in `Interactive`.
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, JsonValue, StringConstraints, Tag, model_validator

from services.whatsapp.meta.messages.carousel import Carousel
from services.whatsapp.meta.messages.parts import (
    BodyText,
    Document,
    Id,
    Link,
    Media,
    Part,
    ProductItem,
    Quoting,
    Words,
    not_blank,
    type_tag,
)

ButtonText = Annotated[str, StringConstraints(max_length=20), AfterValidator(not_blank)]
SectionTitle = Annotated[str, StringConstraints(max_length=24), AfterValidator(not_blank)]


# ── What stands around an action ──────────────────────────────────────────────────────────────────


class TextHeader(Part):
    type: Literal["text"]
    text: Annotated[str, StringConstraints(max_length=60), AfterValidator(not_blank)]


class ImageHeader(Part):
    type: Literal["image"]
    image: Media


class VideoHeader(Part):
    type: Literal["video"]
    video: Media


class DocumentHeader(Part):
    type: Literal["document"]
    document: Document


Header = Annotated[
    Annotated[TextHeader, Tag("<text>")]
    | Annotated[ImageHeader, Tag("<image>")]
    | Annotated[VideoHeader, Tag("<video>")]
    | Annotated[DocumentHeader, Tag("<document>")],
    Discriminator(type_tag),
]


class LongBodyText(Part):
    text: Annotated[str, StringConstraints(max_length=4_096), AfterValidator(not_blank)]


class Footer(Part):
    text: Annotated[str, StringConstraints(max_length=60), AfterValidator(not_blank)]


# ── Buttons and lists ─────────────────────────────────────────────────────────────────────────────


class Reply(Part):
    """Comes back as `interactive.button_reply` when the person taps."""

    id: Annotated[str, StringConstraints(max_length=256), AfterValidator(not_blank)]
    title: ButtonText


class ReplyButton(Part):
    type: Literal["reply"]
    reply: Reply


class Buttons(Part):
    buttons: Annotated[list[ReplyButton], Field(min_length=1, max_length=3)]

    @model_validator(mode="after")
    def _tell_apart(self) -> Self:
        titles, ids = ({getattr(button.reply, name) for button in self.buttons} for name in ("title", "id"))
        if min(len(titles), len(ids)) < len(self.buttons):
            raise ValueError("every button needs a title and an id of its own")
        return self


class ButtonInteractive(Part):
    type: Literal["button"]
    header: Header | None = None
    body: BodyText
    footer: Footer | None = None
    action: Buttons


class Row(Part):
    """Comes back as `interactive.list_reply` when the person chooses it."""

    id: Annotated[str, StringConstraints(max_length=200), AfterValidator(not_blank)]
    title: Annotated[str, StringConstraints(max_length=24), AfterValidator(not_blank)]
    description: Annotated[str, StringConstraints(max_length=72)] | None = None


class ListSection(Part):
    title: SectionTitle | None = None
    rows: Annotated[list[Row], Field(min_length=1)]


class Sections(Part):
    button: ButtonText
    sections: Annotated[list[ListSection], Field(min_length=1, max_length=10)]

    @model_validator(mode="after")
    def _ten_rows(self) -> Self:
        if sum(len(section.rows) for section in self.sections) > 10:
            raise ValueError("at most 10 rows in all sections together: leave some out")
        if len(self.sections) > 1 and any(section.title is None for section in self.sections):
            raise ValueError("every section needs a title where there are several")
        return self


class ListInteractive(Part):
    type: Literal["list"]
    header: TextHeader | None = None
    body: LongBodyText
    footer: Footer | None = None
    action: Sections


# ── A link, a flow, a question ────────────────────────────────────────────────────────────────────


class Web(Part):
    display_text: ButtonText
    url: Link


class WebAction(Part):
    name: Literal["cta_url"]
    parameters: Web


class WebInteractive(Part):
    type: Literal["cta_url"]
    header: Header | None = None
    body: BodyText
    footer: Footer | None = None
    action: WebAction


class Screen(Part):
    screen: Words
    data: dict[str, JsonValue] | None = None


class Flow(Part):
    flow_message_version: Literal["3"]
    flow_id: Id | None = None
    flow_name: Words | None = None
    flow_cta: Words
    flow_token: Words | None = None
    mode: Literal["draft", "published"] | None = None
    flow_action: Literal["navigate", "data_exchange"] | None = None
    flow_action_payload: Screen | None = None

    @model_validator(mode="after")
    def _one_flow(self) -> Self:
        if (self.flow_id is None) == (self.flow_name is None):
            raise ValueError("needs either flow_id or flow_name")
        return self


class FlowAction(Part):
    name: Literal["flow"]
    parameters: Flow


class FlowInteractive(Part):
    type: Literal["flow"]
    header: Header | None = None
    body: BodyText
    footer: Footer | None = None
    action: FlowAction


class LocationAction(Part):
    name: Literal["send_location"]


class LocationInteractive(Part):
    type: Literal["location_request_message"]
    body: BodyText
    action: LocationAction


class ContactInfoAction(Part):
    name: Literal["request_contact_info"]


class ContactInfoInteractive(Part):
    """Asks a person who is known by a user id only for their phone number."""

    type: Literal["request_contact_info"]
    body: BodyText
    action: ContactInfoAction


# ── Products ──────────────────────────────────────────────────────────────────────────────────────


class OneProduct(Part):
    catalog_id: Id
    product_retailer_id: Id


class ProductInteractive(Part):
    type: Literal["product"]
    body: BodyText | None = None
    footer: Footer | None = None
    action: OneProduct


class ProductSection(Part):
    title: SectionTitle | None = None
    product_items: Annotated[list[ProductItem], Field(min_length=1)]


class Products(Part):
    catalog_id: Id
    sections: Annotated[list[ProductSection], Field(min_length=1, max_length=10)]

    @model_validator(mode="after")
    def _thirty_products(self) -> Self:
        if sum(len(section.product_items) for section in self.sections) > 30:
            raise ValueError("at most 30 products in all sections together: leave some out")
        return self


class ProductListInteractive(Part):
    type: Literal["product_list"]
    header: TextHeader
    body: BodyText
    footer: Footer | None = None
    action: Products


class Thumbnail(Part):
    thumbnail_product_retailer_id: Id | None = None


class CatalogAction(Part):
    name: Literal["catalog_message"]
    parameters: Thumbnail | None = None


class CatalogInteractive(Part):
    type: Literal["catalog_message"]
    body: BodyText
    footer: Footer | None = None
    action: CatalogAction


# ── All of them ───────────────────────────────────────────────────────────────────────────────────

Interactive = Annotated[
    Annotated[ButtonInteractive, Tag("<button>")]
    | Annotated[ListInteractive, Tag("<list>")]
    | Annotated[WebInteractive, Tag("<cta_url>")]
    | Annotated[FlowInteractive, Tag("<flow>")]
    | Annotated[LocationInteractive, Tag("<location_request_message>")]
    | Annotated[ContactInfoInteractive, Tag("<request_contact_info>")]
    | Annotated[ProductInteractive, Tag("<product>")]
    | Annotated[ProductListInteractive, Tag("<product_list>")]
    | Annotated[CatalogInteractive, Tag("<catalog_message>")]
    | Annotated[Carousel, Tag("<carousel>")],
    Discriminator(type_tag),
]


class InteractiveMessage(Quoting):
    type: Literal["interactive"]
    interactive: Interactive
