"""The log lies by time: what is new goes to the youngest partition, what is old is dropped, what is known is found."""

import time
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.local.stack import Stack
from tests.supabase.ground import Land, new_wamid, some_phone

Database = psycopg.Connection[Any]
DAY = 86_400.0
OLD = "2019-01-15"
"""A day of a month that no other test knows."""


@pytest.fixture
def land(database: Database) -> Land:
    return Land(database)


@pytest.fixture
def undone(stack: Stack) -> Iterator[Database]:
    """A connection whose transaction is never committed: what it keeps and drops is no matter to other tests."""
    with psycopg.connect(stack.database_url) as connection:
        yield connection
        connection.rollback()


def past(land: Land, at: str, *, partitions: bool = True) -> str:
    """A message of that time, read long ago, with more to its story than its columns tell."""
    if partitions:
        land.run("select whatsapp_internal.make_partitions(%s::timestamptz, %s::timestamptz)", at, at)
    [message] = land.leased(land.template())
    message_id = land.one("select whatsapp_internal.uuid7(%s::timestamptz)::text as id", (at,))["id"]
    land.run(
        "with past as (insert into whatsapp.messages"
        " (country_id, message_id, account_id, contact_id, direction, kind, state, content, campaign_id)"
        " select country_id, %s, account_id, contact_id, 'outbound', 'template', 'read', '{}', %s"
        " from whatsapp.messages where country_id = %s and message_id = %s returning *)"
        " insert into whatsapp.campaign_people select country_id, campaign_id, contact_id, message_id from past",
        *(message_id, land.open_campaign(), land.country_id, message["message_id"]),
    )
    land.run(
        "insert into whatsapp.message_events (country_id, message_id, event) values (%s, %s, 'message_retry')",
        *(land.country_id, message_id),
    )
    return str(message_id)


def wish(land: Land, database: Database, keep: str | None, everybody: str | None = None) -> None:
    """How long this country keeps its messages, and how long all others do."""
    database.execute("delete from whatsapp.retention")
    if everybody:
        database.execute(
            "insert into whatsapp.retention select distinct country_id, %s::interval from whatsapp.accounts"
            " where country_id <> %s",
            (everybody, land.country_id),
        )
    if keep:
        database.execute("insert into whatsapp.retention values (%s, %s)", (land.country_id, keep))


def retention(database: Database) -> None:
    [[swept]] = database.execute("select whatsapp.sweep('{retention}')").fetchall()
    assert swept["failed"] == []


def exists(database: Database, partition: str) -> bool:
    [[found]] = database.execute("select to_regclass('whatsapp_internal.' || %s)", (partition,)).fetchall()
    return found is not None


def test_a_message_and_its_story_go_to_the_partition_of_their_month(land: Land) -> None:
    [message] = land.leased(land.template())
    land.settle(land.outcome(message, "retry", max_attempts=9))

    for table in ("messages", "message_events"):
        where = land.one(
            f"select tableoid::regclass::text as lies, to_char(now() at time zone 'UTC', 'YYYY_MM') as month"
            f" from whatsapp.{table} where country_id = %s and message_id = %s",
            (land.country_id, message["message_id"]),
        )
        assert where["lies"] == f"whatsapp_internal.{table}_{where['month']}_01"


def test_partitions_are_made_ahead(undone: Database) -> None:
    query = (
        "select relname from pg_class where relname ~ '^(messages|webhook_events|wamids)_[0-9_]+$' and relkind = 'r'"
    )
    ahead = {row[0] for row in undone.execute(query)}
    for name in ("messages", "wamids", "webhook_events"):
        youngest = max(each for each in ahead if each.startswith(name))
        undone.execute(f"alter table whatsapp.{name} detach partition whatsapp_internal.{youngest}".encode())
        undone.execute(f"drop table whatsapp_internal.{youngest}".encode())

    undone.execute("select whatsapp.sweep('{partitions}')")

    assert {row[0] for row in undone.execute(query)} == ahead
    protected = "select bool_and(relrowsecurity and not has_table_privilege('authenticated', oid, 'select'))"
    assert undone.execute(f"{protected} from pg_class where relname = any (%s)", (list(ahead),)).fetchone() == (True,)


def test_a_month_goes_when_every_country_has_done_with_it(undone: Database) -> None:
    land = Land(undone)
    message_id = past(land, OLD)
    [fresh] = land.enqueue(land.template())
    wish(land, undone, "400 days", everybody="500 days")

    retention(undone)

    assert not exists(undone, "messages_2019_01_01")
    assert not exists(undone, "message_events_2019_01_01")
    assert land.count("messages", message_id=message_id) == 0
    assert land.count("messages", message_id=fresh["message_id"]) == 1
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        land.run(
            "insert into whatsapp.message_events (country_id, message_id, event) values (%s, %s, 'x')",
            land.country_id,
            message_id,
        )


def test_a_month_stays_while_a_country_wishes_nothing(undone: Database) -> None:
    land = Land(undone)
    message_id = past(land, OLD)
    wish(land, undone, None, everybody="400 days")

    retention(undone)

    assert exists(undone, "messages_2019_01_01")
    assert land.count("message_story", message_id=message_id) == 2


def test_a_month_stays_while_something_of_it_waits_to_be_sent(undone: Database) -> None:
    land = Land(undone)
    message_id = past(land, OLD)
    land.run(
        "insert into whatsapp.queue (country_id, message_id, account_id, contact_id, lane, due_at, run_at)"
        " select country_id, message_id, account_id, contact_id, 'utility', now(), now() from whatsapp.messages"
        " where country_id = %s and message_id = %s",
        land.country_id,
        message_id,
    )
    wish(land, undone, "400 days", everybody="400 days")

    retention(undone)

    assert land.count("messages", message_id=message_id) == 1


def test_a_country_that_keeps_less_loses_its_own_rows_alone(undone: Database) -> None:
    brief, long = Land(undone), Land(undone)
    theirs, ours = past(brief, OLD), past(long, OLD)
    [fresh] = brief.enqueue(brief.template())
    wish(brief, undone, "31 days")

    retention(undone)

    assert brief.count("messages", message_id=theirs) == 0
    assert brief.count("message_events", message_id=theirs) == 0
    assert [land.count("campaign_people") for land in (brief, long)] == [0, 1]
    assert brief.count("messages", message_id=fresh["message_id"]) == 1
    assert long.count("message_story", message_id=ours) == 2


def test_what_lies_in_no_month_of_its_own_goes_as_well(undone: Database) -> None:
    land = Land(undone)
    message_id = past(land, "2017-06-15", partitions=False)
    assert land.count("message_story", message_id=message_id) == 2
    wish(land, undone, "400 days", everybody="400 days")

    retention(undone)

    assert land.count("messages", message_id=message_id) == 0


def test_a_day_of_webhooks_goes_after_thirty(undone: Database) -> None:
    land = Land(undone)
    undone.execute("select whatsapp_internal.make_partitions(now() - interval '40 days')")
    days = {
        age: land.one("select (now() at time zone 'UTC' - %s * interval '1 day')::date as day", (age,))["day"]
        for age in (0, 29, 32)
    }
    for day in days.values():
        undone.execute(
            "insert into whatsapp.webhook_events (country_id, day, event_key, field, kind, outcome, payload)"
            " values (%s, %s, %s, 'messages', 'ignored', 'ignored', '{}')",
            (land.country_id, day, uuid.uuid4()),
        )

    retention(undone)

    assert [exists(undone, f"webhook_events_{day:%Y_%m_%d}") for day in days.values()] == [True, True, False]
    assert land.count("webhook_events") == 2


def test_who_may_read_messages_may_read_no_partition(stack: Stack) -> None:
    with psycopg.connect(stack.database_url) as database:
        database.execute("set role authenticated")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            database.execute("select from whatsapp_internal.messages_rest")


# ── Known wamids ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_message_is_found_by_the_wamid_of_weeks_ago(undone: Database) -> None:
    land, wamid = Land(undone), new_wamid()
    undone.execute("select whatsapp_internal.make_partitions(now() - interval '29 days')")
    [message] = land.leased(land.template())
    land.settle(land.outcome(message, "accepted", wamid=wamid))
    land.run(
        "update whatsapp.wamids set week = whatsapp_internal.week_of(whatsapp_internal.today() - 28)"
        " where country_id = %s and message_id = %s",
        land.country_id,
        message["message_id"],
    )

    answer = land.ingest(land.status(wamid, "read", time.time()))

    assert (answer["applied"], answer["parked"]) == (1, 0)
    assert land.message(message["message_id"])["state"] == "read"


@pytest.mark.parametrize("days", [0, 6, 8, 40, None], ids=str)
def test_what_somebody_wrote_is_logged_once_whenever_it_comes_again(land: Land, days: int | None) -> None:
    at = None if days is None else time.time() - days * DAY
    event = land.writes(some_phone(), 0) | {"at": at}
    land.ingest(event)

    land.ingest(event)
    land.ingest(event | {"key": str(uuid.uuid4()), "payload": {"another": "envelope"}})

    assert land.count("messages") == 1


def test_a_repeated_event_is_stored_once_on_whatever_day_it_comes_again(land: Land) -> None:
    """Meta repeats for 7 days: the day of an event is its own, not that of its coming."""
    event = land.status(new_wamid(), "failed", time.time() - 5 * DAY, error={"code": 131026, "title": "t"})
    [message] = land.leased(land.template())
    event["message_id"] = message["message_id"]

    assert [land.ingest(event)["applied"] for _ in range(3)] == [1, 0, 0]
    assert land.count("webhook_events") == 1
    assert land.count("message_events", event="message_failed") == 1
