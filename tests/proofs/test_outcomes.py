"""What becomes of a message when Meta refuses it, or when nobody knows whether Meta took it."""

import pytest

from tests.graph.world import Number
from tests.proofs.house import OFFER, PLAIN, TEXT, House, check_refusal, some_phone, until


async def forget_waiting(house: House, number: Number) -> None:
    """Let the times pass for which a number or a message must wait."""
    where = "where country_id = 'MX' and account_id = %s"
    house.run(f"update whatsapp.queue set run_at = now() {where} and lease_id is null", number.account_id)
    house.run(f"update whatsapp.throttles set held_until = null {where}", number.account_id)


async def test_a_lost_answer_is_unknown_until_a_webhook_tells_and_nothing_is_sent_again(house: House) -> None:
    number = house.account()
    house.graph.pause_webhooks()
    house.graph.lose_answers(1, number=number)
    [message_id] = house.enqueue(number, [some_phone()])

    report = await house.drain(number)
    assert report.unknown == 1
    assert house.state(message_id) == "unknown"
    assert (await house.drain(number, sweep=True)).claimed == 0

    house.graph.pause_webhooks(False)
    await house.until_state(message_id, "read")
    assert (await house.drain(number, sweep=True)).claimed == 0
    assert house.arrivals(message_id) == 1
    assert house.count("queue where message_id = %s", message_id) == 0


async def test_proved_unsent_a_reply_goes_again_once_and_marketing_fails(house: House) -> None:
    number, phone = house.account(unknown_deadline="1 second"), some_phone()
    await house.open_window(number, phone)
    house.graph.hang(2, seconds=0.05, accept=False, number=number)
    [reply] = house.enqueue(number, [phone], TEXT)
    [offer] = house.enqueue(number, [some_phone()], OFFER)
    assert (await house.drain(number)).unknown == 2

    # The feed lives on after the deadline: somebody writes again and again.
    def decided() -> bool:
        house.graph.customer_writes(number, some_phone()[1:], "hola")
        house.all("select whatsapp.sweep(array['unknowns'])")
        return house.state(offer) == "failed" and house.state(reply) == "queued"

    await until(decided)
    await house.drain(number)

    await house.until_state(reply, "read")
    assert house.arrivals(reply) == 2
    row = house.message(offer)
    assert (row["state"], row["error_title"]) == ("failed", "outcome_unknown")
    assert house.arrivals(offer) == 1
    assert house.graph.double_sent() == {}


async def test_with_a_silent_feed_it_keeps_waiting(house: House) -> None:
    """Somebody writes just before the attempt and just after it; then the feed falls silent."""
    number = house.account(unknown_deadline="1 second")
    await house.open_window(number, some_phone())
    house.graph.hang(1, seconds=0.05, accept=False, number=number)
    [message_id] = house.enqueue(number, [some_phone()])
    await house.drain(number)
    await house.open_window(number, some_phone())
    await until(lambda: house.count("queue where message_id = %s and unknown_until < now()", message_id) == 1)

    assert (await house.drain(number, sweep=True)).claimed == 0

    assert house.state(message_id) == "unknown"
    assert house.arrivals(message_id) == 1


async def test_a_refused_connection_costs_nothing_and_it_is_sent_once(house: House) -> None:
    number = house.account()
    house.graph.refuse_connections()
    [message_id] = house.enqueue(number, [some_phone()])

    report = await house.drain(number, budget=0.5)
    assert report.requeued >= 1
    assert house.state(message_id) == "queued"
    assert house.message(message_id)["attempts"] == 0

    house.graph.accept_connections()
    await forget_waiting(house, number)
    await house.drain(number)
    await house.until_state(message_id, "read")
    assert house.arrivals(message_id) == 1


@pytest.mark.parametrize("accept", [True, False])
async def test_a_5xx_without_metas_body_is_unknown(house: House, accept: bool) -> None:
    number = house.account()
    house.graph.pause_webhooks()
    house.graph.server_error(1, http_status=502, accept=accept, number=number)
    [message_id] = house.enqueue(number, [some_phone()])

    assert (await house.drain(number)).unknown == 1
    assert house.state(message_id) == "unknown"

    house.graph.pause_webhooks(False)
    if accept:
        await house.until_state(message_id, "read")
    assert (await house.drain(number)).claimed == 0
    assert house.arrivals(message_id) == 1


@pytest.mark.parametrize(
    ("answer", "state", "account"),
    [
        ({"code": 100, "subcode": 33}, "queued", "stopped"),
        ({"code": 999_017, "http_status": 429}, "queued", "active"),
        ({"code": 999_017, "http_status": 500}, "unknown", "active"),
        ({"code": 999_017}, "failed", "active"),
    ],
    ids=["not our number", "throttled", "breakdown", "refused"],
)
async def test_what_an_answer_with_a_code_nobody_knows_comes_to(
    house: House, answer: dict[str, int], state: str, account: str
) -> None:
    number = house.account()
    house.graph.fail_next(1, number=number, **answer)
    [message_id] = house.enqueue(number, [some_phone()])

    await house.drain(number, budget=0.5)

    assert house.state(message_id) == state
    [row] = house.all("select state from whatsapp.accounts where account_id = %s", number.account_id)
    assert row["state"] == account
    assert (await house.drain(number, budget=0.5)).claimed == 0
    assert house.arrivals(message_id) == 1


@pytest.mark.parametrize("code", [131048, 131064, 368])
async def test_what_stops_templates_stops_no_reply(house: House, code: int) -> None:
    number, phone = house.account(), some_phone()
    await house.open_window(number, phone)
    house.graph.fail_next(1, code=code, number=number, type="template")
    [offer] = house.enqueue(number, [some_phone()], OFFER)
    await house.drain(number)
    assert house.state(offer) == "queued"

    [reply] = house.enqueue(number, [phone], TEXT)
    [another] = house.enqueue(number, [some_phone()])
    await house.drain(number)
    await house.until_state(reply, "read")
    assert (house.state(offer), house.state(another)) == ("queued", "queued")

    house.run("update whatsapp.accounts set templates_paused_until = now() where account_id = %s", number.account_id)
    await house.drain(number)
    await house.until_state(offer, "read")
    await house.until_state(another, "read")
    assert (house.arrivals(offer), house.arrivals(another), house.arrivals(reply)) == (2, 1, 1)


async def test_131047_closes_the_window_and_fails(house: House) -> None:
    number, phone = house.account(), some_phone()
    await house.open_window(number, phone)
    house.graph.fail_next(1, code=131047, number=number)
    [message_id] = house.enqueue(number, [phone], TEXT)

    assert (await house.drain(number)).failed == 1

    row = house.message(message_id)
    assert (row["state"], row["error_code"]) == ("failed", 131047)
    check_refusal(await house.post(phone, TEXT, account=number.account_id), 409, "window_closed")


async def test_131047_by_webhook_closes_the_window_too(house: House) -> None:
    number, phone = house.account(), some_phone()
    await house.open_window(number, phone)
    house.graph.fail_later(1, code=131047, number=number)
    [message_id] = house.enqueue(number, [phone], TEXT)

    await house.drain(number)

    await house.until_state(message_id, "failed")
    check_refusal(await house.post(phone, TEXT, account=number.account_id), 409, "window_closed")


async def test_190_stops_the_account_and_its_messages_wait(house: House) -> None:
    number = house.account()
    house.graph.tokens(number, ["another token"])
    [message_id] = house.enqueue(number, [some_phone()])

    await house.drain(number)

    [account] = house.all("select state, state_code from whatsapp.accounts where account_id = %s", number.account_id)
    assert (account["state"], account["state_code"]) == ("stopped", 190)
    assert house.state(message_id) == "queued"
    assert (await house.drain(number)).claimed == 0
    check_refusal(await house.post(some_phone(), PLAIN, account=number.account_id), 409, "account_stopped")

    house.graph.tokens(number, number.tokens)
    house.run("update whatsapp.accounts set state = 'active' where account_id = %s", number.account_id)
    await house.drain(number)
    await house.until_state(message_id, "read")
    assert house.arrivals(message_id) == 2
    assert house.message(message_id)["error_code"] is None


async def test_130429_slows_the_number_down_and_the_message_is_tried_again(house: House) -> None:
    number = house.account()
    house.graph.fail_next(1, code=130429, number=number)
    [message_id] = house.enqueue(number, [some_phone()])

    report = await house.drain(number, budget=0.5)
    assert report.requeued == 1
    [throttle] = house.all("select * from whatsapp.throttles where account_id = %s", number.account_id)
    assert throttle["rate_factor"] == 0.5
    assert throttle["held_until"] is not None
    assert (house.state(message_id), house.message(message_id)["attempts"]) == ("queued", 0)

    await forget_waiting(house, number)
    await house.drain(number)
    await house.until_state(message_id, "read")
    assert house.arrivals(message_id) == 2
    assert house.message(message_id)["error_code"] is None


async def test_a_transient_error_is_retried_until_its_attempts_are_used_up(house: House) -> None:
    number = house.account()
    house.graph.fail_next(None, code=131000, number=number)
    [message_id] = house.enqueue(number, [some_phone()])

    for attempt in (1, 2, 3):
        assert house.state(message_id) == "queued"
        await forget_waiting(house, number)
        await house.drain(number, budget=0.2)
        assert house.arrivals(message_id) == attempt

    row = house.message(message_id)
    assert (row["state"], row["error_code"]) == ("failed", 131000)


@pytest.mark.parametrize(("code", "column"), [(131049, "marketing_cooled_until"), (131050, "marketing_opted_out_at")])
async def test_what_meta_says_about_a_person_ends_marketing_to_them(house: House, code: int, column: str) -> None:
    number, phone = house.account(), some_phone()
    house.graph.fail_later(1, code=code, number=number)
    [message_id] = house.enqueue(number, [phone], OFFER)

    await house.drain(number)

    await house.until_state(message_id, "failed")
    assert house.count(f"contacts where phone = %s and {column} is not null", phone) == 1
    refused = await house.post(phone, OFFER, account=number.account_id)
    check_refusal(refused, 409, "contact_cooling" if code == 131049 else "opted_out")
    assert (await house.post(phone, PLAIN, account=number.account_id)).status_code == 202


async def test_a_template_meta_pauses_is_not_sent_again(house: House) -> None:
    number = house.account()
    house.graph.fail_next(1, code=132016, number=number)
    [message_id] = house.enqueue(number, [some_phone()], OFFER)

    await house.drain(number)

    assert house.state(message_id) == "failed"
    refused = await house.post(some_phone(), OFFER, account=number.account_id)
    check_refusal(refused, 409, "template_not_approved")
