"""An old snapshot held elsewhere keeps what was sent as dead rows: claims do not read them, and still miss nothing."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.local.stack import Stack
from tests.supabase.ground import Land, Row, messages_of, new_wamid, some_phone
from tests.supabase.test_growth import pages

Database = psycopg.Connection[Any]
FLOW = 2_000
BATCH = 50


@pytest.fixture
def land(database: Database) -> Land:
    return Land(database, messages_per_second=1000)


@pytest.fixture
def pinned(stack: Stack, land: Land) -> Iterator[None]:
    """A transaction elsewhere that began before what follows, and sees the queue as it was."""
    with psycopg.connect(stack.database_url) as elsewhere:
        land.campaign(*(some_phone() for _ in range(FLOW)))
        age(land)
        land.run("vacuum whatsapp.queue")
        elsewhere.execute("set transaction isolation level repeatable read")
        elsewhere.execute("select count(*) from whatsapp.queue")
        yield
        elsewhere.rollback()


def age(land: Land, seconds: int = 60) -> None:
    """What is queued has waited a while."""
    land.run(
        "update whatsapp.queue set run_at = run_at - %s * interval '1 second'"
        " where country_id = %s and lease_id is null",
        seconds,
        land.country_id,
    )


def claim(land: Land) -> list[Row]:
    land.run("update whatsapp.throttles set next_slot_at = '-infinity' where country_id = %s", land.country_id)
    return messages_of(land.claim(BATCH))


def send(land: Land, many: int) -> None:
    for _ in range(0, many, BATCH):
        land.settle(*(land.outcome(each, "accepted", wamid=new_wamid()) for each in claim(land)))


@pytest.mark.usefixtures("pinned")
def test_a_claim_touches_as_many_pages_after_thousands_of_messages_as_before(land: Land, database: Database) -> None:
    send(land, BATCH)

    def least() -> int:
        # Every half minute one reads from the very beginning.
        return min(pages(database, lambda: claim(land)) for _ in range(3))

    before = least()
    send(land, FLOW - 10 * BATCH)

    assert least() <= before * 1.5


def moved_on(land: Land) -> Row:
    """A message that is leased, of a lane that is read from behind it."""
    land.campaign(*(some_phone() for _ in range(2 * BATCH)))
    age(land)
    [first, *_] = claim(land)
    claim(land)
    head = land.one("select head_at, head_id from whatsapp.lanes where country_id = %s", (land.country_id,))
    here = land.queued(first["message_id"])
    assert here is not None
    assert (head["head_at"], str(head["head_id"])) > (here["run_at"], str(here["message_id"]))
    return first


@pytest.mark.parametrize("outcome", ["released", "held", "retry"])
def test_what_is_given_back_where_it_stood_is_claimed_again(land: Land, outcome: str) -> None:
    message = moved_on(land)

    land.settle(land.outcome(message, outcome, wait_seconds=0, max_attempts=9))

    assert [each["message_id"] for each in claim(land)] == [message["message_id"]]


def test_what_a_dead_drainer_had_not_announced_is_claimed_again(land: Land) -> None:
    message = moved_on(land)
    land.run(
        "update whatsapp.leases set leased_until = now(), may_post = 0 where country_id = %s and lease_id = %s",
        *(land.country_id, message["lease_id"]),
    )
    land.run(
        "update whatsapp.conversations set sending_until = null where country_id = %s",
        land.country_id,
    )

    land.sweep()

    assert message["message_id"] in {each["message_id"] for each in claim(land)}


def test_what_was_written_by_a_slow_transaction_is_claimed(land: Land) -> None:
    moved_on(land)
    [slow] = land.enqueue(land.template("offer"))
    land.run(
        "update whatsapp.queue set run_at = now() - interval '9 seconds',"
        " lane = (select lane from whatsapp.queue where country_id = %s and lane <> 'marketing' limit 1)"
        " where country_id = %s and message_id = %s",
        *(land.country_id, land.country_id, slow["message_id"]),
    )

    assert [each["message_id"] for each in claim(land)] == [slow["message_id"]]


def test_what_was_put_before_the_mark_by_hand_is_claimed_half_a_minute_later(land: Land) -> None:
    moved_on(land)
    [odd] = land.enqueue(land.template("offer"))
    land.run(
        "update whatsapp.queue set run_at = now() - interval '1 hour',"
        " lane = (select lane from whatsapp.queue where country_id = %s and lane <> 'marketing' limit 1)"
        " where country_id = %s and message_id = %s",
        *(land.country_id, land.country_id, odd["message_id"]),
    )
    assert claim(land) == []

    land.run("update whatsapp.lanes set head_seen_at = head_seen_at - interval '30 seconds'")

    assert [each["message_id"] for each in claim(land)] == [odd["message_id"]]
