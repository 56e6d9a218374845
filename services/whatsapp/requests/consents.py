"""What `consents` is asked: to record what many people said."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PlainValidator

from services.whatsapp import rows
from services.whatsapp.requests.fields import Country, Time, To, listed, text
from services.whatsapp.requests.repeatable import Repeatable
from services.whatsapp.requests.request import Else, Request, fault

MOST = 10_000
"""Rows of one call."""
_LONGEST_HOW = 200
_LONGEST_PROOF = 4096
_OF_WEBHOOKS = frozenset({"meta", "stop_word"})


def _of_people(how: str) -> str:
    if how in _OF_WEBHOOKS:
        raise fault("invalid_field", "meta and stop_word are written by webhooks only")
    return how


class Consent(Request):
    """A row: what a person said. A bad one is refused alone."""

    null_is_missing = frozenset({"to", "action", "how"})
    not_an_object = ("invalid_recipient", "to", "a row is an object of to, action, how and more")

    to: To
    action: Annotated[Literal["opt_in", "opt_out"], Else("invalid_field", "it must be opt_in or opt_out")]
    scope: Annotated[Literal["all", "marketing"], Else("invalid_field", "it must be all or marketing")] = "all"
    at: Time | None = Field(None, description="When the person said it; default now. Not in the future.")
    how: Annotated[
        str,
        *text(_LONGEST_HOW),
        AfterValidator(_of_people),
    ] = Field(description="Where it comes from, in your words: web form, store, import …")
    proof: Annotated[str, *text(_LONGEST_PROOF)] | None = Field(
        None, description="The words the person agreed to or wrote."
    )


class Consents(Repeatable):
    """Facts, recorded one by one."""

    as_null = frozenset({"consents"})

    country_id: Country
    consents: Annotated[
        list[object],
        PlainValidator(
            listed(MOST), json_schema_input_type=Annotated[list[Consent], Field(min_length=1, max_length=MOST)]
        ),
    ]


class ConsentsByCsv(Repeatable):
    """The query of a call whose body is CSV."""

    country_id: Country


def read_csv(key: str | None, raw: bytes, query: Mapping[str, str]) -> Consents:
    """The call whose body is CSV: the query gives the country, the columns are the fields of a row.

    An empty cell is not given. Raises RefusalError.
    """
    given: dict[str, object] = {name: value for name, value in query.items() if name not in _QUERY_ONLY}
    read = rows.read_csv(raw, MOST)
    given["consents"] = [{name: value for name, value in row.items() if value != ""} for row in read]
    return Consents.read_with(key, given)


# Supabase's own clients may name a region.
_QUERY_ONLY = frozenset({"forceFunctionRegion"})
