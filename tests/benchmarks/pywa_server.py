"""pywa's own server, with a handler that does nothing: it checks, parses and dispatches, and stores nothing."""

import os

from pywa_async import WhatsApp
from pywa_async.types import MessageStatus

whatsapp = WhatsApp(
    webhook_endpoint="/webhook",
    verify_token=os.environ["WHATSAPP_VERIFY_TOKEN"],
    app_secret=os.environ["WHATSAPP_APP_SECRET"],
    filter_updates=False,
)


@whatsapp.on_message_status  # type: ignore[untyped-decorator, unused-ignore]
async def handle(_: WhatsApp, status: MessageStatus) -> None:
    return None


# What pywa's own `run` gives to uvicorn.
app = whatsapp._setup_and_get_starlette_app()
