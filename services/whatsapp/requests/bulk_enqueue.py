"""What `bulk-enqueue` is asked: to open a campaign with recipients, to append some to one, or to control one."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, StringConstraints

from services.whatsapp import rows
from services.whatsapp.meta.messages import InvalidMessage, parse_message
from services.whatsapp.requests.fields import Account, Country, Ref, SendAt, Time, To, Uuid, listed
from services.whatsapp.requests.repeatable import Repeatable
from services.whatsapp.requests.request import Else, Request, fault

MOST = 10_000
"""Recipients of one call; further calls append."""
_LONGEST_NAME = 200


# ── A recipient ───────────────────────────────────────────────────────────────────────────────────


def _parameters(value: object) -> Mapping[str, object]:
    """By the contract's keys; a list stands for the body's parameters in order."""
    if isinstance(value, list):
        return {f"body.{position}": each for position, each in enumerate(value, 1)}
    if not isinstance(value, dict):
        raise fault("template_parameters", "it is an object of the contract's keys, or a list")
    return value


_Parameters = Annotated[
    dict[str, object] | list[object], Field(description="By the contract's keys; a list stands for body.1, body.2 …")
]


class Recipient(Request):
    """A row: a bad one is refused alone."""

    null_is_missing = frozenset()
    not_an_object = ("invalid_recipient", "to", "a recipient is an object of to, parameters and ref")

    to: To
    parameters: Annotated[Mapping[str, object], PlainValidator(_parameters, json_schema_input_type=_Parameters)] = {}
    ref: Ref | None = Field(None, description="Your own reference; comes back in status-poll.")


Recipients = Annotated[
    list[object],
    PlainValidator(
        listed(MOST), json_schema_input_type=Annotated[list[Recipient], Field(min_length=1, max_length=MOST)]
    ),
]
"""As they were sent: each is read when its turn comes, so that nobody waits for all of them."""


# ── Opening and appending ─────────────────────────────────────────────────────────────────────────


class TemplateName(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    language: str


def _template(value: object) -> tuple[str, str]:
    """The name and the language of a template, as Meta lists languages: with an underscore."""
    if value is None:
        raise fault("bulk_needs_template")
    if not isinstance(value, dict) or value.keys() != {"name", "language"}:
        raise fault("invalid_field", "it is an object of name and language")
    named = {"name": value["name"], "language": {"code": value["language"]}}
    try:
        parse_message({"type": "template", "template": named})
    except InvalidMessage as error:
        raise fault("invalid_field", f"{error.field.removeprefix('message.template.')} {error.reason}") from None
    return value["name"], value["language"].replace("-", "_")


def _name(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value.strip()) <= _LONGEST_NAME or "\0" in value:
        raise fault("invalid_field", f"a campaign has a name of 1 to {_LONGEST_NAME} characters")
    return value


def _draft(value: object) -> bool:
    """A query can only say it as text."""
    if not isinstance(value, bool) and value not in ("true", "false"):
        raise fault("invalid_field", "it must be true or false")
    return value is True or value == "true"


_ShortText = Annotated[str, StringConstraints(min_length=1, max_length=_LONGEST_NAME)]
Name = Annotated[str, PlainValidator(_name, json_schema_input_type=_ShortText)]


class _Call(Repeatable):
    elsewhere: ClassVar[Mapping[str, tuple[str, str | None]]] = {"message": ("bulk_needs_template", None)}
    as_null = frozenset({"template", "name", "campaign_id", "recipients"})
    apart = frozenset({"recipients"})

    country_id: Country


class _Terms(_Call):
    """What is fixed when a campaign is opened."""

    account: Account | None = Field(None, description="Default: the country's default account.")
    send_at: SendAt | None = Field(None, description="Nothing leaves before it.")
    valid_until: Time | None = Field(None, description="What has not left by then ends as `expired`.")
    draft: Annotated[bool, PlainValidator(_draft, json_schema_input_type=bool | Literal["true", "false"])] = Field(
        False, description="It takes recipients, and nothing leaves before its `start`."
    )


class Opening(_Terms):
    """A new campaign, and its first recipients."""

    template: Annotated[tuple[str, str], PlainValidator(_template, json_schema_input_type=TemplateName)]
    name: Name
    recipients: Recipients


class Appending(_Call):
    """More recipients of a campaign that is there."""

    elsewhere: ClassVar[Mapping[str, tuple[str, str | None]]] = {
        **_Call.elsewhere,
        **{
            name: ("invalid_field", "it was fixed when the campaign was opened")
            for name in Opening.model_fields
            if name not in ("country_id", "recipients")
        },
    }

    campaign_id: Uuid
    recipients: Recipients


class OpeningByCsv(_Terms):
    """The query of a call whose body is CSV."""

    template: str
    language: str
    name: Name


class AppendingByCsv(_Call):
    """The query of a call whose body is CSV."""

    campaign_id: Uuid


def read(key: str | None, given: Mapping[str, object]) -> Opening | Appending:
    """The call that the body describes. Raises RefusalError."""
    return (Appending if "campaign_id" in given else Opening).read_with(key, given)


def read_csv(key: str | None, raw: bytes, query: Mapping[str, str]) -> Opening | Appending:
    """The call whose body is CSV: the query says what else there is, the header row maps columns to parameters.

    Columns: `to`, optionally `ref`, and the keys of the template's contract (body.1, header.image, …). An empty cell
    is not given. Raises RefusalError.
    """
    given: dict[str, object] = {name: value for name, value in query.items() if name not in _QUERY_ONLY}
    if "template" in query or "language" in query:
        given["template"] = {"name": query.get("template"), "language": query.get("language")}
    given["recipients"] = [_csv_row(row) for row in rows.read_csv(raw, MOST)]
    return read(key, given)


# Supabase's own clients may name a region.
_QUERY_ONLY = frozenset({"template", "language", "forceFunctionRegion"})
_COLUMNS = frozenset({"to", "ref"})


def _csv_row(row: Mapping[str, str]) -> dict[str, object]:
    parameters = {name: value for name, value in row.items() if name not in _COLUMNS and value != ""}
    recipient: dict[str, object] = {"to": row["to"], "parameters": parameters}
    return recipient | ({"ref": row["ref"]} if row.get("ref") else {})


# ── Control ───────────────────────────────────────────────────────────────────────────────────────


class Control(Request):
    """From the next claim on."""

    as_null = frozenset({"campaign_id", "action"})

    country_id: Country
    campaign_id: Uuid
    action: Annotated[
        Literal["start", "pause", "resume", "cancel"],
        Else("invalid_field", "it must be start, pause, resume or cancel"),
    ]
