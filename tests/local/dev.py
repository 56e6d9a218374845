"""`make dev`: the local stack with our functions, left running. With credentials in `.env` it talks to Meta.

Without credentials the Graph stand-in of tests/graph takes Meta's place, and says so.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import psycopg
from dotenv import dotenv_values

from services.whatsapp.directory import read_accounts
from tests.graph.process import graph_process
from tests.graph.world import World
from tests.local.stack import Stack, mint_jwt, running_stack, sign_up

DATA = Path(".local/dev")
EMAIL, PASSWORD = "operator@example.com", "a-password-for-development"
PORTS = {"gateway": 54321, "postgres": 54322, "lite": 54323}
_TICK = 5.0


def main() -> None:
    """Run until interrupted."""
    environment = _credentials()
    accounts, _ = read_accounts(environment)
    with contextlib.ExitStack() as cleanup:
        if accounts:
            print("Credentials found: messages go to Meta.")
            env: Mapping[str, str] = environment
        else:
            print("No credentials in .env: a stand-in for Meta (tests/graph) takes its place.")
            graph = cleanup.enter_context(graph_process(World.random(("MX", "CO"))))
            env = graph.env()
        stack = cleanup.enter_context(running_stack(DATA, functions_env=env, durable=True, ports=PORTS))
        if not accounts:
            graph.callback(f"{stack.url}/functions/v1/webhook")
        user_id = _make_operator(stack)
        cleanup.enter_context(_clock(stack))
        _sync(stack)
        _introduce(stack, user_id, ("hello_world", "en_US") if accounts else ("plain", "es_MX"))
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


def _credentials() -> dict[str, str]:
    """What the environment and `.env` say of WhatsApp and Meta. Which Supabase to use is not theirs to say here."""
    given = {**dotenv_values(".env"), **os.environ}
    return {name: value for name, value in given.items() if value and name.startswith(("WHATSAPP_", "META_"))}


def _make_operator(stack: Stack) -> str:
    user_id, _ = sign_up(stack, EMAIL, PASSWORD)
    with psycopg.connect(stack.database_url, autocommit=True) as database:
        database.execute(
            "insert into whatsapp.members values ('MX', %s, 'operator') on conflict do nothing",
            (user_id,),
        )
    return user_id


@contextlib.contextmanager
def _clock(stack: Stack) -> Iterator[None]:
    """Cron's part: call queue-drain every few seconds."""
    stopped = threading.Event()

    def tick() -> None:
        headers = {"apikey": stack.secret_key}
        with httpx.Client(base_url=stack.url, headers=headers, timeout=70, trust_env=False) as client:
            while not stopped.wait(_TICK):
                with contextlib.suppress(httpx.HTTPError):
                    client.post("/functions/v1/queue-drain", json={"budget_seconds": _TICK})

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()


def _sync(stack: Stack) -> None:
    for _ in range(20):
        url, headers = f"{stack.url}/functions/v1/templates-sync", {"apikey": stack.secret_key}
        answer = httpx.post(url, headers=headers, timeout=60, trust_env=False)
        if answer.is_success:
            return
        time.sleep(0.5)


def _introduce(stack: Stack, user_id: str, template: tuple[str, str]) -> None:
    name, language = template
    token = mint_jwt(stack, user_id, EMAIL, lifetime=12 * 3600)
    print(f"""
  URL              {stack.url}
  publishable key  {stack.publishable_key}
  secret key       {stack.secret_key}
  database         {stack.database_url}
  sign in          {EMAIL} / {PASSWORD}   (operator of MX)

A template message from Mexico, as that operator:

  curl -s {stack.url}/functions/v1/send \\
    -H 'apikey: {stack.publishable_key}' -H 'Authorization: Bearer {token}' \\
    -H "Idempotency-Key: $(date +%s)" -H 'Content-Type: application/json' \\
    -d '{{"country_id": "MX", "to": "+525512345678", "message": {{"type": "template",
         "template": {{"name": "{name}", "language": {{"code": "{language}"}}}}}}}}'

Ctrl-C stops everything.""")


if __name__ == "__main__":
    main()
