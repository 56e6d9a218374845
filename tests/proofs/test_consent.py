"""A person who does not want to hear from us does not, from the moment they said so, however they said it."""

import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from tests.graph.world import Number
from tests.proofs.house import OFFER, PLAIN, TEXT, House, Row, check_refusal, some_phone, until
from tests.proofs.test_campaigns import SPRING, bulk, campaign_account, open_campaign, opening, progress, refusals
from tests.proofs.test_webhook import body_of, deliver, written

BYE = "Listo, no le escribiremos más. Para volver, responda ALTA."
SPRING_PARAMETERS = {"header.image": "https://shop.example/a.jpg", "body.1": "Ana"}


@pytest.fixture(autouse=True)
def stop_words(whole_house: House) -> Iterator[None]:
    words = [("baja", "opt_out", BYE), ("No enviar", "opt_out", None), ("alta", "opt_in", None)]
    for word, action, reply in words:
        whole_house.run(
            "insert into whatsapp.stop_words (country_id, word, action, reply) values ('MX', %s, %s, %s)",
            *(word, action, reply),
        )
    yield
    whole_house.run("delete from whatsapp.stop_words where word = any (%s)", [word for word, *_ in words])


async def consents(
    house: House, body: Row | str, *, user: str = "MX", key: str | None = None, query: Row | None = None
) -> httpx.Response:
    headers = {"authorization": f"Bearer {house.users[user].token}", "idempotency-key": key or str(uuid.uuid4())}
    async with house.client() as client:
        if isinstance(body, str):
            headers["content-type"] = "text/csv"
            return await client.post("/consents", content=body, params=query, headers=headers)
        return await client.post("/consents", json=body, headers=headers)


def call(*rows: Row, country_id: str = "MX") -> Row:
    return {"country_id": country_id, "consents": list(rows)}


def fact(to: object, action: str = "opt_out", **more: object) -> Row:
    return {"to": to, "action": action, "how": "web form"} | more


def recipient(phone: str) -> Row:
    return {"to": phone, "parameters": SPRING_PARAMETERS}


def opted_out(house: House, phone: str) -> bool:
    return house.count("contacts where match_key = %s and opted_out_at is not null", phone[1:]) == 1


def texts(house: House, number: Number, phone: str) -> list[str]:
    """The free-form texts that reached the person, in order."""
    arrived = [one for one in house.graph.arrived(number) if one.to == phone and one.type == "text"]
    return [one.body["text"]["body"] for one in arrived]


# ── Stop words ────────────────────────────────────────────────────────────────────────────────────


async def test_a_stop_word_stops_everything_is_answered_once_and_only_an_opt_in_lifts_it(house: House) -> None:
    number, phone, other = campaign_account(house), some_phone(), some_phone()
    house.graph.windows()
    await house.open_window(number, phone)
    campaign_id = await open_campaign(house, opening(number, [recipient(phone), recipient(other)], SPRING))
    [reply] = house.enqueue(number, [phone], TEXT)

    wamid = house.graph.customer_writes(number, phone[1:], "¡Baja!")
    await until(lambda: opted_out(house, phone))
    again = written(number, phone, wamid, text={"body": "¡Baja!"})
    for _ in range(3):
        assert (await deliver(house, body_of((number, again)))).status_code == 200
    await house.drain(number, sweep=True)

    # One confirmation, and neither the campaign nor the reply that waited before it.
    assert texts(house, number, phone) == [BYE]
    assert {one.to for one in house.graph.arrived(number) if one.type == "template"} == {other}
    assert (house.state(reply), house.message(reply)["refusal"]) == ("refused", "opted_out")
    assert (await progress(house, campaign_id))["refused_by_code"] == {"opted_out": 1}

    # A second and a third BAJA are recorded and not answered.
    for text in ("BAJA", "baja."):
        house.graph.customer_writes(number, phone[1:], text)
    said = "consents k join whatsapp.contacts c using (country_id, contact_id) where c.match_key = %s"
    await until(lambda: house.count(said, phone[1:]) == 3)
    await house.drain(number, sweep=True)
    assert texts(house, number, phone) == [BYE]

    answer = await bulk(house, opening(number, [recipient(phone)], SPRING))
    assert refusals(answer) == [(1, "opted_out")]
    for message in (OFFER, PLAIN, TEXT):
        check_refusal(await house.post(phone, message, account=number.account_id), 409, "opted_out")

    old = fact(phone, "opt_in", at=(datetime.now(UTC) - timedelta(days=1)).isoformat())
    assert (await consents(house, call(old))).json() == {"recorded": 1, "refused": []}
    assert opted_out(house, phone)
    assert (await consents(house, call(fact(phone, "opt_in", proof="Sí, quiero ofertas")))).json()["recorded"] == 1
    lifted = await open_campaign(house, opening(number, [recipient(phone)], SPRING))
    await house.drain(number, sweep=True)
    assert [one.template for one in house.graph.arrived(number) if one.to == phone][-1] == "spring_offer"
    await until(lambda: house.count("messages where campaign_id = %s and state = 'read'", lifted) == 1)


async def test_the_button_under_an_offer_is_a_stop_word_too(house: House) -> None:
    number, phone = campaign_account(house), some_phone()
    [offer] = house.enqueue(number, [phone], OFFER)
    await house.drain(number)
    await house.until_state(offer, "read")
    button = {"text": "No enviar", "payload": "No enviar"}
    house.graph.customer_sends(number, phone[1:], {"type": "button", "button": button})
    await until(lambda: opted_out(house, phone))
    await house.drain(number)
    assert len(house.graph.arrived(number)) == 1  # no answer is configured for this one


async def test_a_word_may_bring_a_person_back(house: House) -> None:
    number, phone = campaign_account(house), some_phone()
    now = int(time.time())
    for word, at in (("baja", now - 10), ("ALTA", now - 5)):
        message = written(number, phone, f"wamid.{word}{phone[1:]}", text={"body": word}, timestamp=str(at))
        assert (await deliver(house, body_of((number, message)))).status_code == 200
    await open_campaign(house, opening(number, [recipient(phone)], SPRING))


# ── The function ──────────────────────────────────────────────────────────────────────────────────────


async def test_an_opt_out_between_enqueue_and_claim_counts(house: House) -> None:
    number = campaign_account(house)
    phones = [some_phone() for _ in range(4)]
    campaign_id = await open_campaign(house, opening(number, map(recipient, phones), SPRING))
    csv = (
        f"to,action,scope,at,how,proof\n{phones[0]},opt_out,,,store,\n{phones[1]},opt_out,marketing,,store,\n12,,,,,\n"
    )
    answer = await consents(house, csv, query={"country_id": "MX"})
    assert (answer.status_code, answer.json()["recorded"]) == (200, 2)
    assert refusals(answer) == [(3, "missing_field")]

    await house.drain(number, sweep=True)
    assert {one.to for one in house.graph.arrived(number)} == set(phones[2:])
    assert (await progress(house, campaign_id))["refused_by_code"] == {"opted_out": 2}


async def test_good_rows_are_recorded_and_bad_rows_come_back_with_their_number(house: House) -> None:
    phone = some_phone()
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    rows = [
        fact(phone, "opt_in", scope="marketing", at="2026-01-02T03:04:05-06:00", proof="Sí, «quiero»\nofertas"),
        fact("12"),
        fact(phone, at=tomorrow),
        fact({"contact_id": str(uuid.uuid4())}),
        fact(phone, "opt_in", how="store"),
    ]
    answer = await consents(house, call(*rows))
    assert (answer.status_code, answer.json()["recorded"]) == (200, 2), answer.text
    assert refusals(answer) == [(2, "invalid_phone"), (3, "consent_in_future"), (4, "unknown_contact")]
    assert all(set(row) == {"row", "code", "field", "message", "reason"} for row in answer.json()["refused"])
    kept = house.all(
        "select k.what, k.scope, k.at, k.how, k.proof, k.recorded_by from whatsapp.consents k"
        " join whatsapp.contacts c using (country_id, contact_id) where c.phone = %s order by consent_id",
        phone,
    )
    user = uuid.UUID(house.users["MX"].user_id)
    said = datetime(2026, 1, 2, 9, 4, 5, tzinfo=UTC)
    first = {"what": "opt_in", "scope": "marketing", "at": said, "how": "web form", "recorded_by": user}
    assert kept[0] == first | {"proof": "Sí, «quiero»\nofertas"}
    assert (kept[1]["scope"], kept[1]["how"], kept[1]["proof"]) == ("all", "store", None)
    assert kept[1]["at"] > said


async def test_ten_thousand_rows_go_in_one_call_and_a_repeated_call_adds_nothing(house: House) -> None:
    phones = {some_phone() for _ in range(10_100)}
    rows = [fact(phone, "opt_in", how="bulk") for phone in sorted(phones)[:9_999]] + [fact("12")]
    recorded = "consents where how = 'bulk'"
    for _ in range(2):
        answer = await consents(house, call(*rows), key="ten thousand")
        assert (answer.status_code, answer.json()["recorded"]) == (200, 9_999), answer.text
        assert refusals(answer) == [(10_000, "invalid_phone")]
        assert house.count(recorded) == 9_999
    check_refusal(await consents(house, call(*rows[:5]), key="ten thousand"), 422, "idempotency_key_reused")
    assert house.count(recorded) == 9_999


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"consents": [fact("+525512345678")]}, 422, "missing_field"),
        ({"country_id": "MX"}, 422, "invalid_field"),
        ({"country_id": "MX", "consents": []}, 422, "invalid_field"),
        ({"country_id": "MX", "consents": {"to": "+525512345678"}}, 422, "invalid_field"),
        ({"country_id": "MX", "consents": [fact("12")] * 10_001}, 422, "too_many_recipients"),
        ({"country_id": "MX", "consents": [fact("12")], "account": "main"}, 422, "unknown_field"),
        ({"country_id": "CO", "consents": [fact("12")]}, 403, "not_a_member"),
        ("phone,action\n1,opt_in\n", 422, "invalid_csv"),
        ("to,action,how\n1,opt_in\n", 422, "invalid_csv"),
    ],
    ids=lambda value: str(value)[:50],
)
async def test_a_call_that_cannot_be_carried_out_records_nothing(
    house: House, body: Row | str, status: int, code: str
) -> None:
    before = house.count("consents")
    check_refusal(await consents(house, body, query={"country_id": "MX"}), status, code)
    assert house.count("consents") == before


async def test_a_key_is_required(house: House) -> None:
    async with house.client() as client:
        headers = {"authorization": f"Bearer {house.users['MX'].token}"}
        answer = await client.post("/consents", json=call(fact(some_phone())), headers=headers)
    check_refusal(answer, 400, "idempotency_key_missing")


async def test_who_may_record_and_who_may_read(house: House) -> None:
    phone = some_phone()
    check_refusal(await consents(house, call(fact(phone)), user="viewer"), 403, "role_too_low")
    check_refusal(await consents(house, call(fact(phone)), user="CO"), 403, "not_a_member")
    check_refusal(await consents(house, call(fact(phone)), user="nobody"), 403, "not_a_member")
    async with house.client() as client:
        anonymous = await client.post("/consents", json=call(fact(phone)), headers={"idempotency-key": "k"})
        check_refusal(anonymous, 401, "missing_credentials")
        headers = {"apikey": house.stack.secret_key, "idempotency-key": str(uuid.uuid4())}
        nowhere = await client.post("/consents", json=call(fact(phone), country_id="XX"), headers=headers)
        check_refusal(nowhere, 404, "unknown_country")
        server = await client.post("/consents", json=call(fact(phone, how="of a server")), headers=headers)
        assert server.json() == {"recorded": 1, "refused": []}

        url = f"{house.stack.url}/rest/v1/consents?select=how,recorded_by&how=eq.of a server"
        for user, seen in (("viewer", [{"how": "of a server", "recorded_by": None}]), ("CO", []), ("nobody", [])):
            headers = {"authorization": f"Bearer {house.users[user].token}", "accept-profile": "whatsapp"}
            assert (await client.get(url, headers=headers)).json() == seen
