"""What `queue-drain` is asked."""

from typing import Annotated

from pydantic import ConfigDict, Field

from services.whatsapp.requests.request import Else, Request


class Drain(Request):
    """Everything is optional, the body itself too: cron calls without knowing more."""

    model_config = ConfigDict(extra="ignore")

    budget_seconds: (
        Annotated[float, Field(gt=0, strict=True), Else("invalid_field", "it must be a number of seconds above 0")]
        | None
    ) = None
    """To stop after; never longer than WHATSAPP_DRAIN_BUDGET_SECONDS."""
