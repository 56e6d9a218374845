"""Status webhooks in any order, in any batches, before or after the message is settled: the same end."""

import time
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.supabase.ground import Land, Row, new_wamid

Database = psycopg.Connection[Any]
STATES = ("sent", "delivered", "read", "played", "failed")
LADDER = ("played", "read", "delivered", "failed", "sent")
ERROR = {"code": 131026, "title": "Message undeliverable", "details": "d", "effect": "none", "wait_seconds": 0}
START = 1_760_000_000
SETTLE = "settle"


@st.composite
def histories(draw: st.DrawFn) -> list[list[tuple[str, bool]]]:
    """Batches of (state or SETTLE, carries our id), each state of a subset once or twice, SETTLE anywhere."""
    happened = draw(st.sets(st.sampled_from(STATES), min_size=1))
    doubled = draw(st.sets(st.sampled_from(sorted(happened))))
    order = draw(st.permutations([*sorted(happened), *sorted(doubled), SETTLE]))
    batches: list[list[tuple[str, bool]]] = [[]]
    for one in order:
        if one == SETTLE:
            batches += [[(SETTLE, True)], []]
            continue
        if draw(st.booleans()):
            batches.append([])
        batches[-1].append((one, draw(st.booleans())))
    return [batch for batch in batches if batch]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories())
def test_every_order_and_every_batching_ends_in_the_same_state_and_times(
    land: Land, history: list[list[tuple[str, bool]]]
) -> None:
    [message] = land.leased(land.template())
    wamid = new_wamid()

    for batch in history:
        if batch[0][0] == SETTLE:
            land.settle(land.outcome(message, "accepted", wamid=wamid))
        else:
            land.ingest(*(event(land, wamid, state, message if by_id else None) for state, by_id in batch))

    row = land.message(message["message_id"])
    happened = {state for batch in history for state, _ in batch} - {SETTLE}
    assert row["state"] == next(state for state in LADDER if state in happened)
    assert {state: row[f"{state}_at"] for state in STATES} == {
        state: time_of(state) if state in happened else None for state in STATES
    }
    assert row["accepted_at"] is not None
    assert row["wamid"] == wamid
    assert row["error_code"] == (ERROR["code"] if "failed" in happened else None)
    assert land.queued(message["message_id"]) is None
    told = land.all(
        "select event from whatsapp.message_story where country_id = %s and message_id = %s",
        (land.country_id, message["message_id"]),
    )
    expected = {"queued", "sending", "accepted"} | happened
    assert sorted(each["event"] for each in told) == sorted(f"message_{name}" for name in expected)


@pytest.fixture
def land(database: Database) -> Land:
    return Land(database, messages_per_second=1000)


def event(land: Land, wamid: str, state: str, message: Row | None) -> Row:
    at = START + STATES.index(state)
    error = ERROR if state == "failed" else None
    return land.status(wamid, state, at, message and message["message_id"], error=error)


def time_of(state: str) -> datetime:
    return datetime.fromtimestamp(START + STATES.index(state), UTC)


def test_a_status_by_our_id_counts_before_the_message_is_settled(land: Land) -> None:
    [message] = land.leased(land.template())

    answer = land.ingest(event(land, new_wamid(), "delivered", message))

    assert (answer["applied"], answer["parked"]) == (1, 0)
    assert land.message(message["message_id"])["state"] == "delivered"


def test_a_status_by_wamid_only_is_parked_and_replayed_at_settle(land: Land) -> None:
    [message] = land.leased(land.template())
    wamid = new_wamid()

    answer = land.ingest(event(land, wamid, "delivered", None))
    assert (answer["applied"], answer["parked"]) == (0, 1)
    assert land.message(message["message_id"])["state"] == "sending"

    land.settle(land.outcome(message, "accepted", wamid=wamid))

    assert land.message(message["message_id"])["state"] == "delivered"
    assert land.message(message["message_id"])["delivered_at"] == time_of("delivered")
    assert land.count("parked_statuses") == 0


def test_a_status_parked_while_its_message_was_being_settled_is_replayed_by_sweep(land: Land) -> None:
    [message] = land.leased(land.template())
    wamid = new_wamid()
    land.ingest(event(land, wamid, "read", None))
    # The two transactions did not see each other: the wamid is known now, and the status still parked.
    land.run(
        "insert into whatsapp.wamids (country_id, digest, week, message_id)"
        " select %s, whatsapp_internal.digest_of('main', %s), whatsapp_internal.week_of(whatsapp_internal.today()), %s",
        land.country_id,
        wamid,
        message["message_id"],
    )
    # A minute later no settle can still be running that did not.
    land.run("update whatsapp.parked_statuses set look_again_at = now() where country_id = %s", land.country_id)

    land.sweep()

    assert land.message(message["message_id"])["state"] == "read"
    assert land.count("parked_statuses") == 0


def test_a_status_of_another_country_moves_nothing_here(land: Land, database: Database) -> None:
    [message] = land.leased(land.template())
    elsewhere = Land(database)

    answer = elsewhere.ingest(event(elsewhere, new_wamid(), "read", message))

    assert answer["parked"] == 1
    assert land.message(message["message_id"])["state"] == "sending"


def test_a_failure_told_by_webhook_is_not_sent_again_when_the_answer_is_lost(land: Land) -> None:
    """The webhook proves that Meta took it, whatever the drainer or the sweeper believe."""
    [message] = land.leased(land.template())
    land.ingest(event(land, new_wamid(), "failed", message))

    land.settle(land.outcome(message, "unknown"))

    assert land.message(message["message_id"])["state"] == "failed"
    assert land.queued(message["message_id"]) is None


def test_the_error_of_an_earlier_try_does_not_hide_why_it_failed(land: Land) -> None:
    [message] = land.leased(land.template())
    land.settle(land.outcome(message, "held", code=130429, title="Throughput limit"))
    [again] = [each | {"lease_id": lease["lease_id"]} for lease in land.claim()["leases"] for each in lease["messages"]]
    wamid = new_wamid()
    land.settle(land.outcome(again, "accepted", wamid=wamid))
    assert land.message(message["message_id"])["error_code"] is None

    land.ingest(event(land, wamid, "failed", None))

    row = land.message(message["message_id"])
    assert (row["state"], row["error_code"]) == ("failed", ERROR["code"])


def test_a_repeated_batch_changes_nothing(land: Land) -> None:
    [message] = land.leased(land.template())
    wamid, phone = new_wamid(), "+5990000001"
    batch = [event(land, wamid, "sent", message), event(land, wamid, "read", message), land.writes(phone, time.time())]
    land.ingest(*batch)
    before = everything(land)

    for _ in range(9):
        land.ingest(*batch)

    assert everything(land) == before


def test_a_status_told_again_with_more_in_it_loses_nothing_of_that(land: Land) -> None:
    """A price or a free entry point of a message whose state is known: once, and however often after that."""
    [message] = land.leased(land.template())
    wamid, ends = new_wamid(), int(time.time()) + 72 * 3600
    plain = event(land, wamid, "delivered", message)
    priced = plain | {"price": {"category": "marketing"}, "payload": {"told": "price"}}
    entered = plain | {"window_until": ends, "payload": {"told": "entry point"}}
    land.ingest(plain)

    assert land.ingest(priced)["applied"] == 1
    assert land.ingest(entered)["applied"] == 1
    before = everything(land)
    land.ingest(plain, priced, entered)

    assert everything(land) == before
    assert land.message(message["message_id"])["price"] == {"category": "marketing"}
    opened = land.one("select entry_point_until from whatsapp.conversations where country_id = %s", [land.country_id])
    assert opened["entry_point_until"] == datetime.fromtimestamp(ends, UTC)
    kept = land.all("select payload from whatsapp.webhook_events where country_id = %s", [land.country_id])
    assert [{"told": "price"}] in [each["payload"] for each in kept]
    assert [{"told": "entry point"}] in [each["payload"] for each in kept]


def everything(land: Land) -> dict[str, list[Row]]:
    tables = ("messages", "message_events", "contacts", "conversations", "queue", "webhook_events", "wamids")
    return {
        table: land.all(f"select * from whatsapp.{table} t where country_id = %s order by t::text", (land.country_id,))
        for table in tables
    }
