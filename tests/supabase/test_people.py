"""One person is one contact, in whatever order and by whatever name we hear of them; what was theirs goes with them."""

import random
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.local.stack import Stack
from tests.supabase.ground import Land, Row, messages_of, new_wamid, some_phone

Database = psycopg.Connection[Any]
NOW = time.time()
PERSONS = 500
"""How many people's events are shuffled. Each has an order of their own."""


@pytest.fixture
def land(database: Database) -> Land:
    return Land(database)


def some_bsuid() -> str:
    return f"ZW.{uuid.uuid4().hex}"


def names(phone: str | None = None, bsuid: str | None = None, **more: object) -> Row:
    return {"wa_id": phone and phone[1:], "match_key": phone and phone[1:], "bsuid": bsuid} | more


def says(land: Land, contact: Row, at: float, body: str = "hello") -> Row:
    return land.writes(some_phone(), at) | {"contact": contact, "content": {"type": "text", "text": {"body": body}}}


def told(land: Land, contact: Row, at: float, message_id: object = None, state: str = "delivered") -> Row:
    """A status webhook about a message to this person."""
    return land.status(new_wamid(), state, at, message_id, contact=contact)


def changes(land: Land, old: Row, new: Row, at: float) -> Row:
    """Meta announces a person's new names."""
    previous = {"previous_match_key": old["match_key"], "previous_bsuid": old["bsuid"]}
    return says(land, new | previous, at) | {"kind": "system"}


def people(land: Land) -> list[Row]:
    """The contacts that stand for somebody."""
    return land.all(
        "select * from whatsapp.contacts where country_id = %s and merged_into is null order by contact_id",
        (land.country_id,),
    )


def person(land: Land) -> Row:
    [one] = people(land)
    return one


def stop_word(land: Land, word: str = "BAJA") -> None:
    land.run("insert into whatsapp.stop_words (country_id, word) values (%s, %s)", land.country_id, word)


def sent_to(message: Row) -> str:
    """Where the drainer posts a claimed message to: the number if there is one."""
    return str(message["to"] or message["recipient"])


def queue_offer(land: Land, phone: str) -> str:
    [verdict] = land.enqueue(land.template("offer", phone))
    assert verdict["status"] == "accepted", verdict
    return str(verdict["message_id"])


def outcome_of(land: Land, message_id: str) -> tuple[str, str | None]:
    row = land.message(message_id)
    return row["state"], row["refusal"]


# ── Two names of one person meet ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("teacher", ["message", "call", "preference", "status"])
def test_an_event_that_names_two_known_people_makes_them_one(land: Land, teacher: str) -> None:
    phone, bsuid = some_phone(), some_bsuid()
    land.ingest(says(land, names(phone), NOW - 60), says(land, names(bsuid=bsuid), NOW - 50))
    assert len(people(land)) == 2

    event = says(land, names(phone, bsuid), NOW - 40) | {"kind": teacher, "state": "delivered"}
    land.ingest(event | ({"content": {"value": "resume"}} if teacher == "preference" else {}))

    one = person(land)
    assert (one["match_key"], one["bsuid"]) == (phone[1:], bsuid)
    assert land.count("conversations") == 1
    assert land.count("messages", contact_id=one["contact_id"]) == land.count("messages")


def test_a_stop_said_by_user_id_stops_marketing_to_the_number(land: Land) -> None:
    """The campaign knows the number, a status tells the user id, the person then writes without showing the number."""
    stop_word(land)
    phone, bsuid = some_phone(), some_bsuid()
    queued = queue_offer(land, phone)

    land.ingest(told(land, names(phone, bsuid), NOW - 30))
    land.ingest(says(land, names(bsuid=bsuid), NOW - 20, "BAJA"))

    assert messages_of(land.claim()) == []
    assert outcome_of(land, queued) == ("refused", "opted_out")


def test_a_stop_of_a_second_contact_reaches_what_is_queued_to_the_first(land: Land) -> None:
    stop_word(land)
    phone, bsuid = some_phone(), some_bsuid()
    queued = queue_offer(land, phone)
    land.ingest(says(land, names(bsuid=bsuid), NOW - 30, "BAJA"))
    land.ingest(told(land, names(phone, bsuid), NOW - 20))

    assert messages_of(land.claim()) == []
    assert outcome_of(land, queued) == ("refused", "opted_out")


def test_a_status_makes_nobody_known(land: Land) -> None:
    """Another system may send from the same number: whom it writes to is none of ours."""
    assert land.ingest(told(land, names(some_phone(), some_bsuid()), NOW))["parked"] == 1
    assert people(land) == []


def test_window_pace_and_flight_go_with_the_person(land: Land) -> None:
    phone, bsuid = some_phone(), some_bsuid()
    [held] = land.leased(land.template("plain", phone))
    land.ingest(says(land, names(bsuid=bsuid), NOW - 60))
    land.ingest(told(land, names(phone, bsuid), NOW - 50))

    conversation = land.one("select * from whatsapp.conversations where country_id = %s", (land.country_id,))
    assert conversation["window_until"].timestamp() == pytest.approx(NOW - 60 + 86400, abs=1)
    assert conversation["pair_next_at"] is not None
    # What is in flight stays in flight, and the next one to this person waits for it.
    [verdict] = land.enqueue(land.text(phone))
    assert verdict["status"] == "accepted"
    assert messages_of(land.claim()) == []
    assert land.settle(land.outcome(held, "accepted", wamid=new_wamid()))["settled"] == 1
    [reply] = messages_of(land.claim())
    assert reply["message_id"] == verdict["message_id"]


def test_the_cooling_of_a_person_goes_with_them(land: Land) -> None:
    phone, bsuid = some_phone(), some_bsuid()
    land.ingest(says(land, names(phone), NOW - 60), says(land, names(bsuid=bsuid), NOW - 50))
    land.run(
        "update whatsapp.contacts set marketing_cooled_until = now() + '1 day' where country_id = %s and bsuid = %s",
        *(land.country_id, bsuid),
    )
    land.ingest(told(land, names(phone, bsuid), NOW - 40))
    assert person(land)["marketing_cooled_until"] is not None


def test_consents_of_both_are_judged_together(land: Land) -> None:
    """The later word counts, whichever contact it was said by."""
    phone, bsuid = some_phone(), some_bsuid()
    stop_word(land)
    land.run(
        "insert into whatsapp.stop_words (country_id, word, action) values (%s, 'ALTA', 'opt_in')", land.country_id
    )
    land.ingest(says(land, names(phone), NOW - 60, "BAJA"), says(land, names(bsuid=bsuid), NOW - 50, "ALTA"))
    land.ingest(told(land, names(phone, bsuid), NOW - 40))

    one = person(land)
    assert one["opted_out_at"] is None
    assert one["opted_in_at"].timestamp() == pytest.approx(NOW - 50, abs=1)
    assert land.count("consents", contact_id=one["contact_id"]) == 2


def test_nobody_is_joined_past_one_step(land: Land) -> None:
    """Four contacts, joined two by two: whoever holds the id of any of them finds the person in one step."""
    numbers, ids = [some_phone() for _ in range(2)], [some_bsuid() for _ in range(2)]
    land.ingest(*(says(land, names(phone), NOW - 90 + n) for n, phone in enumerate(numbers)))
    land.ingest(*(says(land, names(bsuid=bsuid), NOW - 80 + n) for n, bsuid in enumerate(ids)))
    everybody = [row["contact_id"] for row in people(land)]
    for phone, bsuid in zip(numbers, ids, strict=True):
        land.ingest(told(land, names(phone, bsuid), NOW - 60))
    land.ingest(changes(land, names(numbers[1], ids[1]), names(numbers[0], ids[0]), NOW - 50))

    one = person(land)
    rows = land.all("select * from whatsapp.contacts where country_id = %s", (land.country_id,))
    assert {row["merged_into"] for row in rows} == {None, one["contact_id"]}
    for contact_id in everybody:
        item = land.template("plain") | {"contact_id": str(contact_id), "phone": None, "match_key": None}
        [verdict] = land.enqueue(item)
        assert land.message(verdict["message_id"])["contact_id"] == one["contact_id"]


# ── A person gets one message of a campaign ───────────────────────────────────────────────────────


def campaign(land: Land, *recipients: Row) -> str:
    """Runs the offer to these people; each {"phone"} or {"bsuid"}."""
    opening = {"name": "spring", "template_name": "offer", "template_language": "es", "key": str(uuid.uuid4())}
    arguments: Sequence[object] = ([Jsonb({"country_id": land.country_id, "fingerprint": "same"} | opening)],)
    opened = land.one("select whatsapp.open_campaign(%s::jsonb[]) as answer", arguments)["answer"]
    phones, bsuids = [one.get("phone") for one in recipients], [one.get("bsuid") for one in recipients]
    nothing = [None] * len(recipients)
    arguments = (
        *(land.country_id, opened["campaign_id"], str(uuid.uuid4()), "same", list(range(1, len(recipients) + 1))),
        *(phones, [phone and phone[1:] for phone in phones], bsuids, nothing, nothing, nothing),
    )
    query = (
        "select whatsapp.enqueue_campaign(%s, %s, %s, %s, %s::int[], %s::text[], %s::text[], %s::text[], %s::uuid[],"
        " %s::text[], %s::text[]) as answer"
    )
    assert land.one(query, arguments)["answer"]["accepted"] == len(recipients)
    return str(opened["campaign_id"])


def states_of(land: Land, campaign_id: str) -> list[str]:
    rows = land.all(
        "select state from whatsapp.messages where country_id = %s and campaign_id = %s order by state",
        (land.country_id, campaign_id),
    )
    return [row["state"] for row in rows]


@pytest.mark.parametrize(("claimed", "states"), [(0, ["queued", "refused"]), (1, ["refused", "sending"])])
def test_of_two_messages_of_a_campaign_to_one_person_one_goes(land: Land, claimed: int, states: list[str]) -> None:
    phone, bsuid = some_phone(), some_bsuid()
    run = campaign(land, {"phone": phone}, {"bsuid": bsuid})
    if claimed:
        land.claim(limit=claimed)
    land.ingest(told(land, names(phone, bsuid), NOW))

    assert states_of(land, run) == states
    refused = land.one(
        "select refusal from whatsapp.messages where country_id = %s and state = 'refused'", (land.country_id,)
    )
    assert refused["refusal"] == "duplicate_recipient"
    assert len(messages_of(land.claim())) == 1 - claimed
    counts = land.one("select whatsapp.campaign_progress(%s, %s) as it", (land.country_id, run))["it"]["counts"]
    assert counts["refused:duplicate_recipient"] == counts["refused"] == 1


def test_two_messages_of_a_campaign_that_were_both_sent_stay_with_the_person(land: Land) -> None:
    phone, bsuid = some_phone(), some_bsuid()
    run = campaign(land, {"phone": phone}, {"bsuid": bsuid})
    land.settle(*(land.outcome(one, "accepted", wamid=new_wamid()) for one in messages_of(land.claim())))
    land.ingest(told(land, names(phone, bsuid), NOW))

    assert states_of(land, run) == ["accepted", "accepted"]
    assert land.count("messages", contact_id=person(land)["contact_id"]) == 2


# ── What Meta's answers tell ──────────────────────────────────────────────────────────────────────


def test_an_answer_that_names_somebody_elses_user_id_is_kept_and_joins_the_two(land: Land) -> None:
    phone, bsuid = some_phone(), some_bsuid()
    [held] = land.leased(land.template("plain", phone))
    land.ingest(says(land, names(bsuid=bsuid), NOW - 60))

    settled = land.settle(land.outcome(held, "accepted", wamid=new_wamid(), wa_id=phone[1:], user_id=bsuid))

    assert settled == {"settled": 1, "stale": 0}
    assert land.message(held["message_id"])["state"] == "accepted"
    one = person(land)
    assert (one["match_key"], one["wa_id"], one["bsuid"]) == (phone[1:], phone[1:], bsuid)


def test_an_answer_lands_while_somebody_else_holds_the_people_it_names(land: Land, stack: Stack) -> None:
    phone, bsuid = some_phone(), some_bsuid()
    [held] = land.leased(land.template("plain", phone))
    land.ingest(says(land, names(bsuid=bsuid), NOW - 60))
    with psycopg.connect(stack.database_url) as other:
        other.execute(
            "select from whatsapp.contacts where country_id = %s and bsuid = %s for update", (land.country_id, bsuid)
        )
        land.settle(land.outcome(held, "accepted", wamid=new_wamid(), wa_id=phone[1:], user_id=bsuid))

    assert land.message(held["message_id"])["state"] == "accepted"
    # The status that follows names both again.
    land.ingest(told(land, names(phone, bsuid), NOW, held["message_id"]))
    assert person(land)["bsuid"] == bsuid


def test_an_answer_teaches_the_ids_of_a_number(land: Land) -> None:
    phone, bsuid = some_phone(), some_bsuid()
    [held] = land.leased(land.template("plain", phone))
    land.settle(land.outcome(held, "accepted", wamid=new_wamid(), wa_id=phone[1:], user_id=bsuid))
    one = person(land)
    assert (one["wa_id"], one["bsuid"]) == (phone[1:], bsuid)


# ── A number changes hands ────────────────────────────────────────────────────────────────────────


def test_what_is_queued_goes_to_the_new_number_and_nothing_to_the_old_one(land: Land) -> None:
    old, new = some_phone(), some_phone()
    land.enqueue(land.template("plain", old), land.template("offer", old))
    land.ingest(changes(land, names(old), names(new), NOW - 10))

    assert [sent_to(message) for message in messages_of(land.claim())] == [new]
    assert person(land)["phone"] is None


def test_what_is_queued_follows_into_a_contact_that_has_the_new_number_already(land: Land) -> None:
    old, new = names(some_phone(), some_bsuid()), names(some_phone(), some_bsuid())
    land.ingest(says(land, new, NOW - 60))
    land.ingest(says(land, old, NOW - 50))
    land.enqueue(land.text(f"+{old['match_key']}"))
    land.ingest(changes(land, old, new, NOW - 10))

    [message] = messages_of(land.claim())
    assert sent_to(message) == f"+{new['match_key']}"
    assert message["contact_id"] == str(person(land)["contact_id"])


def test_an_opt_out_before_a_change_of_number_holds_at_the_new_one(land: Land) -> None:
    stop_word(land)
    old, new = some_phone(), some_phone()
    queued = queue_offer(land, old)
    land.ingest(says(land, names(old), NOW - 20, "BAJA"), changes(land, names(old), names(new), NOW - 10))

    assert messages_of(land.claim()) == []
    assert outcome_of(land, queued) == ("refused", "opted_out")
    assert land.enqueue(land.template("offer", new))[0]["code"] == "opted_out"


def test_what_meta_brings_late_finds_who_had_the_number_then(land: Land) -> None:
    stop_word(land)
    old, new = names(some_phone(), some_bsuid()), names(some_phone(), some_bsuid())
    land.ingest(says(land, old, NOW - 90), changes(land, old, new, NOW - 50))
    land.ingest(says(land, names(f"+{old['match_key']}"), NOW - 70, "BAJA"))
    assert person(land)["opted_out_at"] is not None

    # Whoever writes from it later is somebody else.
    land.ingest(says(land, names(f"+{old['match_key']}"), NOW - 20))
    assert [row["opted_out_at"] is None for row in people(land)] == [False, True]


def test_a_new_user_id_on_a_known_number_is_another_person(land: Land) -> None:
    """Opt-outs stay with the number, opt-in and window with the person; what waits goes to whom it was meant for."""
    stop_word(land)
    phone, first, second = some_phone(), some_bsuid(), some_bsuid()
    land.ingest(says(land, names(phone, first), NOW - 80))
    land.run("update whatsapp.contacts set opted_in_at = now() where country_id = %s", land.country_id)
    [verdict] = land.enqueue(land.text(phone))

    land.ingest(told(land, names(phone, second), NOW - 60))

    before, after = people(land)
    assert (before["match_key"], before["phone"], before["wa_id"], before["bsuid"]) == (None, None, None, first)
    assert (after["match_key"], after["bsuid"], after["opted_in_at"]) == (phone[1:], second, None)
    assert land.enqueue(land.text(phone))[0]["code"] == "window_closed"
    [message] = messages_of(land.claim())
    assert (message["message_id"], sent_to(message)) == (verdict["message_id"], first)


def test_a_wish_stays_with_the_number_that_was_passed_on(land: Land) -> None:
    stop_word(land)
    phone, first, second = some_phone(), some_bsuid(), some_bsuid()
    land.ingest(says(land, names(phone, first), NOW - 80, "BAJA"))
    land.ingest(says(land, names(phone, second), NOW - 60))

    assert [row["opted_out_at"] is not None for row in people(land)] == [True, True]
    assert land.enqueue(land.template("offer", phone))[0]["code"] == "opted_out"


def test_an_event_of_the_one_who_had_the_number_before_takes_it_from_nobody(land: Land) -> None:
    phone, first, second = some_phone(), some_bsuid(), some_bsuid()
    land.ingest(says(land, names(phone, second), NOW - 20))
    land.ingest(says(land, names(phone, first), NOW - 80))
    land.ingest(says(land, names(phone, first), NOW - 70))

    numbers = {row["bsuid"]: row["match_key"] for row in people(land)}
    assert numbers == {first: None, second: phone[1:]}


def test_an_announced_user_id_is_the_same_person(land: Land) -> None:
    bsuid, later = some_bsuid(), some_bsuid()
    land.ingest(says(land, names(bsuid=bsuid), NOW - 80))
    land.ingest(changes(land, names(bsuid=bsuid), names(bsuid=later), NOW - 60))
    land.ingest(says(land, names(bsuid=bsuid), NOW - 70))
    item = land.text(some_phone()) | {"phone": None, "match_key": None, "bsuid": bsuid}
    assert land.enqueue(item)[0]["status"] == "accepted"

    assert person(land)["bsuid"] == later
    assert [sent_to(message) for message in messages_of(land.claim())] == [later]


def test_each_portfolio_has_its_own_id_of_one_person(land: Land) -> None:
    land.run(
        "insert into whatsapp.accounts (country_id, account_id, portfolio) values (%s, 'second', 'another')",
        land.country_id,
    )
    phone, here, there = some_phone(), some_bsuid(), some_bsuid()
    for n in range(3):
        land.ingest(says(land, names(phone, here), NOW - 80 + n))
        land.ingest(says(land, names(phone, there), NOW - 60 + n) | {"account_id": "second"})
    land.ingest(says(land, names(bsuid=there), NOW - 20) | {"account_id": "second"})

    one = person(land)
    assert (one["match_key"], one["bsuid"]) == (phone[1:], here)
    assert land.count("messages", contact_id=one["contact_id"]) == 7


def test_a_known_user_id_with_another_number_has_moved(land: Land) -> None:
    old, new, bsuid = some_phone(), some_phone(), some_bsuid()
    land.ingest(says(land, names(old, bsuid), NOW - 80))
    land.enqueue(land.text(old))
    land.ingest(says(land, names(new, bsuid), NOW - 60))

    assert person(land)["match_key"] == new[1:]
    assert [sent_to(message) for message in messages_of(land.claim())] == [new]


# ── What Meta calls them ──────────────────────────────────────────────────────────────────────────


def test_what_meta_calls_a_person_is_kept_wherever_in_a_batch_it_stands(land: Land) -> None:
    phone, bsuid = some_phone(), some_bsuid()
    more = {"username": "@ana", "parent_bsuid": "ZW.ENT.1", "identity_key_hash": "aGFzaA=="}
    land.ingest(
        says(land, names(phone, name="Ana"), NOW - 50),
        says(land, names(phone, bsuid), NOW - 40),
        says(land, names(bsuid=bsuid, **more), NOW - 30),
    )
    one = person(land)
    assert {name: one[name] for name in ("name", *more)} == {"name": "Ana"} | more

    land.ingest(told(land, names(phone, bsuid, username="@ana.maria"), NOW - 20))
    assert (person(land)["username"], person(land)["name"]) == ("@ana.maria", "Ana")


# ── Side by side ──────────────────────────────────────────────────────────────────────────────────


def test_a_message_is_not_lost_to_a_caller_who_is_just_making_its_sender_known(land: Land, stack: Stack) -> None:
    """The person is known by user id; somebody sends to their number for the first time while they write."""
    phone, bsuid = some_phone(), some_bsuid()
    land.ingest(says(land, names(bsuid=bsuid), NOW - 60))
    with psycopg.connect(stack.database_url) as other:
        other.execute("select whatsapp.enqueue(%s::jsonb[])", ([Jsonb(land.template("plain", phone))],))
        writing = _Aside(stack, lambda there: _in(land, there).ingest(says(land, names(phone, bsuid), NOW - 30)))
        writing.is_waiting(land)
        other.commit()
    assert writing.done()["applied"] == 1
    assert person(land)["match_key"] == phone[1:]
    assert land.count("messages", direction="inbound") == 2


@pytest.mark.parametrize("known_by", ["message", "preference"])
@pytest.mark.parametrize("way", ["send", "bulk"])
def test_what_is_queued_while_two_are_joined_reaches_the_one(land: Land, stack: Stack, known_by: str, way: str) -> None:
    """Whether or not there is a conversation already."""
    phone, bsuid = some_phone(), some_bsuid()
    land.ingest(says(land, names(phone), NOW - 60))
    land.ingest(says(land, names(bsuid=bsuid), NOW - 50) | {"kind": known_by, "content": {"value": "resume"}})

    def queue(there: Land) -> object:
        item = there.template("plain") | {"phone": None, "match_key": None, "bsuid": bsuid}
        return there.enqueue(item) if way == "send" else campaign(there, {"bsuid": bsuid})

    with psycopg.connect(stack.database_url) as other:
        other.execute("select whatsapp.ingest(%s::jsonb[])", ([Jsonb(told(land, names(phone, bsuid), NOW - 40))],))
        sending = _Aside(stack, lambda there: queue(_in(land, there)))
        sending.is_waiting(land)
        other.commit()
    sending.done()
    [message] = messages_of(land.claim())
    assert message["contact_id"] == str(person(land)["contact_id"])


def test_a_wish_recorded_while_two_are_joined_holds_for_the_one(land: Land, stack: Stack) -> None:
    phone, bsuid = some_phone(), some_bsuid()
    land.ingest(says(land, names(phone), NOW - 60))
    land.ingest(says(land, names(bsuid=bsuid), NOW - 50))
    query = "select whatsapp.record_consents(%s, null, %s, 'same', %s::jsonb[])"
    wish = {"row": 1, "bsuid": bsuid, "what": "opt_out", "scope": "all", "how": "phone call"}
    with psycopg.connect(stack.database_url) as other:
        other.execute("select whatsapp.ingest(%s::jsonb[])", ([Jsonb(told(land, names(phone, bsuid), NOW - 40))],))
        arguments = (land.country_id, str(uuid.uuid4()), [Jsonb(wish)])
        recording = _Aside(stack, lambda there: there.execute(query.encode(), arguments).fetchall())
        recording.is_waiting(land)
        other.commit()
    recording.done()
    assert person(land)["opted_out_at"] is not None


def test_people_are_joined_beside_everything_else_without_a_deadlock(land: Land, stack: Stack) -> None:
    """Two webhooks, a sender and a drainer, all about the same people."""
    chance = random.Random(20261124)
    stop_word(land)
    lives = [life(land, chance) for _ in range(120)]
    waiting = [event for events, _, _ in lives for event in events]
    chance.shuffle(waiting)
    heard = [waiting[n : n + 15] for n in range(0, len(waiting), 15)]
    told_all = threading.Event()

    def telling(there: Land) -> None:
        while heard:
            batch = heard.pop()
            _again(partial(there.ingest, *batch))
        told_all.set()

    def sending(there: Land) -> None:
        while not told_all.is_set():
            events, _, _ = random.choice(lives)
            contact = random.choice(events)["contact"]
            to = (
                {"phone": f"+{contact['match_key']}"}
                if contact["match_key"]
                else {"phone": None, "bsuid": contact["bsuid"]}
            )
            item = there.template("plain") | {"match_key": contact["match_key"]} | to
            _again(partial(there.enqueue, item))

    def draining(there: Land) -> None:
        while not told_all.is_set():
            held = messages_of(_again(there.claim))
            results = [
                there.outcome(
                    one, "accepted", wamid=new_wamid(), wa_id=(one["to"] or "")[1:] or None, user_id=one["recipient"]
                )
                for one in held
            ]
            if results:
                _again(partial(there.settle, *results))

    def beside(work: Callable[[Land], None]) -> _Aside:
        return _Aside(stack, lambda there: work(_in(land, there)))

    asides = [beside(work) for work in (telling, telling, sending, draining)]
    for aside in asides:
        aside.done()

    # Callers went on to dial numbers that were given up, so there may be more contacts than people.
    found = {row[name]: row for row in people(land) for name in ("match_key", "bsuid")}
    for events, held_names, wish in lives:
        assert len({found[name]["contact_id"] for name in held_names}) == 1, events
        assert not wish or found[min(held_names)]["opted_out_at"] is not None, events
    assert _belonging_to_nobody(land) == []
    land.run("delete from whatsapp.parked_statuses where country_id = %s", land.country_id)


def _again(call: Callable[[], Any]) -> Any:
    """As the store does: what collided with somebody else is tried again. A deadlock is not that."""
    while True:
        try:
            return call()
        except psycopg.errors.SerializationFailure:
            continue


class _Aside:
    """A call on a connection of its own, while the test goes on."""

    def __init__(self, stack: Stack, call: Callable[[Database], Any]) -> None:
        self._connection = psycopg.connect(stack.database_url, autocommit=True)
        self._call = call
        self._answer: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._answer = self._call(self._connection)
        except psycopg.Error as error:
            self._error = error

    def is_waiting(self, land: Land) -> None:
        """Returns once the call waits for a lock."""
        query = "select count(*) as n from pg_locks where pid = %s and not granted"
        until = time.monotonic() + 10
        while land.one(query, (self._connection.info.backend_pid,))["n"] == 0:
            assert self._thread.is_alive(), self._error
            assert time.monotonic() < until, "it never waited"

    def done(self) -> Any:
        self._thread.join()
        self._connection.close()
        if self._error:
            raise self._error
        return self._answer


def _in(land: Land, database: Database) -> Land:
    there = object.__new__(Land)
    there.country_id, there._database = land.country_id, database
    return there


# ── Whatever the order ────────────────────────────────────────────────────────────────────────────


def life(land: Land, chance: random.Random) -> tuple[list[Row], set[str], bool]:
    """What is heard of one person who changes their number once: the events, the names that hold in the end, and
    whether somewhere they asked to be left alone.

    Something names both names of each time, and the change names both times, or no one could know.
    """
    old, new = names(some_phone(), some_bsuid()), names(some_phone(), some_bsuid())
    change = chance.uniform(NOW - 5000, NOW - 4000)
    events = [changes(land, old, new, change)]
    wish = False
    for called, since, until in ((old, NOW - 9000, change - 1), (new, change + 1, NOW - 1)):
        by_number, by_bsuid = called | {"bsuid": None}, names(bsuid=str(called["bsuid"]))
        heard = [told(land, called, chance.uniform(since, until))]
        for _ in range(chance.randint(1, 4)):
            said = chance.choice(["hello", "hello", "BAJA"])
            wish = wish or said == "BAJA"
            contact = chance.choice([by_number, by_bsuid, called])
            heard.append(says(land, contact, chance.uniform(since, until), said))
        events += heard
    events += chance.choices(events, k=chance.randint(0, 3))
    chance.shuffle(events)
    return events, {str(new["match_key"]), str(new["bsuid"])}, wish


def dealt(lives: Sequence[Sequence[Row]], chance: random.Random) -> Iterator[list[Row]]:
    """Everybody's events in batches of 1 to 400; each person's stay in their order, alone or together in a batch."""
    waiting = [list(events) for events in lives]
    batch: list[Row] = []
    size = chance.randint(1, 400)
    alive = [each for each in waiting if each]
    while alive:
        each = chance.choice(alive[:60])
        for _ in range(min(len(each), chance.randint(1, 3))):
            batch.append(each.pop(0))
        if not each:
            alive.remove(each)
        if len(batch) >= size:
            yield batch
            batch, size = [], chance.randint(1, 400)
    if batch:
        yield batch


@pytest.mark.parametrize("seed", [20261124])
def test_in_whatever_order_a_person_is_heard_of_they_are_one(land: Land, seed: int) -> None:
    """Number, user id or both, statuses, stops, a change of number, repeats: each person's in an order of its own."""
    chance = random.Random(seed)
    stop_word(land)
    lives = [life(land, chance) for _ in range(PERSONS)]
    for batch in dealt([events for events, _, _ in lives], chance):
        land.ingest(*batch)
        # As sweep does while the tables grow.
        land.run("analyze whatsapp.contacts, whatsapp.messages, whatsapp.conversations")
    # Their statuses are of no message here; the sweeps of other tests should not look for it again.
    land.run("delete from whatsapp.parked_statuses where country_id = %s", land.country_id)

    found: dict[str, Row] = {}
    rows = land.all("select * from whatsapp.contacts where country_id = %s", (land.country_id,))
    living = {row["contact_id"]: row for row in rows if row["merged_into"] is None}
    assert all(row["merged_into"] in living for row in rows if row["merged_into"] is not None)
    for row in living.values():
        found[str(row["match_key"])] = found[str(row["bsuid"])] = row
    for events, held, wish in lives:
        assert len({found[name]["contact_id"] for name in held}) == 1, events
        assert (found[min(held)]["opted_out_at"] is not None) == wish, events
    assert len(living) == PERSONS
    assert _belonging_to_nobody(land) == []
    heard = {event["wamid"] for events, _, _ in lives for event in events if event["kind"] == "message"}
    assert land.count("messages") == len(heard)


def _belonging_to_nobody(land: Land) -> list[Row]:
    tables = ("messages", "conversations", "consents", "former_names", "queue")
    return [
        row
        for table in tables
        for row in land.all(
            f"select %s as of, t.* from whatsapp.{table} t join whatsapp.contacts c using (country_id, contact_id)"
            " where t.country_id = %s and c.merged_into is not null",
            (table, land.country_id),
        )
    ]


# ── Whatever the size ─────────────────────────────────────────────────────────────────────────────


def test_an_inbound_message_costs_the_same_among_30_000_people_as_among_300(database: Database) -> None:
    """In pages touched, not in time: no lookup reads the country."""
    touched: dict[int, int] = defaultdict(int)
    for size in (300, 30_000):
        land = Land(database)
        land.run(
            "insert into whatsapp.contacts (country_id, phone, wa_id, match_key, bsuid)"
            " select %s, '+98' || n, '98' || n, '98' || n, case when n < 1001000 then 'ZW.' || n end"
            " from generate_series(1000000, 999999 + %s) n",
            *(land.country_id, size),
        )
        land.run("analyze whatsapp.contacts")
        # Plans that a connection keeps are made in the first few calls.
        for warm in range(8):
            land.ingest(*_mixture(land, warm))
        before = _pages(land)
        land.ingest(*_mixture(land, 8))
        touched[size] = _pages(land) - before
    assert touched[30_000] < touched[300] * 1.5, touched


def _mixture(land: Land, n: int) -> list[Row]:
    """Known by number, known by user id, known by both, and not known: 10 of each, inbound, and 10 statuses."""
    ids = range(1000000 + n * 30, 1000000 + n * 30 + 30)
    known = [(f"+98{one}", f"ZW.{one}") for one in ids]
    return [
        *(says(land, names(phone), NOW) for phone, _ in known[:10]),
        *(says(land, names(bsuid=bsuid), NOW) for _, bsuid in known[10:20]),
        *(says(land, names(phone, bsuid), NOW) for phone, bsuid in known[20:]),
        *(says(land, names(some_phone(), some_bsuid()), NOW) for _ in range(10)),
        *(told(land, names(phone, bsuid), NOW) for phone, bsuid in known[:10]),
    ]


def _pages(land: Land) -> int:
    """Pages of contacts and its indexes that this connection has touched."""
    land.run("select pg_stat_force_next_flush()")
    return int(
        land.one(
            "select heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit as n"
            " from pg_statio_all_tables where relid = 'whatsapp.contacts'::regclass"
        )["n"]
    )
