"""Meta's webhook: who may call it, where each event lands, and that nothing strange brings it down."""

import json
import time
from typing import Any

import httpx
import pytest
from psycopg.types.json import Jsonb

from services.whatsapp.meta.signature import sign
from tests.graph.world import Number, random_id
from tests.proofs.house import PLAIN, House, both_ways, check_refusal, some_phone, until

Json = dict[str, Any]
SNAPSHOT = (
    "messages",
    "message_events",
    "contacts",
    "conversations",
    "queue",
    "webhook_events",
    "parked_statuses",
    "templates",
)
LIMIT = 4 * 1024 * 1024
UNKNOWN_NUMBER_ID, UNKNOWN_WABA_ID = random_id(15), random_id(16)


def written(number: Number, phone: str, wamid: str, **changes: object) -> Json:
    """One change: a person's text to a number."""
    message: Json = {
        "from": phone[1:],
        "id": wamid,
        "timestamp": str(int(time.time())),
        "type": "text",
        "text": {"body": "hola"},
    }
    return change(number, {"contacts": [{"wa_id": phone[1:]}], "messages": [message | changes]})


def change(number: Number, value: Json) -> Json:
    metadata = {"display_phone_number": number.display_phone_number, "phone_number_id": number.phone_number_id}
    return {"field": "messages", "value": {"messaging_product": "whatsapp", "metadata": metadata} | value}


def body_of(*changes: tuple[Number, Json]) -> bytes:
    entries = [{"id": number.waba_id, "changes": [one]} for number, one in changes]
    return json.dumps({"object": "whatsapp_business_account", "entry": entries}).encode()


async def deliver(house: House, body: bytes, *, url: str | None = None, **headers: str) -> httpx.Response:
    """A POST as Meta makes it; `signature` overrides the header, empty leaves it out."""
    signature = headers.get("signature", sign(house.graph.world.app_secret, body))
    async with house.client(url) as client:
        given = {b"content-type": b"application/json"}
        if signature:
            given[b"x-hub-signature-256"] = signature.encode("latin-1")
        return await client.post("/webhook", content=body, headers=given)


def everything(house: House) -> dict[str, list[Json]]:
    return {table: house.all(f"select t::text from whatsapp.{table} t order by 1") for table in SNAPSHOT}


@both_ways
async def test_a_batch_of_two_countries_lands_each_in_its_own_and_ten_times_is_once(house: House) -> None:
    world = house.graph.world
    mexico, colombia = world.number("MX"), world.number("CO")
    one, other = some_phone("MX"), some_phone("CO")
    wamids = [f"wamid.{one[1:]}", f"wamid.{other[1:]}"]
    body = body_of((mexico, written(mexico, one, wamids[0])), (colombia, written(colombia, other, wamids[1])))

    assert (await deliver(house, body)).status_code == 200

    found = house.all("select country_id, wamid from whatsapp.messages where wamid = any (%s)", wamids)
    assert {row["wamid"]: row["country_id"] for row in found} == dict(zip(wamids, ("MX", "CO"), strict=True))
    people = house.all("select country_id, wa_id from whatsapp.contacts where wa_id = any (%s)", [one[1:], other[1:]])
    assert {row["wa_id"]: row["country_id"] for row in people} == {one[1:]: "MX", other[1:]: "CO"}

    before = everything(house)
    for _ in range(9):
        assert (await deliver(house, body)).status_code == 200
    assert everything(house) == before


@both_ways
async def test_one_person_who_writes_to_two_countries_is_two_contacts(house: House) -> None:
    world, phone = house.graph.world, some_phone("MX")
    changes = [
        (number, written(number, phone, f"wamid.{number.country_id}{phone[1:]}"))
        for number in (world.number("MX"), world.number("CO"))
    ]

    await deliver(house, body_of(*changes))

    people = house.all("select country_id from whatsapp.contacts where wa_id = %s order by 1", phone[1:])
    assert [row["country_id"] for row in people] == ["CO", "MX"]


@both_ways
async def test_a_status_by_another_countrys_number_moves_nothing(house: House) -> None:
    number, colombia = house.account(), house.graph.world.number("CO")
    [message_id] = house.enqueue(number, [some_phone()])
    status = {"id": "wamid.stray", "status": "read", "timestamp": "1760000000", "biz_opaque_callback_data": message_id}

    answer = await deliver(house, body_of((colombia, change(colombia, {"statuses": [status]}))))

    assert answer.status_code == 200
    assert house.state(message_id) == "queued"


@both_ways
async def test_statuses_that_overtake_the_answer_are_not_lost(house: House) -> None:
    number = house.account()
    house.graph.slow(seconds=0.5, number=number)
    [message_id] = house.enqueue(number, [some_phone()])

    await house.drain(number)

    row = house.message(message_id)
    assert row["state"] == "read"
    assert row["accepted_at"] is not None
    assert house.count("message_story where message_id = %s and event = 'message_read'", message_id) == 1
    told = Jsonb([{"biz_opaque_callback_data": message_id, "status": "read"}])
    assert house.count("webhook_events where payload @> %s and received_at < %s", told, row["accepted_at"]) == 1


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("where", [0.0, 0.3, 0.6, 0.999])
@pytest.mark.parametrize("part", ["body", "signature"])
async def test_one_flipped_bit_and_nothing_is_taken(house: House, part: str, where: float) -> None:
    number, phone = house.graph.world.number("MX"), some_phone()
    body = body_of((number, written(number, phone, f"wamid.{phone[1:]}")))
    signature = sign(house.graph.world.app_secret, body)
    sent, header = body, signature.encode()
    if part == "body":
        sent = flipped(body, int(where * len(body)))
    else:
        header = flipped(header, int(where * len(header)))
    before = everything(house)

    answer = await deliver(house, sent, signature=header.decode("latin-1"))

    check_refusal(answer, 401, "signature_invalid")
    assert everything(house) == before


@pytest.mark.parametrize("signature", ["", "sha256=", "sha1=00", "sha256=é"])
async def test_without_a_signature_nothing_is_taken(house: House, signature: str) -> None:
    number = house.graph.world.number("MX")
    before = everything(house)

    answer = await deliver(house, body_of((number, written(number, some_phone(), "wamid.no"))), signature=signature)

    assert answer.status_code == 401
    assert everything(house) == before


async def test_without_an_app_secret_it_fails_closed(house: House) -> None:
    body = body_of()
    async with house.functions(WHATSAPP_APP_SECRET="") as url:
        for signature in (sign("", body), sign(house.graph.world.app_secret, body), ""):
            check_refusal(await deliver(house, body, url=url, signature=signature), 503, "webhook_not_configured")


async def test_both_app_secrets_count_while_they_are_rotated(house: House) -> None:
    number, old = house.graph.world.number("MX"), house.graph.world.app_secret
    body = body_of((number, written(number, some_phone(), "wamid.rotated")))
    async with house.functions(WHATSAPP_APP_SECRET=f"the-new-secret,{old}") as url:
        for secret, status in (("the-new-secret", 200), (old, 200), ("another", 401)):
            assert (await deliver(house, body, url=url, signature=sign(secret, body))).status_code == status


async def test_a_body_beyond_what_meta_sends_is_refused(house: House) -> None:
    check_refusal(await deliver(house, b" " * (LIMIT + 1)), 413, "body_too_large")
    assert (await deliver(house, b"[]".ljust(LIMIT))).status_code == 200


async def test_the_handshake_of_meta(house: House) -> None:
    assert house.graph.verify()
    wrong = {"hub.mode": "subscribe", "hub.challenge": "1", "hub.verify_token": "guessed"}
    async with house.client() as client:
        check_refusal(await client.get("/webhook", params=wrong), 403, "verify_token_mismatch")


def unknown_number() -> bytes:
    number = Number("MX", "nowhere", UNKNOWN_NUMBER_ID, "525500000000", UNKNOWN_WABA_ID, [])
    return body_of((number, written(number, some_phone(), "wamid.nowhere")))


STRANGE = {
    "nothing": (b"", "unparsable"),
    "no JSON": (b"Bonjour", "unparsable"),
    "bytes": (bytes(range(256)), "unparsable"),
    "half a body": (b'{"object":"whatsapp_business_account","entry":[', "unparsable"),
    "an array": (b'["one"]', "unparsable"),
    "null": (b"null", "unparsable"),
    "another object": (b'{"object":"page","entry":[]}', "unparsable"),
    "entries of numbers": (b'{"object":"whatsapp_business_account","entry":[1,null]}', "unparsable"),
    "changes of text": (b'{"object":"whatsapp_business_account","entry":[{"id":"1","changes":["a"]}]}', "unparsable"),
    "an abyss": (b'{"object":"whatsapp_business_account","entry":' + b"[" * 3000 + b"]" * 3000 + b"}", "unparsable"),
    "NUL": (b'{"object":"\\u0000\\ud800"}', "unparsable"),
    "an unknown number": (unknown_number(), "unroutable"),
}


@both_ways
@pytest.mark.parametrize(("body", "outcome"), STRANGE.values(), ids=STRANGE)
async def test_whatever_is_in_it_is_stored_and_answered_200(house: House, body: bytes, outcome: str) -> None:
    stored = "webhook_events where country_id = 'ZZ' and outcome = %s"
    before = house.count(stored, outcome)

    answer = await deliver(house, body)

    assert answer.status_code == 200
    assert house.count(stored, outcome) > before


ROTTEN: dict[str, Json] = {
    "a message without id": {"id": None},
    "a time of another world": {"timestamp": "9" * 30},
    "a sender that is a list": {"from": ["52"], "from_user_id": {}},
    "a NUL in the text": {"text": {"body": "a\0b"}},
    "half a character": {"text": {"body": "\ud83d"}},
    "a type nobody knows": {"type": "hologram", "hologram": {"x": 1}},
    "an endless id": {"id": "wamid." + "x" * 5000},
    "an enormous number": {"text": {"body": 10**40}},
}


@both_ways
@pytest.mark.parametrize("rotten", ROTTEN.values(), ids=ROTTEN)
async def test_a_rotten_message_does_not_cost_its_neighbour(house: House, rotten: Json) -> None:
    number, phone = house.graph.world.number("MX"), some_phone()
    wamid = f"wamid.{phone[1:]}"
    bad = written(number, some_phone(), "wamid.bad" + phone[1:], **rotten)
    before = house.count("webhook_events")

    answer = await deliver(house, body_of((number, bad), (number, written(number, phone, wamid))))

    assert answer.status_code == 200
    assert house.count("messages where wamid = %s and country_id = 'MX'", wamid) == 1
    assert house.count("webhook_events") >= before + 2  # what was said of an unreadable one's sender is another


@both_ways
async def test_no_id_of_meta_is_stored(house: House) -> None:
    number, phone = house.graph.world.number("MX"), some_phone()
    await house.open_window(number, phone)
    message_id = await house.send(phone, PLAIN)
    await house.until_state(message_id, "read")
    await deliver(house, unknown_number())
    house.graph.template_status(number, "plain", "es_MX", "APPROVED")
    await until(lambda: house.count("webhook_events where field = 'message_template_status_update'"))

    whole = str(everything(house))

    for secret in (number.phone_number_id, number.waba_id, number.tokens[0], UNKNOWN_NUMBER_ID, UNKNOWN_WABA_ID):
        assert secret not in whole


@both_ways
async def test_what_stands_beside_a_message_is_stored_with_it(house: House) -> None:
    number, phone = house.graph.world.number("CO"), some_phone("CO")
    one = written(number, phone, f"wamid.{phone[1:]}")
    lost = {"id": f"wamid.lost{phone[1:]}", "type": "text", "text": {"body": phone}}
    one["value"] |= {"message_echoes": [lost], "statuses": {"0": lost}}

    assert (await deliver(house, body_of((number, one)))).status_code == 200

    beside = house.all(
        "select country_id, account_id, field, payload from whatsapp.webhook_events where payload::text like %s",
        f"%lost{phone[1:]}%",
    )
    assert [(row["country_id"], row["account_id"], row["field"]) for row in beside] == [("CO", "main", "messages")]
    assert beside[0]["payload"] == {"message_echoes": [lost], "statuses": {"0": lost}}
    assert house.count("messages where wamid = %s", f"wamid.{phone[1:]}") == 1


@both_ways
async def test_the_largest_body_meta_sends_is_stored_whole(house: House) -> None:
    number, phone = house.graph.world.number("MX"), some_phone()
    told = [{"id": f"wamid.{phone[1:]}.{n}", "text": {"body": "x" * 1_000}} for n in range(3_000)]
    history = change(number, {"history": [{"threads": [{"id": phone[1:], "messages": told}]}]}) | {"field": "history"}

    assert (await deliver(house, body_of((number, history)))).status_code == 200

    [row] = house.all(
        "select payload #> '{history,0,threads,0,messages}' as told from whatsapp.webhook_events"
        " where field = 'history' and payload #>> '{history,0,threads,0,id}' = %s",
        phone[1:],
    )
    assert row["told"] == told
