"""Every way in which `send` says no: with a reason, in one shape, readable by a browser, and without a trace."""

import base64
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import pytest

from tests.proofs.house import PLAIN, TEXT, House, check_refusal, some_phone

PHONE = some_phone()
BODY: dict[str, Any] = {"country_id": "MX", "to": PHONE, "message": PLAIN}
Fill = Callable[[House], str]


def template(name: str) -> dict[str, Any]:
    body = [{"type": "body", "parameters": [{"type": "text", "text": "Ana"}]}]
    return {"type": "template", "template": {"name": name, "language": {"code": "es_MX"}, "components": body}}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in BODY.items() if key != name}


def nowhere(house: House) -> str:
    """A token somebody signed with a key of their own."""
    claims = jwt.decode(house.users["MX"].token, options={"verify_signature": False})
    return jwt.encode(claims, "a secret of their own, long enough for HS256", algorithm="HS256")


def unsigned(house: House) -> str:
    _, claims, _ = house.users["MX"].token.split(".")
    header = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    return f"{header}.{claims}."


def user(name: str) -> Fill:
    return lambda house: house.users[name].token


def publishable(house: House) -> str:
    return house.stack.publishable_key


operator = user("MX")


@dataclass(frozen=True)
class Case:
    """A request that differs from a good one in one thing. Without `body` it is a good one."""

    status: int
    code: str
    body: Any = None
    field: str | None = None
    bearer: Fill | None = operator
    apikey: Fill = publishable
    key: str | None = "fresh"
    method: str = "POST"


PAST = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
CASES = {
    "malformed JSON": Case(400, "malformed_json", b'{"country_id": "MX",'),
    "no body": Case(400, "malformed_json", b""),
    "not an object": Case(400, "body_not_object", b"[]"),
    "country of another type": Case(422, "invalid_field", BODY | {"country_id": 5}, "country_id"),
    "country in lower case": Case(422, "invalid_field", BODY | {"country_id": "mx"}, "country_id"),
    "account of another type": Case(422, "invalid_field", BODY | {"account": ["main"]}, "account"),
    "recipient of another type": Case(422, "invalid_recipient", BODY | {"to": 525512345678}, "to"),
    "message of another type": Case(422, "invalid_message", BODY | {"message": "hola"}, "message"),
    "send_at of another type": Case(422, "invalid_send_at", BODY | {"send_at": 1}, "send_at"),
    "send_at without offset": Case(422, "invalid_send_at", BODY | {"send_at": "2027-01-01T09:00:00"}, "send_at"),
    "unknown field": Case(422, "unknown_field", BODY | {"acount": "main"}, "acount"),
    "no country": Case(422, "missing_field", without("country_id"), "country_id"),
    "no recipient": Case(422, "missing_field", without("to"), "to"),
    "no message": Case(422, "missing_field", without("message"), "message"),
    "bad phone": Case(422, "invalid_phone", BODY | {"to": "+52 55 1234"}, "to"),
    "bad user id": Case(422, "invalid_bsuid", BODY | {"to": {"bsuid": "?"}}, "to.bsuid"),
    "unknown contact": Case(
        404, "unknown_contact", BODY | {"to": {"contact_id": str(uuid.UUID(int=1))}}, "to.contact_id"
    ),
    "unknown message type": Case(422, "message_type_unknown", BODY | {"message": {"type": "fax", "fax": {}}}),
    "unknown country": Case(
        404, "unknown_country", BODY | {"country_id": "AQ"}, "country_id", None, lambda house: house.stack.secret_key
    ),
    "another country": Case(403, "not_a_member", BODY | {"country_id": "CO"}, "country_id"),
    "no such account": Case(404, "no_such_account", BODY | {"account": "nobody"}, "account"),
    "stopped account": Case(409, "account_stopped", BODY | {"account": "halted"}, "account"),
    "disabled account": Case(409, "account_disabled", BODY | {"account": "closed"}, "account"),
    "closed window": Case(409, "window_closed", BODY | {"message": TEXT}, "to"),
    "unknown template": Case(409, "template_unknown", BODY | {"message": template("nothing")}, "message.template"),
    "paused template": Case(409, "template_paused", BODY | {"message": template("paused")}, "message.template"),
    "pending template": Case(409, "template_not_approved", BODY | {"message": template("pending")}, "message.template"),
    "disabled template": Case(
        409, "template_not_approved", BODY | {"message": template("disabled")}, "message.template"
    ),
    "expired already": Case(409, "message_expired", BODY | {"expires_at": PAST}, "expires_at"),
    "no key": Case(400, "idempotency_key_missing", key=None),
    "key too long": Case(400, "idempotency_key_invalid", key="k" * 256),
    "oversized body": Case(413, "body_too_large", BODY | {"ref": "x" * 1024 * 1024}),
    "no token": Case(401, "missing_credentials", bearer=None),
    "publishable key as token": Case(401, "missing_credentials", bearer=publishable),
    "no key at all": Case(401, "missing_credentials", bearer=None, apikey=lambda house: ""),
    "wrong secret key": Case(401, "invalid_api_key", bearer=None, apikey=lambda house: "sb_secret_guessed"),
    "secret key as token": Case(401, "missing_credentials", bearer=lambda house: house.stack.secret_key),
    "forged token": Case(401, "invalid_token", bearer=nowhere),
    "unsigned token": Case(401, "unsupported_token", bearer=unsigned),
    "no token at all but words": Case(401, "invalid_token", bearer=lambda house: "let-me-in"),
    "expired token": Case(401, "token_expired", bearer=lambda house: house.token("MX", lifetime=-120)),
    "anonymous user": Case(401, "unsupported_token", bearer=lambda house: house.token("MX", is_anonymous=True)),
    "service role as user": Case(401, "unsupported_token", bearer=lambda house: house.token("MX", role="service_role")),
    "viewer": Case(403, "role_too_low", bearer=user("viewer")),
    "member of nothing": Case(403, "not_a_member", bearer=user("nobody")),
    "wrong method": Case(405, "method_not_allowed", method="PUT"),
}


@pytest.fixture(scope="module", autouse=True)
def accounts_that_do_not_send(whole_house: House) -> None:
    for account, state in (("halted", "stopped"), ("closed", "disabled")):
        whole_house.run(
            "insert into whatsapp.accounts (country_id, account_id, state) values ('MX', %s, %s)", account, state
        )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_send_refuses(house: House, case: Case) -> None:
    before = house.count("messages")
    headers = {"apikey": case.apikey(house)}
    if case.bearer is not None:
        headers["authorization"] = f"Bearer {case.bearer(house)}"
    if case.key is not None:
        headers["idempotency-key"] = str(uuid.uuid4()) if case.key == "fresh" else case.key
    content = case.body if isinstance(case.body, bytes) else json.dumps(case.body or BODY).encode()

    async with house.client() as client:
        answer = await client.request(case.method, "/send", content=content, headers=headers)

    body = check_refusal(answer, case.status, case.code)
    check_cors(answer)
    assert answer.headers["x-supabase-server-error"] == case.code
    assert body["message"]
    assert body["hint"]
    if case.field is not None:
        assert case.field in f"{body['details']} {body['message']}"
    assert house.count("messages") == before
    assert house.graph.counts().arrived == 0


async def test_a_preflight_needs_no_credentials(house: House) -> None:
    async with house.client() as client:
        answer = await client.options("/send", headers={"apikey": "", "origin": "https://shop.example"})

    assert answer.status_code in (200, 204)
    check_cors(answer)
    for name in ("authorization", "apikey", "content-type", "x-client-info", "idempotency-key"):
        assert name in answer.headers["access-control-allow-headers"]


async def test_an_accepted_message_can_be_read_by_a_browser(house: House) -> None:
    answer = await house.post(some_phone(), PLAIN)

    assert answer.status_code == 202
    check_cors(answer)


async def test_a_person_who_opted_out_is_left_alone(house: House) -> None:
    phone = some_phone()
    await house.open_window(house.graph.world.number("MX"), phone)
    house.run("update whatsapp.contacts set opted_out_at = now() where wa_id = %s", phone[1:])

    check_refusal(await house.post(phone, PLAIN), 409, "opted_out")


async def test_without_credentials_a_message_waits_and_says_why_and_leaves_when_they_are_there(house: House) -> None:
    number, phone = house.account(), some_phone()

    answer = await house.post(phone, PLAIN, account=number.account_id)

    assert answer.status_code == 202
    assert answer.json()["waiting"]["code"] == "account_without_credentials"
    message_id = answer.json()["message_id"]
    async with house.client() as client:
        headers = {"authorization": f"Bearer {house.users['MX'].token}"}
        polled = await client.get("/status-poll", params={"message_id": message_id}, headers=headers)
        drained = await client.post("/queue-drain", headers={"apikey": house.stack.secret_key})
    [seen] = polled.json()["messages"]
    assert (seen["status"], seen["waiting"]["code"]) == ("queued", "account_without_credentials")
    assert drained.status_code == 200
    assert house.state(message_id) == "queued"

    await house.drain(number)

    assert [one.callback_data for one in house.graph.arrived(number)] == [message_id]


def check_cors(answer: httpx.Response) -> None:
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "authorization" in answer.headers["access-control-allow-headers"]
    assert "POST" in answer.headers["access-control-allow-methods"]
