"""Something between us and the database fails in words of its own: nothing that is known gets lost."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.whatsapp.clients import postgres
from services.whatsapp.flows import announcing, draining
from services.whatsapp.refusals import RefusalError
from tests.local.front import Front, front_of
from tests.local.pooler import pooler_of
from tests.proofs.house import PLAIN, TEXT, House, check_refusal, post, some_phone, until

HTML = b"<!DOCTYPE html><title>Web server is down</title>"
PASSING: dict[str, tuple[int | None, Any, str]] = {
    "cut": (None, b"", ""),
    "521": (521, HTML, "text/html"),
    "wrong key": (401, {"message": "Invalid API key"}, "application/json"),
    "nothing instead of an answer": (200, b"", "application/json"),
    "PGRST202": (404, {"code": "PGRST202", "message": "Could not find the function"}, "application/json"),
    "a duplicate": (409, {"code": "23505", "message": "duplicate key"}, "application/json"),
}
"""One of each kind. That all others are of these kinds: tests/services/whatsapp/clients/test_postgrest.py."""


@pytest.fixture
async def front(house: House) -> AsyncIterator[Front]:
    async with front_of(house.stack.rest_url) as front:
        yield front


@pytest.mark.parametrize(("status", "body", "content_type"), PASSING.values(), ids=PASSING)
async def test_metas_answers_outlive_it(
    house: House, front: Front, status: int | None, body: Any, content_type: str
) -> None:
    number = house.account()
    house.graph.pause_webhooks()
    message_ids = house.enqueue(number, (some_phone() for _ in range(5)))
    front.fail(
        "/rpc/settle", status, body, content_type=content_type, times=5
    )  # one call of settle more than is repeated

    await house.drain(number, 1, SUPABASE_URL=front.url)

    assert [house.state(message_id) for message_id in message_ids] == ["accepted"] * 5
    assert len(house.graph.arrived(number)) == 5


async def test_while_no_answer_can_be_stored_nothing_more_is_posted(house: House, front: Front) -> None:
    """More answers would only be more to lose."""
    number = house.account()
    message_ids = house.enqueue(number, (some_phone() for _ in range(5)))
    front.fail("/rpc/settle", 503, HTML, content_type="text/html")
    run = asyncio.create_task(house.drain(number, 20, SUPABASE_URL=front.url))
    await until(lambda: len(front.asked("/rpc/settle")) > 4)
    message_ids += house.enqueue(number, (some_phone() for _ in range(5)))
    await until(lambda: len(front.asked("/rpc/settle")) > 9)
    assert len(house.graph.arrived(number)) == 5

    front.heal()
    await until(lambda: all(house.message(message_id)["accepted_at"] for message_id in message_ids))
    await run
    assert len(house.graph.arrived(number)) == 10


async def test_send_says_that_it_is_a_moment_and_the_same_call_works_after_it(house: House, front: Front) -> None:
    token = house.users["MX"].token
    async with house.functions(SUPABASE_URL=front.url) as url, house.client(url) as client:
        for name, (status, body, content_type) in PASSING.items():
            phone = some_phone()
            front.fail("/rpc/enqueue", status, body, content_type=content_type)
            away = await post(client, token, phone, PLAIN, key=name)
            front.heal()
            back = await post(client, token, phone, PLAIN, key=name)

            check_refusal(away, 503, "database_unavailable")
            assert back.status_code == 202, (name, back.text)


async def test_a_no_is_not_told_while_an_attempt_nobody_heard_of_may_still_become_a_yes(
    house: House, front: Front
) -> None:
    """The first attempt may wait in the database until the person has written, and then take the message."""
    token, phone = house.users["MX"].token, some_phone()
    async with house.functions(SUPABASE_URL=front.url) as url, house.client(url) as client:
        lost = front.fail("/rpc/enqueue", None, times=1, arrives=True)
        doubtful = await post(client, token, phone, TEXT, key="in doubt")
        sure = await post(client, token, phone, TEXT, key="in doubt")
        front.fail("/rpc/enqueue", None, times=1, arrives=True)
        taken = await post(client, token, phone, PLAIN, key="taken")

    assert lost.hits == 1
    check_refusal(doubtful, 503, "database_unavailable")
    check_refusal(sure, 409, "window_closed")
    assert taken.status_code == 202, taken.text
    assert (
        house.count("messages m join whatsapp.contacts c using (country_id, contact_id) where c.phone = %s", phone) == 1
    )


async def test_one_message_that_does_not_pass_holds_up_no_other_callers(house: House, front: Front) -> None:
    token, culprit = house.users["MX"].token, some_phone()

    def concerns(call: Any) -> bool:
        return any(item["phone"] == culprit for item in call["p_items"])

    front.fail("/rpc/enqueue", 500, {"code": "XX000", "message": "cache lookup failed"}, when=concerns)
    async with house.functions(SUPABASE_URL=front.url) as url, house.client(url) as client:
        people = [*(some_phone() for _ in range(10)), culprit, *(some_phone() for _ in range(10))]
        answers = await asyncio.gather(*(post(client, token, each, PLAIN) for each in people))

    together = [len(call["p_items"]) for call in front.asked("/rpc/enqueue") if concerns(call)]
    assert max(together) > 1
    for phone, answer in zip(people, answers, strict=True):
        if phone == culprit:
            check_refusal(answer, 503, "database_unavailable")
        else:
            assert answer.status_code == 202, answer.text


async def test_a_wrong_key_is_in_the_log(house: House, front: Front) -> None:
    front.fail("/rpc/enqueue", 401, {"message": "Invalid API key"})
    async with house.functions(SUPABASE_URL=front.url) as url, house.client(url) as client:
        await post(client, house.users["MX"].token, some_phone(), PLAIN)
        log = house.stack.data_dir / f"functions-{url.rpartition(':')[2]}.log"
        lines = [line for line in log.read_text().splitlines() if '"database_failed"' in line]

    assert lines
    assert '"code":"401"' in lines[0].replace(": ", ":")


async def test_a_claim_whose_answer_is_lost_is_asked_for_until_it_is_answered(house: House, front: Front) -> None:
    number = house.account()
    message_ids = house.enqueue(number, (some_phone() for _ in range(30)))
    lost = front.fail("/rpc/claim", 502, HTML, content_type="text/html", times=10, arrives=True)

    await house.drain(number, 15, SUPABASE_URL=front.url)

    assert lost.hits == 10
    assert len({claim["p_claim_id"] for claim in front.asked("/rpc/claim")[:11]}) == 1
    assert sorted(str(each.callback_data) for each in house.graph.arrived(number)) == sorted(message_ids)


async def test_answers_that_are_lost_on_a_connection_are_asked_for_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pooler goes when the transaction is done, of claims and of settlements."""
    number = house.account()
    message_ids = house.enqueue(number, (some_phone() for _ in range(30)))
    async with pooler_of(house.stack.database_url) as pooler:
        monkeypatch.setattr(postgres, "POOLERS_PORT", pooler.port)
        for verb in (b"whatsapp.claim", b"whatsapp.settle"):
            pooler.lost, pooler.losses = verb, 6
            await house.drain(number, 15, SUPABASE_DB_URL=pooler.url)
            assert pooler.losses == 0
            message_ids += house.enqueue(number, (some_phone() for _ in range(30)))
        await house.drain(number, 15, SUPABASE_DB_URL=pooler.url)

    assert sorted(str(each.callback_data) for each in house.graph.arrived(number)) == sorted(message_ids)
    assert {house.state(each) for each in message_ids} <= {"accepted", "sent", "delivered", "read"}


async def test_what_a_lost_claim_had_leased_is_released_at_the_end(house: House, front: Front) -> None:
    number = house.account()
    message_ids = house.enqueue(number, (some_phone() for _ in range(30)))
    leased = "queue where account_id = %s and lease_id is not null"
    front.fail("/rpc/claim", 502, HTML, content_type="text/html", arrives=True)
    draining_now = asyncio.create_task(house.drain(number, 1, SUPABASE_URL=front.url))
    await until(lambda: house.count(leased, number.account_id) == 30)
    asked = len(front.paths)
    # Past its budget.
    await until(lambda: len(front.paths) > asked + 12)

    front.heal()
    await draining_now

    assert house.count(leased, number.account_id) == 0
    assert house.graph.arrived(number) == []
    await house.drain(number)
    assert sorted(str(each.callback_data) for each in house.graph.arrived(number)) == sorted(message_ids)


async def test_what_cannot_be_announced_in_time_is_released(
    house: House, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = house.account(messages_per_second=20)
    message_ids = house.enqueue(number, (some_phone() for _ in range(30)))
    # A lease after whose first second no POST may begin.
    monkeypatch.setattr(draining, "LEASE", draining._MARGIN + 1)
    # On a slow machine a claim would announce all it hands out.
    monkeypatch.setattr(announcing, "_CALLS", 0)
    front.fail("/rpc/announce", 503)

    run = asyncio.create_task(house.drain(number, 15, SUPABASE_URL=front.url))
    await until(lambda: any(each["outcome"] == "released" for each in settled(front)))
    assert not run.done()
    front.heal()
    await run
    await house.drain(number)

    assert sorted(str(each.callback_data) for each in house.graph.arrived(number)) == sorted(message_ids)


def settled(front: Front) -> list[Any]:
    return [each for body in front.asked("/rpc/settle") for each in body["p_results"]]


async def test_a_claim_that_never_reached_anybody_does_not_prolong_the_run(house: House) -> None:
    number = house.account()
    began = asyncio.get_running_loop().time()
    with pytest.raises(RefusalError) as refused:
        await house.drain(number, 1, SUPABASE_URL="http://127.0.0.1:9")
    assert refused.value.code == "database_unavailable"
    assert asyncio.get_running_loop().time() - began < draining.LEASE / 4


@pytest.mark.parametrize(("status", "body", "content_type"), PASSING.values(), ids=PASSING)
async def test_a_sweep_that_fails_keeps_no_message(
    house: House, front: Front, status: int | None, body: Any, content_type: str
) -> None:
    number = house.account()
    [message_id] = house.enqueue(number, [some_phone()])
    front.fail("/rpc/sweep", status, body, content_type=content_type)

    await house.drain(number, 5, sweep=True, SUPABASE_URL=front.url)

    assert house.arrivals(message_id) == 1
    assert house.message(message_id)["accepted_at"]


async def test_one_job_that_fails_keeps_no_other(house: House, front: Front) -> None:
    number = house.account()
    await house.open_window(number, phone := some_phone())
    [message_id] = house.enqueue(number, [phone], TEXT)
    house.run("update whatsapp.queue set expires_at = now() - interval '1 s' where message_id = %s", message_id)
    house.run("update whatsapp.queue set run_at = now() + interval '1 h' where message_id = %s", message_id)
    front.fail("/rpc/sweep", 500, HTML, content_type="text/html", when=lambda body: body["p_jobs"] == ["leases"])

    await house.drain(number, 5, sweep=True, SUPABASE_URL=front.url)

    assert house.state(message_id) == "expired"
