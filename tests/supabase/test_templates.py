"""What becomes of campaigns and single messages when the listing of templates changes."""

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.supabase.ground import Land, Row, messages_of, some_phone

OFFER = {"name": "offer", "language": "es", "status": "APPROVED", "category": "MARKETING"}
PLAIN = {"name": "plain", "language": "es", "status": "APPROVED", "category": "UTILITY"}


@pytest.fixture
def land(database: psycopg.Connection[Any]) -> Land:
    return Land(database)


def test_a_campaign_whose_template_is_removed_rests_until_it_is_listed_again(land: Land) -> None:
    campaign_id = land.campaign(some_phone())["campaign_id"]

    sync(land, PLAIN)

    assert state(land, campaign_id) == ("paused", "template_unknown")
    claimed = land.claim()
    assert (claimed["leases"], claimed["next_ms"]) == ([], None)

    sync(land, PLAIN, OFFER)

    assert state(land, campaign_id) == ("running", None)
    assert len(messages_of(land.claim())) == 1


def test_a_single_message_whose_template_is_removed_is_refused(land: Land) -> None:
    [verdict] = land.enqueue(land.template())

    sync(land, OFFER)

    assert land.claim()["refused"] == 1
    row = land.message(verdict["message_id"])
    assert (row["state"], row["refusal"]) == ("refused", "template_unknown")


def sync(land: Land, *templates: Row) -> None:
    arguments = (land.country_id, "main", [Jsonb(one) for one in templates])
    land.run("select whatsapp.sync_templates(%s, %s, %s::jsonb[])", *arguments)


def state(land: Land, campaign_id: str) -> tuple[Any, Any]:
    row = land.one(
        "select state, state_reason from whatsapp.campaigns where country_id = %s and campaign_id = %s",
        (land.country_id, campaign_id),
    )
    return row["state"], row["state_reason"]
