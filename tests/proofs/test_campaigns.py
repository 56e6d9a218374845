"""One approved template to very many people: who gets it, who does not and why, and who may stop it."""

import asyncio
import signal
import time
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.graph.world import Number
from tests.proofs.house import OFFER, PLAIN, TEXT, House, Row, check_refusal, post, some_phone, until

ORDER = {"name": "order_update", "language": "es_MX"}
SIMPLE = {"name": "plain", "language": "es_MX"}
SPRING = {"name": "spring_offer", "language": "es_MX"}


def campaign_account(house: House, **columns: object) -> Number:
    """An account of the test's own whose templates have their contracts."""
    number = house.account(**columns)
    house.run(
        "update whatsapp.templates t set contract = s.contract from whatsapp.templates s"
        " where t.country_id = 'MX' and t.account_id = %s and s.country_id = 'MX' and s.account_id = 'main'"
        " and s.name = t.name and s.language = t.language",
        number.account_id,
    )
    return number


def people(n: int, parameters: Any = None) -> list[Row]:
    phones: set[str] = set()
    while len(phones) < n:
        phones.add(some_phone())
    return [{"to": phone} | ({"parameters": parameters} if parameters is not None else {}) for phone in sorted(phones)]


def opening(number: Number, recipients: Iterable[Any], template: Row = SIMPLE, **more: object) -> Row:
    named = {"country_id": number.country_id, "account": number.account_id, "name": "spring", "template": template}
    return named | {"recipients": list(recipients)} | more


async def bulk(
    house: House, body: Row | str, *, user: str = "MX", key: str | None = None, query: Row | None = None
) -> httpx.Response:
    headers = {"authorization": f"Bearer {house.users[user].token}", "idempotency-key": key or str(uuid.uuid4())}
    async with house.client() as client:
        if isinstance(body, str):
            headers["content-type"] = "text/csv; charset=utf-8"
            return await client.post("/bulk-enqueue", content=body, params=query, headers=headers)
        return await client.post("/bulk-enqueue", json=body, headers=headers)


async def open_campaign(house: House, body: Row, **more: Any) -> str:
    """Opens a campaign that takes everybody; returns its id."""
    answer = await bulk(house, body, **more)
    assert answer.status_code == 202, answer.text
    assert answer.json()["refused"] == []
    assert answer.json()["accepted"] == len(body["recipients"])
    return str(answer.json()["campaign_id"])


def append_phones(
    database: psycopg.Connection[Any], campaign_id: str, phones: list[str], key: str | None = None
) -> Row:
    """One chunk, straight to the verb."""
    answer = database.execute(
        "select whatsapp.enqueue_campaign("
        "'MX', %s, %s, 'f', %s::int[], %s::text[], %s::text[], '{}', '{}', '{}', '{}')",
        (
            *(campaign_id, key or str(uuid.uuid4())),
            *(list(range(1, len(phones) + 1)), phones, [phone[1:] for phone in phones]),
        ),
    ).fetchone()
    assert answer is not None
    return dict(answer[0])


async def control(
    house: House, campaign_id: str, action: str, *, user: str = "MX", country_id: str = "MX"
) -> httpx.Response:
    body = {"country_id": country_id, "campaign_id": campaign_id, "action": action}
    headers = {"authorization": f"Bearer {house.users[user].token}"}
    async with house.client() as client:
        return await client.patch("/bulk-enqueue", json=body, headers=headers)


async def look(house: House, campaign_id: str, *, user: str = "MX", country_id: str = "MX") -> httpx.Response:
    headers = {"authorization": f"Bearer {house.users[user].token}"}
    async with house.client() as client:
        query = {"country_id": country_id, "campaign_id": campaign_id}
        return await client.get("/status-poll", params=query, headers=headers)


async def progress(house: House, campaign_id: str) -> Row:
    answer = await look(house, campaign_id)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def until_campaign(house: House, campaign_id: str, state: str) -> None:
    where = "campaigns where campaign_id = %s and state = %s"
    await until(lambda: house.count(where, campaign_id, state) == 1)


def check_counts(house: House, campaign_id: str) -> None:
    """What progress says is what a count over the messages says at the same moment."""
    [row] = house.all(
        "select whatsapp.campaign_progress('MX', c.campaign_id) -> 'counts' as kept,"
        " (select coalesce(jsonb_object_agg(key, n), '{}') from ("
        "   select key, count(*) as n from whatsapp.messages m cross join lateral (values (m.state),"
        "     (case when m.state = 'failed' then 'failed:' || coalesce(m.error_code::text, 'unknown') end),"
        "     (case when m.state in ('refused', 'expired') then 'refused:' || m.refusal end),"
        "     (case when m.price ->> 'type' = 'regular'"
        "       and coalesce(m.delivered_at, m.read_at, m.played_at) is not null"
        "       then 'cost:' || (m.price ->> 'category') end)) k (key)"
        "   where m.country_id = 'MX' and m.campaign_id = c.campaign_id and key is not null group by key) k) as counted"
        " from whatsapp.campaigns c where c.country_id = 'MX' and c.campaign_id = %s",
        campaign_id,
    )
    assert row["kept"] == row["counted"]


def refusals(answer: httpx.Response) -> list[tuple[int, str]]:
    return [(row["row"], row["code"]) for row in answer.json()["refused"]]


# ── The parameters of a single message ────────────────────────────────────────────────────────────


def order_update(*texts: str) -> Row:
    parameters = [{"type": "text", "text": text} for text in texts]
    body = {"components": [{"type": "body", "parameters": parameters}]} if texts else {}
    return {"type": "template", "template": {"name": "order_update", "language": {"code": "es_MX"}} | body}


@pytest.mark.parametrize(("texts", "key"), [((), "body.1"), (("Ana",), "body.2"), (("Ana", "A1", "more"), "body.3")])
async def test_send_refuses_what_does_not_fit_the_template(house: House, texts: tuple[str, ...], key: str) -> None:
    answer = await house.post(some_phone(), order_update(*texts))
    assert key in str(check_refusal(answer, 422, "template_parameters")["details"])


async def test_send_takes_what_fits(house: House) -> None:
    message_id = await house.send(some_phone(), order_update("Ana", "A1"))
    await house.until_state(message_id, "read")


async def test_a_repeated_send_gets_its_old_answer_though_the_template_has_changed(house: House) -> None:
    number, phone = campaign_account(house), some_phone()
    first = await house.post(phone, PLAIN, key="once", account=number.account_id)
    house.run(
        "update whatsapp.templates set contract = %s::jsonb where account_id = %s and name = 'plain'",
        '{"parameters": [{"key": "body.1", "type": "text", "required": true}]}',
        number.account_id,
    )
    async with house.functions() as url, house.client(url) as client:  # a process that has not read the template yet
        token = house.users["MX"].token
        again = await post(client, token, phone, PLAIN, key="once", account=number.account_id)
        check_refusal(await post(client, token, phone, PLAIN, account=number.account_id), 422, "template_parameters")
    assert (again.status_code, again.json()["message_id"]) == (202, first.json()["message_id"])


# ── Calls ─────────────────────────────────────────────────────────────────────────────────────────


async def test_good_rows_go_and_bad_rows_come_back_with_their_number(house: House) -> None:
    number = campaign_account(house)
    first, second, opted_out = people(3, ["Ana", "A1"])
    house.run(
        "insert into whatsapp.contacts (country_id, phone, match_key, opted_out_at) values ('MX', %s, %s, now())",
        opted_out["to"],
        opted_out["to"][1:],
    )
    rows = [
        first,
        {"to": "12", "parameters": ["Ana", "A1"]},
        second | {"ref": "r3", "parameters": {"body.2": "B2", "body.1": "Eva"}},
        first | {"to": f"{first['to'][:5]} {first['to'][5:]}"},
        opted_out,
        {"to": some_phone(), "parameters": ["Ana"]},
        {"to": some_phone(), "parameters": ["Ana", "two\nlines"]},
        {"to": some_phone(), "parameters": ["Ana", "nul \0"]},
        {"to": {"contact_id": str(uuid.uuid4())}, "parameters": ["Ana", "A1"]},
    ]
    answer = await bulk(house, opening(number, rows, ORDER))
    assert (answer.status_code, answer.json()["accepted"]) == (202, 2), answer.text
    assert refusals(answer) == [
        (2, "invalid_phone"),
        (4, "duplicate_recipient"),
        (5, "opted_out"),
        (6, "template_parameters"),
        (7, "template_parameters"),
        (8, "template_parameters"),
        (9, "unknown_contact"),
    ]
    assert all(set(row) == {"row", "code", "field", "message", "reason"} for row in answer.json()["refused"])

    append = {"country_id": "MX", "campaign_id": answer.json()["campaign_id"]}
    more = await bulk(house, append | {"recipients": [second, *people(1, ["Ana", "A1"])]})
    assert refusals(more) == [(1, "duplicate_recipient")]
    assert more.json()["accepted"] == 1

    await house.drain(number)
    arrived = {arrival.to: arrival.body["template"] for arrival in house.graph.arrived(number)}
    assert len(arrived) == 3
    texts = arrived[second["to"]]["components"][0]["parameters"]
    assert [text["text"] for text in texts] == ["Eva", "B2"]
    assert house.count("messages where campaign_id = %s and ref = 'r3'", append["campaign_id"]) == 1


async def test_a_call_repeated_answers_the_same_and_adds_nothing(house: House) -> None:
    number = campaign_account(house)
    body = opening(number, [*people(5), {"to": "12"}])
    at_once = await asyncio.gather(*(bulk(house, body, key="again") for _ in range(4)))
    await house.drain(number, sweep=True)
    later = await bulk(house, body, key="again")
    first = at_once[0].json()
    assert {answer.status_code for answer in [*at_once, later]} == {202}
    for answer in [*at_once, later]:
        assert answer.json() | {"status": ""} == first | {"status": ""}
    assert house.count("messages where campaign_id = %s", first["campaign_id"]) == 5
    assert house.count("campaigns where account_id = %s", number.account_id) == 1

    await control(house, first["campaign_id"], "cancel")
    cancelled = await bulk(house, body, key="again")
    assert cancelled.json() == first | {"status": "cancelled"}


async def test_a_repeated_opening_gets_its_old_answer_though_its_template_is_disabled(house: House) -> None:
    number = campaign_account(house)
    body = opening(number, people(2))
    first = await bulk(house, body, key="opened-once")
    house.run("update whatsapp.templates set status = 'DISABLED' where account_id = %s", number.account_id)

    again = await bulk(house, body, key="opened-once")
    assert (again.status_code, again.json()) == (202, first.json() | {"status": "paused"})
    check_refusal(await bulk(house, body), 409, "template_not_approved")


async def test_chunks_are_written_side_by_side_and_nobody_is_taken_twice(house: House) -> None:
    number = campaign_account(house)
    campaign_id = await open_campaign(house, opening(number, people(1)))
    known, others = ([row["to"] for row in people(n)] for n in (5, 3))
    await open_campaign(house, opening(number, [{"to": phone} for phone in known]))
    url = house.stack.database_url
    soon = "-c lock_timeout=10s"
    with (
        psycopg.connect(url, options=soon) as one,
        psycopg.connect(url, options=soon) as other,
        psycopg.connect(url, options=soon) as third,
    ):
        assert append_phones(one, campaign_id, known, "one")["accepted"] == 5
        # The first is not committed yet.
        assert append_phones(other, campaign_id, others)["accepted"] == 3
        other.commit()
        same_people = asyncio.create_task(asyncio.to_thread(append_phones, other, campaign_id, known, "other"))
        same_call = asyncio.create_task(asyncio.to_thread(append_phones, third, campaign_id, known, "one"))
        waiting = "select from pg_locks where not granted and pid = any (%s)"
        pids = [other.info.backend_pid, third.info.backend_pid]
        await until(lambda: len(house.all(waiting, pids)) == 2)
        one.commit()
        assert (await same_call)["accepted"] == 5
        with pytest.raises(psycopg.errors.SerializationFailure):
            await same_people
        other.rollback()
        again = append_phones(other, campaign_id, known, "other")
    assert again["accepted"] == 0
    assert {row["code"] for row in again["refused"]} == {"duplicate_recipient"}
    assert house.count("messages where campaign_id = %s", campaign_id) == 9
    check_counts(house, campaign_id)


async def test_a_message_cannot_be_of_a_campaign_that_its_country_has_not(house: House) -> None:
    number = campaign_account(house)
    campaign_id = await open_campaign(house, opening(number, people(1)))
    moved = "update whatsapp.messages set campaign_id = gen_random_uuid() where campaign_id = %s"
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        house.run(moved, campaign_id)
    contact = "insert into whatsapp.contacts (country_id, match_key) values ('CO', %s) returning contact_id"
    [row] = house.all(contact, some_phone()[1:])
    house.run(
        "insert into whatsapp.conversations (country_id, account_id, contact_id) values ('CO', 'main', %s)",
        row["contact_id"],
    )
    added = (
        "insert into whatsapp.messages"
        " (country_id, account_id, contact_id, direction, kind, state, content, campaign_id)"
        " values ('CO', 'main', %s, 'outbound', 'template', 'cancelled', '{}', %s)"
    )
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        house.run(added, row["contact_id"], campaign_id)


async def test_a_key_is_good_for_one_call_only(house: House) -> None:
    number = campaign_account(house)
    body, key = opening(number, people(2)), str(uuid.uuid4())
    campaign_id = await open_campaign(house, body, key=key)
    other = await open_campaign(house, opening(number, people(1)))

    for changed in (body | {"recipients": people(2)}, body | {"name": "summer"}):
        check_refusal(await bulk(house, changed, key=key), 422, "idempotency_key_reused")
    append = {"country_id": "MX", "campaign_id": other, "recipients": body["recipients"]}
    check_refusal(await bulk(house, append, key=key), 422, "idempotency_key_reused")
    # A message of that key is another thing.
    await house.send(some_phone(), PLAIN, key=key, account=number.account_id)
    assert house.count("messages where campaign_id = %s", campaign_id) == 2
    assert house.count("messages where campaign_id = %s", other) == 1


async def test_a_csv_is_a_call_like_any_other(house: House) -> None:
    number = campaign_account(house)
    phones = [row["to"] for row in people(3)]
    rows = [f'{phones[0]},r1,Ana,"A,1"', "12,,Ana,A2", f'{phones[1]},,"José, ""Pepe""",A3', f"{phones[2]},,x,"]
    text = "\n".join(["to,ref,body.1,body.2", *rows])
    query = {"country_id": "MX", "account": number.account_id, "name": "csv", "template": "order_update"}
    answer = await bulk(house, text, query=query | {"language": "es-MX"})
    assert (answer.status_code, answer.json()["accepted"]) == (202, 2), answer.text
    assert refusals(answer) == [(2, "invalid_phone"), (4, "template_parameters")]
    await house.drain(number)
    arrived = {one.to: one.body["template"]["components"][0]["parameters"] for one in house.graph.arrived(number)}
    assert [text["text"] for text in arrived[phones[1]]] == ['José, "Pepe"', "A3"]

    check_refusal(await bulk(house, "phone\n1\n", query=query), 422, "invalid_csv")
    check_refusal(await bulk(house, "to\n1\n", query=query | {"valid_til": "x"}), 422, "unknown_field")


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"recipients": [{"to": "12"}] * 10_001}, 422, "too_many_recipients"),
        ({"recipients": []}, 422, "invalid_field"),
        ({"message": TEXT}, 422, "bulk_needs_template"),
        ({"template": None}, 422, "bulk_needs_template"),
        ({"template": {"name": "nobody", "language": "es_MX"}}, 409, "template_unknown"),
        ({"template": {"name": "paused", "language": "es_MX"}}, 409, "template_paused"),
        ({"template": {"name": "pending", "language": "es_MX"}}, 409, "template_not_approved"),
        ({"account": "nobody"}, 404, "no_such_account"),
        ({"name": "nul \0"}, 422, "invalid_field"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_call_that_cannot_be_carried_out_opens_nothing(
    house: House, change: Row, status: int, code: str
) -> None:
    before = house.count("campaigns")
    body = opening(house.graph.world.number("MX"), people(1))
    check_refusal(await bulk(house, body | change), status, code)
    assert house.count("campaigns") == before


async def test_a_campaign_belongs_to_its_country_and_its_operators(house: House) -> None:
    of_co = opening(house.graph.world.number("CO"), [{"to": some_phone("CO")}])
    opened = await bulk(house, of_co, user="CO")
    assert opened.status_code == 202, opened.text
    campaign_id = opened.json()["campaign_id"]

    append = {"campaign_id": campaign_id, "recipients": [{"to": some_phone("CO")}]}
    check_refusal(await bulk(house, of_co, user="MX"), 403, "not_a_member")
    check_refusal(await bulk(house, append | {"country_id": "CO"}, user="MX"), 403, "not_a_member")
    check_refusal(await bulk(house, append | {"country_id": "MX"}, user="MX"), 404, "unknown_campaign")
    for action in ("pause", "resume", "cancel"):
        check_refusal(await control(house, campaign_id, action, country_id="CO"), 403, "not_a_member")
        check_refusal(await control(house, campaign_id, action, country_id="MX"), 404, "unknown_campaign")
    for country_id in ("CO", "MX"):
        check_refusal(await look(house, campaign_id, country_id=country_id), 404, "unknown_campaign")
    assert (await look(house, campaign_id, user="CO", country_id="CO")).status_code == 200
    assert house.all("select state from whatsapp.campaigns where campaign_id = %s", campaign_id) != [
        {"state": "cancelled"}
    ]

    async with house.client() as client:
        headers = {"authorization": f"Bearer {house.users['MX'].token}", "accept-profile": "whatsapp"}
        for table in ("campaigns", "campaign_counts"):
            url = f"{house.stack.url}/rest/v1/{table}?select=country_id&country_id=eq.CO"
            seen = await client.get(url, headers=headers)
            assert (seen.status_code, seen.json()) == (200, [])


async def test_a_viewer_sees_and_does_nothing(house: House) -> None:
    number = campaign_account(house)
    campaign_id = await open_campaign(house, opening(number, people(1)))
    check_refusal(await bulk(house, opening(number, people(1)), user="viewer"), 403, "role_too_low")
    check_refusal(await control(house, campaign_id, "cancel", user="viewer"), 403, "role_too_low")
    assert (await look(house, campaign_id, user="viewer")).json()["states"] == {"queued": 1}


# ── Control ───────────────────────────────────────────────────────────────────────────────────────


async def test_pause_resume_and_cancel_take_effect(house: House) -> None:
    number = campaign_account(house, messages_per_second=50)
    campaign_id = await open_campaign(house, opening(number, people(150)))

    draining = asyncio.create_task(house.drain(number, 8))
    await until(lambda: len(house.graph.arrived(number)) >= 20)
    assert (await control(house, campaign_id, "pause")).json()["state"] == "paused"
    await until(lambda: house.count("queue where account_id = %s and lease_id is not null", number.account_id) == 0)
    arrived = len(house.graph.arrived(number))
    assert 20 <= arrived < 120
    await draining
    await house.drain(number, 1)
    assert len(house.graph.arrived(number)) == arrived
    check_counts(house, campaign_id)

    assert (await control(house, campaign_id, "resume")).json()["state"] == "running"
    await house.drain(number, 0.5)
    assert len(house.graph.arrived(number)) > arrived

    assert (await control(house, campaign_id, "cancel")).json()["state"] == "cancelled"
    arrived = len(house.graph.arrived(number))
    assert arrived < 150
    await house.drain(number, sweep=True)
    assert len(house.graph.arrived(number)) == arrived
    seen = await progress(house, campaign_id)
    assert seen["states"]["cancelled"] == 150 - arrived
    assert seen["total"] == 150
    check_counts(house, campaign_id)
    append = {"country_id": "MX", "campaign_id": campaign_id, "recipients": people(1)}
    check_refusal(await bulk(house, append), 409, "campaign_over")
    check_refusal(await control(house, campaign_id, "resume"), 409, "campaign_over")


async def test_a_completed_campaign_goes_on_with_new_recipients_even_if_somebody_paused_it(house: House) -> None:
    number = campaign_account(house)
    campaign_id = await open_campaign(house, opening(number, people(2)))
    await house.drain(number, sweep=True)
    await house.drain(number, sweep=True)
    assert (await control(house, campaign_id, "pause")).json()["state"] == "completed"

    append = {"country_id": "MX", "campaign_id": campaign_id, "recipients": people(1)}
    assert (await bulk(house, append)).json()["accepted"] == 1
    assert (await progress(house, campaign_id))["state"] == "running"
    await house.drain(number, sweep=True)
    assert len(house.graph.arrived(number)) == 3


async def test_cancelling_takes_nothing_back_whose_outcome_is_unknown(house: House) -> None:
    number = campaign_account(house)
    campaign_id = await open_campaign(house, opening(number, people(1)))
    house.graph.pause_webhooks()
    house.graph.lose_answers(1, number=number)
    assert (await house.drain(number)).unknown == 1
    await control(house, campaign_id, "cancel")
    await house.drain(number, sweep=True)
    assert (await progress(house, campaign_id))["states"] == {"unknown": 1}
    house.graph.pause_webhooks(False)
    await until(lambda: house.count("messages where campaign_id = %s and state = 'read'", campaign_id) == 1)
    check_counts(house, campaign_id)


async def test_send_at_starts_later(house: House) -> None:
    number = campaign_account(house)
    soon = datetime.now(UTC) + timedelta(seconds=3)
    campaign_id = await open_campaign(house, opening(number, people(3), send_at=soon.isoformat()))
    assert (await progress(house, campaign_id))["state"] == "scheduled"
    assert (await progress(house, campaign_id))["states"] == {"scheduled": 3}
    await house.drain(number, 0.3, sweep=True)
    assert house.graph.arrived(number) == []

    await until(lambda: datetime.now(UTC) > soon)
    await house.drain(number, sweep=True)
    arrived = house.graph.arrived(number)
    assert len(arrived) == 3
    assert min(arrival.wall for arrival in arrived) >= soon.timestamp()
    await house.drain(number, 1, sweep=True)
    assert (await progress(house, campaign_id))["state"] == "completed"


async def test_valid_until_ends_what_has_not_left(house: House) -> None:
    number = campaign_account(house)
    end = datetime.now(UTC) + timedelta(seconds=1)
    campaign_id = await open_campaign(house, opening(number, people(3), valid_until=end.isoformat()))
    await control(house, campaign_id, "pause")
    await until(lambda: datetime.now(UTC) > end)
    await house.drain(number, 1, sweep=True)
    seen = await progress(house, campaign_id)
    assert seen["states"] == {"expired": 3}
    assert seen["refused_by_code"] == {"message_expired": 3}
    assert house.graph.arrived(number) == []


# ── Meta's verdicts ───────────────────────────────────────────────────────────────────────────────


async def test_a_paused_template_pauses_its_campaigns_and_approval_resumes_them(house: House) -> None:
    number = campaign_account(house)
    running = await open_campaign(house, opening(number, people(3)))
    by_hand = await open_campaign(house, opening(number, people(3)))
    another = await open_campaign(house, opening(number, people(3, ["Ana", "A1"]), ORDER))
    await control(house, by_hand, "pause")

    house.graph.template_status(number, "plain", "es_MX", "PAUSED")
    await until_campaign(house, running, "paused")
    assert (await progress(house, running))["reason"] == "template_paused"
    assert (await progress(house, by_hand))["reason"] == "by_a_person"
    await house.drain(number, 1, sweep=True)
    assert {arrival.template for arrival in house.graph.arrived(number)} == {"order_update"}
    assert (await progress(house, another))["total"] == 3

    house.graph.template_status(number, "plain", "es_MX", "APPROVED")
    await until_campaign(house, running, "running")
    assert (await progress(house, by_hand))["state"] == "paused"
    await house.drain(number, 2, sweep=True)
    assert len(house.graph.arrived(number)) == 6
    assert (await progress(house, by_hand))["states"] == {"queued": 3}


async def test_a_template_paused_by_an_answer_loses_nobody(house: House) -> None:
    number = campaign_account(house)
    campaign_id = await open_campaign(house, opening(number, people(20)))
    house.graph.fail_next(1, code=132015, number=number)
    await house.drain(number, 2, sweep=True)
    seen = await progress(house, campaign_id)
    assert (seen["state"], seen["reason"]) == ("paused", "template_paused")
    assert seen["refused_by_code"] == seen["failed_by_code"] == {}
    check_counts(house, campaign_id)

    house.graph.template_status(number, "plain", "es_MX", "APPROVED")
    await until_campaign(house, campaign_id, "running")
    await house.drain(number, 2, sweep=True)
    assert sum(arrival.accepted for arrival in house.graph.arrived(number)) == 20
    assert house.graph.counts().double_sent == 0


async def test_too_many_failures_pause_a_campaign(house: House) -> None:
    number = campaign_account(house)
    campaign_id = await open_campaign(house, opening(number, people(260)))
    house.run(
        "update whatsapp.queue set run_at = now() + interval '1 hour' where message_id in"
        " (select message_id from whatsapp.queue where account_id = %s order by message_id desc limit 40)",
        number.account_id,
    )
    house.graph.fail_next(100, code=131009, number=number)
    await house.drain(number, 3, sweep=True)
    await house.drain(number, sweep=True)
    seen = await progress(house, campaign_id)
    assert (seen["state"], seen["reason"]) == ("paused", "too_many_failures")
    assert seen["failed_by_code"] == {"131009": 100}
    assert seen["states"]["queued"] == 40
    check_counts(house, campaign_id)

    house.run("update whatsapp.queue set run_at = now() where account_id = %s", number.account_id)
    await house.drain(number, 1)
    assert len(house.graph.arrived(number)) == 220
    await control(house, campaign_id, "resume")
    await house.drain(number, 2, sweep=True)
    assert len(house.graph.arrived(number)) == 260


# ── Progress ──────────────────────────────────────────────────────────────────────────────────────


async def test_progress_is_right_after_a_drainer_was_killed(house: House) -> None:
    number = campaign_account(house)
    campaign_id = await open_campaign(house, opening(number, people(30)))
    house.graph.slow(None, seconds=30, number=number)
    with house.drain_process(number, lease=2.5, margin=1) as process:
        await until(lambda: len(house.graph.arrived(number)) == 30)
        check_counts(house, campaign_id)
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait)
    house.graph.clear_faults()
    check_counts(house, campaign_id)
    await until(lambda: house.count("leases where account_id = %s and leased_until > now()", number.account_id) == 0)
    await house.drain(number, 1, sweep=True)
    check_counts(house, campaign_id)
    await until(lambda: house.count("messages where campaign_id = %s and state = 'read'", campaign_id) == 30)
    check_counts(house, campaign_id)
    assert (await progress(house, campaign_id))["charged_by_category"] == {"utility": 30}
    assert len(house.graph.arrived(number)) == 30


OUTCOMES = ("accepted", "rejected", "retry", "held", "released", "unknown")
STATES = ("sent", "delivered", "read", "failed")


@pytest.mark.parametrize("seed", range(3))
async def test_progress_is_right_whatever_the_verbs_do(house: House, seed: int) -> None:
    random, number = Random(seed), campaign_account(house, unknown_deadline="1 second")
    campaign_id = await open_campaign(house, opening(number, people(10)))
    leased: list[tuple[str, str]] = []

    def append() -> None:
        append_phones(house.database, campaign_id, [row["to"] for row in people(3)])

    def claim() -> None:
        account = f"MX/{number.account_id}"
        [row] = house.all("select whatsapp.claim(gen_random_uuid(), array[%s], 4) as claimed", account)
        for lease in row["claimed"]["leases"]:
            leased.extend((lease["lease_id"], message["message_id"]) for message in lease["messages"])

    def settle() -> None:
        results = []
        for lease_id, message_id in leased[:3]:
            verdict = {
                "wamid": f"wamid.{message_id}",
                "code": 131009,
                "title": "no",
                "wait_seconds": 0,
                "max_attempts": 2,
            }
            results.append({"country_id": "MX", "message_id": message_id, "lease_id": lease_id} | verdict)
        del leased[:3]
        items = [Jsonb(result | {"outcome": random.choice(OUTCOMES)}) for result in results]
        house.all("select whatsapp.settle(%s::jsonb[])", items)

    def status() -> None:
        [message] = house.all(
            "select message_id::text from whatsapp.messages where campaign_id = %s"
            " order by md5(message_id::text || %s) limit 1",
            campaign_id,
            str(random.random()),
        )
        state = random.choice(STATES)
        event: Row = {
            "key": str(uuid.uuid4()),
            "country_id": "MX",
            "account_id": number.account_id,
            "field": "messages",
        }
        event |= {"kind": "status", "at": time.time(), "payload": {}, "state": state, **message}
        event |= {"wamid": f"wamid.{message['message_id']}"}
        event |= {"error": {"code": 131053, "title": "no"}} if state == "failed" else {}
        event |= {"price": {"type": "regular", "category": "utility"}} if state == "delivered" else {}
        house.all("select whatsapp.ingest(%s::jsonb[])", [Jsonb(event)])

    def sweep() -> None:
        house.all("select whatsapp.sweep()")

    def pause_or_resume() -> None:
        action = random.choice(("pause", "resume", "resume"))
        house.all("select whatsapp.control_campaign('MX', %s, %s, null)", campaign_id, action)

    for _ in range(60):
        random.choice((append, claim, claim, settle, settle, status, sweep, pause_or_resume))()
        check_counts(house, campaign_id)
    house.all("select whatsapp.control_campaign('MX', %s, 'cancel', null)", campaign_id)
    sweep()
    check_counts(house, campaign_id)
    total = house.count("messages where campaign_id = %s", campaign_id)
    assert (await progress(house, campaign_id))["total"] == total > 10


# ── Fairness ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_reply_does_not_wait_behind_a_campaign(house: House) -> None:
    number, phone = campaign_account(house, messages_per_second=100), some_phone()
    campaign_id = await open_campaign(house, opening(number, people(1)))
    for first in range(10_000_000, 10_020_000, 1000):
        append_phones(house.database, campaign_id, [f"+5255{n}" for n in range(first, first + 1000)])
    assert house.count("queue where account_id = %s", number.account_id) >= 20_000
    await house.open_window(number, phone)

    draining = asyncio.create_task(house.drain(number, 6))
    await until(lambda: len(house.graph.arrived(number)) >= 50)
    message_id = await house.send(phone, TEXT, account=number.account_id)
    await until(lambda: house.arrivals(message_id) == 1)
    assert house.count("queue where account_id = %s", number.account_id) > 19_000
    await control(house, campaign_id, "cancel")
    await draining
    house.all("select whatsapp.sweep(p_limit => 20000)")


async def test_two_campaigns_of_a_number_share_it(house: House) -> None:
    number = campaign_account(house, messages_per_second=200)
    await open_campaign(house, opening(number, people(500)))
    await open_campaign(house, opening(number, people(500, ["Ana", "A1"]), ORDER))
    await house.drain(number, 1.5)
    templates = [arrival.template for arrival in house.graph.arrived(number)]
    one, other = templates.count("plain"), templates.count("order_update")
    assert 100 < one + other < 900
    assert abs(one - other) <= 0.2 * (one + other)


# ── Quiet hours ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("zone", "start", "end", "at", "until_at"),
    [
        ("America/Mexico_City", "22:00", "08:00", "2026-12-24T03:59:59Z", None),
        ("America/Mexico_City", "22:00", "08:00", "2026-12-24T04:00:00Z", "2026-12-24T14:00:00Z"),
        ("America/Mexico_City", "22:00", "08:00", "2026-12-24T13:59:59Z", "2026-12-24T14:00:00Z"),
        ("America/Mexico_City", "22:00", "08:00", "2026-12-24T14:00:00Z", None),
        ("America/Mexico_City", "13:00", "15:00", "2026-12-24T18:59:59Z", None),
        ("America/Mexico_City", "13:00", "15:00", "2026-12-24T19:00:00Z", "2026-12-24T21:00:00Z"),
        ("America/Mexico_City", "13:00", "15:00", "2026-12-24T21:00:00Z", None),
        ("America/Mexico_City", "00:00", "00:00", "2026-12-24T21:00:00Z", None),
        ("America/Mexico_City", None, None, "2026-12-24T21:00:00Z", None),
        # The night the clocks go forward is nine hours long, the one they go back eleven.
        ("America/New_York", "22:00", "08:00", "2026-03-08T03:00:00Z", "2026-03-08T12:00:00Z"),
        ("America/New_York", "22:00", "08:00", "2026-03-08T07:30:00Z", "2026-03-08T12:00:00Z"),
        ("America/New_York", "22:00", "08:00", "2026-11-01T02:00:00Z", "2026-11-01T13:00:00Z"),
        ("America/New_York", "22:00", "08:00", "2026-11-01T06:30:00Z", "2026-11-01T13:00:00Z"),
    ],
)
async def test_the_end_of_quiet_hours(
    house: House, zone: str, start: str | None, end: str | None, at: str, until_at: str | None
) -> None:
    query = "select whatsapp_internal.quiet_end(%s, %s::time, %s::time, %s::timestamptz) as ends"
    [row] = house.all(query, zone, start, end, at)
    assert row["ends"] == (datetime.fromisoformat(until_at) if until_at else None)


async def test_quiet_hours_hold_marketing_until_their_end_and_nothing_else(house: House) -> None:
    number, now = campaign_account(house), datetime.now(UTC)
    end = (now + timedelta(hours=1)).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    house.run(
        "update whatsapp.accounts set time_zone = 'UTC', quiet_from = %s, quiet_until = %s where account_id = %s",
        (now - timedelta(hours=1)).time(),
        end.time(),
        number.account_id,
    )
    [offer] = house.enqueue(number, [some_phone()], OFFER)
    [utility] = house.enqueue(number, [some_phone()], PLAIN)
    spring = {"header.image": "https://shop.example/a.jpg", "body.1": "Ana"}
    campaign_id = await open_campaign(house, opening(number, people(2, spring), SPRING))

    await house.drain(number, 1, sweep=True)
    assert [arrival.callback_data for arrival in house.graph.arrived(number)] == [utility]
    [single] = house.all("select run_at from whatsapp.queue where message_id = %s", offer)
    assert single["run_at"] == end
    assert house.state(offer) == "queued"
    seen = await progress(house, campaign_id)
    assert (seen["state"], seen["held"]["reason"]) == ("running", "quiet_hours")
    assert datetime.fromisoformat(seen["held"]["until"]) == end

    # The hour has come.
    house.run("update whatsapp.accounts set quiet_until = %s where account_id = %s", now.time(), number.account_id)
    house.run("update whatsapp.queue set run_at = now() where account_id = %s", number.account_id)
    await house.drain(number, 2, sweep=True)
    assert len(house.graph.arrived(number)) == 4
    assert (await progress(house, campaign_id))["held"] is None


# ── Meta's messaging limit ────────────────────────────────────────────────────────────────────────


async def test_what_exceeds_the_messaging_limit_waits_and_is_shown(house: House) -> None:
    number = campaign_account(house, messaging_limit=5)
    campaign_id = await open_campaign(house, opening(number, people(12)))
    await house.drain(number, 1, sweep=True)

    assert len({arrival.to for arrival in house.graph.arrived(number)}) == 5
    seen = await progress(house, campaign_id)
    assert seen["states"]["queued"] == 7
    assert (seen["state"], seen["held"]["reason"]) == ("running", "messaging_limit")
    wait = datetime.fromisoformat(seen["held"]["until"]) - datetime.now(UTC)
    assert timedelta(hours=23, minutes=58) < wait <= timedelta(hours=24, minutes=1)
    untouched = house.count("queue where account_id = %s and run_at <= now() and not blocked", number.account_id)
    assert untouched == 7

    # Meta raises the limit, and says so.
    house.graph.account_webhook(
        number, "business_capability_update", {"max_daily_conversations_per_business": "TIER_250"}
    )
    await until(lambda: house.count("accounts where account_id = %s and messaging_limit = 250", number.account_id))
    await house.drain(number, 1, sweep=True)
    assert len({arrival.to for arrival in house.graph.arrived(number)}) == 12
    check_counts(house, campaign_id)


async def test_a_reply_passes_the_messaging_limit(house: House) -> None:
    number = campaign_account(house, messaging_limit=1)
    writer = some_phone()
    await house.open_window(number, writer)
    await open_campaign(house, opening(number, people(3)))
    [reply] = house.enqueue(number, [writer], TEXT)
    await house.drain(number, 1)

    assert house.arrivals(reply) == 1
    assert len(house.graph.arrived(number)) == 2


# ── Drafts and long polls ─────────────────────────────────────────────────────────────────────────


async def test_a_campaign_that_takes_nobody_is_completed(house: House) -> None:
    number = campaign_account(house)
    answer = await bulk(house, opening(number, [{"to": "nobody"}]))
    campaign_id = answer.json()["campaign_id"]
    await house.drain(number, sweep=True)
    assert (await progress(house, campaign_id))["state"] == "running"

    house.run(
        "update whatsapp.campaigns set created_at = now() - interval '61 seconds' where campaign_id = %s", campaign_id
    )
    await house.drain(number, sweep=True)
    assert (await progress(house, campaign_id))["state"] == "completed"


async def test_a_draft_waits_for_its_start(house: House) -> None:
    number = campaign_account(house)
    campaign_id = await open_campaign(house, opening(number, people(2), draft=True))
    await bulk(house, {"country_id": "MX", "campaign_id": campaign_id, "recipients": people(1)})
    await control(house, campaign_id, "resume")
    await house.drain(number, 0.5, sweep=True)
    seen = await progress(house, campaign_id)
    assert (seen["state"], seen["states"]) == ("draft", {"queued": 3})
    assert house.graph.arrived(number) == []

    assert (await control(house, campaign_id, "start")).json()["state"] == "running"
    await house.drain(number, 1)
    assert len(house.graph.arrived(number)) == 3


async def test_whoever_resumes_with_a_paused_template_is_told(house: House) -> None:
    number = campaign_account(house)
    campaign_id = await open_campaign(house, opening(number, people(2)))
    await control(house, campaign_id, "pause")
    house.graph.template_status(number, "plain", "es_MX", "PAUSED")
    await until(lambda: house.count("templates where account_id = %s and status = 'PAUSED'", number.account_id))

    resumed = (await control(house, campaign_id, "resume")).json()
    assert (resumed["state"], resumed["reason"]) == ("paused", "template_paused")

    house.graph.template_status(number, "plain", "es_MX", "APPROVED")
    await until_campaign(house, campaign_id, "running")


async def long_poll(house: House, campaign_id: str, **query: str) -> Row:
    headers = {"authorization": f"Bearer {house.users['MX'].token}"}
    async with house.client() as client:
        query = {"country_id": "MX", "campaign_id": campaign_id, "wait": "10"} | query
        answer = await client.get("/status-poll", params=query, headers=headers)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_progress_can_be_waited_for(house: House) -> None:
    number = campaign_account(house)
    campaign_id = await open_campaign(house, opening(number, people(2)))
    before = await progress(house, campaign_id)
    assert (await progress(house, campaign_id))["version"] == before["version"]

    waiting = asyncio.create_task(long_poll(house, campaign_id))
    await asyncio.wait([waiting], timeout=1)
    assert not waiting.done()
    await control(house, campaign_id, "pause")
    paused = await asyncio.wait_for(waiting, 5)
    assert (paused["state"], paused["by"]) == ("paused", house.users["MX"].user_id)

    started = time.monotonic()
    assert (await long_poll(house, campaign_id, version=before["version"]))["state"] == "paused"
    assert time.monotonic() - started < 5


async def test_a_time_zone_nobody_knows_is_refused(house: House) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="time zone"):
        house.account(time_zone="Mexico/Nowhere")
