"""Text. Source: Meta's page messages/text-messages."""

from typing import Annotated, Literal

from pydantic import AfterValidator, StringConstraints

from services.whatsapp.meta.messages.parts import Part, Quoting, not_blank


class Text(Part):
    body: Annotated[str, StringConstraints(max_length=4_096), AfterValidator(not_blank)]
    preview_url: bool | None = None


class TextMessage(Quoting):
    type: Literal["text"]
    text: Text
