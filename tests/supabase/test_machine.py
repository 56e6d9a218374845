"""The verbs in any order, beside a model of a few lines: whatever is called, late, again or never, the promises hold.

The model knows what Meta has really taken and told. It does not compute what `sweep` decides; it checks that what sweep
did was allowed.
"""

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import psycopg
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.supabase.ground import Land, Row, messages_of, new_wamid, some_phone

Database = psycopg.Connection[Any]
LADDER = ("played", "read", "delivered", "failed", "sent", "accepted")
"""The state of a message is the first of these that is known of it."""
STATES = ("sent", "delivered", "read", "played", "failed")
ANSWERS = st.sampled_from(("accepted", "unknown", "rejected", "retry", "held", "released"))
WAITING = ("queued", "sending", "unknown")
LEASE, DEADLINE = 60, 60
MANY = st.lists(st.sampled_from(("plain", "offer")), min_size=1, max_size=4)
SLACK = 10
"""Seconds that the test itself may take beside the time it pretends passes."""


@dataclass
class Message:
    """What the model knows of a message."""

    marketing: bool
    item: Row | None
    state: str = "queued"
    facts: set[str] = field(default_factory=set)
    may_go: bool = True
    lease: str | None = None
    since: float = 0
    tries_again: int = 0

    def seen(self) -> str:
        return next((each for each in LADDER if each in self.facts), self.state)

    @property
    def told(self) -> bool:
        return bool(self.facts - {"accepted"})


@dataclass
class Hold:
    """What a drainer has in hand: a message under a lease, and the id under which Meta took it, if it did."""

    message: Row
    wamid: str | None = None
    settled: bool = False


class Verbs(RuleBasedStateMachine):
    """One country with one number; time is moved by making everything in the database older."""

    database: Database
    times: dict[str, list[str]]

    def __init__(self) -> None:
        super().__init__()
        self.land = Land(self.database, messages_per_second=1000, unknown_deadline=f"{DEADLINE} seconds")
        self.messages: dict[str, Message] = {}
        self.holds: list[Hold] = []
        self.claims: list[uuid.UUID] = []
        self.results: list[Row] = []
        self.events: list[Row] = []
        self.phones = [some_phone() for _ in range(3)]
        self.clock = 0.0

    # callers

    @initialize(templates=MANY, far=st.integers(0, 3))
    def begin(self, templates: list[str], far: int) -> None:
        """Begin in the middle: in flight, taken by Meta without an answer, unknown, or past the deadline."""
        self.enqueue(templates, None)
        self.claim()
        if far >= 1:
            for hold in self.holds:
                hold.wamid = new_wamid()
        if far == 2:
            self.time_passes(LEASE + 10)
        elif far == 3:
            self.people_write_all_the_while()

    @rule(templates=MANY, phone=st.none() | st.integers(0, 2))
    def enqueue(self, templates: list[str], phone: int | None) -> None:
        for template in templates:
            item = self.land.template(template, None if phone is None else self.phones[phone])
            [verdict] = self.land.enqueue(item)
            assert verdict["status"] == "accepted"
            self.messages[verdict["message_id"]] = Message(template == "offer", item)

    @rule(people=st.integers(1, 3))
    def open_campaign(self, people: int) -> None:
        campaign_id = self.land.campaign(*(some_phone() for _ in range(people)))["campaign_id"]
        for row in self.land.all(
            "select message_id::text from whatsapp.messages where campaign_id = %s", [campaign_id]
        ):
            self.messages[row["message_id"]] = Message(marketing=True, item=None)

    # drainers

    @rule()
    def claim(self) -> None:
        self.claims.append(uuid.uuid4())
        self._claim(self.claims[-1])

    def _claim(self, claim_id: uuid.UUID) -> None:
        for leased in messages_of(self.land.claim(5, claim_id)):
            message = self.messages[leased["message_id"]]
            if leased["lease_id"] == message.lease:
                continue  # the same batch once more
            assert message.may_go, f"handed out twice without a proof: {message}"
            message.may_go, message.lease = False, leased["lease_id"]
            message.state, message.since = "sending", self.clock
            self.holds.append(Hold(leased))

    @precondition(lambda self: self._open())
    @rule(data=st.data(), outcome=ANSWERS)
    def post_and_settle(self, data: st.DataObject, outcome: str) -> None:
        """Whatever Meta answers: a refusal or a plea to wait, too, for what it has taken and perhaps told of."""
        self._settle(data.draw(st.sampled_from(self._open())), outcome)

    @precondition(lambda self: self._open())
    @rule(data=st.data(), state=st.sampled_from(STATES), outcome=ANSWERS)
    def tell_a_status_before_the_answer(self, data: st.DataObject, state: str, outcome: str) -> None:
        hold = data.draw(st.sampled_from(self._open()))
        hold.wamid = hold.wamid or new_wamid()
        self._tell(hold, state)
        self._settle(hold, outcome)

    def _settle(self, hold: Hold, outcome: str) -> None:
        if hold.wamid is None and outcome == "accepted":
            hold.wamid = new_wamid()
        if hold.wamid is not None and outcome == "released":
            outcome = "retry"  # only what was never written is released
        hold.settled = outcome != "unknown"
        more = {"wamid": hold.wamid} if outcome == "accepted" else {"code": 131000} if outcome == "rejected" else {}
        self.results.append(self.land.outcome(hold.message, outcome, **more))
        self.land.settle(self.results[-1])
        self._settled(self.messages[hold.message["message_id"]], hold.message["lease_id"], outcome)

    def _open(self) -> list[Hold]:
        return [hold for hold in self.holds if not hold.settled]

    def _settled(self, message: Message, lease: str, outcome: str) -> None:
        if outcome == "accepted":
            self._know(message, "accepted")
        elif message.lease != lease or message.seen() not in ("sending", "unknown", *LADDER):
            pass  # stale: the message is somebody else's by now
        elif message.told:
            self._know(message, "accepted")
        elif outcome == "rejected":
            self._know(message, "failed")
        elif outcome == "unknown":
            if message.state == "sending":
                message.state, message.since = "unknown", self.clock
        elif not message.facts:
            message.state, message.may_go, message.lease = "queued", True, None

    @precondition(lambda self: self._open())
    @rule(data=st.data())
    def post_without_an_answer(self, data: st.DataObject) -> None:
        """Meta takes it, and the drainer has not heard of it yet; perhaps it never will."""
        hold = data.draw(st.sampled_from(self._open()))
        hold.wamid = hold.wamid or new_wamid()

    # Meta

    @precondition(lambda self: self._taken())
    @rule(data=st.data(), state=st.sampled_from(STATES))
    def tell_a_status(self, data: st.DataObject, state: str) -> None:
        self._tell(data.draw(st.sampled_from(self._taken())), state)

    def _tell(self, hold: Hold, state: str) -> None:
        assert hold.wamid is not None
        message_id = hold.message["message_id"]
        error = {"error": {"code": 131026, "title": "Undeliverable"}} if state == "failed" else {}
        event = self.land.status(hold.wamid, state, time.time() - self.clock, message_id, **error)
        self.events.append(event)
        self.land.ingest(event)
        self._know(self.messages[message_id], state)

    def _taken(self) -> list[Hold]:
        return [hold for hold in self.holds if hold.wamid is not None]

    def _know(self, message: Message, fact: str) -> None:
        message.facts.add(fact)
        message.may_go = False

    # time

    @rule(seconds=st.sampled_from((0, 30, LEASE + 10, 3 * DEADLINE)))
    def time_passes(self, seconds: int) -> None:
        self._age(seconds)
        self._sweep()

    @rule()
    def people_write_all_the_while(self) -> None:
        """Long enough to prove a message unsent that nobody told of."""
        for _ in range(5):
            self._age(DEADLINE // 2)
            self.land.ingest(self.land.writes(some_phone(), time.time()))
            self._sweep()

    @rule()
    def nobody_answers(self) -> None:
        """Drainers die with what they claim, time and again, and the feed goes on without a word of it."""
        self.claim()
        self.people_write_all_the_while()

    def _age(self, seconds: int) -> None:
        self.clock += seconds
        with self.database.transaction():
            for table, columns in self.times.items():
                older = ", ".join(f"{column} = {column} - interval '{seconds} seconds'" for column in columns)
                self.land.run(f"update whatsapp.{table} set {older} where country_id = %s", self.land.country_id)

    def _sweep(self) -> None:
        self.land.sweep()
        for message_id, row in self._rows().items():
            message = self.messages[message_id]
            if message.facts or row["state"] == message.state:
                continue
            passed = self.clock - message.since + SLACK
            match message.state, row["state"]:
                case "sending", "unknown":
                    assert passed >= LEASE
                    message.since = self.clock
                case "unknown", "queued":
                    assert passed >= DEADLINE
                    assert not message.marketing
                    assert message.tries_again == 0
                    message.may_go, message.lease, message.tries_again = True, None, 1
                case "unknown", "failed":
                    assert passed >= DEADLINE
                    assert row["error_title"] == "outcome_unknown"
                    message.may_go, message.lease = False, None
                case move:
                    raise AssertionError(f"sweep moved {message_id}: {move}")
            message.state = row["state"]

    # again

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), what=st.sampled_from(("send", "claim", "settle", "webhook")))
    def repeat(self, data: st.DataObject, what: str) -> None:
        """Whatever was called may be called again, at once or long after."""
        if what == "send":
            message_id, message = data.draw(st.sampled_from(list(self.messages.items())))
            if message.item is not None:
                [verdict] = self.land.enqueue(message.item)
                assert (verdict["status"], verdict["message_id"]) == ("replayed", message_id)
        elif what == "claim":
            self._claim(data.draw(st.sampled_from(self.claims)))
        elif what == "settle" and self.results:
            result = data.draw(st.sampled_from(self.results))
            self.land.settle(result)
            self._settled(self.messages[result["message_id"]], result["lease_id"], result["outcome"])
        elif what == "webhook" and self.events:
            self.land.ingest(*data.draw(st.lists(st.sampled_from(self.events), min_size=1, max_size=3)))

    # what always holds

    @invariant()
    def the_log_says_what_is_known(self) -> None:
        rows = self._rows()
        assert {message_id: row["state"] for message_id, row in rows.items()} == {
            message_id: message.seen() for message_id, message in self.messages.items()
        }
        for message_id, row in rows.items():
            if self.messages[message_id].facts:
                assert row["error_title"] != "outcome_unknown", "a guess must give way to what is known"
            if row["state"] in WAITING:
                assert row["queued"], f"{message_id} is {row['state']} and in no queue"
            elif row["queued"]:  # what Meta spoke of while its lease is in force leaves with the lease
                assert row["leased"], f"{message_id} is {row['state']} and could leave again"

    @invariant()
    def counts_are_states(self) -> None:
        different = self.land.all(
            "select from (select campaign_id, key, sum(n) as n from whatsapp.campaign_counts"
            "  where country_id = %s and key !~ ':' group by 1, 2 having sum(n) <> 0) c"
            " full join (select campaign_id, state, count(*) as n from whatsapp.messages"
            "  where country_id = %s and campaign_id is not null group by 1, 2) m"
            " on c.campaign_id = m.campaign_id and c.key = m.state where c.n is distinct from m.n",
            [self.land.country_id] * 2,
        )
        assert not different

    def _rows(self) -> dict[str, Row]:
        rows = self.land.all(
            "select m.message_id::text, m.state, m.error_title, q.message_id is not null as queued,"
            " q.lease_id is not null and q.unknown_until is null as leased"
            " from whatsapp.messages m left join whatsapp.queue q using (country_id, message_id)"
            " where m.country_id = %s and m.direction = 'outbound'",
            [self.land.country_id],
        )
        return {row["message_id"]: row for row in rows}


def times(database: Database) -> dict[str, list[str]]:
    """Every column that holds a time, by table."""
    rows = database.execute(
        "select table_name, array_agg(column_name::text) from information_schema.columns"
        " join information_schema.tables using (table_schema, table_name)"
        " where table_schema = 'whatsapp' and table_type = 'BASE TABLE' and data_type like 'timestamp%' group by 1"
    )
    return dict(rows.fetchall())


def test_the_verbs_keep_their_promises_in_any_order(database: Database) -> None:
    bound = type("Bound", (Verbs,), {"database": database, "times": times(database)})
    run_state_machine_as_test(
        bound,
        settings=settings(
            max_examples=20,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
