"""Meta's webhook fields: how the values of each are read. A new field is a row here and a function.

A field that is not here is recorded as `ignored`: kept, and moving nothing.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from services.whatsapp.directory import Directory
from services.whatsapp.meta.events.account import about_account, account_update, errors_event
from services.whatsapp.meta.events.calls import call_event, call_status_event
from services.whatsapp.meta.events.change import Change
from services.whatsapp.meta.events.event import Event, Kind
from services.whatsapp.meta.events.messages import message_event
from services.whatsapp.meta.events.preferences import preference_event
from services.whatsapp.meta.events.statuses import status_event
from services.whatsapp.meta.events.templates import about_template
from services.whatsapp.meta.events.values import Json


def _only_recorded(_value: Json, _directory: Directory) -> Kind:
    return "ignored"


class Field(NamedTuple):
    """How the values of a field are read: list by list, or as a whole.

    A value with lists is never guessed to be an account's: without its own number it reaches nobody.
    """

    items: Mapping[str, Callable[[object, Change], Event]] = MappingProxyType({})
    """The lists of a value, and what makes an event of each of their items."""
    lists: Mapping[str, Callable[[list[object], Change], Event]] = MappingProxyType({})
    """The lists that are one event together."""
    kind: Callable[[Json, Directory], Kind] = _only_recorded
    """What a value is about, of which no list is read."""

    @property
    def names(self) -> frozenset[str]:
        """Of the lists."""
        return frozenset((*self.items, *self.lists))


FIELDS: dict[str, Field] = {
    "messages": Field({"statuses": status_event, "messages": message_event}, {"errors": errors_event}),
    "calls": Field({"calls": call_event, "statuses": call_status_event}),
    "user_preferences": Field({"user_preferences": preference_event}),
    "message_template_status_update": Field(kind=about_template),
    "message_template_quality_update": Field(kind=about_template),
    "message_template_components_update": Field(kind=about_template),
    "template_category_update": Field(kind=about_template),
    "template_correct_category_detection": Field(kind=about_template),
    "phone_number_quality_update": Field(kind=about_account),
    "phone_number_name_update": Field(kind=about_account),
    "business_capability_update": Field(kind=about_account),
    "account_update": Field(kind=account_update),
    "account_review_update": Field(kind=about_account),
    "account_alerts": Field(kind=about_account),
    "security": Field(kind=about_account),
}
# TODO: coexistence (smb_message_echoes, history, smb_app_state_sync), conversation routing (standby,
# messaging_handovers) and user_actions (clicks, Marketing Messages API) are only recorded, as ignored.
UNKNOWN = Field()
