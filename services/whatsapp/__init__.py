"""Sending and receiving WhatsApp messages through Meta's Cloud API.

Pure rooms (no I/O, no clock, no environment): `directory`, `identity`, `messages`, `envelope`, `template`,
`meta_errors`, `refusals`, `signature`, `webhook`, `pacing`.
Windows: `graph` is the only code that talks to Meta, `store` the only code that talks to Supabase.
Flows join rooms and windows: `sending`, `draining`, `receiving`, `templates`, `reading`.
"""
