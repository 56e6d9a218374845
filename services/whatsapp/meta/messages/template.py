"""Templates as they are sent: their name, their language, and what fills their components.

What depends on the approved template (how many parameters, which media) is judged by `meta.templates`, not here.
Source: Meta's pages templates/*.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator

from services.whatsapp.meta.messages.parts import Index, Part, Quoting, refuse_twice, tag
from services.whatsapp.meta.messages.template_parameters import (
    AtMostOne,
    BodyParameter,
    CatalogParameter,
    CouponParameter,
    FlowParameter,
    HeaderParameter,
    LimitedTimeOfferParameter,
    One,
    PayloadParameter,
    ProductsParameter,
    TapTargetParameter,
    UrlTextParameter,
    VoiceCallParameter,
)


def _component_tag(value: object) -> str | None:
    """Components differ by type, buttons by sub_type too."""
    return tag(value, "type") if tag(value, "type") != "<button>" else tag(value, "sub_type")


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
        refuse_twice(given, "parameter_name")
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
        refuse_twice([parameter.type for parameter in self.parameters or []], "parameter type")
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
        refuse_twice([card.card_index for card in self.cards], "card_index")
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


class TemplateMessage(Quoting):
    type: Literal["template"]
    template: Template

    @property
    def template_key(self) -> tuple[str, str]:
        return self.template.name, self.template.language.code


def _refuse_repeated_components(components: list[Any]) -> None:
    buttons = [component.index for component in components if component.type == "button"]
    refuse_twice([int(index) for index in buttons if index is not None], "button index")
    refuse_twice([component.type for component in components if component.type != "button"], "component type")
