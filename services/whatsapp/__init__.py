"""Sending and receiving WhatsApp messages through Meta's Cloud API. Which room does what: docs/architecture.md."""
