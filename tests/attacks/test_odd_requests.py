"""Whatever is sent: a clear refusal or a true answer, never a 500 and never nothing without a word."""

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.proofs.house import ERROR_FIELDS, PLAIN, House, Row, some_phone

WRITERS = {
    "send": ("POST", "/send"),
    "bulk-enqueue": ("POST", "/bulk-enqueue"),
    "control": ("PATCH", "/bulk-enqueue"),
    "consents": ("POST", "/consents"),
    "templates-sync": ("POST", "/templates-sync"),
    "accounts": ("PATCH", "/accounts"),
}
SOMEBODY = str(uuid.UUID(int=7))
GOOD: dict[str, Row] = {
    "send": {"country_id": "MX", "to": "+525512345678", "message": PLAIN},
    "bulk-enqueue": {
        "country_id": "MX",
        "name": "odd",
        "template": {"name": "plain", "language": "es_MX"},
        "recipients": [{"to": "+525512345678"}],
    },
    "control": {"country_id": "MX", "campaign_id": SOMEBODY, "action": "pause"},
    "consents": {"country_id": "MX", "consents": [{"to": "+525512345678", "action": "opt_in", "how": "form"}]},
    "templates-sync": {"country_id": "MX"},
    "accounts": {"country_id": "MX", "account": "nobody", "action": "pause"},
}
DEEP = b"[" * 300 + b"]" * 300
VALUES: dict[str, bytes] = {
    "NUL": b'"M\\u0000X"',
    "digits of another script": '"١٢٣"'.encode(),
    "half a character": b'"\\ud83d"',
    "no UTF-8": b'"\xff"',
    "300 levels": DEEP,
    "a huge number": b"1e400",
    "a long number": b"9" * 400,
    "a number that is none": b"NaN",
    "nothing": b"null",
    "true": b"true",
    "an object": b'{"a": 1}',
    "a list": b"[]",
    "an empty text": b'""',
    "a long text": b'"' + b"x" * 3_000 + b'"',
    "a UUID in braces": f'"{{{SOMEBODY}}}"'.encode(),
    "a UUID as URN": f'"urn:uuid:{SOMEBODY}"'.encode(),
    "a right-to-left mark": '"\u202e+525512345678"'.encode(),
}
BODIES: dict[str, bytes] = {
    "empty": b"",
    "blank": b"  \n",
    "300 levels": b'{"country_id":' + DEEP + b"}",
    "two objects": b"{}{}",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"country_id": "MX"}'.encode("utf-16"),
    "a form": b"country_id=MX&to=1",
    "NUL": b"\x00",
    "a key of NUL": b'{"\\u0000": 1}',
    "a list": b"[]",
}


@pytest.fixture
def silent(house: House) -> Iterator[Row]:
    """An account from which nothing leaves, for what may be accepted."""
    account_id = house.account().account_id
    house.run(
        "update whatsapp.templates set contract = '{\"parameters\": []}' where account_id = %s and name = 'plain'",
        account_id,
    )
    yield {"account": account_id}
    house.run("delete from whatsapp.queue where account_id = %s", account_id)


def with_value(body: Row, name: str, value: bytes) -> bytes:
    """The body with this field of any value at all."""
    return json.dumps(body | {name: "HERE"}).encode().replace(b'"HERE"', value, 1)


def headers(house: House, **more: str) -> dict[str, str]:
    return {"authorization": f"Bearer {house.users['MX'].token}", "idempotency-key": str(uuid.uuid4())} | more


@pytest.mark.parametrize("function", WRITERS)
async def test_every_field_may_hold_anything(house: House, silent: Row, function: str) -> None:
    method, path = WRITERS[function]
    good = GOOD[function] | (silent if "account" not in GOOD[function] and function in ("send", "bulk-enqueue") else {})
    wrong = []
    async with house.client() as client:
        for name in {*good, "send_at", "expires_at", "ref", "valid_until", "draft", "account", "campaign_id"}:
            for odd, value in VALUES.items():
                # It means the default account, whose messages leave.
                if (name, odd) == ("account", "nothing"):
                    continue
                body = with_value(good, name, value)
                answer = await client.request(method, path, content=body, headers=headers(house))
                if not is_clear(answer.status_code, answer.content):
                    wrong.append((name, odd, answer.status_code, answer.text))
    assert wrong == []


@pytest.mark.parametrize("function", ["bulk-enqueue", "consents"])
async def test_every_field_of_a_row_may_hold_anything(house: House, silent: Row, function: str) -> None:
    rows = "recipients" if function == "bulk-enqueue" else "consents"
    [good] = GOOD[function][rows]
    whole = GOOD[function] | (silent if function == "bulk-enqueue" else {}) | {rows: ["HERE"]}
    wrong = []
    async with house.client() as client:
        for name in (*good, "parameters", "ref", "scope", "at", "proof"):
            for odd, value in VALUES.items():
                row = with_value(good, name, value)
                body = json.dumps(whole).encode().replace(b'"HERE"', row)
                answer = await client.post(WRITERS[function][1], content=body, headers=headers(house))
                if not is_clear(answer.status_code, answer.content):
                    wrong.append((name, odd, answer.status_code, answer.text))
    assert wrong == []


@pytest.mark.parametrize("function", WRITERS)
async def test_every_body_may_be_anything(house: House, function: str) -> None:
    method, path = WRITERS[function]
    wrong = []
    async with house.client() as client:
        for odd, body in BODIES.items():
            for content_type in ("application/json", "text/csv", "", "multipart/form-data", "text/csv; charset=x"):
                more = headers(house, **{"content-type": content_type})
                answer = await client.request(method, path, content=body, headers=more)
                # Of templates-sync an empty body is none, and the user is told that a country is missing.
                if not 400 <= answer.status_code < 500 or answer.json().keys() != ERROR_FIELDS:
                    wrong.append((odd, content_type, answer.status_code, answer.text))
    assert wrong == []


ADDRESSES = [
    "/send%00",
    "/%2e%2e/send",
    "/send?country_id=%00",
    "/status-poll",
    "/status-poll?message_id=",
    "/status-poll?message_id=%00",
    "/status-poll?message_id=me",
    f"/status-poll?message_id={'١' * 32}",
    "/status-poll?message_id=" + ",".join([SOMEBODY] * 101),
    f"/status-poll?message_id={SOMEBODY}&state=queued&state=sent",
    f"/status-poll?message_id={SOMEBODY}&wait=1e9999",
    f"/status-poll?message_id={SOMEBODY}&wait=1_0",
    f"/status-poll?message_id={SOMEBODY}&wait=%D9%A1",
    f"/status-poll?message_id={SOMEBODY}&wait=nan",
    f"/status-poll?message_id={SOMEBODY}&wait=-1",
    "/status-poll?country_id=",
    "/status-poll?country_id=%00",
    "/status-poll?country_id=mx",
    "/status-poll?country_id=MX%00",
    "/status-poll?country_id=MX&after=%00",
    "/status-poll?country_id=MX&after=first",
    "/status-poll?country_id=MX&limit=%D9%A1",
    "/status-poll?country_id=MX&limit=many",
    "/status-poll?country_id=MX&wait=1",
    "/status-poll?country_id=MX&campaign_id=%00",
    f"/status-poll?country_id=%00&campaign_id={SOMEBODY}",
    f"/status-poll?country_id=MX&campaign_id={SOMEBODY}",
    f"/status-poll?country_id=MX&campaign_id=urn:uuid:{SOMEBODY}",
    "/status-poll?%00=1",
]


@pytest.mark.parametrize("address", ADDRESSES)
async def test_every_address_may_be_asked_for(house: House, address: str) -> None:
    async with house.client() as client:
        answer = await client.get(address, headers=headers(house))
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json().keys() == ERROR_FIELDS


Spell = Callable[[str], str]
SPELLINGS: dict[str, Spell] = {
    "upper case": str.upper,
    "in braces": lambda text: f"{{{text}}}",
    "as URN": lambda text: f"urn:uuid:{text}",
    "without hyphens": lambda text: text.replace("-", ""),
}


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
async def test_an_id_is_found_however_it_is_spelled(house: House, spell: Spell) -> None:
    number = house.account()
    first, second = [await house.send(some_phone(), PLAIN, account=number.account_id) for _ in range(2)]
    async with house.client() as client:
        query: Row = {"message_id": [spell(first), first, spell(second)], "state": ["queued"] * 3}
        found = await client.get("/status-poll", params=query, headers=headers(house))
        query = {"country_id": "MX", "after": spell(first)}
        page = await client.get("/status-poll", params=query, headers=headers(house))
    house.run("delete from whatsapp.queue where account_id = %s", number.account_id)
    assert [each["message_id"] for each in found.json()["messages"]] == [first, second]
    assert second in [each["message_id"] for each in page.json()["messages"]]
    assert page.json()["cursor"] == str(uuid.UUID(page.json()["cursor"]))


@dataclass(frozen=True)
class Odd:
    """Headers that differ from good ones."""

    headers: dict[str, str | bytes] = field(default_factory=dict)


HEADERS = {
    "a token of other letters": Odd({"authorization": "Bearer ñandú".encode()}),
    "a token of NUL parts": Odd({"authorization": "Bearer AA.AA.AA"}),
    "a token that is long": Odd({"authorization": "Bearer " + "x" * 20_000}),
    "two words": Odd({"authorization": "Bearer a b"}),
    "a key of other letters": Odd({"idempotency-key": "clé".encode()}),
    "a key of other digits": Odd({"idempotency-key": "١٢٣".encode()}),
    "an API key of other letters": Odd({"apikey": "ключ".encode(), "authorization": ""}),
}


@pytest.mark.parametrize("odd", HEADERS.values(), ids=HEADERS)
async def test_every_header_may_be_anything(house: House, odd: Odd) -> None:
    sent: dict[str, Any] = headers(house) | odd.headers
    async with house.client() as client:
        answer = await client.post("/send", json=GOOD["send"], headers=sent)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json().keys() == ERROR_FIELDS


async def test_of_a_field_named_twice_the_last_one_holds(house: House) -> None:
    body = json.dumps(GOOD["send"]).encode().replace(b'"country_id": "MX"', b'"country_id": "MX", "country_id": "CO"')
    async with house.client() as client:
        answer = await client.post("/send", content=body, headers=headers(house))
    assert (answer.status_code, answer.json()["code"]) == (403, "not_a_member")


def is_clear(status: int, content: bytes) -> bool:
    """A refusal in our shape; or an answer that says what became of it."""
    body = json.loads(content)
    if 400 <= status < 500:
        return bool(body.keys() == ERROR_FIELDS)
    return status in (200, 202) and bool(body)
