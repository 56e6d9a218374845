"""One bad item is one refusal: it harms neither its neighbours nor another country's, in whatever batch they meet."""

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.graph.world import random_phone
from tests.proofs.house import PLAIN, House, check_refusal, post
from tests.supabase.ground import Land, Row, some_phone

TOO_LONG = "+4930123456789012"
"""Sixteen digits: possible in Germany, says the library of phone numbers; E.164 ends at fifteen."""

PERSON: dict[str, Row] = {
    "phone of 16 digits": {"phone": TOO_LONG, "match_key": TOO_LONG[1:]},
    "phone of 17 digits": {"phone": f"{TOO_LONG}3", "match_key": f"{TOO_LONG[1:]}3"},
    "phone without a plus": {"phone": "4930123456789"},
    "phone of other digits": {"phone": "+٤٩٣٠١٢٣٤٥٦"},
    "phone without a match key": {"match_key": None},
    "nobody": {"phone": None, "match_key": None},
    "two people": {"bsuid": "MX.1A"},
    "an empty user id": {"phone": None, "match_key": None, "bsuid": ""},
    "a contact that is no UUID": {"phone": None, "match_key": None, "contact_id": "me"},
}
ITEM: dict[str, Row] = {
    "an actor that is no UUID": {"actor": "somebody"},
    "no kind": {"kind": None},
    "no content": {"content": None},
    "content of another type": {"content": "hola"},
    "no key": {"key": None},
    "a key too long": {"key": "k" * 256},
    "no fingerprint": {"fingerprint": None},
    "a time that is none": {"send_at": "tomorrow-ish"},
    "a day that is none": {"send_at": "2027-02-30T10:00:00+00:00"},
    "the end of time": {"send_at": "infinity"},
    "a time beyond reckoning": {"expires_at": "294276-12-31T23:59:59+00:00"},
    "a reference too long": {"ref": "r" * 201},
}
WHAT: dict[str, Row] = {
    "an unknown action": {"what": "opt_maybe"},
    "no action": {"what": None},
    "an unknown scope": {"scope": "some"},
    "a time that is none": {"at": "yesterday-ish"},
    "a day that is none": {"at": "2026-02-30T10:00:00+00:00"},
    "no source": {"how": None},
    "a source too long": {"how": "h" * 201},
    "a proof too long": {"proof": "p" * 4097},
}


@pytest.mark.parametrize("poison", (PERSON | ITEM).values(), ids=PERSON | ITEM)
def test_a_message_that_cannot_be_written_is_refused_alone(database: psycopg.Connection[Any], poison: Row) -> None:
    here, there = Land(database), Land(database)
    good = [there.template() for _ in range(79)]

    verdicts = here.enqueue(*good[:40], here.template() | poison, *good[40:])

    refused = verdicts.pop(40)
    assert (refused["status"], refused["code"]) == ("refused", "invalid_item")
    assert [verdict["status"] for verdict in verdicts] == ["accepted"] * 79
    assert there.count("messages") == 79
    assert here.count("messages") == here.count("idempotency_keys") == 0


def test_items_that_are_no_objects_are_refused_alone(database: psycopg.Connection[Any]) -> None:
    land = Land(database)
    odd: list[object] = [None, 5, "hola", [], [{}], {}]
    verdicts = land.one(
        "select whatsapp.enqueue(%s::jsonb[]) as answer", [[Jsonb(item) for item in [land.template(), *odd]]]
    )["answer"]
    assert verdicts[0]["status"] == "accepted"
    assert [verdict["code"] for verdict in verdicts[1:]] == ["invalid_item"] * len(odd)


def test_who_may_not_use_the_country_learns_nothing_of_the_item(database: psycopg.Connection[Any]) -> None:
    land = Land(database)
    [verdict] = land.enqueue(land.template(actor=str(uuid.uuid4()), ref="r" * 201))
    assert verdict["code"] == "not_a_member"


@pytest.mark.parametrize("poison", (PERSON | WHAT).values(), ids=PERSON | WHAT)
def test_a_consent_that_cannot_be_written_is_refused_alone(database: psycopg.Connection[Any], poison: Row) -> None:
    land = Land(database)
    rows = [consent(number) for number in range(1, 80)]
    rows[40] |= poison

    answer = record(land, rows)

    assert answer["recorded"] == 78
    assert [(each["row"], each["code"]) for each in answer["refused"]] == [(41, "invalid_item")]
    assert land.count("consents") == 78


BULK: dict[str, Callable[[Row], None]] = {
    "phone of 16 digits": lambda row: row.update(phone=TOO_LONG, match_key=TOO_LONG[1:]),
    "phone without a plus": lambda row: row.update(phone="4930123456789"),
    "nobody": lambda row: row.update(phone=None, match_key=None),
    "an empty user id": lambda row: row.update(phone=None, match_key=None, bsuid=""),
    "a reference too long": lambda row: row.update(ref="r" * 201),
}


@pytest.mark.parametrize("poison", BULK.values(), ids=BULK)
def test_a_recipient_that_cannot_be_written_is_refused_alone(
    database: psycopg.Connection[Any], poison: Callable[[Row], None]
) -> None:
    land = Land(database)
    rows: list[Row] = [recipient() for _ in range(79)]
    poison(rows[40])

    answer = append(land, open_campaign(land), rows)

    assert answer["accepted"] == 78
    assert [(each["row"], each["code"]) for each in answer["refused"]] == [(41, "invalid_item")]
    assert land.count("messages") == 78


def consent(number: int) -> Row:
    phone = some_phone()
    named = {"row": number, "phone": phone, "match_key": phone[1:]}
    return named | {"what": "opt_in", "scope": "all", "at": None, "how": "form", "proof": None}


def record(land: Land, rows: list[Row]) -> Row:
    query = "select whatsapp.record_consents(%s, null, %s, 'f', %s::jsonb[]) as answer"
    return dict(land.one(query, (land.country_id, str(uuid.uuid4()), [Jsonb(row) for row in rows]))["answer"])


def recipient() -> Row:
    phone = some_phone()
    return {"phone": phone, "match_key": phone[1:], "bsuid": None, "ref": None}


def open_campaign(land: Land) -> str:
    opening = {
        "country_id": land.country_id,
        "name": "spring",
        "template_name": "plain",
        "template_language": "es",
        "key": str(uuid.uuid4()),
        "fingerprint": "same",
    }
    opened = land.one("select whatsapp.open_campaign(%s::jsonb[]) as answer", [[Jsonb(opening)]])["answer"]
    return str(opened["campaign_id"])


def append(land: Land, campaign_id: str, rows: list[Row]) -> Row:
    columns = [[row[name] for row in rows] for name in ("phone", "match_key", "bsuid", "ref")]
    query = (
        "select whatsapp.enqueue_campaign(%s, %s, %s, 'f', %s::int[], %s::text[], %s::text[], %s::text[], '{}', '{}',"
        " %s::text[]) as answer"
    )
    numbers = list(range(1, len(rows) + 1))
    return dict(land.one(query, (land.country_id, campaign_id, str(uuid.uuid4()), numbers, *columns))["answer"])


async def test_a_send_that_cannot_be_written_fails_no_send_of_another_country(house: House) -> None:
    async with house.client() as client:
        token = house.users["CO"].token
        good = [post(client, token, random_phone("CO"), PLAIN, country_id="CO") for _ in range(79)]
        bad = post(client, house.users["MX"].token, TOO_LONG, PLAIN)
        answers = await asyncio.gather(*good[:40], bad, *good[40:])

    check_refusal(answers.pop(40), 422, "invalid_phone")
    assert [answer.status_code for answer in answers] == [202] * 79
