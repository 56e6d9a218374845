"""What nobody knows the outcome of: who decides, when, and what is never done."""

import time
from typing import Any

import psycopg
import pytest

from tests.supabase.ground import Land, Row, new_wamid, some_phone

Database = psycopg.Connection[Any]


@pytest.fixture
def land(database: Database) -> Land:
    return Land(database, messages_per_second=1000)


def unknown(land: Land, kind: str) -> Row:
    """A message of a kind, posted, of which no answer came."""
    phone = some_phone()
    if kind == "reply":
        land.ingest(land.writes(phone, time.time()))
    [message] = land.leased(land.text(phone) if kind == "reply" else land.template(kind, phone))
    land.settle(land.outcome(message, "unknown"))
    assert land.message(message["message_id"])["state"] == "unknown"
    return message


def pass_deadline(land: Land, *, feed_alive: bool) -> None:
    land.run("update whatsapp.queue set unknown_until = now() where country_id = %s", land.country_id)
    seen = "leased_at + interval '1 ms'" if feed_alive else "leased_at - interval '1 ms'"
    land.run(
        f"update whatsapp.throttles t set webhook_seen_at = {seen} from whatsapp.queue q"
        " where t.country_id = q.country_id and q.country_id = %s",
        land.country_id,
    )


@pytest.mark.parametrize(
    ("kind", "feed_alive", "state"),
    [
        ("reply", True, "queued"),
        ("plain", True, "queued"),
        ("offer", True, "failed"),
        ("reply", False, "unknown"),
        ("plain", False, "unknown"),
        ("offer", False, "unknown"),
    ],
)
def test_after_the_deadline(land: Land, kind: str, feed_alive: bool, state: str) -> None:
    message = unknown(land, kind)
    pass_deadline(land, feed_alive=feed_alive)

    land.sweep()

    row = land.message(message["message_id"])
    assert row["state"] == state
    assert row["error_title"] == ("outcome_unknown" if state == "failed" else None)
    assert (land.queued(message["message_id"]) is None) == (state == "failed")
    again = [each for lease in land.claim()["leases"] for each in lease["messages"]]
    assert len(again) == (1 if state == "queued" else 0)


def test_before_the_deadline_nothing_happens(land: Land) -> None:
    message = unknown(land, "plain")
    land.run("update whatsapp.throttles set webhook_seen_at = now() where country_id = %s", land.country_id)

    land.sweep()

    assert land.message(message["message_id"])["state"] == "unknown"
    assert land.claim()["leases"] == []


def test_it_goes_back_to_the_queue_only_once(land: Land) -> None:
    message = unknown(land, "plain")
    pass_deadline(land, feed_alive=True)
    land.sweep()
    [lease] = land.claim()["leases"]
    land.settle(land.outcome(message | {"lease_id": lease["lease_id"]}, "unknown"))
    pass_deadline(land, feed_alive=True)

    land.sweep()

    assert land.message(message["message_id"])["state"] == "failed"


def test_an_account_may_ask_for_no_second_try(database: Database) -> None:
    land = Land(database, unknown_policy="fail")
    message = unknown(land, "plain")
    pass_deadline(land, feed_alive=True)

    land.sweep()

    assert land.message(message["message_id"])["state"] == "failed"


def test_a_status_webhook_settles_it(land: Land) -> None:
    message = unknown(land, "offer")

    land.ingest(land.status(new_wamid(), "delivered", 1_760_000_000, message["message_id"]))

    assert land.message(message["message_id"])["state"] == "delivered"
    assert land.queued(message["message_id"]) is None


def test_the_lease_of_a_dead_drainer_ends_as_unknown(land: Land) -> None:
    [message] = land.leased(land.template())
    land.sweep()
    assert land.message(message["message_id"])["state"] == "sending"
    expire(land)

    land.sweep()

    assert land.message(message["message_id"])["state"] == "unknown"
    assert land.claim()["leases"] == []


def test_a_late_acceptance_counts_even_after_the_lease(land: Land) -> None:
    [message] = land.leased(land.template())
    expire(land)
    land.sweep()

    answer = land.settle(land.outcome(message, "accepted", wamid=new_wamid()))

    assert answer == {"settled": 1, "stale": 0}
    assert land.message(message["message_id"])["state"] == "accepted"
    assert land.queued(message["message_id"]) is None


@pytest.mark.parametrize("outcome", ["retry", "held", "released", "rejected", "unknown"])
def test_a_result_under_a_lost_lease_changes_nothing(land: Land, outcome: str) -> None:
    [message] = land.leased(land.template())
    land.settle(land.outcome(message, "released"))
    [newer] = land.claim()["leases"]
    before = land.queued(message["message_id"])

    answer = land.settle(land.outcome(message, outcome, wait_seconds=0, max_attempts=1))

    assert answer == {"settled": 0, "stale": 1}
    assert land.queued(message["message_id"]) == before
    assert before is not None
    assert str(before["lease_id"]) == newer["lease_id"]


def test_a_repeated_settle_changes_nothing(land: Land) -> None:
    [message] = land.leased(land.template())
    result = land.outcome(message, "accepted", wamid=new_wamid())
    land.settle(result)
    before = land.message(message["message_id"])

    land.settle(result)

    assert land.message(message["message_id"]) == before
    assert land.count("message_events", message_id=message["message_id"], event="message_accepted") == 1


def expire(land: Land) -> None:
    land.run("update whatsapp.leases set leased_until = now() - interval '1 ms' where country_id = %s", land.country_id)
    land.run("update whatsapp.queue set leased_until = now() - interval '1 ms' where country_id = %s", land.country_id)
