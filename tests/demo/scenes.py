"""The scenes, in the order they are shown."""

import asyncio
import secrets
import time
import uuid
from collections.abc import Callable
from typing import cast

from postgrest import CountMethod

from supabase import AsyncClient, FunctionsHttpError
from tests.demo import figures
from tests.demo.checks import EXACT, Checks
from tests.demo.stage import ACCOUNTS, COUNTRIES, Json, Stage, until
from tests.graph.client import Arrival
from tests.graph.world import random_phone

CONCURRENCY = 20
OTHER_EVENTS = 4
"""Webhook events that are no status: somebody wrote, somebody stopped marketing, a template was paused and approved."""
ANSWER: Json = {"type": "text", "text": {"body": "¡Hola! ¿En qué le puedo ayudar?"}}


async def sign_up(stage: Stage) -> None:
    stage.screen.scene("Ana signs up and becomes an operator of Mexico")
    email, password = f"ana-{secrets.token_hex(4)}@shop.example", secrets.token_urlsafe(16)
    answer = await stage.frontend.auth.sign_up({"email": email, "password": password})
    assert answer.user is not None
    stage.screen.say(f"auth.sign_up: {email}")
    stage.owner.execute("insert into whatsapp.members values ('MX', %s, 'operator')", (answer.user.id,))
    stage.screen.say("owner, in SQL: insert into whatsapp.members values ('MX', Ana, 'operator')")


async def closed_window(stage: Stage, checks: Checks) -> None:
    stage.screen.scene("She writes freely to somebody who has not written: refused")
    await _expect_refusal(stage, checks, "MX", "window_closed")


async def other_country(stage: Stage, checks: Checks) -> None:
    stage.screen.scene("She tries to send for Colombia: refused")
    await _expect_refusal(stage, checks, "CO", "not_a_member")


async def customer_writes(stage: Stage, checks: Checks) -> None:
    stage.screen.scene("A customer in Mexico writes, and she answers freely")
    phone = random_phone("MX")
    # WhatsApp keeps an old 1 after Mexico's 52 that nobody dials.
    wa_id = phone[1:].replace("52", "521", 1)
    wamid = stage.graph.customer_writes(stage.graph.world.number("MX"), wa_id, "Buenos días")
    await until(lambda: figures.known(stage.owner, wamid))
    stage.screen.say(f"signed webhook from the stand-in: {wa_id} writes “Buenos días”")
    answer = await stage.send(stage.frontend, "MX", phone, ANSWER)
    stage.screen.say(f"functions.invoke('send') to {phone}: 202, {answer['status']}")
    await until(lambda: figures.state(stage.owner, answer["message_id"]) == "read")
    checks.expect("the answer was read", figures.state(stage.owner, answer["message_id"]), "read")


async def many_messages(stage: Stage, messages: int) -> None:
    stage.screen.scene(f"{messages} template messages in each country, at most 80 a second each")
    stage.screen.say("Mexico: Ana, signed in. Colombia: a server with the secret key.")
    started = time.monotonic()
    with stage.screen.climbing(figures.STATES, COUNTRIES, messages) as show:
        async with asyncio.TaskGroup() as senders:
            senders.create_task(_send_all(stage, stage.frontend, "MX", messages))
            senders.create_task(_send_all(stage, stage.server, "CO", messages))
            await until(lambda: _all_there(stage, messages, show))
    peaks = [stage.graph.peak(stage.graph.world.number(country)) for country in COUNTRIES]
    stage.screen.say(f"most in any one second: {peaks[0]} and {peaks[1]}")
    stage.screen.say(f"all read {time.monotonic() - started:.1f} s after the first request")


async def story(stage: Stage, checks: Checks) -> None:
    message_id = figures.storied(stage.owner, "MX")
    stage.screen.scene("The story of one of them, as Ana reads it through the Data API")
    table = stage.frontend.schema("whatsapp").table("message_story")
    answer = await table.select("event, at").eq("message_id", message_id).order("step").execute()
    events = cast(list[Json], answer.data)
    stage.screen.story(events)
    told = sorted(event["event"] for event in events)
    wanted = ["accepted", "delivered", "queued", "read", "sending", "sent"]
    checks.expect("every step once, whatever the order it came in", told, [f"message_{step}" for step in wanted])


async def rows_of_others(stage: Stage, checks: Checks) -> None:
    stage.screen.scene("What Ana can read through the Data API")
    table = stage.frontend.schema("whatsapp").table("messages")
    read = {}
    for country in COUNTRIES:
        answer = await table.select("message_id", count=CountMethod.exact).eq("country_id", country).limit(1).execute()
        read[country] = answer.count
    checks.expect(
        f"{read['MX']:,} messages of Mexico (one of them the customer's), {read['CO']} of Colombia",
        read,
        {"MX": stage.sent["MX"] + 1, "CO": 0},
    )


async def reckoning(stage: Stage, checks: Checks) -> None:
    stage.screen.scene("The two books compared: our log, and what arrived at the stand-in for Meta")
    await until(lambda: stage.graph.counts().webhooks.settled)
    found = {country: figures.compare(stage.owner, country, _arrived(stage, country)) for country in COUNTRIES}
    rows = checks.rows(found, stage.sent, EXACT, "answered 202 by our send and bulk-enqueue")
    stage.screen.table("messages", COUNTRIES, rows)
    counts = stage.graph.counts()
    refused = counts.codes.get(132015, 0)
    checks.expect(
        f"Meta took none twice; the {refused:,} it had refused came again",
        (counts.double_sent, counts.repeated, sum(counts.codes.values())),
        (0, refused, refused),
    )
    events, came = figures.webhook_events(stage.owner), counts.webhooks.updates_delivered
    wanted = 3 * stage.sent.total() + OTHER_EVENTS
    checks.expect(
        f"{came:,} webhook events came, {came - events:,} of them again: {events:,} were kept", events, wanted
    )
    checks.expect(f"cron called queue-drain {stage.cron.total()} times, always answered 200", set(stage.cron), {200})
    checks.expect("nothing is left in the queue", figures.waiting(stage.owner), 0)


def _arrived(stage: Stage, country_id: str) -> list[Arrival]:
    """What arrived at the numbers of a country."""
    numbers = [stage.graph.world.number(country_id, account_id) for account_id in ACCOUNTS]
    return [one for number in numbers for one in stage.graph.arrived(number)]


async def _expect_refusal(stage: Stage, checks: Checks, country_id: str, code: str) -> None:
    to, key = random_phone(country_id), str(uuid.uuid4())
    try:
        await stage.send(stage.frontend, country_id, to, ANSWER, key)
    except FunctionsHttpError as error:
        body = await stage.refusal(country_id, to, ANSWER, key)
        stage.screen.refusal(type(error).__name__, body)
        checks.expect(f"refused as {code}", (body["code"], body["message"]), (code, error.message))
    else:
        checks.expect(f"refused as {code}", "202", code)


async def _send_all(stage: Stage, client: AsyncClient, country_id: str, messages: int) -> None:
    """Template messages to as many people, a few requests at a time."""
    phones: set[str] = set()
    while len(phones) < messages:
        phones.add(random_phone(country_id))
    free = asyncio.Semaphore(CONCURRENCY)

    async def send(phone: str, order: int) -> None:
        async with free:
            await stage.send(client, country_id, phone, _template("Ana", f"A{order}"))

    await asyncio.gather(*(send(phone, order) for order, phone in enumerate(phones, 1)))


def _template(name: str, order: str) -> Json:
    parameters = [{"type": "text", "text": name}, {"type": "text", "text": order}]
    return {
        "type": "template",
        "template": {
            "name": "order_update",
            "language": {"code": "es_MX"},
            "components": [{"type": "body", "parameters": parameters}],
        },
    }


def _all_there(stage: Stage, messages: int, show: Callable[[dict[str, dict[str, int]]], None]) -> bool:
    reached = figures.progress(stage.owner)
    show(reached)
    # A message may be read before the news comes that it was sent: wait for all of it.
    return all(reached.get(country) == dict.fromkeys(figures.STATES, messages) for country in COUNTRIES)
