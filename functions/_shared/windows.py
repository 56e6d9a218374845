"""What doors do with the two windows beyond their request. Neither is imported before it is needed."""

import sys

from services.whatsapp.settings import Settings


async def kick(settings: Settings) -> None:
    """Drain now, after an answer, unless that is left to cron (WHATSAPP_KICK)."""
    if not settings.kick:
        return
    from services.whatsapp import draining

    await draining.kick(settings)


async def close() -> None:
    """Close the windows that were opened. One that was never loaded is not loaded to be closed."""
    for name in ("graph", "store"):
        window = sys.modules.get(f"services.whatsapp.{name}")
        if window is not None:
            await window.close_shared()
