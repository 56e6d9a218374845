"""Whatever dies, and whenever: nothing is sent twice and nothing is lost."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from services.whatsapp.clients.failures import ATTEMPTS
from services.whatsapp.refusals import RefusalError
from tests.local.stack import Stack
from tests.proofs.house import PLAIN, House, both_ways, check_refusal, post, some_phone, until


class Gate:
    """The way to the database, and it can be shut: a TCP forwarder on a port of its own. `way` leads through it."""

    def __init__(self, stack: Stack) -> None:
        self._variable = "SUPABASE_DB_URL" if stack.direct else "SUPABASE_URL"
        self._url = stack.database_url if stack.direct else stack.rest_url
        address = urlsplit(self._url)
        self._target = (address.hostname or "", address.port or 0)
        self._writers: set[asyncio.StreamWriter] = set()
        self._is_open = True
        self._server: asyncio.Server | None = None
        self.way: dict[str, str] = {}
        self.turned_away = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1")
        port = self._server.sockets[0].getsockname()[1]
        self.way = {self._variable: self._url.replace(f":{self._target[1]}", f":{port}")}

    async def stop(self) -> None:
        self.shut()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def open(self) -> None:
        self._is_open = True

    def shut(self) -> None:
        """Cuts the connections there are; new ones are reset and counted in `turned_away`."""
        self._is_open, self.turned_away = False, 0
        for writer in self._writers:
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._is_open:
            self.turned_away += 1
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._writers |= {writer, far_writer}
        await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))
        self._writers -= {writer, far_writer}

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@pytest.fixture
async def gate(house: House) -> AsyncIterator[Gate]:
    gate = Gate(house.stack)
    await gate.start()
    yield gate
    await gate.stop()


@both_ways
async def test_a_killed_drainer_sends_nothing_twice_and_webhooks_settle_what_it_left(house: House) -> None:
    number = house.account()
    message_ids = house.enqueue(number, (some_phone() for _ in range(12)))
    house.graph.pause_webhooks()
    house.graph.slow(None, seconds=30, number=number)

    with house.drain_process(number, lease=2.5, margin=1) as process:
        await until(lambda: len(house.graph.arrived(number)) == 12)
        process.send_signal(signal.SIGKILL)
        assert await asyncio.to_thread(process.wait) == -signal.SIGKILL
    house.graph.clear_faults()

    assert {house.state(message_id) for message_id in message_ids} == {"sending"}
    assert (await house.drain(number, sweep=True)).claimed == 0

    await until(lambda: house.count("leases where account_id = %s and leased_until > now()", number.account_id) == 0)
    assert (await house.drain(number, sweep=True)).claimed == 0
    assert {house.state(message_id) for message_id in message_ids} == {"unknown"}

    house.graph.pause_webhooks(False)
    for message_id in message_ids:
        await house.until_state(message_id, "read")
    assert (await house.drain(number, sweep=True)).claimed == 0
    assert len(house.graph.arrived(number)) == 12
    assert house.count("queue where account_id = %s", number.account_id) == 0


async def test_of_what_a_killed_drainer_held_only_what_it_had_announced_is_unknown(house: House) -> None:
    number = house.account(messages_per_second=80)
    message_ids = house.enqueue(number, (some_phone() for _ in range(400)))
    house.graph.pause_webhooks()
    returned = (
        "message_events e join whatsapp.messages m using (country_id, message_id)"
        " where m.account_id = %s and e.event = 'message_released'"
    )
    silent = (
        "select message_ids[may_post + 1:] as ids from whatsapp.leases where account_id = %s and leased_until > now()"
    )
    unannounced = 0

    # A drainer may be killed at a moment when it has announced all it holds; where each call takes long, that is most.
    for _ in range(3):
        before = len(house.graph.arrived(number))
        with house.drain_process(number, lease=4, margin=1) as process:
            await until(lambda seen=before: len(house.graph.arrived(number)) >= seen + 20)  # type: ignore[misc]
            process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(process.wait)
        unannounced += sum(len(lease["ids"]) for lease in house.all(silent, number.account_id))
        await until(
            lambda: house.count("leases where account_id = %s and leased_until > now()", number.account_id) == 0
        )
        house.all("select whatsapp.sweep(array['leases'])")
        if unannounced:
            break

    assert house.count(returned, number.account_id) == unannounced
    posted = {str(arrival.callback_data) for arrival in house.graph.arrived(number)}
    assert {house.state(one) for one in posted} <= {"accepted", "unknown"}
    unknown = {one for one in message_ids if house.state(one) == "unknown"}
    house.graph.pause_webhooks(False)
    await until(lambda: all(house.state(one) == "read" for one in posted))
    await house.drain(number, 10)
    assert {house.arrivals(one) for one in set(message_ids) - unknown} == {1}
    assert {house.arrivals(one) for one in unknown} <= {0, 1}


@both_ways
async def test_a_drainer_that_is_told_to_stop_settles_what_is_in_flight_and_releases_the_rest(house: House) -> None:
    number = house.account(messages_per_second=20)
    message_ids = house.enqueue(number, (some_phone() for _ in range(20)))
    house.graph.latency(200)

    with house.drain_process(number) as process:
        await until(lambda: len(house.graph.arrived(number)) >= 3)
        process.terminate()
        assert await asyncio.to_thread(process.wait) == 0

    arrived = {arrival.callback_data for arrival in house.graph.arrived(number)}
    assert len(arrived) < 20
    for message_id in message_ids:
        assert (house.message(message_id)["accepted_at"] is not None) == (message_id in arrived)
    assert house.count("queue where account_id = %s and lease_id is not null", number.account_id) == 0

    await house.drain(number)
    assert sorted(str(arrival.callback_data) for arrival in house.graph.arrived(number)) == sorted(message_ids)


@both_ways
async def test_a_webhook_meets_no_database_and_meta_brings_it_again(house: House, gate: Gate) -> None:
    number, phone = house.graph.world.number("MX"), some_phone()
    async with house.functions(**gate.way) as url:
        house.graph.callback(f"{url}/functions/v1/webhook", retry_ms=50, retry_most_ms=100)
        gate.shut()
        wamid = house.graph.customer_writes(number, phone[1:], "hola")
        await house.graph.until(lambda counts: counts.webhooks.refused.get(503, 0) >= 1, timeout=20)
        assert house.count("messages where wamid = %s", wamid) == 0

        gate.open()

        await until(lambda: house.count("messages where wamid = %s", wamid) == 1)
        counts = await house.graph.until(lambda counts: counts.webhooks.pending == 0)
        assert counts.webhooks.refused.keys() == {503}


@both_ways
async def test_send_meets_no_database_and_the_same_call_works_later(house: House, gate: Gate) -> None:
    phone, key = some_phone(), "the same key"
    async with house.functions(**gate.way) as url:
        async with house.client(url) as client:
            gate.shut()
            away = await post(client, house.users["MX"].token, phone, PLAIN, key=key)
            gate.open()
            back = await post(client, house.users["MX"].token, phone, PLAIN, key=key)

        check_refusal(away, 503, "database_unavailable")
        assert away.headers["access-control-allow-origin"] == "*"
        assert back.status_code == 202
        await until(lambda: house.message(back.json()["message_id"])["accepted_at"])


@both_ways
async def test_metas_answer_outlives_a_database_that_is_away(house: House, gate: Gate) -> None:
    number = house.account()
    house.graph.pause_webhooks()
    house.graph.slow(1, seconds=0.4, number=number)
    [message_id] = house.enqueue(number, [some_phone()])
    draining = asyncio.create_task(house.drain(number, 5, sweep=False, **gate.way))
    await until(lambda: house.arrivals(message_id) == 1)

    gate.shut()
    await until(lambda: house.graph.arrived(number)[0].fate == "answered" and gate.turned_away > 2 * ATTEMPTS)
    assert house.state(message_id) == "sending"
    gate.open()
    with suppress(RefusalError):  # its claims meet no database either
        await draining

    assert house.state(message_id) == "accepted"
    assert house.arrivals(message_id) == 1
