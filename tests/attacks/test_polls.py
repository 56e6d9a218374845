"""Those who wait for news in great numbers harm nobody, and are told what to do."""

import asyncio

import httpx

from services.whatsapp.flows.watching import MOST_OF_A_USER
from tests.proofs.house import PLAIN, House, check_refusal, some_phone


async def test_a_viewer_who_polls_without_end_slows_nobody(house: House) -> None:
    number = house.account()
    message_id = await house.send(some_phone(), PLAIN, account=number.account_id)
    viewer = {"authorization": f"Bearer {house.users['viewer'].token}"}
    query = {"message_id": message_id, "wait": "20"}
    limits = httpx.Limits(max_connections=200)
    address = f"{house.stack.url}/functions/v1"
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=30, trust_env=False) as client:
        polls = {asyncio.create_task(client.get("/status-poll", params=query, headers=viewer)) for _ in range(100)}
        refused: set[asyncio.Task[httpx.Response]] = set()
        while len(refused) < 100 - MOST_OF_A_USER:
            done, _ = await asyncio.wait(polls - refused, timeout=10, return_when=asyncio.FIRST_COMPLETED)
            assert done, "more wait than may"
            refused |= done
        for each in refused:
            check_refusal(each.result(), 429, "too_many_polls")
            assert each.result().headers["retry-after"]

        # The others wait on, and nobody waits for them.
        assert (await house.post(some_phone(), PLAIN)).status_code == 202
        operator = {"authorization": f"Bearer {house.users['MX'].token}"}
        seen = await client.get("/status-poll", params=query | {"wait": "0"}, headers=operator)
        assert [each["status"] for each in seen.json()["messages"]] == ["queued"]

        # One change answers all of them.
        house.run("update whatsapp.messages set state = 'cancelled' where message_id = %s", message_id)
        answers = await asyncio.gather(*polls - refused)
        house.run("delete from whatsapp.queue where message_id = %s", message_id)
    assert [each.json()["messages"][0]["status"] for each in answers] == ["cancelled"] * MOST_OF_A_USER


async def test_a_token_that_expires_while_it_waits_is_told_so(house: House) -> None:
    number = house.account()
    message_id = await house.send(some_phone(), PLAIN, account=number.account_id)
    headers = {"authorization": f"Bearer {house.token('viewer', lifetime=2)}"}
    async with house.client() as client:
        query = {"message_id": message_id, "wait": "15"}
        answer = await client.get("/status-poll", params=query, headers=headers)
    house.run("delete from whatsapp.queue where message_id = %s", message_id)
    check_refusal(answer, 401, "token_expired")
