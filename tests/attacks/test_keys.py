"""A key that one function was given breaks no call of another, nor of a colleague."""

import uuid
from typing import Any

import httpx

from tests.proofs.house import PLAIN, House, check_refusal, some_phone

SIMPLE = {"name": "plain", "language": "es_MX"}


async def call(house: House, path: str, key: str, body: dict[str, Any]) -> httpx.Response:
    headers = {"authorization": f"Bearer {house.users['MX'].token}", "idempotency-key": key}
    async with house.client() as client:
        return await client.post(path, json={"country_id": "MX"} | body, headers=headers)


async def test_functions_do_not_share_keys(house: House) -> None:
    number, key = house.account(), str(uuid.uuid4())
    house.run(
        "update whatsapp.templates set contract = '{\"parameters\": []}' where account_id = %s and name = 'plain'",
        number.account_id,
    )
    bulk = {"account": number.account_id, "name": "spring", "template": SIMPLE, "recipients": [{"to": some_phone()}]}
    facts = {"consents": [{"to": some_phone(), "action": "opt_in", "how": "form"}]}
    # What a chunk of a bulk call is known by, given as keys of their own.
    for taken in (key, f"{key}#0", f"{key}#0#0"):
        await house.send(some_phone(), PLAIN, key=taken, account=number.account_id)

    for taken in (f"{key}#0", key):
        opened = await call(house, "/bulk-enqueue", taken, bulk)
        assert (opened.status_code, opened.json().get("accepted")) == (202, 1), opened.text
        recorded = await call(house, "/consents", taken, facts)
        assert (recorded.status_code, recorded.json().get("recorded")) == (200, 1), recorded.text
        # Each is known again by its own key.
        assert (await call(house, "/bulk-enqueue", taken, bulk)).json() == opened.json()
        assert (await call(house, "/consents", taken, facts)).json() == recorded.json()
        check_refusal(await call(house, "/consents", taken, {"consents": []}), 422, "invalid_field")
        other = facts | {"consents": [*facts["consents"], {"to": some_phone(), "action": "opt_in", "how": "form"}]}
        check_refusal(await call(house, "/consents", taken, other), 422, "idempotency_key_reused")
    house.run("delete from whatsapp.queue where account_id = %s", number.account_id)
