"""Reactions. Source: Meta's page messages/reaction-messages."""

from typing import Annotated, Literal

from pydantic import StringConstraints

from services.whatsapp.meta.messages.parts import Message, Part, Wamid


class Reaction(Part):
    """An empty emoji takes the reaction back."""

    message_id: Wamid
    emoji: Annotated[str, StringConstraints(max_length=32)]


class ReactionMessage(Message):
    """Without `context`: Meta does not allow it here."""

    type: Literal["reaction"]
    reaction: Reaction
