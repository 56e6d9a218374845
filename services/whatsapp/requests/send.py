"""What `send` is asked."""

from functools import reduce
from operator import or_
from typing import Annotated, Any

from pydantic import Field, PlainValidator

from services.whatsapp.meta.messages import KINDS, InvalidMessage, Message, parse_message
from services.whatsapp.requests.fields import Account, Country, Ref, SendAt, Time, To
from services.whatsapp.requests.repeatable import Repeatable
from services.whatsapp.requests.request import fault

_LONGEST_TYPE = 50


def _message(value: object) -> Message:
    try:
        return parse_message(value)
    except InvalidMessage as error:
        kind = str(value.get("type"))[:_LONGEST_TYPE] if isinstance(value, dict) else None
        raise fault(error.code, error.reason, field=error.field, type=kind) from None


_AnyMessage: Any = Annotated[reduce(or_, KINDS.values()), Field(discriminator="type")]


class Send(Repeatable):
    """One message into the queue."""

    country_id: Country
    account: Account | None = Field(None, description="Default: the country's default account.")
    to: To
    message: Annotated[
        Message,
        PlainValidator(_message, json_schema_input_type=_AnyMessage),
        Field(description="Meta's own object: its type and the object named like it."),
    ]
    send_at: SendAt | None = Field(None, description="A past time means now.")
    expires_at: Time | None = Field(None, description="Not sent after it.")
    ref: Ref | None = Field(None, description="Your own reference; comes back in status-poll.")
