"""Webhook bytes to events. Fields register in `body`."""

from services.whatsapp.meta.events.body import parse
from services.whatsapp.meta.events.event import Event

__all__ = ["Event", "parse"]
