"""Whoever changes a row takes it in the one order of locks.sql: no two verbs ever wait for each other."""

import random
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.local.stack import Stack
from tests.supabase.ground import TEMPLATES, Land, Row, claim, messages_of, new_wamid, some_phone

Database = psycopg.Connection[Any]
ACCOUNTS = ("main", "other")
EFFECTS = (
    "opt_out",
    "cool_contact",
    "pair_wait",
    "slow_down",
    "pause_template",
    "pause_account",
    "close_window",
    "none",
)
AT = 1_700_000_000.0
STEPS = 150


@contextmanager
def impatient(stack: Stack) -> Iterator[Database]:
    """A connection for which Postgres looks for a deadlock at once, and not after a second."""
    with psycopg.connect(stack.admin_url, autocommit=True, options="-c deadlock_timeout=5ms") as connection:
        yield connection


class Crowd:
    """A few people, two numbers, three campaigns: whatever is done meets somebody else's doing."""

    def __init__(self, stack: Stack, database: Database) -> None:
        self.stack = stack
        self.land = Land(database, messages_per_second=1000)
        self.country = self.land.country_id
        self.land.run(
            "insert into whatsapp.accounts (country_id, account_id, portfolio, messaging_limit, messages_per_second)"
            " values (%s, 'other', %s, null, 1000)",
            self.country,
            self.country,
        )
        templates = [
            Jsonb({"name": name, "language": "es", "status": "APPROVED", "category": category})
            for name, category in TEMPLATES.items()
        ]
        self.templates = templates
        self.land.run("select whatsapp.sync_templates(%s, 'other', %s::jsonb[])", self.country, templates)
        self.phones = [some_phone() for _ in range(10)]
        # A number's first messages make its lanes.
        self.land.enqueue(*(self.land.template(name, account_id=account) for name in TEMPLATES for account in ACCOUNTS))
        self.campaigns = [self.land.open_campaign(account) for account in ("main", "main", "other")]
        self.leased: deque[Row] = deque(maxlen=200)
        self.sent: deque[Row] = deque(maxlen=30)
        """Messages that Meta has, whether we have settled them or not."""


class Worker:
    """One connection that calls verbs, drawn from a seed."""

    def __init__(self, crowd: Crowd, database: Database, seed: int) -> None:
        self.crowd = crowd
        self.database = database
        self.draw = random.Random(seed)
        self.verbs: list[Callable[[], object]] = [
            *[self.enqueue, self.claim, self.settle, self.statuses, self.inbound] * 3,
            *[self.chunk, self.complete] * 2,
            *(self.consents, self.sweep, self.control, self.template, self.both),
        ]

    def step(self) -> None:
        verb = self.draw.choice(self.verbs)
        try:
            verb()
        except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected):
            """The caller tries again."""

    def run(self, query: str, *arguments: object) -> Any:
        row = self.database.execute(query.encode(), arguments).fetchone()
        return row[0] if row else None

    def verb(self, name: str, items: list[Row]) -> Any:
        return self.run(f"select whatsapp.{name}(%s::jsonb[])", [Jsonb(item) for item in items])

    def some(self, most: int = 6) -> range:
        return range(self.draw.randint(1, most))

    def account(self) -> str:
        return self.draw.choice(ACCOUNTS)

    def phone(self) -> str:
        """Somebody whom others meet too, or somebody new."""
        if self.draw.random() < 0.1:
            self.crowd.phones[self.draw.randrange(10)] = some_phone()
        return self.draw.choice(self.crowd.phones)

    def bsuid(self, phone: str) -> str:
        """The person's own: whoever writes under one name and then under both is joined."""
        return f"{self.crowd.country}.{phone[1:]}"

    # the verbs

    def enqueue(self) -> None:
        land = self.crowd.land
        items = [
            land.template(self.draw.choice(["plain", "offer"]), self.phone(), account_id=self.account())
            if self.draw.random() < 0.7
            else land.text(self.phone(), account_id=self.account())
            for _ in self.some()
        ]
        self.verb("enqueue", items)

    def claim(self) -> None:
        numbers = [f"{self.crowd.country}/{account}" for account in ACCOUNTS]
        for message in messages_of(claim(self.database, numbers, 20)):
            message["wamid"] = new_wamid()
            self.crowd.leased.append(message)
            self.crowd.sent.append(message)

    def settle(self) -> None:
        results = []
        for _ in self.some(8):
            if not self.crowd.leased:
                break
            message = self.crowd.leased.popleft()
            outcome = self.draw.choice(["accepted", "accepted", "retry", "rejected", "held", "unknown"])
            more: Row = {"effect": self.draw.choice(EFFECTS), "code": 131026, "wait_seconds": 0.001, "max_attempts": 9}
            if outcome == "accepted":
                more = {"wamid": message["wamid"], "wa_id": message["to"][1:] if message["to"] else None}
            results.append(self.crowd.land.outcome(message, outcome, **more))
        self.verb("settle", results)

    def status(self) -> Row:
        message = self.draw.choice(list(self.crowd.sent) or [{"message_id": None, "wamid": new_wamid()}])
        state = self.draw.choice(["sent", "delivered", "read", "failed"])
        error = {"code": 131026, "title": "no", "effect": self.draw.choice(EFFECTS), "wait_seconds": 0.001}
        return self.crowd.land.status(
            message["wamid"],
            state,
            AT,
            message["message_id"] if self.draw.random() < 0.5 else None,
            key=str(uuid.uuid4()),
            account_id=self.account(),
            error=error if state == "failed" else None,
            window_until=AT if self.draw.random() < 0.3 else None,
        )

    def message(self) -> Row:
        phone = self.phone()
        event = self.crowd.land.writes(phone, AT) | {"account_id": self.account()}
        name = f"name {self.draw.randrange(3)}"
        event["contact"] = self.draw.choice(
            [
                {"wa_id": phone[1:], "match_key": phone[1:], "name": name},
                {"wa_id": phone[1:], "match_key": phone[1:], "name": name, "bsuid": self.bsuid(phone)},
                {"bsuid": self.bsuid(phone), "name": name},
            ]
        )
        return event

    def statuses(self) -> None:
        self.verb("ingest", [self.status() for _ in self.some(8)])

    def inbound(self) -> None:
        self.verb("ingest", [self.message() for _ in self.some(8)])

    def both(self) -> None:
        events = [self.draw.choice([self.status, self.message])() for _ in self.some(8)]
        self.verb("ingest", [*events, self.crowd.land.template_status("offer", "APPROVED", AT)])

    def chunk(self) -> None:
        phones = list({self.phone() for _ in self.some(4)} | {some_phone()})
        nothing = [None] * len(phones)
        self.run(
            "select whatsapp.enqueue_campaign(%s, %s, %s, 'same', %s, %s::text[], %s::text[], %s::text[], %s::uuid[],"
            " %s::text[], %s::text[])",
            self.crowd.country,
            self.draw.choice(self.crowd.campaigns),
            str(uuid.uuid4()),
            list(range(len(phones))),
            phones,
            [phone[1:] for phone in phones],
            *[nothing] * 4,
        )

    def complete(self) -> None:
        """Everything of one campaign is sent: as a sweep finds it then."""
        self.database.execute(
            "update whatsapp.campaigns set state = 'completed'"
            " where country_id = %s and campaign_id = %s and state = 'running'",
            (self.crowd.country, self.draw.choice(self.crowd.campaigns)),
        )

    def consents(self) -> None:
        rows = [
            {
                "row": n,
                "phone": (phone := self.phone()),
                "match_key": phone[1:],
                "what": self.draw.choice(["opt_in", "opt_out"]),
                "scope": "marketing",
                "how": "form",
            }
            for n in self.some()
        ]
        arguments = (self.crowd.country, str(uuid.uuid4()), [Jsonb(row) for row in rows])
        self.run("select whatsapp.record_consents(%s, null, %s, 'same', %s::jsonb[])", *arguments)

    def sweep(self) -> None:
        self.run("select whatsapp.sweep()")

    def control(self) -> None:
        campaign, action = self.draw.choice(self.crowd.campaigns), self.draw.choice(["pause", "resume"])
        self.run("select whatsapp.control_campaign(%s, %s, %s, null)", self.crowd.country, campaign, action)
        self.run("select whatsapp.control_account(%s, %s, 'resume', null)", self.crowd.country, self.account())

    def template(self) -> None:
        self.run(
            "select whatsapp.sync_templates(%s, %s, %s::jsonb[])",
            self.crowd.country,
            self.account(),
            self.crowd.templates,
        )


@pytest.mark.parametrize("seed", [1, 2])
def test_no_two_verbs_ever_wait_for_each_other(stack: Stack, database: Database, seed: int) -> None:
    crowd = Crowd(stack, database)
    log = stack.data_dir / "postgres.log"
    read_until = log.stat().st_size
    at_once = threading.Barrier(8)

    def work(number: int) -> None:
        with impatient(stack) as connection:
            worker = Worker(crowd, connection, seed * 100 + number)
            at_once.wait()
            for _ in range(STEPS):
                worker.step()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))

    with log.open() as lines:
        lines.seek(read_until)
        found = deadlocks(lines.read())
    assert not found, "\n".join(found)


def deadlocks(log: str) -> list[str]:
    """What each one was about: Postgres writes who waited for whom into the lines that follow."""
    return [found.partition("STATEMENT:")[0] for found in log.split("ERROR:  deadlock detected")[1:]]
