"""What a verb costs does not grow with what is stored: counted in pages touched, which depends on no clock."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.local.stack import Stack
from tests.supabase.ground import Land, new_wamid
from tests.supabase.stock import Stock, fill

Database = psycopg.Connection[Any]
AT = 1_700_000_000.0
MANY = 20_000
FEW = 10
"""Pages that an index of one more level costs, or rows that lie on one page more."""
TOUCHED = """
    select coalesce(sum(pg_stat_get_xact_blocks_fetched(c.oid)), 0) from pg_class c
    where c.relnamespace in ('whatsapp'::regnamespace, 'whatsapp_internal'::regnamespace)"""


@pytest.fixture
def land(database: Database) -> Land:
    return Land(database)


def pages(database: Database, call: Callable[[], object]) -> int:
    """How many pages of tables and indexes the call touches."""
    with database.transaction():
        before = _touched(database)
        call()
        return _touched(database) - before


def _touched(database: Database) -> int:
    row = database.execute(TOUCHED.encode()).fetchone()
    assert row is not None
    return int(row[0])


def park(land: Land, many: int) -> None:
    """Statuses of messages that another system sent from the number: nobody here will ever know their wamids."""
    land.run(
        """insert into whatsapp.parked_statuses (country_id, event_key, account_id, wamid, event, look_again_at)
           select %s, gen_random_uuid(), 'main', 'wamid.other.' || n, '{}', null
           from generate_series(1, %s) n""",
        land.country_id,
        many,
    )


def test_statuses_of_another_system_on_the_number_cost_a_settle_nothing(land: Land, database: Database) -> None:
    def settle() -> None:
        land.settle(*(land.outcome(each, "accepted", wamid=new_wamid()) for each in leased))

    park(land, 10)
    leased = land.leased(*(land.template() for _ in range(20)))
    few = pages(database, settle)
    park(land, MANY)
    leased = land.leased(*(land.template() for _ in range(20)))

    assert pages(database, settle) < few * 1.3


def test_a_status_nobody_will_ever_know_is_looked_at_once_more_and_then_left(land: Land, database: Database) -> None:
    land.ingest(land.status(new_wamid(), "delivered", AT))
    land.run("update whatsapp.parked_statuses set look_again_at = now() where country_id = %s", land.country_id)

    land.sweep()

    [parked] = land.all("select * from whatsapp.parked_statuses where country_id = %s", (land.country_id,))
    assert parked["look_again_at"] is None
    # Were its message to become known now, it would still count.
    [message] = land.leased(land.template())
    land.settle(land.outcome(message, "accepted", wamid=parked["wamid"]))
    assert land.message(message["message_id"])["state"] == "delivered"


def test_a_status_by_our_id_brings_those_that_waited_for_its_wamid(land: Land) -> None:
    [message] = land.leased(land.template())
    wamid = new_wamid()
    land.ingest(land.status(wamid, "delivered", AT))

    land.ingest(land.status(wamid, "sent", AT, message["message_id"]))

    assert land.message(message["message_id"])["state"] == "delivered"
    assert land.count("parked_statuses") == 0


# ── Reads ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

MESSAGES = "select * from whatsapp.messages where country_id = %(country)s"
READS = {
    "a message": f"{MESSAGES} and message_id = %(message)s",
    "by the caller's reference": f"{MESSAGES} and ref = %(ref)s",
    "what people wrote last": f"{MESSAGES} and direction = 'inbound' order by message_id desc limit 20",
    "one conversation": f"{MESSAGES} and account_id = 'main' and contact_id = %(contact)s"
    " order by message_id limit 100",
    "a page of the country": f"{MESSAGES} and message_id > %(message)s order by message_id limit 100",
    "the story of a message": "select * from whatsapp.message_story"
    " where country_id = %(country)s and message_id = %(message)s order by at, step",
    "a person's consents": "select * from whatsapp.consents"
    " where country_id = %(country)s and contact_id = %(contact)s order by at",
}
BY_ID_ALONE = "select * from whatsapp.messages where message_id = %(message)s"
TO_LOOK_AT = (
    "select received_at, field, outcome, payload from whatsapp.webhook_events"
    " where country_id = 'ZZ' or outcome in ('unroutable', 'unparsable') order by received_at desc limit 20"
)


class Reader:
    """Reads as somebody: the server, or a signed-in member of the country."""

    def __init__(self, database: Database, role: str, country_id: str) -> None:
        self.database = database
        self.role = role
        self.user_id = str(uuid.uuid4())
        database.execute("insert into whatsapp.members values (%s, %s, 'viewer')", (country_id, self.user_id))
        query = "select message_id, contact_id, ref from whatsapp.messages where country_id = %s and ref is not null"
        message_id, contact_id, ref = database.execute(f"{query} limit 1".encode(), (country_id,)).fetchall()[0]
        self.given = {"country": country_id, "message": message_id, "contact": contact_id, "ref": ref}

    def read(self, query: str) -> None:
        with self.database.transaction():
            self.database.execute("select set_config('request.jwt.claim.sub', %s, true)", (self.user_id,))
            self.database.execute(f"set local role {self.role}".encode())
            self.database.execute(query.encode(), self.given)
            self.database.execute("reset role")

    def pages(self, query: str) -> int:
        return pages(self.database, lambda: self.read(query))


@pytest.fixture(scope="module")
def readers(stack: Stack) -> Iterator[dict[str, tuple[Reader, dict[str, int]]]]:
    """By role: who reads a country with a long log, and what each read cost when there was a short one."""
    with psycopg.connect(stack.admin_url, autocommit=True) as database:
        small, large = Land(database).country_id, Land(database).country_id
        fill(database, small, Stock(messages=300, people=30))
        roles = ("service_role", "authenticated")
        before = {role: Reader(database, role, small) for role in roles}
        costs = {role: {read: reader.pages(READS[read]) for read in READS} for role, reader in before.items()}
        fill(database, large, Stock(messages=MANY, people=MANY // 10))
        database.execute("analyze whatsapp.messages")
        yield {role: (Reader(database, role, large), costs[role]) for role in roles}


@pytest.mark.parametrize("role", ["service_role", "authenticated"])
@pytest.mark.parametrize("read", READS)
def test_a_documented_read_costs_the_same_however_long_the_log(
    readers: dict[str, tuple[Reader, dict[str, int]]], role: str, read: str
) -> None:
    reader, before = readers[role]

    assert reader.pages(READS[read]) <= before[read] * 1.3 + FEW


def test_a_member_finds_a_message_by_its_id_alone_however_long_the_log(
    readers: dict[str, tuple[Reader, dict[str, int]]],
) -> None:
    reader, before = readers["authenticated"]

    assert reader.pages(BY_ID_ALONE) <= before["a message"] + FEW


def test_the_server_finds_a_message_by_its_id_alone_however_long_the_log(
    readers: dict[str, tuple[Reader, dict[str, int]]],
) -> None:
    reader, _ = readers["service_role"]
    countries = reader.database.execute("select count(distinct country_id) from whatsapp.accounts").fetchone()
    assert countries is not None

    read = "select whatsapp.find_messages(array[%(message)s]::uuid[])"
    assert reader.pages(read) <= countries[0] * 4 + FEW
    [[found]] = reader.database.execute(read.encode(), reader.given).fetchall()
    assert [each["message_id"] for each in found] == [str(reader.given["message"])]


def test_events_that_need_a_look_are_found_however_many_do_not(
    readers: dict[str, tuple[Reader, dict[str, int]]],
) -> None:
    reader, _ = readers["service_role"]

    days = reader.database.execute("select count(*) from pg_partition_tree('whatsapp.webhook_events')").fetchone()
    assert days is not None
    assert reader.pages(TO_LOOK_AT) <= 20 + FEW + 2 * days[0]


# ── Retention ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_retention_with_nothing_to_remove_reads_nothing_however_much_was_removed_before(
    land: Land, database: Database
) -> None:
    def receive(age: str) -> None:
        land.run(
            """insert into whatsapp.webhook_events
                 (country_id, day, event_key, field, kind, outcome, payload, received_at)
               select %s, 'epoch', gen_random_uuid(), 'messages', 'ignored', 'ignored', '{}', now() - %s::interval
               from generate_series(1, %s)""",
            land.country_id,
            age,
            MANY,
        )

    receive("31 days")
    land.run("select whatsapp_internal.sweep_old(%s, '30 days')", MANY)
    # The pages of what was removed are filled again.
    database.execute("vacuum whatsapp_internal.webhook_events_rest")
    receive("1 day")

    assert pages(database, lambda: land.run("select whatsapp_internal.sweep_old(500, '30 days')")) < 4 * FEW
