"""What `templates-sync` is asked."""

from services.whatsapp.requests.fields import Country
from services.whatsapp.requests.request import Request


class Sync(Request):
    """Without `country_id` every country's accounts; that is for a secret key only."""

    country_id: Country | None = None
