"""The three kinds of query, and what is wrong with any other."""

import pytest

from services.whatsapp.refusals import RefusalError
from services.whatsapp.requests.status_poll import ById, OfCampaign, OfCountry, read

A, B = "01a20c70-3896-7e4d-8844-cea70f3dc7be", "01a20c70-387d-7ee1-9c15-a3a0e8e035e6"


def refused(*query: tuple[str, str]) -> tuple[str, str | None, str | None]:
    with pytest.raises(RefusalError) as error:
        read(query)
    return error.value.code, error.value.field, error.value.reason


def test_messages_by_their_ids_and_the_states_known_of_them() -> None:
    poll = read([("message_id", f"{A},{B.upper()}"), ("state", "sent"), ("state", "queued"), ("wait", "20")])
    assert isinstance(poll, ById)
    assert (poll.message_id, poll.since, poll.wait) == ([A, B], {A: "sent", B: "queued"}, 20)


def test_without_states_none_is_known() -> None:
    poll = read([("message_id", A), ("message_id", B), ("after", "ignored"), ("forceFunctionRegion", "any")])
    assert isinstance(poll, ById)
    assert (poll.message_id, poll.since, poll.wait) == ([A, B], {}, 0)


def test_a_campaign() -> None:
    poll = read([("country_id", "MX"), ("campaign_id", A), ("version", "v"), ("wait", "1000")])
    assert poll == OfCampaign(country_id="MX", campaign_id=A, version="v", wait="25")


@pytest.mark.parametrize(("limit", "page"), [(None, 100), ("7", 7), ("0", 1), ("2.9", 2), ("1000", 100)])
def test_a_page_of_a_country(limit: str | None, page: int) -> None:
    poll = read([("country_id", "MX"), ("after", A), *([("limit", limit)] if limit else [])])
    assert isinstance(poll, OfCountry)
    assert (poll.country_id, poll.after, poll.limit) == ("MX", A, page)


def test_of_a_name_given_twice_the_last_value_holds() -> None:
    poll = read([("country_id", "CO"), ("country_id", "MX")])
    assert isinstance(poll, OfCountry)
    assert poll.country_id == "MX"


@pytest.mark.parametrize(
    ("query", "code", "field", "reason"),
    [
        ([], "missing_field", "message_id", "give message_id, campaign_id or country_id"),
        ([("message", A), ("message_id", A)], "unknown_field", "message", None),
        ([("message_id", "")], "invalid_field", "message_id", "give 1 to 100 ids, not 0"),
        ([("message_id", ",".join([A] * 101))], "invalid_field", "message_id", "give 1 to 100 ids, not 101"),
        ([("message_id", "me")], "invalid_field", "message_id", "it is not a UUID"),
        ([("message_id", A), ("state", "sent,sent")], "invalid_field", "state", "give one state for each message_id"),
        ([("campaign_id", A)], "missing_field", "country_id", None),
        ([("campaign_id", "x"), ("country_id", "MX")], "invalid_field", "campaign_id", "it is not a UUID"),
        ([("country_id", "mx")], "invalid_field", "country_id", "a country is two capital letters"),
        ([("country_id", "MX"), ("after", "first")], "invalid_cursor", "after", "it is not a UUID"),
        ([("country_id", "MX"), ("wait", "1")], "invalid_field", "wait", "it goes with message_id or campaign_id"),
        ([("country_id", "MX"), ("limit", "many")], "invalid_field", "limit", "it must be a number from 0 to 100"),
        *(
            ([("message_id", A), ("wait", wait)], "invalid_field", "wait", "it must be a number from 0 to 25")
            for wait in ("", "-1", "nan", "1e3", "1_0", "١", "9" * 10)
        ),
    ],
)
def test_any_other_query_is_refused(query: list[tuple[str, str]], code: str, field: str, reason: str | None) -> None:
    told = refused(*query)
    assert told[:2] == (code, field)
    assert (told[2] or "").startswith(reason or "")
