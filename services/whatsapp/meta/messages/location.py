"""Places. Source: Meta's page messages/location-messages."""

from typing import Literal

from services.whatsapp.meta.messages.parts import Location, Quoting


class LocationMessage(Quoting):
    type: Literal["location"]
    location: Location
