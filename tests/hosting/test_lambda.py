"""The handler for AWS Lambda, as it stands in docs/hosting/lambda.md, with the events that a function URL makes."""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import sys
import uuid
from typing import Any

import pytest

from tests.local.stack import ROOT, clean_environment
from tests.proofs.house import PLAIN, House, some_phone, until

RECIPE = (ROOT / "docs" / "hosting" / "lambda.md").read_text(encoding="utf-8")
[HANDLER] = re.findall(r"```python\n(.*?)```", RECIPE, re.DOTALL)
WORKER = (
    HANDLER
    + """
import json, sys
for line in sys.stdin:
    print(json.dumps(handler(json.loads(line), None)), flush=True)
"""
)


def event(method: str, path: str, headers: dict[str, str], body: bytes = b"", query: str = "") -> dict[str, Any]:
    """An event in the format 2.0 of HTTP APIs and function URLs, whose body comes in base64."""
    http = {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": "test"}
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers,
        "requestContext": {"http": http, "domainName": "abc.lambda-url.sa-east-1.on.aws", "stage": "$default"},
        "body": base64.b64encode(body).decode(),
        "isBase64Encoded": True,
    }


async def call(house: House, *events: dict[str, Any]) -> list[dict[str, Any]]:
    """The answers of one instance, which gets the events one after the other."""
    environment = clean_environment() | house.stack.env() | house.graph.env() | {"WHATSAPP_KICK": "false"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        WORKER,
        cwd=ROOT,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    lines = "".join(json.dumps(each) + "\n" for each in events).encode()
    out, _ = await asyncio.wait_for(process.communicate(lines), 60)
    return [json.loads(line) for line in out.splitlines() if line.startswith(b'{"statusCode"')]


async def test_a_signed_webhook_arrives_byte_for_byte_and_is_stored(house: House) -> None:
    number, wamid = house.graph.world.number("MX"), f"wamid.{uuid.uuid4().hex}"
    message = {
        "from": some_phone()[1:],
        "id": wamid,
        "timestamp": "1790000000",
        "type": "text",
        "text": {"body": "ñ \\u00f1"},
    }
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "1", "phone_number_id": number.phone_number_id},
        "messages": [message],
    }
    change = {"field": "messages", "value": value}
    body = json.dumps(
        {"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [change]}]}, ensure_ascii=False
    ).encode()
    secret = house.graph.env()["WHATSAPP_APP_SECRET"]
    signature = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {"content-type": "application/json", "x-hub-signature-256": signature}

    good, flipped = await call(
        house,
        event("POST", "/functions/v1/webhook", headers, body),
        event("POST", "/functions/v1/webhook", headers, body.replace(b"text", b"texx")),
    )

    assert (good["statusCode"], flipped["statusCode"]) == (200, 401)
    assert house.count("messages where wamid = %s", wamid) == 1


@pytest.mark.parametrize("path", ["/send", "/functions/v1/send"])
async def test_a_send_is_answered_at_once_and_cron_drains(house: House, path: str) -> None:
    house.graph.latency(300)
    headers = {
        "apikey": house.stack.publishable_key,
        "authorization": f"Bearer {house.users['MX'].token}",
        "content-type": "application/json",
    }
    calls = [
        event(
            "POST",
            path,
            headers | {"idempotency-key": str(uuid.uuid4())},
            json.dumps({"country_id": "MX", "to": some_phone(), "message": PLAIN}).encode(),
        )
        for _ in range(2)
    ]
    answers = await call(house, *calls)
    assert [each["statusCode"] for each in answers] == [202, 202], answers
    ids = [json.loads(each["body"])["message_id"] for each in answers]
    assert [house.arrivals(one) for one in ids] == [0, 0]

    async with house.client() as client:
        drained = await client.post(
            "/queue-drain", headers={"apikey": house.stack.secret_key}, json={"budget_seconds": 3}
        )
    assert drained.status_code == 200
    await until(lambda: [house.arrivals(one) for one in ids] == [1, 1])
