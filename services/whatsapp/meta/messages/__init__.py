"""Meta's outbound message objects as models. Kinds register in `kinds`."""

from services.whatsapp.meta.messages.kinds import KINDS, parse_message
from services.whatsapp.meta.messages.parts import InvalidMessage, Message

__all__ = ["KINDS", "InvalidMessage", "Message", "parse_message"]
