"""`make dev`: the local stack with our functions, left running. With credentials in `.env` it talks to Meta.

Without credentials the Graph stand-in of tests/graph takes Meta's place, and says so.
"""

import contextlib
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import httpx
import psycopg
from dotenv import dotenv_values

from services.whatsapp.directory import Account, read_accounts
from tests.graph.client import Graph
from tests.graph.process import graph_process
from tests.graph.world import World
from tests.local import processes
from tests.local.running import DATA, Running
from tests.local.stack import Stack, mint_jwt, running_stack, sign_up

EMAIL, PASSWORD = "operator@example.com", "a-password-for-development"
USUAL = {"gateway": 54321, "postgres": 54322, "lite": 54323}
"""Ports as the Supabase CLI uses them; where one is taken, another is found."""
_TICK = 5.0


def main() -> None:
    """Run until interrupted, or told to end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Where a shell starts it in the background, both would be ignored or end it without cleaning up.
        signal.signal(number, signal.default_int_handler)
    environment = _credentials()
    accounts, problems = read_accounts(environment)
    for problem in problems:
        print(f"! {problem}")
    with contextlib.ExitStack() as cleanup:
        graph: Graph | None = None
        if accounts:
            print("Credentials found: messages go to Meta.")
            env: Mapping[str, str] = {"WHATSAPP_APP_SECRET": secrets.token_hex(16)} | environment
        else:
            print("No credentials in .env: a stand-in for Meta (tests/graph) takes its place.")
            graph = cleanup.enter_context(graph_process(World.random(("MX", "CO"))))
            env = graph.env()
            accounts, _ = read_accounts(env)
        stack = cleanup.enter_context(
            running_stack(DATA, functions_env=env, durable=True, ports=_free_ports(), reload=True)
        )
        if graph is not None:
            graph.callback(f"{stack.url}/functions/v1/webhook")
        user_id = _make_operator(stack, accounts)
        running = Running(stack.url, dict(env)).write()
        cleanup.callback(running.unlink, missing_ok=True)
        cleanup.enter_context(_clock(stack))
        _sync(stack)
        template = _some_template(stack, accounts[0])
        _introduce(stack, user_id, accounts, template)
        cleanup.enter_context(_shown(stack.data_dir / "functions.log"))
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


def _credentials() -> dict[str, str]:
    """What the environment and `.env` say of WhatsApp and Meta. Which Supabase to use is not theirs to say here."""
    given = {**dotenv_values(".env"), **os.environ}
    return {name: value for name, value in given.items() if value and name.startswith(("WHATSAPP_", "META_"))}


def _free_ports() -> dict[str, int]:
    taken = {name for name, port in USUAL.items() if not processes.is_free(port)}
    for name in sorted(taken):
        print(f"Port {USUAL[name]} ({name}) is taken: another is used.")
    return {name: processes.free_port() if name in taken else port for name, port in USUAL.items()}


def _make_operator(stack: Stack, accounts: Sequence[Account]) -> str:
    """Every account of the environment gets a row, and the user becomes operator of every country."""
    user_id, _ = sign_up(stack, EMAIL, PASSWORD)
    with psycopg.connect(stack.database_url, autocommit=True) as database:
        for account in accounts:
            database.execute(
                "insert into whatsapp.accounts (country_id, account_id, is_default)"
                " select %(country)s, %(account)s, not exists ("
                " select from whatsapp.accounts where country_id = %(country)s and is_default) on conflict do nothing",
                {"country": account.country_id, "account": account.account_id},
            )
            database.execute(
                "insert into whatsapp.members values (%s, %s, 'operator') on conflict do nothing",
                (account.country_id, user_id),
            )
    return user_id


def _some_template(stack: Stack, account: Account) -> tuple[str, str]:
    """An approved template without parameters, if there is one."""
    with psycopg.connect(stack.database_url) as database:
        found = database.execute(
            "select name, language from whatsapp.templates"
            " where country_id = %s and account_id = %s and status = 'APPROVED'"
            " order by name not in ('hello_world', 'plain'), name limit 1",
            (account.country_id, account.account_id),
        ).fetchone()
    return found or ("hello_world", "en_US")


@contextlib.contextmanager
def _beside(work: Callable[[], None], stopped: threading.Event) -> Iterator[None]:
    """Within, `work` runs in a thread; then it is told to stop."""
    threading.Thread(target=work, daemon=True).start()
    try:
        yield
    finally:
        stopped.set()


@contextlib.contextmanager
def _shown(log: Path) -> Iterator[None]:
    """What the functions log from now on is seen in this terminal."""
    stopped = threading.Event()

    def follow() -> None:
        with log.open(encoding="utf-8", errors="replace") as lines:
            lines.seek(0, os.SEEK_END)
            while not stopped.wait(0.2):
                for line in lines:
                    print(line, end="", flush=True)

    with _beside(follow, stopped):
        yield


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

    with _beside(tick, stopped):
        yield


def _sync(stack: Stack) -> None:
    for _ in range(20):
        url, headers = f"{stack.url}/functions/v1/templates-sync", {"apikey": stack.secret_key}
        answer = httpx.post(url, headers=headers, timeout=60, trust_env=False)
        if answer.is_success:
            return
        time.sleep(0.5)


def _introduce(stack: Stack, user_id: str, accounts: Sequence[Account], template: tuple[str, str]) -> None:
    name, language = template
    first = accounts[0]
    token = mint_jwt(stack, user_id, EMAIL, lifetime=12 * 3600)
    known = ", ".join(f"{each.country_id}/{each.account_id}" for each in accounts)
    print(f"""
  URL              {stack.url}   (answers browsers of any origin)
  publishable key  {stack.publishable_key}
  secret key       {stack.secret_key}
  database         {stack.database_url}
  sign in          {EMAIL} / {PASSWORD}   (operator of every country)
  accounts         {known}

A template message, as that operator:

  curl -s {stack.url}/functions/v1/send \\
    -H 'apikey: {stack.publishable_key}' -H 'Authorization: Bearer {token}' \\
    -H "Idempotency-Key: $(date +%s)" -H 'Content-Type: application/json' \\
    -d '{{"country_id": "{first.country_id}", "account": "{first.account_id}", "to": "+525512345678",
         "message": {{"type": "template", "template": {{"name": "{name}", "language": {{"code": "{language}"}}}}}}}}'

Somebody writes to you (in another terminal):

  make say COUNTRY={first.country_id} ACCOUNT={first.account_id} FROM=+525512345678 TEXT=hola

In a frontend: createClient('{stack.url}', '{stack.publishable_key}'),
then auth.signInWithPassword, functions.invoke('send', …), schema('whatsapp').from('messages').

Code in functions/ and services/ is loaded anew when it changes; SQL needs a restart.
Ctrl-C stops everything. What the functions log follows.
""")


if __name__ == "__main__":
    main()
