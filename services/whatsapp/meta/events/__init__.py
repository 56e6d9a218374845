"""Webhook bytes to events. Meta's webhook fields register in `fields`."""

from services.whatsapp.meta.events.body import parse
from services.whatsapp.meta.events.event import Event, unread

__all__ = ["Event", "parse", "unread"]
