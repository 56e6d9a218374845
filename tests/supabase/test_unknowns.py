"""What nobody knows the outcome of: who decides, when, and what is never done."""

import time
import uuid
from datetime import timedelta
from math import ceil
from typing import Any, ClassVar

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.supabase.ground import Land, Row, messages_of, new_wamid, some_phone

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


class Hours:
    """Turns the clock of one number: as if all that happened to it had happened so much earlier."""

    def __init__(self, land: Land) -> None:
        self._land = land

    def passes(self, minutes: float, *, swept: bool = True, heard: bool = True, late: float = 0) -> None:
        """So much time goes by, minute by minute: sweep runs (`swept`), and people write (`heard`), or not; what they
        write comes `late` by so many minutes."""
        for minute in range(ceil(minutes)):
            span = min(1.0, minutes - minute)
            for table, columns in self._times.items():
                changes = ", ".join(f"{one} = {one} - %s * interval '1 minute'" for one in columns)
                where = "where country_id = %s"
                self._land.run(
                    f"update whatsapp.{table} set {changes} {where}", *[span] * len(columns), self._land.country_id
                )
            if heard:
                self._land.ingest(self._land.writes(some_phone(), time.time() - 60 * late))
            if swept:
                self._land.sweep()

    _times: ClassVar = {
        "queue": ("leased_at", "leased_until", "unknown_until"),
        "leases": ("leased_at", "leased_until"),
        "throttles": ("webhook_seen_at", "told_until", "feed_since", "gap_from", "swept_at"),
    }


@pytest.fixture
def clock(land: Land) -> Hours:
    land.ingest(land.writes(some_phone(), time.time()))
    return Hours(land)


def state(land: Land, message: Row) -> str:
    row = land.message(message["message_id"])
    assert (row["error_title"] == "outcome_unknown") == (row["state"] == "failed")
    assert (land.queued(message["message_id"]) is None) == (row["state"] == "failed")
    return str(row["state"])


@pytest.mark.parametrize(("kind", "after"), [("reply", "queued"), ("plain", "queued"), ("offer", "failed")])
def test_a_feed_that_lives_after_the_deadline_decides(land: Land, clock: Hours, kind: str, after: str) -> None:
    message = unknown(land, kind)

    clock.passes(9)
    assert state(land, message) == "unknown"
    assert land.claim()["leases"] == []

    clock.passes(2)
    assert state(land, message) == after
    assert len(messages_of(land.claim())) == (after == "queued")


def test_one_webhook_just_after_the_attempt_proves_nothing(land: Land, clock: Hours) -> None:
    message = unknown(land, "plain")
    clock.passes(0.05)

    clock.passes(180, heard=False)

    assert state(land, message) == "unknown"
    assert land.claim()["leases"] == []


def test_a_feed_that_lags_proves_nothing_of_what_it_has_not_come_to(land: Land, clock: Hours) -> None:
    """Webhooks come all the while, each a quarter of an hour after what it tells of: this one may be told of next."""
    message = unknown(land, "plain")
    clock.passes(24, late=15)
    assert state(land, message) == "unknown"

    clock.passes(3, late=15)
    assert state(land, message) == "queued"


def test_what_has_no_time_of_its_own_does_not_move_the_feed(land: Land, clock: Hours) -> None:
    message = unknown(land, "plain")
    for _ in range(20):
        clock.passes(1, heard=False)
        land.ingest(land.writes(some_phone(), 0) | {"kind": "ignored", "at": None})

    assert state(land, message) == "unknown"


def test_an_outage_of_ours_restarts_the_wait_for_as_long_as_it_lasted(land: Land, clock: Hours) -> None:
    """All was away. The first to come after it is the webhook of somebody who writes, or sweep."""
    message = unknown(land, "plain")
    clock.passes(29, swept=False, heard=False)

    clock.passes(29)  # of which the first still belongs to the outage
    assert state(land, message) == "unknown"

    clock.passes(3)
    assert state(land, message) == "queued"


def test_an_outage_shorter_than_the_deadline_restarts_the_wait(land: Land, clock: Hours) -> None:
    """No silence tells of it: only our own heartbeat does."""
    message = unknown(land, "plain")
    clock.passes(8, swept=False, heard=False)

    clock.passes(9)
    assert state(land, message) == "unknown"

    clock.passes(2)
    assert state(land, message) == "queued"


def test_a_silence_as_long_as_the_deadline_restarts_the_wait(land: Land, clock: Hours) -> None:
    """Cron ran all along, but no webhook reached us: nobody can tell that from a quiet number."""
    message = unknown(land, "plain")
    clock.passes(19, heard=False)

    clock.passes(19)  # of which the first still belongs to the silence
    assert state(land, message) == "unknown"

    clock.passes(3)
    assert state(land, message) == "queued"


def test_a_gap_long_after_the_attempt_restarts_the_wait_for_as_long_as_it_lasted(land: Land, clock: Hours) -> None:
    message = unknown(land, "plain")
    clock.passes(50, late=60)
    clock.passes(14, heard=False)

    clock.passes(14)  # of which the first still belongs to the silence
    assert state(land, message) == "unknown"

    clock.passes(3)
    assert state(land, message) == "queued"


def test_gaps_of_which_none_was_made_up_for_before_the_next_are_one(land: Land, clock: Hours) -> None:
    """What Meta was about to bring again has met the second one."""
    message = unknown(land, "plain")
    clock.passes(12, heard=False)
    clock.passes(5)
    clock.passes(12, heard=False)

    clock.passes(29)
    assert state(land, message) == "unknown"

    clock.passes(4)
    assert state(land, message) == "queued"


def test_a_silence_before_the_attempt_restarts_nothing(land: Land, clock: Hours) -> None:
    clock.passes(60, heard=False)
    land.ingest(land.writes(some_phone(), time.time()))
    message = unknown(land, "plain")

    clock.passes(11)

    assert state(land, message) == "queued"


def test_the_status_that_meta_brings_again_after_an_outage_settles_it(land: Land, clock: Hours) -> None:
    message = unknown(land, "plain")
    clock.passes(30, swept=False, heard=False)
    clock.passes(20)

    land.ingest(land.status(new_wamid(), "delivered", 1_760_000_000, message["message_id"]))
    clock.passes(30)

    assert land.message(message["message_id"])["state"] == "delivered"
    assert land.claim()["leases"] == []


@pytest.mark.parametrize("kind", ["reply", "plain", "offer"])
def test_what_is_not_proved_within_a_day_is_given_up(land: Land, clock: Hours, kind: str) -> None:
    message = unknown(land, kind)
    shift = "leased_at = leased_at - interval '23 hours', leased_until = leased_until - interval '23 hours'"
    land.run(f"update whatsapp.queue set {shift}, unknown_until = now() where country_id = %s", land.country_id)

    clock.passes(58, heard=False)
    assert state(land, message) == "unknown"

    clock.passes(3, heard=False)
    assert state(land, message) == "failed"


def test_the_wait_after_an_outage_ends_within_a_day_of_the_attempt(land: Land, clock: Hours) -> None:
    message = unknown(land, "plain")
    land.run(
        "update whatsapp.queue set leased_at = leased_at - interval '16 hours' where country_id = %s", land.country_id
    )
    land.run("update whatsapp.queue set unknown_until = now() where country_id = %s", land.country_id)
    land.run(
        "update whatsapp.throttles set swept_at = now() - interval '15 hours' where country_id = %s", land.country_id
    )

    land.sweep()

    row = land.one(
        "select unknown_until - leased_at as wait from whatsapp.queue where country_id = %s", [land.country_id]
    )
    assert row["wait"] <= timedelta(days=1)
    assert state(land, message) == "unknown"


def test_it_goes_back_to_the_queue_only_once(land: Land, clock: Hours) -> None:
    message = unknown(land, "plain")
    clock.passes(11)
    [again] = messages_of(land.claim())
    land.settle(land.outcome(again, "unknown"))

    clock.passes(11)

    assert state(land, message) == "failed"


def test_an_account_may_ask_for_no_second_try(database: Database) -> None:
    land = Land(database, unknown_policy="fail")
    land.ingest(land.writes(some_phone(), time.time()))
    message = unknown(land, "plain")

    Hours(land).passes(11)

    assert state(land, message) == "failed"


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


def test_what_a_dead_drainer_had_not_announced_goes_back_to_the_queue(database: Database) -> None:
    land, lease = announced_ahead(database, 20)
    assert 2 <= lease["may_post"] <= 4  # the slots of the next 0.15 seconds
    [held] = announce(land, lease["lease_id"], 7)
    assert held == lease["lease_id"]
    expire(land)

    land.sweep()

    places = {message["place"]: land.message(message["message_id"]) for message in lease["messages"]}
    assert {place for place, row in places.items() if row["state"] == "unknown"} == set(range(1, 8))
    assert {place for place, row in places.items() if row["state"] == "queued"} == set(range(8, 21))
    assert {row["attempts"] for place, row in places.items() if place > 7} == {0}
    again = messages_of(land.claim())
    assert {one["message_id"] for one in again} == {str(places[place]["message_id"]) for place in range(8, 21)}
    assert {one["attempts"] for one in again} == {1}


def test_an_announcement_never_goes_back(database: Database) -> None:
    land, lease = announced_ahead(database, 20)
    announce(land, lease["lease_id"], 15)

    announce(land, lease["lease_id"], 5)

    assert land.one("select may_post from whatsapp.leases where country_id = %s", [land.country_id]) == {"may_post": 15}


def test_a_lease_that_has_ended_may_not_be_posted_any_further(database: Database) -> None:
    land, lease = announced_ahead(database, 20)
    expire(land)

    assert announce(land, lease["lease_id"], 20) == []
    land.sweep()
    assert announce(land, lease["lease_id"], 20) == []


def test_places_stay_what_they_were_when_a_claim_is_repeated(database: Database) -> None:
    """Some of its messages may be done meanwhile: the mark counts places, not what is left."""
    claim_id = uuid.uuid4()
    land, lease = announced_ahead(database, 20, claim_id)
    first, second = lease["messages"][:2]
    land.settle(land.outcome(first | {"lease_id": lease["lease_id"]}, "accepted", wamid=new_wamid()))

    [again] = land.claim(claim_id=claim_id)["leases"]

    assert again["may_post"] == lease["may_post"]
    assert (again["messages"][0]["message_id"], again["messages"][0]["place"]) == (second["message_id"], 2)


def announced_ahead(database: Database, n: int, claim_id: uuid.UUID | None = None) -> tuple[Land, Row]:
    """A lease of a number of 20 a second, of which its drainer will announce what is more than 0.15 s ahead."""
    land = Land(database, messages_per_second=20)
    land.enqueue(*(land.template() for _ in range(n)))
    claim = "select whatsapp.claim(%s, %s, %s, '60 seconds', '100 seconds', '0.15 seconds') as claimed"
    [lease] = land.one(claim, [claim_id or uuid.uuid4(), land.accounts, n])["claimed"]["leases"]
    assert len(lease["messages"]) == n
    return land, lease


def announce(land: Land, lease_id: object, may_post: int) -> list[str]:
    mark = Jsonb({"country_id": land.country_id, "lease_id": lease_id, "may_post": may_post})
    return list(land.one("select whatsapp.announce(array[%s]::jsonb[]) as held", [mark])["held"])


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
    assert land.count("message_story", message_id=message["message_id"], event="message_accepted") == 1


def expire(land: Land) -> None:
    land.run("update whatsapp.leases set leased_until = now() - interval '1 ms' where country_id = %s", land.country_id)
    land.run("update whatsapp.queue set leased_until = now() - interval '1 ms' where country_id = %s", land.country_id)
    land.run("update whatsapp.conversations set sending_until = now() where country_id = %s", land.country_id)
