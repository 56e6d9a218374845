"""`make say COUNTRY=MX TEXT=hola`: somebody writes to the number of a running `make dev`, by a signed webhook.

ACCOUNT (default "main") and FROM (default +525512345678) may be given as well.
"""

import hashlib
import hmac
import os
import sys
import time
import uuid

import httpx
import orjson

from services.whatsapp.directory import Account
from tests.local.running import Running


def main() -> None:
    """Say it, and what was answered; ends with 1 if it was not taken."""
    country_id = (os.environ.get("COUNTRY") or "MX").upper()
    account_id = os.environ.get("ACCOUNT") or "main"
    text, sender = os.environ.get("TEXT") or "hola", os.environ.get("FROM") or "+525512345678"
    running = Running.read()
    if running is None:
        sys.exit("No stack is running here: start one with `make dev`, and say it again in another terminal.")
    account = running.directory().account(country_id, account_id)
    if account is None:
        known = ", ".join(f"{each.country_id}/{each.account_id}" for each in running.directory())
        sys.exit(f"{country_id}/{account_id} is not known here; known: {known}")
    answer = say(running, account, sender, text)
    print(f"{sender} to {country_id}/{account_id}: {text}\nthe webhook answered {answer.status_code}")
    sys.exit(0 if answer.is_success else 1)


def say(running: Running, account: Account, sender: str, text: str) -> httpx.Response:
    """One inbound text message from `sender` (E.164) to the account's number."""
    digits = sender.lstrip("+")
    message = {
        "from": digits,
        "id": f"wamid.{uuid.uuid4().hex}",
        "timestamp": str(int(time.time())),
        "type": "text",
        "text": {"body": text},
    }
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": account.phone or "", "phone_number_id": account.phone_number_id},
        "contacts": [{"profile": {"name": "Somebody"}, "wa_id": digits}],
        "messages": [message],
    }
    change = {"field": "messages", "value": value}
    body = orjson.dumps(
        {"object": "whatsapp_business_account", "entry": [{"id": account.waba_id, "changes": [change]}]}
    )
    signature = hmac.new(running.app_secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {"content-type": "application/json", "x-hub-signature-256": f"sha256={signature}"}
    return httpx.post(f"{running.url}/functions/v1/webhook", content=body, headers=headers, trust_env=False)


if __name__ == "__main__":
    main()
