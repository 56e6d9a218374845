"""What Meta tells of a template by webhook: events are not statuses, and the youngest word holds."""

import itertools
import time
from typing import Any

import psycopg
import pytest

from tests.supabase.ground import Land

STATUS = "select status, reason, quality from whatsapp.templates where country_id = %s and name = 'plain'"
HOUR = 3_600


@pytest.fixture
def land(database: psycopg.Connection[Any]) -> Land:
    """Its templates were synced a day ago."""
    land = Land(database)
    yesterday = (
        "update whatsapp.templates set status_at = now() - interval '1 day', synced_at = now() - interval '1 day'"
    )
    land.run(f"{yesterday} where country_id = %s", land.country_id)
    return land


def told(land: Land) -> str:
    return str(land.one(STATUS, [land.country_id])["status"])


@pytest.mark.parametrize("event", ["FLAGGED", "LOCKED", "LIMIT_EXCEEDED", "UNLOCKED", "SOMETHING_NEW", "", None])
def test_an_event_that_is_no_status_stops_no_message(land: Land, event: str | None) -> None:
    said = land.template_status("plain", event or "", at=time.time())
    if event is None:
        del said["content"]["event"]
    land.ingest(said)

    assert told(land) == "APPROVED"
    assert land.enqueue(land.template())[0]["status"] == "accepted"


@pytest.mark.parametrize(
    "event", ["PENDING", "REJECTED", "PAUSED", "DISABLED", "PENDING_DELETION", "DELETED", "ARCHIVED", "IN_APPEAL"]
)
def test_an_event_that_takes_a_template_away_stops_its_messages(land: Land, event: str) -> None:
    land.ingest(land.template_status("plain", event, at=time.time() - HOUR))
    assert told(land) == event
    code = "template_paused" if event == "PAUSED" else "template_not_approved"
    assert land.enqueue(land.template())[0]["code"] == code


@pytest.mark.parametrize("event", ["APPROVED", "REINSTATED", "UNARCHIVED"])
@pytest.mark.parametrize("warning", ["FLAGGED", "LOCKED", "SOMETHING_NEW"])
def test_a_warning_neither_gives_back_nor_takes(land: Land, event: str, warning: str) -> None:
    now = time.time()
    land.ingest(land.template_status("plain", "PAUSED", at=now - 3 * HOUR))
    land.ingest(land.template_status("plain", warning, at=now - 2 * HOUR))
    assert told(land) == "PAUSED"
    land.ingest(land.template_status("plain", event, at=now - HOUR), land.template_status("plain", warning, at=now))
    assert told(land) == "APPROVED"


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "one by one"])
@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_the_youngest_word_holds_whatever_the_order(land: Land, order: tuple[int, ...], together: bool) -> None:
    now = time.time()
    events = ["PAUSED", "APPROVED", "DISABLED", "REINSTATED"]
    said = [land.template_status("plain", event, at=now - 4 * HOUR + n * HOUR) for n, event in enumerate(events)]
    for batch in [[said[n] for n in order]] if together else [[said[n]] for n in order]:
        land.ingest(*batch)
    assert told(land) == "APPROVED"


def test_a_word_that_was_on_its_way_when_a_sync_looked_changes_nothing(land: Land) -> None:
    land.run("update whatsapp.templates set synced_at = now() where country_id = %s", land.country_id)
    land.ingest(land.template_status("plain", "PAUSED", at=time.time() - HOUR))
    assert told(land) == "APPROVED"
    land.ingest(land.template_status("plain", "PAUSED", at=time.time()))
    assert told(land) == "PAUSED"


def test_none_is_no_reason(land: Land) -> None:
    said = land.template_status("plain", "APPROVED", at=time.time())
    said["content"]["reason"] = "NONE"
    land.ingest(said)
    assert land.one(STATUS, [land.country_id])["reason"] is None
