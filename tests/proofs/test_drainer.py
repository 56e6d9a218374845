"""What a drainer does when something nobody foresaw happens inside it, and when there is much to do beside sending."""

import time
from typing import Any

import psycopg
import pytest

from services.whatsapp.clients import graph as graph_client
from services.whatsapp.clients.graph import Answer
from services.whatsapp.clients.graph import Graph as GraphClient
from services.whatsapp.directory import Account
from services.whatsapp.flows.draining import Drainer, Report
from services.whatsapp.runtime import Runtime
from services.whatsapp.settings import Settings
from tests.graph.world import Number
from tests.local.front import front_of
from tests.proofs.house import TEXT, House, both_ways, some_phone

SCHEDULED = 200_000


class BreaksAfterwards(GraphClient):
    """Broken on purpose: Meta has the message, and we stumble over its answer."""

    async def send(self, account: Account, body: dict[str, Any]) -> Answer:
        await super().send(account, body)
        raise LookupError("broken on purpose")


async def drain_with(house: House, number: Number, client: type[GraphClient]) -> Report:
    async with Runtime(Settings.read(house.env(number))) as runtime:
        runtime.graph = client(runtime.settings)
        return await Drainer(runtime).run(5, sweep=False)


@both_ways
async def test_an_accident_after_the_post_is_unknown_until_meta_tells(house: House) -> None:
    number = house.account()
    house.graph.pause_webhooks()
    message_ids = house.enqueue(number, (some_phone() for _ in range(3)))

    report = await drain_with(house, number, BreaksAfterwards)

    assert report.unknown == 3
    assert [house.state(message_id) for message_id in message_ids] == ["unknown"] * 3
    house.graph.pause_webhooks(False)
    for message_id in message_ids:
        await house.until_state(message_id, "read")
        assert house.arrivals(message_id) == 1


@both_ways
async def test_an_accident_before_the_post_releases_the_message_and_stops_no_other(house: House) -> None:
    number = house.account()
    message_ids = house.enqueue(number, (some_phone() for _ in range(3)))
    house.run("update whatsapp.messages set content = '{}' where message_id = %s", message_ids[1])

    report = await house.drain(number)

    assert (report.accepted, report.released) == (2, 1)
    assert [house.arrivals(message_id) for message_id in message_ids] == [1, 0, 1]
    [row] = house.all("select *, run_at > now() as rests from whatsapp.queue where account_id = %s", number.account_id)
    assert (str(row["message_id"]), row["lease_id"], row["attempts"], row["rests"]) == (message_ids[1], None, 0, True)


@pytest.mark.parametrize(("latency", "outcome"), [(900, "accepted"), (1_700, "unsent")])
async def test_an_expired_token_gives_way_to_the_next_within_the_time_of_one_post(
    house: House, monkeypatch: pytest.MonkeyPatch, latency: float, outcome: str
) -> None:
    number = house.account()
    monkeypatch.setattr(graph_client, "POST_TIMEOUT", 2.0)
    account, client = two_tokens(house, number)
    house.graph.latency(latency)
    try:
        answer = await client.send(account, body(some_phone()))
    finally:
        await client.close()
    assert answer.outcome == outcome


async def test_two_tokens_take_no_longer_than_one(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    number = house.account()
    monkeypatch.setattr(graph_client, "POST_TIMEOUT", 2.0)
    account, client = two_tokens(house, number)
    house.graph.latency(1_200)
    house.graph.hang(number=number)
    began = time.monotonic()
    try:
        answer = await client.send(account, body(some_phone()))
    finally:
        await client.close()
    assert answer.outcome == "unknown"
    assert time.monotonic() - began < 3.0


def two_tokens(house: House, number: Number) -> tuple[Account, GraphClient]:
    """The account as it is while its token is rotated: the first of two has expired."""
    environment = house.env(number)
    environment[f"{number.env_prefix}_TOKEN"] = f"EAAexpired,{number.tokens[0]}"
    settings = Settings.read(environment)
    account = settings.directory.account(number.country_id, number.account_id)
    assert account is not None
    assert len(account.tokens) == 2
    return account, GraphClient(settings)


def body(phone: str) -> dict[str, Any]:
    return {"messaging_product": "whatsapp", "recipient_type": "individual", "to": phone} | {
        "type": "template",
        "template": {"name": "plain", "language": {"code": "es_MX"}},
    }


async def test_whatever_there_is_to_sweep_a_reply_leaves_with_the_first_claim(house: House) -> None:
    number, crowd = house.account(), house.account()
    await house.open_window(number, phone := some_phone())
    [reply] = house.enqueue(number, [phone], TEXT)
    house.enqueue(crowd, [some_phone()])
    with psycopg.connect(house.stack.admin_url, autocommit=True) as database:
        fill_with_scheduled(database, crowd)
        try:
            async with front_of(house.stack.rest_url) as front:
                began = time.monotonic()
                await house.drain(number, 4, sweep=True, SUPABASE_URL=front.url)
                took = time.monotonic() - began
            left = house.count("queue where account_id = %s and scheduled", crowd.account_id)
        finally:
            empty(database, crowd)

    assert front.paths[0].endswith("/rpc/claim")
    assert house.arrivals(reply) == 1
    assert house.message(reply)["accepted_at"]
    assert took < 4 + 5  # its budget, and one piece of a job
    # Being idle, it went on with what there was.
    assert left < SCHEDULED - 2 * 500


@both_ways
async def test_a_sweep_that_hangs_keeps_no_message_and_no_run(house: House) -> None:
    number = house.account()
    [message_id] = house.enqueue(number, [some_phone()])
    with psycopg.connect(house.stack.database_url) as blocking:
        blocking.execute("lock table whatsapp.idempotency_keys in access exclusive mode")
        began = time.monotonic()
        await house.drain(number, 3, sweep=True)
        took = time.monotonic() - began
        blocking.rollback()

    assert house.arrivals(message_id) == 1
    assert took < 3 + 5  # its budget, and one piece of a job


def fill_with_scheduled(database: psycopg.Connection[Any], number: Number) -> None:
    """Copies the account's one message many times, all of them scheduled and due."""
    where = "where m.country_id = %s and m.account_id = %s and q.message_id = m.message_id and not q.scheduled"
    key = (number.country_id, number.account_id)
    database.execute("set session_replication_role = replica")  # no triggers
    database.execute(
        "create temporary table due as select m.country_id, m.account_id, m.contact_id, m.kind, m.content, q.lane,"
        " whatsapp_internal.uuid7() as message_id"
        f" from whatsapp.messages m, whatsapp.queue q, generate_series(1, {SCHEDULED}) {where}".encode(),
        key,
    )
    database.execute(
        "insert into whatsapp.messages"
        " (country_id, message_id, account_id, contact_id, direction, kind, state, content)"
        " select country_id, message_id, account_id, contact_id, 'outbound', kind, 'scheduled', content from due"
    )
    database.execute(
        "insert into whatsapp.queue (country_id, message_id, account_id, contact_id, lane, due_at, run_at, scheduled)"
        " select country_id, message_id, account_id, contact_id, lane, now(), now(), true from due"
    )
    database.execute("analyze whatsapp.messages, whatsapp.queue")


def empty(database: psycopg.Connection[Any], number: Number) -> None:
    for table in ("queue", "messages"):
        database.execute(
            f"delete from whatsapp.{table} where country_id = %s and account_id = %s".encode(),
            (number.country_id, number.account_id),
        )
    database.execute("delete from whatsapp.message_events e using due d where e.message_id = d.message_id")
    database.execute("vacuum analyze whatsapp.messages, whatsapp.queue, whatsapp.message_events")
