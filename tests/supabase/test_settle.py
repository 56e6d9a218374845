"""What Meta answered is what the log says, once, whatever else is wrong with the answer."""

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.local.stack import Stack
from tests.supabase.ground import Land, Row, beside, messages_of, new_wamid, some_phone

Database = psycopg.Connection[Any]


@pytest.fixture
def land(database: Database) -> Land:
    return Land(database, messages_per_second=1000)


def given_up(land: Land) -> Row:
    """A message whose outcome stayed unknown for too long."""
    [message] = land.leased(land.template("offer"))
    give_up(land, message)
    return message


def give_up(land: Land, *messages: Row) -> None:
    land.settle(*(land.outcome(one, "unknown") for one in messages))
    land.run(
        "update whatsapp.queue set leased_at = now() - interval '1 day 1 minute', unknown_until = now()"
        " where country_id = %s and unknown_until is not null",
        land.country_id,
    )
    land.sweep()
    for one in messages:
        row = land.message(one["message_id"])
        assert (row["state"], row["error_title"]) == ("failed", "outcome_unknown")


@pytest.mark.parametrize("outcome", ["accepted", "rejected", "retry", "unknown"])
def test_a_settle_repeated_while_the_first_still_runs_tells_it_once(stack: Stack, land: Land, outcome: str) -> None:
    messages = land.leased(*(land.template() for _ in range(5)))
    results = [Jsonb(land.outcome(one, outcome, wamid=new_wamid(), max_attempts=9)) for one in messages]
    settle = "select whatsapp.settle(%s::jsonb[])"
    with psycopg.connect(stack.database_url) as first:
        first.execute(settle, [results])
        with beside(stack, lambda second: second.execute(settle, [results]).fetchone()) as again:
            first.commit()
            answer = again.result(10)

    assert answer is not None
    assert answer[0] == {"settled": 0, "stale": 5}
    events = "select count(*) as n from whatsapp.message_story where country_id = %s group by message_id"
    assert {row["n"] for row in land.all(events, [land.country_id])} == {3}  # queued, sending, what came of it


@pytest.mark.parametrize("state", ["sent", "delivered", "read"])
def test_a_late_status_takes_back_that_a_message_was_given_up(land: Land, state: str) -> None:
    message = given_up(land)

    land.ingest(land.status(new_wamid(), state, 1_760_000_000, message["message_id"]))

    row = land.message(message["message_id"])
    assert (row["state"], row["failed_at"], row["error_title"]) == (state, None, None)
    assert land.count("message_story", message_id=message["message_id"], event=f"message_{state}") == 1


def test_a_late_acceptance_takes_back_that_a_message_was_given_up(land: Land) -> None:
    message, wamid = given_up(land), new_wamid()

    assert land.settle(land.outcome(message, "accepted", wamid=wamid))["settled"] == 1

    row = land.message(message["message_id"])
    assert (row["state"], row["wamid"], row["failed_at"], row["error_title"]) == ("accepted", wamid, None, None)
    assert land.count("message_story", message_id=message["message_id"], event="message_accepted") == 1


@pytest.mark.parametrize("state", ["sent", "accepted"])
def test_what_meta_called_failed_stays_failed(land: Land, state: str) -> None:
    message, wamid = given_up(land), new_wamid()
    error = {"code": 131026, "title": "Undeliverable"}
    land.ingest(land.status(wamid, "failed", 1_760_000_000, message["message_id"], error=error))

    if state == "sent":
        land.ingest(land.status(wamid, "sent", 1_760_000_001, message["message_id"]))
    else:
        land.settle(land.outcome(message, "accepted", wamid=wamid))

    row = land.message(message["message_id"])
    assert (row["state"], row["error_code"], row["error_title"]) == ("failed", 131026, "Undeliverable")


@pytest.mark.parametrize("proof", ["status", "acceptance"])
def test_proof_that_comes_after_a_message_went_back_to_the_queue_takes_it_out(land: Land, proof: str) -> None:
    [message] = land.leased(land.template())
    requeue = (
        "update whatsapp.queue set lease_id = null, unknown_until = null, unknown_requeues = 1, run_at = now()"
        " where country_id = %s"
    )
    land.settle(land.outcome(message, "unknown"))
    land.run(requeue, land.country_id)
    land.run("update whatsapp.messages set state = 'queued' where country_id = %s", land.country_id)

    if proof == "status":
        land.ingest(land.status(new_wamid(), "sent", 1_760_000_000, message["message_id"]))
    else:
        land.settle(land.outcome(message, "accepted", wamid=new_wamid()))

    assert land.queued(message["message_id"]) is None
    assert land.message(message["message_id"])["state"] == ("sent" if proof == "status" else "accepted")
    assert land.claim()["leases"] == []


def test_a_second_try_is_not_repeated_once_the_first_is_known_to_be_accepted(land: Land) -> None:
    """The acceptance of the first try comes while a drainer holds the second."""
    [first] = land.leased(land.template())
    land.settle(land.outcome(first, "released"))
    [second] = messages_of(land.claim())
    land.settle(land.outcome(first, "accepted", wamid=new_wamid()))

    land.settle(land.outcome(second, "retry", max_attempts=9, wait_seconds=0))

    assert land.queued(first["message_id"]) is None
    assert land.message(first["message_id"])["state"] == "accepted"


@pytest.mark.parametrize(
    "extras",
    [
        {"wamid": "w" * 10_000},
        {"user_id": "MX." + "1" * 10_000},
        {"wa_id": "+52 55"},
        {"code": "not a number"},
        {"code": 10**12},
        {"title": "t" * 100_000, "details": "d" * 100_000},
        {"wait_seconds": 1e300},
        {"detail": "not an object"},
        {"detail": ["nor", "this"]},
    ],
    ids=lambda extras: ",".join(extras),
)
def test_what_cannot_be_stored_of_an_answer_is_left_out_and_the_fact_stays(land: Land, extras: Row) -> None:
    bad, good = land.leased(land.template(), land.template())
    wamid = new_wamid()

    answer = land.settle(
        land.outcome(bad, "accepted", **{"wamid": wamid} | extras), land.outcome(good, "accepted", wamid=new_wamid())
    )

    assert answer == {"settled": 2, "stale": 0}
    for one in (bad, good):
        assert land.message(one["message_id"])["state"] == "accepted"
    assert land.message(bad["message_id"])["wamid"] == (None if "wamid" in extras else wamid)


def test_a_wamid_that_another_message_holds_harms_nobody(land: Land) -> None:
    wamid = new_wamid()
    first, second, third = land.leased(*(land.template() for _ in range(3)))
    land.settle(land.outcome(first, "accepted", wamid=wamid))

    land.settle(land.outcome(second, "accepted", wamid=wamid), land.outcome(third, "accepted", wamid=wamid))

    rows = [land.message(one["message_id"]) for one in (first, second, third)]
    assert [row["state"] for row in rows] == ["accepted"] * 3
    assert [row["wamid"] for row in rows] == [wamid, None, None]


def test_two_answers_of_one_call_with_one_wamid_harm_nobody(land: Land) -> None:
    wamid = new_wamid()
    pair = land.leased(land.template(), land.template())

    land.settle(*(land.outcome(one, "accepted", wamid=wamid) for one in pair))

    rows = [land.message(one["message_id"]) for one in pair]
    assert [row["state"] for row in rows] == ["accepted"] * 2
    assert {row["wamid"] for row in rows} == {wamid, None}


def test_what_we_gave_up_does_not_pause_a_campaign_and_is_counted(land: Land) -> None:
    phones = [some_phone() for _ in range(450)]
    campaign_id = land.campaign(*phones)["campaign_id"]
    lost = messages_of(land.claim(250))
    give_up(land, *lost)

    land.sweep()

    seen = land.progress(campaign_id)
    assert seen["state"] == "running"
    assert (seen["counts"]["failed"], seen["counts"]["failed:unknown"]) == (250, 250)

    land.ingest(*(land.status(new_wamid(), "sent", 1_760_000_000, one["message_id"]) for one in lost))
    assert land.progress(campaign_id)["counts"] == {"queued": 200, "sent": 250}
