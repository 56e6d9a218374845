"""However often a message is asked for, it is sent once; and soon, and in order."""

import asyncio
import itertools
import uuid

from tests.proofs.house import OFFER, PLAIN, House, both_ways, check_refusal, post, some_phone, until

pytestmark = both_ways


async def test_fifty_equal_requests_at_once_make_one_message(house: House) -> None:
    number, phone, key = house.graph.world.number("MX"), some_phone(), str(uuid.uuid4())
    await house.open_window(number, phone)

    async with house.client() as client:
        token = house.users["MX"].token
        answers = await asyncio.gather(*(post(client, token, phone, key=key) for _ in range(50)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    message_id = answers[0].json()["message_id"]
    await house.until_state(message_id, "read")
    outbound = "messages m join whatsapp.contacts c using (country_id, contact_id)"
    assert house.count(f"{outbound} where phone = %s and direction = 'outbound'", phone) == 1
    assert [arrival.callback_data for arrival in house.graph.arrived() if arrival.to == phone] == [message_id]


async def test_the_same_key_with_another_body_is_refused(house: House) -> None:
    phone, key = some_phone(), str(uuid.uuid4())
    await house.send(phone, PLAIN, key=key)

    answer = await house.post(phone, PLAIN, key=key, ref="another")

    check_refusal(answer, 422, "idempotency_key_reused")


async def test_a_refused_message_may_be_tried_again_with_its_key(house: House) -> None:
    phone, key = some_phone(), str(uuid.uuid4())
    check_refusal(await house.post(phone, key=key), 409, "window_closed")
    await house.open_window(house.graph.world.number("MX"), phone)

    assert (await house.post(phone, key=key)).status_code == 202


async def test_it_leaves_at_once_without_cron(house: House) -> None:
    phone = some_phone()
    await house.open_window(house.graph.world.number("MX"), phone)

    message_id = await house.send(phone)

    await until(lambda: house.graph.arrived(callback_data=message_id))
    await house.until_state(message_id, "read")


async def test_five_messages_to_one_person_arrive_in_order_and_one_at_a_time(house: House) -> None:
    number, phone = house.graph.world.number("MX"), some_phone()
    await house.open_window(number, phone)
    house.graph.latency(60)

    async with house.client() as client:
        token, secret = house.users["MX"].token, {"apikey": house.stack.secret_key}
        budget = {"budget_seconds": 3}
        drains = [asyncio.create_task(client.post("/queue-drain", json=budget, headers=secret)) for _ in range(3)]
        message_ids = [(await post(client, token, phone, ref=str(n))).json()["message_id"] for n in range(5)]
        await house.graph.until(lambda counts: counts.accepted == 5)
        assert {answer.status_code for answer in await asyncio.gather(*drains)} == {200}

    arrivals = house.graph.arrived(number)
    assert [arrival.callback_data for arrival in arrivals] == message_ids
    gaps = [later.monotonic - one.monotonic for one, later in itertools.pairwise(arrivals)]
    assert min(gaps) >= 0.06, "the next one left before the last one was answered"


async def test_a_reply_does_not_wait_behind_a_campaign(house: House) -> None:
    number, phone = house.account(messages_per_second=20), some_phone()
    await house.open_window(number, phone)
    house.enqueue(number, (some_phone() for _ in range(40)), OFFER)
    draining = asyncio.create_task(house.drain(number))
    await until(lambda: len(house.graph.arrived(number)) >= 5)

    [reply] = house.enqueue(number, [phone], {"type": "text", "text": {"body": "sí"}})
    report = await draining

    order = [arrival.callback_data for arrival in house.graph.arrived(number)]
    assert report.accepted == len(order) == 41
    # What has its slot already goes first: half a second of them at 20 per second, and those posted meanwhile.
    assert order.index(reply) <= 5 + 20
