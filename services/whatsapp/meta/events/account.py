"""What became of a business account or of one of its numbers. Source: M:webhooks/reference/account_update…"""

from services.whatsapp.directory import Directory
from services.whatsapp.meta.errors import from_webhook
from services.whatsapp.meta.events.change import Change
from services.whatsapp.meta.events.event import Event, Kind
from services.whatsapp.meta.events.values import Json, id_of

_OF_PARTNERS = frozenset(("PARTNER_REMOVED", "PARTNER_APP_UNINSTALLED"))


def about_account(_value: Json, _directory: Directory) -> Kind:
    return "account"


def account_update(value: Json, directory: Directory) -> Kind:
    """That a partner was removed moves the account only where the partner is this app.

    Any other partner's end leaves it alone, and so does one that cannot be told: if it was this app, Meta's next answer
    stops the account anyway.
    """
    if value.get("event") in _OF_PARTNERS:
        information = value.get("waba_info")
        app_id = id_of(information.get("partner_app_id")) if isinstance(information, dict) else ""
        if not app_id or app_id != directory.app_id:
            return "ignored"
    return "account"


def errors_event(items: list[object], change: Change) -> Event:
    """What Meta could not do for the number as a whole."""
    event = change.whole("account", {"errors": items})
    event["error"] = from_webhook(items[0]).as_dict()
    return event
