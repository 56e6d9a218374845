"""What `status-poll` is asked: messages by their ids, a campaign, or a country's messages."""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, PlainValidator, ValidationInfo

from services.whatsapp.refusals import refuse
from services.whatsapp.requests.fields import Country, Cursor, Uuid, uuid_or
from services.whatsapp.requests.request import Request, fault

MOST_IDS = 100
PAGE = 100
LONGEST_WAIT = 25.0
"""Seconds. Below the shortest limit of common hosts and proxies."""

_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


# ── Fields ────────────────────────────────────────────────────────────────────────────────────────


def _up_to(most: float) -> PlainValidator:
    """A number. One that is greater than `most` means that."""

    def read(value: object) -> float:
        if not isinstance(value, str) or not _NUMBER.fullmatch(value):
            raise fault("invalid_field", f"it must be a number from 0 to {most:g}")
        return min(float(value), most)

    return PlainValidator(read, json_schema_input_type=Annotated[float, Field(ge=0)])


def _ids(given: list[str]) -> list[str]:
    if not 0 < len(given) <= MOST_IDS:
        raise fault("invalid_field", f"give 1 to {MOST_IDS} ids, not {len(given)}")
    return [uuid_or("invalid_field")(each) for each in given]


def _one_each(given: list[str], info: ValidationInfo) -> list[str]:
    if given and len(given) != len(info.data.get("message_id", given)):
        raise fault("invalid_field", "give one state for each message_id, or none")
    return given


def _whole(number: float) -> int:
    return max(1, int(number))


_Ids = Annotated[list[str], Field(min_length=1, max_length=MOST_IDS)]
_Wait = Annotated[float, _up_to(LONGEST_WAIT), Field(description="Seconds to wait for news.")]


# ── Queries ───────────────────────────────────────────────────────────────────────────────────────


class ById(Request):
    """These messages, in this order; with `wait`, once a state is not the one told, or has changed."""

    message_id: Annotated[list[str], PlainValidator(_ids, json_schema_input_type=_Ids)]
    state: Annotated[list[str], PlainValidator(_one_each, json_schema_input_type=list[str])] = Field(
        [], description="The state you know of each message, in the same order."
    )
    wait: _Wait = 0.0

    @property
    def since(self) -> dict[str, str]:
        """The state that is known of each message; nothing where none is."""
        return dict(zip(self.message_id, self.state, strict=True)) if self.state else {}


class OfCampaign(Request):
    """A campaign and its progress; with `wait`, once it is not as it was at `version`, or has changed."""

    campaign_id: Uuid
    country_id: Country
    wait: _Wait = 0.0
    version: str | None = None


class OfCountry(Request):
    """A country's messages, oldest first, a page at a time."""

    elsewhere: ClassVar[Mapping[str, tuple[str, str | None]]] = {
        "wait": ("invalid_field", "it goes with message_id or campaign_id")
    }

    country_id: Country
    after: Cursor | None = Field(None, description="The cursor of the page before.")
    limit: Annotated[int, _up_to(PAGE), AfterValidator(_whole)] = PAGE


Poll = ById | OfCampaign | OfCountry

_BY_NAME: dict[str, type[Poll]] = {"message_id": ById, "campaign_id": OfCampaign, "country_id": OfCountry}
_LISTS = frozenset({"message_id", "state"})
# Supabase's own clients may name a region.
_KNOWN = frozenset({"forceFunctionRegion"}.union(*(each.model_fields for each in _BY_NAME.values())))


def read(query: Iterable[tuple[str, str]]) -> Poll:
    """What a query asks for; what belongs to another kind of query is ignored. Raises RefusalError."""
    given: dict[str, list[str]] = {}
    for name, value in query:
        if name not in _KNOWN:
            raise refuse("unknown_field", field=name)
        given.setdefault(name, []).append(value)
    kind = next((kind for name, kind in _BY_NAME.items() if name in given), None)
    if kind is None:
        raise refuse("missing_field", field="message_id", reason="give message_id, campaign_id or country_id")
    fields = {
        name: [part for value in values for part in value.split(",") if part] if name in _LISTS else values[-1]
        for name, values in given.items()
        if name in kind.model_fields or name in kind.elsewhere
    }
    return kind.read(fields)
