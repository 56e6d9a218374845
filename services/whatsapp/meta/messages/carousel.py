"""Cards side by side: pictures or videos with buttons, or products. Source: Meta's pages
messages/interactive-media-carousel-messages and messages/interactive-product-carousel-messages."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, StringConstraints, Tag, model_validator

from services.whatsapp.meta.messages.parts import (
    BodyText,
    Id,
    Link,
    Media,
    Part,
    Words,
    not_blank,
    refuse_twice,
    type_tag,
)


def _few_lines(text: str) -> str:
    if not_blank(text).count("\n") > 2:
        raise ValueError("must have at most 2 line breaks; leave some out")
    return text


class CardText(Part):
    text: Annotated[str, StringConstraints(max_length=160), AfterValidator(_few_lines)]


class CardImage(Part):
    type: Literal["image"]
    image: Media


class CardVideo(Part):
    type: Literal["video"]
    video: Media


CardHeader = Annotated[
    Annotated[CardImage, Tag("<image>")] | Annotated[CardVideo, Tag("<video>")], Discriminator(type_tag)
]


class CardWeb(Part):
    display_text: Annotated[str, StringConstraints(max_length=20), AfterValidator(not_blank)]
    url: Link


class CardWebAction(Part):
    name: Literal["cta_url"]
    parameters: CardWeb


class QuickReply(Part):
    id: Annotated[str, StringConstraints(max_length=256), AfterValidator(not_blank)]
    title: Words


class QuickReplyButton(Part):
    type: Literal["quick_reply"]
    quick_reply: QuickReply


class CardButtons(Part):
    buttons: Annotated[list[QuickReplyButton], Field(min_length=1)]


class OneProduct(Part):
    product_retailer_id: Id
    catalog_id: Id


_Place = Annotated[int, Field(ge=0, le=9)]


class WebCard(Part):
    card_index: _Place
    type: Literal["cta_url"]
    header: CardHeader
    body: CardText | None = None
    action: CardWebAction


class ReplyCard(Part):
    """Which `type` Meta wants here its page does not say for sure: any is passed on."""

    card_index: _Place
    type: Words | None = None
    header: CardHeader
    body: CardText | None = None
    action: CardButtons


class ProductCard(Part):
    card_index: _Place
    type: Literal["product"]
    action: OneProduct


def _card_tag(value: object) -> str | None:
    action = value.get("action") if isinstance(value, dict) else getattr(value, "action", None)
    buttons = "buttons" in action if isinstance(action, dict) else hasattr(action, "buttons")
    return "<buttons>" if buttons else type_tag(value)


Card = Annotated[
    Annotated[WebCard, Tag("<cta_url>")]
    | Annotated[ReplyCard, Tag("<buttons>")]
    | Annotated[ProductCard, Tag("<product>")],
    Discriminator(_card_tag),
]


class Cards(Part):
    cards: Annotated[list[Card], Field(min_length=2, max_length=10)]

    @model_validator(mode="after")
    def _alike(self) -> Self:
        refuse_twice([card.card_index for card in self.cards], "card_index")
        if len({type(card) for card in self.cards}) > 1:
            raise ValueError("every card must have the same kind of button")
        if len({card.action.catalog_id for card in self.cards if isinstance(card, ProductCard)}) > 1:
            raise ValueError("every product must be of the same catalog")
        return self


class Carousel(Part):
    type: Literal["carousel"]
    body: BodyText
    action: Cards
