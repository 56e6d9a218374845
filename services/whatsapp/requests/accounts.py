"""What `accounts` is asked."""

from typing import Annotated, Literal

from services.whatsapp.requests.fields import Account, Country
from services.whatsapp.requests.request import Else, Request


class AccountControl(Request):
    """Pause a business number, or let it go on. Without `account` it is the country's default."""

    as_null = frozenset({"action"})

    country_id: Country
    account: Account | None = None
    action: Annotated[Literal["pause", "resume"], Else("invalid_field", "it must be pause or resume")]
