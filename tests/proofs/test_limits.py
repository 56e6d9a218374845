"""Meta's limits, measured where they hold: at what stands in for Meta, arrival by arrival.

The portfolio's limit has a file of its own, test_portfolio.py.
"""

import asyncio
import itertools
import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from psycopg.types.json import Jsonb

from services.whatsapp.flows.draining import HORIZON
from tests.graph.client import Arrival
from tests.graph.world import Number
from tests.proofs.house import OFFER, PLAIN, TEXT, House, Row, begin_together, check_refusal, some_phone, until

JITTER = 0.049
"""Seconds by which messages may be held up differently on their way without a number passing its rate: the room in
`slot_step`, less a millisecond for rounding."""

ROUNDING = 0.001
"""A drainer is told in whole milliseconds when a slot is."""

SECOND = timedelta(seconds=1)


def people(n: int) -> list[str]:
    phones: set[str] = set()
    while len(phones) < n:
        phones.add(some_phone())
    return sorted(phones)


async def drain_by_many(house: House, number: Number, drainers: int, budget: float) -> list[Row]:
    """Several drainers at once, each a process of its own; what each reports."""
    with ExitStack() as stack:
        started = [
            stack.enter_context(house.drain_process(number, budget=budget, begins=False)) for _ in range(drainers)
        ]
        await begin_together(*started)
        outputs = await asyncio.gather(*(asyncio.to_thread(subprocess.Popen.communicate, one) for one in started))
    return [json.loads(output[0].splitlines()[-1]) for output in outputs]


def most(times: Iterable[float], seconds: float) -> int:
    """Most of these moments within any moving span."""
    times, first, found = sorted(times), 0, 0
    for last, now in enumerate(times):
        while times[first] <= now - seconds:
            first += 1
        found = max(found, last - first + 1)
    return found


def leases_of(house: House, number: Number) -> list[Row]:
    return house.all("select * from whatsapp.leases where account_id = %s order by slot_at", number.account_id)


def slots_of(house: House, number: Number) -> dict[str, list[float]]:
    """When each message of this number was to be posted, by the database, try by try."""
    slots: dict[str, list[float]] = {}
    for lease in leases_of(house, number):
        for n, message_id in enumerate(lease["message_ids"]):
            slots.setdefault(str(message_id), []).append(lease["slot_at"].timestamp() + n * lease["slot_step"] / SECOND)
    return slots


def lateness(arrived: Iterable[Arrival], slots: dict[str, list[float]]) -> list[float]:
    """How long after its slot each message arrived."""
    tries = {message_id: iter(moments) for message_id, moments in slots.items()}
    return [arrival.wall - next(tries[str(arrival.callback_data)]) for arrival in arrived]


def check_everybody_once(house: House, number: Number, message_ids: Iterable[str]) -> None:
    """Each of these messages was taken once, and nothing waits any more."""
    accepted = [arrival.callback_data for arrival in house.graph.arrived(number) if arrival.accepted]
    assert sorted(map(str, accepted)) == sorted(message_ids)
    assert house.count("queue where account_id = %s", number.account_id) == 0


# ── Throughput ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("per_second", "replies"),
    [(20, 0), (80, 0), (80, 20)],
    ids=["coexistence", "standard", "replies overtake"],
)
async def test_drainers_together_keep_the_rate_of_a_number_and_use_it(
    house: House, per_second: int, replies: int
) -> None:
    """Judged by the slots the database hands out and by who arrives before its slot: how long a machine holds a message
    up on its way is nothing we could promise, and what slots leave room for."""
    number, writers = house.account(messages_per_second=per_second), people(replies)
    for writer in writers:
        await house.open_window(number, writer)
    message_ids = house.enqueue(number, people(per_second * 3))
    draining = asyncio.create_task(drain_by_many(house, number, 3, budget=60))
    await until(lambda: house.graph.arrived(number))
    for writer in writers:
        message_ids += house.enqueue(number, [writer], TEXT)
        await asyncio.sleep(2 / replies)
    reports = await draining

    assert sum(report["claimed"] > 0 for report in reports) > 1
    arrived, slots, leases = house.graph.arrived(number), slots_of(house, number), leases_of(house, number)
    # Kept: slots leave room for the jitter of the way, and no drainer is ahead of them.
    assert most(itertools.chain.from_iterable(slots.values()), 1 + JITTER) <= per_second
    assert min(lateness(arrived, slots)) >= -ROUNDING
    # Used: slots lie as close as they may, none is left out but those that replies took, and drainers come for the
    # next before the last have left.
    assert (
        max(lease["slot_step"] for lease in leases) / SECOND <= 1.05 * (1.1 if replies else 1) / per_second + ROUNDING
    )
    assert left_out(leases) <= replies * 1.05 / per_second + ROUNDING
    assert share_leased_ahead(leases, arrived) > 0.5
    check_everybody_once(house, number, message_ids)


def left_out(leases: list[Row]) -> float:
    """Seconds of slots between the leases that nobody was given, although somebody had come for them."""
    seconds, free = 0.0, leases[0]["slot_at"]
    for lease in leases:
        seconds += max(lease["slot_at"] - max(free, lease["leased_at"]), 0 * SECOND) / SECOND
        free = max(free, lease["slot_at"] + len(lease["message_ids"]) * lease["slot_step"])
    return seconds


def share_leased_ahead(leases: list[Row], arrived: list[Arrival]) -> float:
    """Of all messages but the first, how many were leased while those before them had not all arrived yet."""
    reached = {arrival.callback_data: arrival.wall for arrival in arrived}
    ahead = total = 0
    for before, after in itertools.pairwise(leases):
        last = max(reached[str(message_id)] for message_id in before["message_ids"])
        total += len(after["message_ids"])
        ahead += len(after["message_ids"]) * (after["leased_at"].timestamp() < last)
    return ahead / total


async def test_a_drainer_that_was_held_up_does_not_make_up_for_it_at_once(house: House) -> None:
    per_second = 80
    number = house.account(messages_per_second=per_second)
    message_ids = house.enqueue(number, people(per_second * 3))
    with house.drain_process(number, budget=60) as drainer:
        await until(lambda: len(slots_after(house, number, time.time())) > per_second / 4)
        drainer.send_signal(signal.SIGSTOP)
        stopped, slots = time.time(), slots_of(house, number)
        await until(lambda: time.time() > max(moment for tries in slots.values() for moment in tries))
        before, resumed = house.graph.arrived(number), time.time()
        drainer.send_signal(signal.SIGCONT)
        await asyncio.to_thread(drainer.wait)

    waiting = slots.keys() - {arrival.callback_data for arrival in before}
    begun = sum(slots[message_id][0] < stopped for message_id in waiting)
    assert len(waiting) > begun
    followed = house.graph.arrived(number)[len(before) + begun + 1 :]
    assert all(arrival.wall - resumed >= n / per_second for n, arrival in enumerate(followed))
    check_everybody_once(house, number, message_ids)


async def test_what_people_write_is_taken_off_the_rate(house: House) -> None:
    per_second, written_per_second, seconds = 80, 40, 3
    number = house.account(messages_per_second=per_second)
    house.enqueue(number, people(1_000))
    with house.drain_process(number, budget=60) as drainer:
        await until(lambda: len(house.graph.arrived(number)) > per_second)
        written = await write(house, number, written_per_second, seconds)
        last = max(written.values())
        # And then the number has its whole rate again.
        await until(lambda: most(slots_after(house, number, last), 0.5) > 0.6 * per_second * 0.5)
        drainer.terminate()
        await asyncio.to_thread(drainer.wait)

    written_here = "webhook_events where account_id = %s and kind = 'message'"
    await until(lambda: house.count(written_here, number.account_id) == len(written))
    known = house.all(f"select payload::text as raw, received_at from whatsapp.{written_here}", number.account_id)
    # Slots handed out already are not taken back: what is written within their horizon, and before we know of it,
    # comes on top.
    seen = max(
        row["received_at"].timestamp() - next(at for wamid, at in written.items() if wamid in row["raw"])
        for row in known
    )
    on_top = most(written.values(), HORIZON + seen)
    arrived = house.graph.arrived(number)
    late = lateness(arrived, slots_of(house, number))
    delay = max(late) - min(late)
    moments = [*written.values(), *(arrival.wall for arrival in arrived)]
    assert most(moments, 1) <= per_second * (1 + delay) + on_top
    assert most(moments, seconds) <= per_second * (seconds + delay) + on_top


def slots_after(house: House, number: Number, moment: float) -> list[float]:
    return [slot for tries in slots_of(house, number).values() for slot in tries if slot > moment]


async def write(house: House, number: Number, per_second: int, seconds: int) -> dict[str, float]:
    """People write to the number, evenly; when each message was written, by its id."""
    phones, begin = people(10), time.time()
    written: dict[str, float] = {}
    for n in range(per_second * seconds):
        await asyncio.sleep(begin + n / per_second - time.time())
        at = time.time()
        written[await asyncio.to_thread(house.graph.customer_writes, number, phones[n % 10][1:], "hola")] = at
    return written


async def test_what_people_wrote_long_ago_is_not_taken_off_the_rate_when_meta_brings_it_late(house: House) -> None:
    number, person = house.account(messages_per_second=20), some_phone()
    house.graph.pause_webhooks()
    for _ in range(200):
        house.graph.customer_writes(number, person[1:], "hola", at=int(time.time()) - 3_600)
    house.graph.pause_webhooks(False)
    await until(lambda: house.count("messages where account_id = %s", number.account_id) == 200)

    [answer] = house.enqueue(number, [person], TEXT)
    await house.drain(number, 3)
    assert house.arrivals(answer) == 1


@pytest.mark.parametrize("seed", range(2))
async def test_no_slot_is_given_twice_whoever_claims_and_whatever_comes_in(house: House, seed: int) -> None:
    number = house.account(messages_per_second=200)
    message_ids = house.enqueue(number, people(400))
    start, enough = threading.Barrier(4), time.monotonic() + 20

    def claim_or_write(random: Random) -> None:
        with psycopg.connect(house.stack.database_url, autocommit=True) as database:
            start.wait()
            while unclaimed(database, number) and time.monotonic() < enough:
                if random.random() < 0.2:
                    database.execute("select whatsapp.ingest(%s::jsonb[])", [[Jsonb(inbound(number, random))]])
                else:
                    database.execute(
                        "select whatsapp.claim("
                        " gen_random_uuid(), array[%s], %s, p_horizon := %s * interval '1 second')",
                        [f"MX/{number.account_id}", random.randint(1, 20), random.choice((0.5, 4, 60))],
                    )
                if random.random() < 0.1:
                    database.execute(
                        "update whatsapp.throttles set rate_factor = %s where account_id = %s",
                        [random.choice((1, 0.7, 0.5)), number.account_id],
                    )

    await asyncio.gather(*(asyncio.to_thread(claim_or_write, Random(f"{seed} {n}")) for n in range(4)))

    leases = leases_of(house, number)
    assert sorted(str(one) for lease in leases for one in lease["message_ids"]) == sorted(message_ids)
    assert len(leases) > 20
    for one, after in itertools.pairwise(leases):
        assert one["slot_at"] + len(one["message_ids"]) * one["slot_step"] <= after["slot_at"] + timedelta(
            microseconds=1
        )
    assert min(lease["slot_step"] for lease in leases) >= timedelta(seconds=1 / 200)


def unclaimed(database: psycopg.Connection[Any], number: Number) -> bool:
    query = "select from whatsapp.queue where account_id = %s and lease_id is null limit 1"
    return database.execute(query, [number.account_id]).fetchone() is not None


def inbound(number: Number, random: Random) -> Row:
    digits = random.choice(("525512345678", "525512345679"))
    event: Row = {"country_id": "MX", "account_id": number.account_id, "field": "messages", "kind": "message"}
    event |= {"key": f"{random.getrandbits(128):032x}", "wamid": f"wamid.{random.getrandbits(64)}", "at": time.time()}
    return event | {"payload": {}, "content": TEXT, "contact": {"wa_id": digits, "match_key": digits}}


# ── When Meta says that it is too fast ────────────────────────────────────────────────────────────


async def test_a_number_faster_than_meta_likes_rests_halves_and_recovers_step_by_step(house: House) -> None:
    number, allowed = house.account(messages_per_second=100), 60
    message_ids = house.enqueue(number, people(200))
    house.graph.throttle(number, allowed)

    await house.drain(number, 15)

    arrived = house.graph.arrived(number)
    refused = [arrival for arrival in arrived if arrival.code == 130429]
    assert refused
    # What was handed out already still goes; then the number rests, and nothing is refused ever after.
    resting, resumed = max(itertools.pairwise(arrived), key=lambda pair: pair[1].monotonic - pair[0].monotonic)
    assert resumed.monotonic - refused[0].monotonic >= 5
    assert resting.monotonic - refused[0].monotonic < HORIZON + 1
    assert refused[-1].monotonic <= resting.monotonic
    after = [arrival.monotonic for arrival in arrived if arrival.seq >= resumed.seq]
    assert most(after, 1) <= 55
    check_everybody_once(house, number, message_ids)
    assert house.graph.double_sent() == {}
    assert rate_factor(house, number) == 0.5

    # Meta has calmed down, too. Every sweep gives back a tenth.
    house.graph.throttle(number, None)
    for rate in (0.6, 0.7, 0.8, 0.9, 1, 1):
        house.run(
            "update whatsapp.throttles set held_until = now() - interval '11 seconds' where account_id = %s",
            number.account_id,
        )
        # A sweep leaves out what another one is at.
        await until(lambda rate=rate: swept(house, "accounts") and rate_factor(house, number) == pytest.approx(rate))  # type: ignore[misc]
    more = house.enqueue(number, people(120))
    await house.drain(number, 5)
    assert most([arrival.monotonic for arrival in house.graph.arrived(number)[len(arrived) :]], 1) > 60
    check_everybody_once(house, number, [*message_ids, *more])


def swept(house: House, job: str) -> bool:
    return bool(house.all("select whatsapp.sweep(array[%s])", job))


def rate_factor(house: House, number: Number) -> float:
    [row] = house.all("select rate_factor from whatsapp.throttles where account_id = %s", number.account_id)
    return float(row["rate_factor"])


async def test_a_number_in_maintenance_sends_nothing_and_goes_on_by_itself(house: House) -> None:
    number = house.account(messages_per_second=40)
    message_ids = house.enqueue(number, people(60))
    house.graph.fail_next(1, code=131057, number=number)

    await house.drain(number, 1.5)

    [refused] = [arrival for arrival in house.graph.arrived(number) if arrival.code == 131057]
    before = house.graph.arrived(number)
    # What was handed out already still goes.
    assert before[-1].monotonic - refused.monotonic < HORIZON + 0.5
    assert len(before) < len(message_ids)
    [account] = house.all("select * from whatsapp.accounts where account_id = %s", number.account_id)
    assert (account["state"], account["state_code"]) == ("paused", 131057)
    pause = account["paused_until"] - account["state_since"]
    assert pause == timedelta(minutes=1)

    # The minute, shortened.
    until_at = datetime.now(UTC) + timedelta(seconds=2)
    house.run("update whatsapp.accounts set paused_until = %s where account_id = %s", until_at, number.account_id)
    house.run("update whatsapp.queue set run_at = least(run_at, %s) where account_id = %s", until_at, number.account_id)
    await drain_until_empty(house, number)

    resumed = house.graph.arrived(number)[len(before)]
    assert resumed.wall >= until_at.timestamp()
    check_everybody_once(house, number, message_ids)
    active = "accounts where account_id = %s and state = 'active'"
    await until(lambda: swept(house, "accounts") and house.count(active, number.account_id))


async def drain_until_empty(house: House, number: Number, timeout: float = 15) -> None:
    """As cron does it: one short run after another."""
    deadline = time.monotonic() + timeout
    while house.count("queue where account_id = %s", number.account_id):
        assert time.monotonic() < deadline, "the queue did not become empty"
        await house.drain(number, 0.5, sweep=True)
        await asyncio.sleep(0.1)


# ── One person ────────────────────────────────────────────────────────────────────────────────────


async def test_one_person_gets_45_at_once_and_the_next_six_seconds_later_before_meta_says_so(house: House) -> None:
    number, person = house.account(messages_per_second=30), some_phone()
    # They are before the person and take slots: the first message reaches Meta half a second after its claim.
    earlier = house.enqueue(number, people(14))
    message_ids = house.enqueue(number, [person] * 46)
    house.graph.pair_rate()
    draining = asyncio.create_task(house.drain(number, 60))
    await until(lambda: len(house.graph.arrived(number)) >= 14 + 45)
    others = house.enqueue(number, people(5))
    asked = time.time()
    await draining

    assert house.graph.counts().of(number)["codes"] == {}
    arrived = [arrival for arrival in house.graph.arrived(number) if arrival.callback_data in message_ids]
    assert [arrival.callback_data for arrival in arrived] == message_ids
    waited = [arrival.monotonic - arrived[0].monotonic for arrival in arrived]
    assert all(later - earlier < 6 for earlier, later in itertools.pairwise(waited[:45]))
    assert 6 <= waited[45] < max(waited[44], 6) + 6
    assert all(arrival.wall - asked < 6 for one in others for arrival in house.graph.arrived(callback_data=one))
    check_everybody_once(house, number, earlier + message_ids + others)


async def test_when_meta_says_so_all_the_same_this_person_waits_longer_each_time_and_nobody_else(house: House) -> None:
    number, person = house.account(), some_phone()
    house.graph.fail_next(3, code=131056, number=number, to=person)
    [message_id] = house.enqueue(number, [person])
    everybody, spared = [message_id], (0, 3, 14)
    draining = asyncio.create_task(drain_until_empty(house, number))
    for tries, seconds in enumerate(spared, 1):
        await until(lambda tries=tries: house.count("queue where message_id = %s and waits = %s", message_id, tries))  # type: ignore[misc]
        sooner(house, number, seconds)
        others = house.enqueue(number, people(10))
        await until(lambda others=others: all(house.arrivals(one) for one in others))  # type: ignore[misc]
        everybody += others
    await draining

    moments = [arrival.monotonic for arrival in house.graph.arrived(callback_data=message_id)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    first, second, third = (gap + seconds for gap, seconds in zip(gaps, spared, strict=True))
    assert 1 <= first < 3.5
    assert 4 <= second < 8
    assert 16 <= third < 18.5
    check_everybody_once(house, number, everybody)
    assert house.message(message_id)["attempts"] == 1


def sooner(house: House, number: Number, seconds: int) -> None:
    """Let so much of the time pass for which a person must wait."""
    earlier = "- %s * interval '1 second' where account_id = %s"
    house.run(f"update whatsapp.conversations set pair_next_at = pair_next_at {earlier}", seconds, number.account_id)
    house.run(f"update whatsapp.queue set run_at = run_at {earlier}", seconds, number.account_id)


async def test_nobody_gets_marketing_for_a_day_after_meta_held_it_back(house: House) -> None:
    number, person = house.account(), some_phone()
    house.graph.fail_later(1, code=131049, number=number, to=person)
    [held_back, waiting] = house.enqueue(number, [person, person], OFFER)
    house.run("update whatsapp.queue set run_at = now() + interval '1 hour' where message_id = %s", waiting)
    await house.drain(number, 2)
    await house.until_state(held_back, "failed")
    where = "contacts where phone = %s and marketing_cooled_until between %s and %s"
    day = datetime.now(UTC) + timedelta(hours=24)
    assert house.count(where, person, day - timedelta(minutes=1), day) == 1

    house.run("update whatsapp.queue set run_at = now() where message_id = %s", waiting)
    go = house.enqueue(number, [person], PLAIN)
    go += house.enqueue(number, people(3), OFFER)
    await drain_until_empty(house, number)
    arrived = {arrival.callback_data for arrival in house.graph.arrived(number)}
    assert arrived == {held_back, *go}
    assert (house.state(waiting), house.message(waiting)["refusal"]) == ("refused", "contact_cooling")
    check_refusal(await house.post(person, OFFER, account=number.account_id), 409, "contact_cooling")

    # What Meta limits is marketing out of the blue: who writes may be answered with it.
    await house.open_window(number, person)
    answers = house.enqueue(number, [person], TEXT) + house.enqueue(number, [person], OFFER)
    await drain_until_empty(house, number)
    assert [house.arrivals(each) for each in answers] == [1, 1]

    # The day after.
    closed = "update whatsapp.conversations set window_until = now() where account_id = %s"
    house.run(closed, number.account_id)
    house.run("update whatsapp.contacts set marketing_cooled_until = now() where phone = %s", person)
    [again] = house.enqueue(number, [person], OFFER)
    await drain_until_empty(house, number)
    assert house.arrivals(again) == 1


# ── Quiet hours ───────────────────────────────────────────────────────────────────────────────────


async def test_marketing_leaves_at_the_second_the_quiet_hours_end_and_utility_at_once(house: House) -> None:
    zone = ZoneInfo("America/Mexico_City")
    end = datetime.now(zone) + timedelta(seconds=3)
    number = house.account(
        time_zone=zone.key, quiet_from=(end - timedelta(hours=3)).time(), quiet_until=end.time(), messages_per_second=40
    )
    person = some_phone()
    await house.open_window(number, person)
    marketing = house.enqueue(number, people(30), OFFER)
    others = house.enqueue(number, people(5)) + house.enqueue(number, [person], TEXT)

    await drain_until_empty(house, number)

    left = {arrival.callback_data: arrival.wall for arrival in house.graph.arrived(number)}
    assert all(left[one] < end.timestamp() for one in others)
    assert all(left[one] >= end.timestamp() for one in marketing)
    assert min(left[one] for one in marketing) < end.timestamp() + 2
    check_everybody_once(house, number, marketing + others)
