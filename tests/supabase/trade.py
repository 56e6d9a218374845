"""A country that trades: a past, a queue, and each verb called as it is from day to day."""

import itertools
import time
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from tests.supabase.ground import Land, Row, messages_of, new_wamid, some_phone
from tests.supabase.stock import Stock, fill

Database = psycopg.Connection[Any]
BATCH = 50


class Trade:
    """A country with a past and a queue, and each verb called as it is from day to day."""

    def __init__(self, database: Database, stock: Stock) -> None:
        self.database = database
        self.land = Land(database, messages_per_second=1000)
        fill(database, self.land.country_id, stock)
        people = self.land.all(
            "select phone, match_key from whatsapp.contacts where country_id = %s order by md5(match_key)",
            (self.land.country_id,),
        )
        self.phones = itertools.cycle([row["phone"] for row in people])
        self.campaign = self.land.open_campaign()
        self.queue(stock.messages // 10)

    def queue(self, many: int) -> None:
        """A campaign that waits, as a past of its own: paused, so that other messages are claimed."""
        for start in range(0, many, 1_000):
            self._chunk([some_phone() for _ in range(min(1_000, many - start))])
        self._pause()

    def _pause(self) -> None:
        self.land.run("select whatsapp.control_campaign(%s, %s, 'pause', null)", self.land.country_id, self.campaign)

    def _chunk(self, phones: list[str]) -> None:
        nothing = [None] * len(phones)
        answer = self.land.one(
            "select whatsapp.enqueue_campaign(%s, %s, %s, 'same', %s, %s::text[], %s::text[], %s::text[], %s::uuid[],"
            " %s::text[], %s::text[]) as a",
            (
                self.land.country_id,
                self.campaign,
                str(uuid.uuid4()),
                list(range(len(phones))),
                phones,
                [phone[1:] for phone in phones],
                *[nothing] * 4,
            ),
        )["a"]
        assert answer["accepted"] == len(phones), answer

    def known(self) -> list[str]:
        return [next(self.phones) for _ in range(BATCH)]

    def tidy(self) -> None:
        """Sends what a call has left to be sent, so that the next finds the queue as this one did."""
        leases = self.land.all(
            "select country_id, message_id, lease_id from whatsapp.queue"
            " where country_id = %s and lease_id is not null and unknown_until is null and lane = 'utility'",
            (self.land.country_id,),
        )
        held = [{name: str(value) for name, value in row.items()} for row in leases]
        while held:
            self.land.settle(*(self.land.outcome(each, "accepted", wamid=new_wamid()) for each in held))
            held = messages_of(self.land.claim())

    # each makes ready what it needs, and returns the call that is measured

    def enqueue(self) -> Callable[[], object]:
        items = [self.land.template(phone=phone) for phone in self.known()]
        return lambda: self.land.enqueue(*items)

    def enqueue_to_new_people(self) -> Callable[[], object]:
        items = [self.land.template() for _ in range(BATCH)]
        return lambda: self.land.enqueue(*items)

    def claim(self) -> Callable[[], object]:
        self.land.enqueue(*(self.land.template(phone=phone) for phone in self.known()))
        return self._claimed

    def _claimed(self) -> list[Row]:
        messages = messages_of(self.land.claim(BATCH))
        assert len(messages) == BATCH
        return messages

    def settle(self) -> Callable[[], object]:
        self.claim()
        results = [self.land.outcome(each, "accepted", wamid=new_wamid()) for each in self._claimed()]
        return lambda: self.land.settle(*results)

    def settle_otherwise(self) -> Callable[[], object]:
        # What stays in the queue stands before the next message to its person: these get none.
        self.land.enqueue(*(self.land.template() for _ in range(BATCH)))
        outcomes = ["retry", "held", "rejected", "unknown", "released"] * (BATCH // 5)
        results = [
            self.land.outcome(each, outcome, code=1, wait_seconds=3600, max_attempts=9)
            for each, outcome in zip(self._claimed(), outcomes, strict=True)
        ]
        return lambda: self.land.settle(*results)

    def ingest_statuses(self) -> Callable[[], object]:
        self.claim()
        events = []
        for message in self._claimed():
            wamid = new_wamid()
            self.land.settle(self.land.outcome(message, "accepted", wamid=wamid))
            events.append(self.land.status(wamid, "delivered", time.time(), message["message_id"]))
        return lambda: self.land.ingest(*events)

    def ingest_statuses_by_wamid(self) -> Callable[[], object]:
        self.claim()
        events = []
        for message in self._claimed():
            wamid = new_wamid()
            self.land.settle(self.land.outcome(message, "accepted", wamid=wamid))
            events.append(self.land.status(wamid, "delivered", time.time()))
        return lambda: self.land.ingest(*events)

    def ingest_messages(self) -> Callable[[], object]:
        events = [self.land.writes(phone, time.time()) for phone in self.known()]
        return lambda: self.land.ingest(*events)

    def ingest_messages_of_new_people(self) -> Callable[[], object]:
        events = [self.land.writes(some_phone(), time.time()) for _ in range(BATCH)]
        return lambda: self.land.ingest(*events)

    def sweep(self) -> Callable[[], object]:
        self.land.sweep()
        return self.land.sweep

    def a_chunk_of_a_campaign(self) -> Callable[[], object]:
        self.campaign = self.land.open_campaign()
        self._pause()
        phones = [*self.known(), *(some_phone() for _ in range(BATCH))]
        return lambda: self._chunk(phones)

    def record_consents(self) -> Callable[[], object]:
        rows = [
            Jsonb(
                {
                    "row": n,
                    "phone": phone,
                    "match_key": phone[1:],
                    "what": "opt_in",
                    "scope": "marketing",
                    "how": "form",
                }
            )
            for n, phone in enumerate(self.known())
        ]
        arguments = (self.land.country_id, str(uuid.uuid4()), rows)
        return lambda: self.land.run("select whatsapp.record_consents(%s, null, %s, 'same', %s::jsonb[])", *arguments)


VERBS = {
    "enqueue": Trade.enqueue,
    "enqueue to new people": Trade.enqueue_to_new_people,
    "claim": Trade.claim,
    "settle": Trade.settle,
    "settle otherwise": Trade.settle_otherwise,
    "ingest statuses": Trade.ingest_statuses,
    "ingest statuses by wamid": Trade.ingest_statuses_by_wamid,
    "ingest messages": Trade.ingest_messages,
    "ingest messages of new people": Trade.ingest_messages_of_new_people,
    "sweep": Trade.sweep,
    "a chunk of a campaign": Trade.a_chunk_of_a_campaign,
    "record consents": Trade.record_consents,
}
