"""Who gets which message, in which order, and how many of them."""

import itertools
import threading
import time
import uuid
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.local.stack import Stack
from tests.supabase.ground import Land, beside, claim, messages_of, some_phone

Database = psycopg.Connection[Any]
DRAINERS = 4
MESSAGES = 400


@pytest.fixture
def land(database: Database) -> Land:
    return Land(database, messages_per_second=1000)


def test_concurrent_claims_never_hand_out_a_message_twice(stack: Stack, land: Land) -> None:
    land.enqueue(*(land.template() for _ in range(MESSAGES)))
    start = threading.Barrier(DRAINERS)
    handed_out: list[str] = []

    def drain() -> None:
        with psycopg.connect(stack.database_url, autocommit=True) as connection:
            start.wait()
            deadline = time.monotonic() + 20
            while len(handed_out) < MESSAGES and time.monotonic() < deadline:
                handed_out.extend(one["message_id"] for one in messages_of(claim(connection, accounts, 15)))

    accounts = [f"{land.country_id}/main"]
    drainers = [threading.Thread(target=drain) for _ in range(DRAINERS)]
    for each in drainers:
        each.start()
    for each in drainers:
        each.join()

    assert len(handed_out) == MESSAGES
    assert len(set(handed_out)) == MESSAGES


def test_a_claim_whose_answer_was_lost_gets_the_same_batch_again(land: Land) -> None:
    land.enqueue(*(land.template() for _ in range(3)))
    claim_id = uuid.uuid4()
    first = messages_of(land.claim(claim_id=claim_id))

    again = messages_of(land.claim(claim_id=claim_id))

    assert len(first) == 3
    assert [one["message_id"] for one in again] == [one["message_id"] for one in first]


def test_a_claim_repeated_while_the_first_still_runs_waits_and_gets_the_same_batch(stack: Stack, land: Land) -> None:
    land.enqueue(*(land.template() for _ in range(20)))
    claim_id = uuid.uuid4()
    with psycopg.connect(stack.database_url) as first:
        leased = messages_of(claim(first, land.accounts, 20, claim_id))
        with beside(stack, lambda second: claim(second, land.accounts, 20, claim_id)) as again:
            first.commit()
            repeated = messages_of(again.result(10))

    assert len(leased) == 20
    assert [one["message_id"] for one in repeated] == [one["message_id"] for one in leased]
    assert {one["lease_id"] for one in repeated} == {one["lease_id"] for one in leased}


def test_a_flood_of_what_people_write_holds_the_number_a_second_at_the_most(database: Database) -> None:
    land = Land(database, messages_per_second=20)
    phone = some_phone()
    for _ in range(6):
        begun = time.time()
        land.ingest(*(land.writes(phone, begun) for _ in range(100)))
        ended = time.time()
    land.enqueue(land.template())

    land.claim()

    [lease] = land.all("select * from whatsapp.leases where country_id = %s", [land.country_id])
    assert begun + 0.9 < lease["slot_at"].timestamp() <= ended + 1


def test_what_people_write_is_taken_off_the_next_second(database: Database) -> None:
    land = Land(database, messages_per_second=20)
    land.enqueue(land.template())
    land.ingest(*(land.writes(some_phone(), time.time()) for _ in range(10)))

    [template] = messages_of(land.claim())

    assert 400 < template["in_ms"] <= 10 * 52.5


def test_a_clock_that_is_moved_back_does_not_hold_a_number_up(database: Database) -> None:
    land = Land(database, messages_per_second=20)
    land.leased(land.template())
    land.ingest(land.writes(some_phone(), time.time()))
    land.run(
        "update whatsapp.throttles set next_slot_at = next_slot_at + interval '1 hour',"
        " paced_at = paced_at + interval '1 hour' where country_id = %s",
        land.country_id,
    )
    # Whoever writes meanwhile does not hide it.
    land.ingest(land.writes(some_phone(), time.time()))
    land.enqueue(*(land.template() for _ in range(5)))
    query = "select whatsapp.claim(gen_random_uuid(), %s, 200, '60 seconds', '0.5 seconds')"
    went: list[Any] = []
    deadline = time.monotonic() + 10

    while len(went) < 5 and time.monotonic() < deadline:
        row = database.execute(query, [land.accounts]).fetchone()
        assert row is not None
        went += messages_of(row[0])

    assert len(went) == 5


@pytest.mark.parametrize("stopped", ["paused = true", "held_until = now() + interval '1 hour'"])
def test_a_reply_is_woken_beside_a_row_that_cannot_go(land: Land, stopped: str) -> None:
    """Its person stands in a paused campaign as well: what is woken is what will really be served."""
    phone = some_phone()
    land.ingest(land.writes(phone, time.time()))
    [first] = land.leased(land.text(phone))
    land.enqueue(land.text(phone), land.template("offer", phone))
    land.run(
        "with campaign as ("
        " insert into whatsapp.lanes (country_id, account_id, lane, priority)"
        " values (%s, 'main', 'campaign:01a20c70-3896-7e4d-8844-cea70f3dc7be', 2) returning country_id, lane)"
        " update whatsapp.queue q set lane = c.lane from campaign c"
        " where q.country_id = c.country_id and q.lane = 'marketing'",
        land.country_id,
    )
    assert land.claim()["leases"] == []  # both step aside for the one in flight
    land.run(f"update whatsapp.lanes set {stopped} where country_id = %s and priority = 2", land.country_id)

    land.settle(land.outcome(first, "accepted"))

    assert [one["kind"] for one in messages_of(land.claim())] == ["text"]


def test_thousands_of_unknown_messages_cost_a_claim_nothing(database: Database) -> None:
    """In pages: a claim of five where two thousand wait for proof at the head of the lane, and where none does."""
    crowded, empty = (Land(database, messages_per_second=1000) for _ in range(2))
    for _ in range(4):
        crowded.enqueue(*(crowded.template() for _ in range(500)))
        claimed = messages_of(crowded.claim(1000))
        crowded.settle(*(crowded.outcome(one, "unknown") for one in claimed))
    assert crowded.count("messages", state="unknown") == 2000
    pages: dict[Land, int] = {}
    claim_of_five = "select whatsapp.claim(gen_random_uuid(), %s, 5, '60 seconds', '100 seconds')"
    for land in (crowded, empty):
        land.run("vacuum analyze")
        for _ in range(2):  # the first call after an analyze makes its plans
            land.enqueue(*(land.template() for _ in range(5)))
            [row] = land.all(f"explain (analyze, buffers, format json) {claim_of_five}", [land.accounts])
            plan = row["QUERY PLAN"][0]["Plan"]
            pages[land] = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        in_flight = (
            "select 1 from whatsapp.queue where country_id = %s and unknown_until is null and lease_id is not null"
        )
        assert len(land.all(in_flight, [land.country_id])) == 10

    assert pages[crowded] < 1.1 * pages[empty], list(pages.values())


def test_slots_are_spaced_by_the_rate_of_the_number(database: Database) -> None:
    land = Land(database, messages_per_second=20)
    land.enqueue(*(land.template() for _ in range(30)))

    # `in_ms` counts from the answer, and the two come at different moments.
    for half in (messages_of(land.claim(15)), messages_of(land.claim(15))):
        assert len(half) == 15
        # What is past is to be posted at once.
        to_come = [message["in_ms"] for message in half if message["in_ms"] > 0]
        assert all(later - one == pytest.approx(52.5, abs=1) for one, later in itertools.pairwise(to_come))
    first, second = land.all("select * from whatsapp.leases where country_id = %s order by slot_at", [land.country_id])
    assert second["slot_at"] >= first["slot_at"] + 15 * timedelta(milliseconds=52.5)


def test_a_drainer_is_told_to_come_back_when_a_number_may_send_again(land: Land) -> None:
    first, second = land.leased(land.template(), land.template())
    throughput_reached = {"code": 130429, "effect": "slow_down", "wait_seconds": 5}
    land.settle(land.outcome(first, "held", **throughput_reached), land.outcome(second, "accepted"))
    land.run("update whatsapp.queue set run_at = now() where country_id = %s", land.country_id)

    claimed = land.claim()

    assert claimed["leases"] == []
    assert 4_000 < claimed["next_ms"] <= 5_000


def test_one_message_per_person_at_a_time_and_in_order(land: Land) -> None:
    phone = some_phone()
    ids = [land.enqueue(land.template(phone=phone))[0]["message_id"] for _ in range(3)]

    for expected in ids:
        [message] = messages_of(land.claim())
        assert message["message_id"] == expected
        assert land.claim()["leases"] == []
        land.settle(land.outcome(message, "accepted", wamid=f"wamid.{expected}"))


def test_replies_go_before_utility_and_utility_before_marketing(land: Land) -> None:
    phone = some_phone()
    land.ingest(land.writes(phone, time.time()))
    land.enqueue(land.template("offer"), land.template("plain"), land.text(phone))

    kinds = [(message["kind"], message["category"]) for message in messages_of(land.claim())]

    assert kinds == [("text", None), ("template", "UTILITY"), ("template", "MARKETING")]


def test_lanes_of_one_priority_share_alike_however_odd_the_claims(land: Land) -> None:
    land.enqueue(*(land.template() for _ in range(40)))
    land.run(
        "insert into whatsapp.lanes select country_id, account_id, 'beside', priority from whatsapp.lanes"
        " where country_id = %s and lane = 'utility'",
        land.country_id,
    )
    land.run(
        "update whatsapp.queue set lane = 'beside' where message_id in"
        " (select message_id from whatsapp.queue where country_id = %s limit 20)",
        land.country_id,
    )

    for _ in range(6):
        assert len(messages_of(land.claim(3))) == 3

    taken = land.all(
        "select lane, count(*) as n from whatsapp.queue where country_id = %s and lease_id is not null group by lane",
        [land.country_id],
    )
    assert {row["lane"]: row["n"] for row in taken} == {"utility": 9, "beside": 9}


def test_a_reply_overtakes_slots_already_handed_out_and_pays_with_later_ones(database: Database) -> None:
    land = Land(database, messages_per_second=20)
    phone = some_phone()
    land.ingest(land.writes(phone, time.time()))
    land.enqueue(*(land.template() for _ in range(40)))
    ahead = messages_of(land.claim())
    before = land.one("select next_slot_at from whatsapp.throttles where country_id = %s", [land.country_id])
    land.enqueue(land.text(phone))

    [reply, *_] = messages_of(land.claim())

    assert max(message["in_ms"] for message in ahead) > 800
    assert reply["kind"] == "text"
    assert reply["in_ms"] == 0
    after = land.one("select next_slot_at from whatsapp.throttles where country_id = %s", [land.country_id])
    assert after["next_slot_at"] - before["next_slot_at"] >= timedelta(seconds=1 / 20)


def test_replies_overtake_within_the_rate(database: Database) -> None:
    """A campaign takes every slot it can get; then more replies than may overtake come all at once."""
    rate, quiet, seconds = 100, 1.5, 2.5
    land = Land(database, messages_per_second=rate)
    phones = [some_phone() for _ in range(30)]
    land.ingest(*(land.writes(phone, time.time()) for phone in phones))
    land.enqueue(*(land.template() for _ in range(400)))
    overtaken = 0
    started = time.monotonic()
    while (now := time.monotonic()) < started + seconds:
        if now > started + quiet and phones:
            land.enqueue(*(land.text(phone) for phone in phones))
            phones = []
        row = database.execute(
            "select whatsapp.claim(%s, %s, 200, '60 seconds', '0.5 seconds')",
            (uuid.uuid4(), [f"{land.country_id}/main"]),
        ).fetchone()
        assert row is not None
        overtaken += sum(one["kind"] == "text" and one["in_ms"] < 50 for one in messages_of(row[0]))
        time.sleep(0.02)

    leases = land.all(
        "select extract(epoch from slot_at) as at, extract(epoch from slot_step) as step, cardinality(message_ids) as n"
        " from whatsapp.leases where country_id = %s",
        [land.country_id],
    )
    slots = [float(lease["at"] + i * lease["step"]) for lease in leases for i in range(lease["n"])]
    assert overtaken >= 5
    busiest = max(sum(start <= slot < start + 1 for slot in slots) for start in slots)
    assert 0.8 * rate < busiest <= rate


def test_a_number_nobody_writes_to_uses_its_whole_rate(database: Database) -> None:
    land = Land(database, messages_per_second=100)
    land.enqueue(*(land.template() for _ in range(90)))

    slots = [message["in_ms"] for message in messages_of(land.claim())]

    # The first slots pass while the claim runs, so it is the distance of those to come that tells.
    assert len(slots) == 90
    assert slots[-1] - slots[-21] == pytest.approx(20 * 1050 / 100, abs=2)


def test_a_claim_does_not_wait_for_a_conversation_that_a_webhook_is_writing_to(stack: Stack, land: Land) -> None:
    """It would hold the number meanwhile, which the webhook needs next: the two would wait for each other."""
    busy, free = some_phone(), some_phone()
    land.enqueue(land.template(phone=busy), land.template(phone=free))
    with psycopg.connect(stack.database_url) as webhook:
        webhook.execute("set lock_timeout = '5s'")
        webhook.execute(
            "update whatsapp.conversations v set last_message_at = now() from whatsapp.contacts c"
            " where c.country_id = v.country_id and c.contact_id = v.contact_id and c.phone = %s",
            [busy],
        )
        land.run("set lock_timeout = '5s'")
        try:
            assert [one["to"] for one in messages_of(land.claim())] == [free]
        finally:
            land.run("reset lock_timeout")
        webhook.execute(
            "update whatsapp.throttles set webhook_seen_at = now() where country_id = %s", [land.country_id]
        )
    assert [one["to"] for one in messages_of(land.claim())] == [busy]


def test_a_claim_serves_only_the_numbers_it_names(land: Land, database: Database) -> None:
    elsewhere = Land(database)
    for each in (land, elsewhere):
        each.enqueue(each.template())

    claimed = land.claim()

    assert {lease["country_id"] for lease in claimed["leases"]} == {land.country_id}
    assert elsewhere.count("queue", lease_id=None) == 0
    assert elsewhere.one("select lease_id from whatsapp.queue where country_id = %s", (elsewhere.country_id,)) == {
        "lease_id": None
    }


def test_the_gates_are_asked_again_when_a_message_is_claimed(land: Land) -> None:
    [verdict] = land.enqueue(land.template())
    land.run("update whatsapp.templates set status = 'PAUSED' where country_id = %s", land.country_id)

    claimed = land.claim()

    assert claimed["leases"] == []
    assert claimed["refused"] == 1
    row = land.message(verdict["message_id"])
    assert (row["state"], row["refusal"]) == ("refused", "template_paused")


@pytest.mark.parametrize("state", ["paused", "stopped", "disabled"])
def test_an_account_that_does_not_send_keeps_its_messages(land: Land, state: str) -> None:
    [verdict] = land.enqueue(land.template())
    land.run("update whatsapp.accounts set state = %s where country_id = %s", state, land.country_id)

    assert land.claim()["leases"] == []
    assert land.message(verdict["message_id"])["state"] == "queued"


def test_one_key_makes_one_message_however_concurrently_it_comes(stack: Stack, land: Land) -> None:
    item = land.template()
    start = threading.Barrier(8)
    found: list[str] = []

    def send() -> None:
        with psycopg.connect(stack.database_url, autocommit=True) as connection:
            arguments = ([psycopg.types.json.Jsonb(item)],)
            start.wait()
            row = connection.execute("select whatsapp.enqueue(%s::jsonb[])", arguments).fetchone()
            assert row is not None
            found.append(row[0][0]["message_id"])

    callers = [threading.Thread(target=send) for _ in range(8)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()

    assert len(found) == 8
    assert len(set(found)) == 1
    assert land.count("messages") == 1
    assert land.enqueue(item | {"fingerprint": "other"})[0]["code"] == "idempotency_key_reused"


def test_an_answer_from_before_its_approval_does_not_pause_a_template_again(land: Land) -> None:
    template = "select status from whatsapp.templates where country_id = %s and name = 'plain'"
    paused = {"code": 132015, "effect": "pause_template", "wait_seconds": 1}
    [late] = land.leased(land.template())
    for at, event in enumerate(("PAUSED", "APPROVED")):
        land.ingest(land.template_status("plain", event, at=time.time() + at))

    land.settle(land.outcome(late, "held", **paused))
    assert land.one(template, [land.country_id]) == {"status": "APPROVED"}

    [fresh] = land.leased(land.template())
    land.settle(land.outcome(fresh, "held", **paused))
    assert land.one(template, [land.country_id]) == {"status": "PAUSED"}


def test_sweep_tells_the_planner_of_a_table_that_has_grown(stack: Stack) -> None:
    """Autovacuum would, too, in a minute: so the table is one it leaves alone."""
    with psycopg.connect(stack.database_url, autocommit=True) as database:
        estimate = "select reltuples from pg_class where oid = 'whatsapp.grown'::regclass"
        database.execute(
            "create table whatsapp.grown with (autovacuum_enabled = false) as select generate_series(1, 5000)"
        )
        try:
            deadline = time.monotonic() + 10
            while (rows := database.execute(estimate).fetchone()) != (5000,) and time.monotonic() < deadline:
                database.execute("select whatsapp.sweep()")
            assert rows == (5000,)
        finally:
            database.execute("drop table whatsapp.grown")
