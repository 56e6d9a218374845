"""Draining at once, after an answer."""

from services.whatsapp.runtime import Runtime


async def kick(runtime: Runtime) -> None:
    """Drain now, unless that is left to cron (WHATSAPP_KICK)."""
    if not runtime.settings.kick:
        return
    # Imported here: most answers need no drainer before they are given.
    from services.whatsapp.flows import draining

    await draining.kick(runtime)
