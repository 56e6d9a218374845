"""What functions do with the clients beyond their request. None is imported before it is needed."""

import sys

from services.whatsapp.settings import Settings


async def kick(settings: Settings) -> None:
    """Drain now, after an answer, unless that is left to cron (WHATSAPP_KICK)."""
    if not settings.kick:
        return
    from services.whatsapp.flows import draining

    await draining.kick(settings)


async def close() -> None:
    """Close the clients that were opened. One that was never loaded is not loaded to be closed."""
    for name in ("graph", "postgrest"):
        client = sys.modules.get(f"services.whatsapp.clients.{name}")
        if client is not None:
            await client.close_shared()
