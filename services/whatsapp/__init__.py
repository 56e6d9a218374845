"""Sending and receiving WhatsApp messages through Meta's Cloud API. Which module does what: docs/architecture.md."""
