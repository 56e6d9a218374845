"""What Meta allows a number to do: told by answers, webhooks and syncs; and a person who says that it may go on."""

from typing import Any

import httpx
import pytest

from services.whatsapp.flows import syncing
from services.whatsapp.runtime import Runtime
from services.whatsapp.settings import Settings
from tests.graph.world import Number
from tests.proofs.house import PLAIN, TEXT, House, Row, check_refusal, some_phone, until


async def control(house: House, number: Number, action: str, *, user: str = "MX", **more: object) -> httpx.Response:
    body = {"country_id": "MX", "account": number.account_id, "action": action} | more
    async with house.client() as client:
        headers = {"authorization": f"Bearer {house.users[user].token}"}
        return await client.patch("/accounts", json=body, headers=headers)


def account(house: House, number: Number) -> Row:
    [row] = house.all("select * from whatsapp.accounts where account_id = %s", number.account_id)
    return row


async def until_account(house: House, number: Number, **columns: object) -> None:
    await until(lambda: {name: account(house, number)[name] for name in columns} == columns)


# ── One call to resume ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("code", "state"), [(133010, "stopped"), (131031, "paused")])
async def test_a_stop_code_stops_the_number_and_one_call_lets_it_go_on(house: House, code: int, state: str) -> None:
    number = house.account()
    ids = house.enqueue(number, [some_phone() for _ in range(3)])
    house.graph.fail_next(None, code=code, number=number)
    await house.drain(number, 1, sweep=True)
    assert (account(house, number)["state"], account(house, number)["state_code"]) == (state, code)
    arrived = len(house.graph.arrived(number))

    # Nothing more leaves, and what comes in is taken as ever.
    await house.drain(number, 0.5)
    assert len(house.graph.arrived(number)) == arrived
    await house.open_window(number, some_phone())

    house.graph.clear_faults()
    answer = await control(house, number, "resume")
    assert (answer.status_code, answer.json()["state"], answer.json()["code"]) == (200, "active", None)
    house.run("update whatsapp.queue set run_at = now() where account_id = %s", number.account_id)
    await house.drain(number, 2)
    assert {house.state(each) for each in ids} <= {"accepted", "sent", "delivered", "read"}


async def test_a_person_pauses_and_resumes_a_number(house: House) -> None:
    number = house.account()
    assert (await control(house, number, "pause")).json()["reason"] == "by_a_person"
    [message_id] = house.enqueue(number, [some_phone()])
    await house.drain(number, 0.5)
    assert house.arrivals(message_id) == 0
    assert (await control(house, number, "resume")).json()["state"] == "active"
    await house.drain(number, 2)
    assert house.arrivals(message_id) == 1


@pytest.mark.parametrize(
    ("more", "status", "code"),
    [
        ({"user": "viewer"}, 403, "role_too_low"),
        ({"user": "nobody"}, 403, "not_a_member"),
        ({"user": "CO"}, 403, "not_a_member"),
        ({"action": "stop"}, 422, "invalid_field"),
        ({"account": "nowhere"}, 404, "no_such_account"),
        ({"country_id": "mx"}, 422, "invalid_field"),
        ({"state": "active"}, 422, "unknown_field"),
    ],
)
async def test_who_may_not_and_what_cannot_be(house: House, more: dict[str, Any], status: int, code: str) -> None:
    number = house.graph.world.number("MX", "main")
    check_refusal(await control(house, number, more.pop("action", "resume"), **more), status, code)


async def test_a_disabled_number_stays_disabled(house: House) -> None:
    number = house.account(state="disabled")
    check_refusal(await control(house, number, "resume"), 409, "account_disabled")
    assert account(house, number)["state"] == "disabled"


# ── Account webhooks ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("field", "value", "columns"),
    [
        ("account_update", {"event": "ACCOUNT_DELETED"}, {"state": "stopped", "state_reason": "account_deleted"}),
        (
            "account_update",
            {"event": "DISABLED_UPDATE", "ban_info": {"waba_ban_state": "DISABLE", "waba_ban_date": "today"}},
            {"state": "stopped", "state_reason": "disabled_update"},
        ),
        ("phone_number_quality_update", {"event": "THROUGHPUT_UPGRADE"}, {"messages_per_second": 1000}),
        (
            "phone_number_quality_update",
            {"event": "ONBOARDING", "max_daily_conversations_per_business": "TIER_2K"},
            {"messaging_limit": 2_000},
        ),
        (
            "business_capability_update",
            {"max_daily_conversations_per_business": -1, "max_phone_numbers_per_business": 20},
            {"messaging_limit": -1},
        ),
    ],
)
async def test_a_webhook_tells_what_the_number_may_do(
    house: House, field: str, value: dict[str, Any], columns: dict[str, object]
) -> None:
    number = house.account(messages_per_second=80, messaging_limit=250)
    house.graph.account_webhook(number, field, value)
    await until_account(house, number, **columns)


@pytest.mark.parametrize(("rate", "coexistence", "ends"), [(20, True, 1000), (20, False, 20), (10, True, 10)])
async def test_an_upgrade_raises_the_rate_of_coexistence_and_none_that_a_person_set(
    house: House, rate: int, coexistence: bool, ends: int
) -> None:
    number = house.account(messages_per_second=rate, coexistence=coexistence, messaging_limit=250)
    upgrade = {"event": "THROUGHPUT_UPGRADE", "max_daily_conversations_per_business": "TIER_2K"}
    house.graph.account_webhook(number, "phone_number_quality_update", upgrade)
    await until_account(house, number, messaging_limit=2_000, messages_per_second=ends)


async def test_a_ban_that_is_only_announced_stops_nothing(house: House) -> None:
    number = house.account(messaging_limit=250)
    later = {"event": "DISABLED_UPDATE", "ban_info": {"waba_ban_state": "SCHEDULE_FOR_DISABLE"}}
    house.graph.account_webhook(number, "account_update", later)
    house.graph.account_webhook(
        number, "business_capability_update", {"max_daily_conversations_per_business": "TIER_2K"}
    )
    await until_account(house, number, messaging_limit=2_000)
    assert account(house, number)["state"] == "active"


async def test_restricted_templates_wait_and_replies_go(house: House) -> None:
    number, writer = house.account(), some_phone()
    await house.open_window(number, writer)
    restriction = {"restriction_type": "RESTRICTED_BIZ_INITIATED_MESSAGING", "expiration": 4_000_000_000}
    house.graph.account_webhook(
        number, "account_update", {"event": "ACCOUNT_RESTRICTION", "restriction_info": [restriction]}
    )
    await until(lambda: account(house, number)["templates_paused_until"])
    [template], [reply] = house.enqueue(number, [some_phone()], PLAIN), house.enqueue(number, [writer], TEXT)

    await house.drain(number, 0.5)
    assert (house.arrivals(template), house.arrivals(reply)) == (0, 1)
    assert account(house, number)["state"] == "active"

    await control(house, number, "resume")
    await house.drain(number, 1)
    assert house.arrivals(template) == 1


async def test_a_restriction_of_everything_pauses_the_number_until_its_end(house: House) -> None:
    number = house.account()
    restriction = {"restriction_type": "RESTRICTED_CUSTOMER_INITIATED_MESSAGING", "expiration": 4_000_000_000}
    house.graph.account_webhook(
        number, "account_update", {"event": "ACCOUNT_RESTRICTION", "restriction_info": [restriction]}
    )
    await until_account(house, number, state="paused", state_reason="account_restriction")
    assert account(house, number)["paused_until"].timestamp() == 4_000_000_000


# ── Template webhooks ─────────────────────────────────────────────────────────────────────────────


def template(house: House, number: Number, name: str) -> Row:
    [row] = house.all(
        "select * from whatsapp.templates"
        " where country_id = 'MX' and account_id = %s and name = %s and language = 'es_MX'",
        number.account_id,
        name,
    )
    return row


async def test_quality_and_category_of_a_template_follow_metas_webhooks(house: House) -> None:
    number = house.account()
    change = house.graph.template_change
    quality = {"previous_quality_score": "GREEN", "new_quality_score": "RED"}
    change(number, "plain", "es_MX", "message_template_quality_update", quality)
    await until(lambda: template(house, number, "plain")["quality"] == "RED")

    announced = {"new_category": "UTILITY", "correct_category": "MARKETING", "category_update_timestamp": 4_000_000_000}
    change(number, "plain", "es_MX", "template_category_update", announced)
    change(number, "plain", "es_MX", "message_template_quality_update", quality | {"new_quality_score": "YELLOW"})
    await until(lambda: template(house, number, "plain")["quality"] == "YELLOW")
    assert template(house, number, "plain")["category"] == "UTILITY"

    done = {"previous_category": "UTILITY", "new_category": "MARKETING"}
    change(number, "plain", "es_MX", "template_category_update", done)
    await until(lambda: template(house, number, "plain")["category"] == "MARKETING")


async def test_new_components_bring_a_new_contract_at_once(house: House) -> None:
    number = house.graph.world.number("MX", "main")

    async def change(text: str, *keys: str) -> None:
        body = {"type": "BODY", "text": text}
        value = {"message_template_element": text}
        house.graph.template_change(
            number, "plain", "es_MX", "message_template_components_update", value, components=[body]
        )
        wanted = list(keys)
        await until(
            lambda: [each["key"] for each in template(house, number, "plain")["contract"]["parameters"]] == wanted
        )

    try:
        await change("Hola {{1}}, pasa a {{2}}.", "body.1", "body.2")
        check_refusal(await house.post(some_phone(), PLAIN), 422, "template_parameters")
    finally:
        await change("Hola.")
    assert (await house.post(some_phone(), PLAIN)).status_code == 202


# ── Sync ──────────────────────────────────────────────────────────────────────────────────────────


async def sync(house: House, number: Number) -> syncing.Report:
    async with Runtime(Settings.read(house.env(number))) as runtime:
        [report] = [each for each in await syncing.sync(runtime, "MX") if each["account"] == number.account_id]
    return report


async def test_a_sync_takes_over_what_meta_grants_the_number(house: House) -> None:
    number = house.account(messages_per_second=1000, messaging_limit=250)
    report = await sync(house, number)
    assert (report["messaging_limit"], report["messages_per_second"], report["quality"]) == (2_000, 80, "GREEN")
    row = account(house, number)
    assert (row["messaging_limit"], row["messages_per_second"], row["quality"]) == (2_000, 80, "GREEN")
