"""Webhook bodies nobody wrote by hand: documented examples, bent, broken and mixed as a seed has it.

Whatever is signed by Meta must be answered 200 and kept: an endless redelivery of one body holds up all others.
"""

import asyncio
import copy
import hashlib
import hmac
import json
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import httpx
import orjson
import psycopg
from httpx_aiohttp import AiohttpTransport

from services.whatsapp.meta.events import parse
from services.whatsapp.settings import Settings
from tests.local.stack import Stack

Json = Any
EXAMPLES = Path(__file__).parents[1] / "payloads" / "webhook"
ACCOUNTS = {
    ("MX", "main"): ("106540352242922", "102290129340398"),
    ("MX", "shop"): ("108765432109876", "102290129340398"),
    ("AR", "main"): ("207651463353033", "303391230451509"),
}
"""The numbers and business accounts of Meta's that the examples speak of."""
SECRET = "a secret of these tests"
ODD: tuple[Json, ...] = (
    None, True, False, 0, -1, 1.5, 10**18, 1e300, "", " ", "0", "null", "\0", "a\0b", "\ud800", "é" * 300, "٣٤٥",
    "x" * 70_000, [], {}, [[]], [None], {"": ""}, {"0": {}}, [[[[[[[[]]]]]]]], "wamid.", "MX.1A2b3C",
    "+52 1 55 1234 5678", "1795500000", "9" * 40, "2026-11-24T00:00:00Z", "true", "group@g.us",
    "'; drop table whatsapp.messages; --", "\u202e", "{}",
)  # fmt: skip
_AT_ONCE = 200
"""Posts under way: the functions store what comes together at once, so a few at a time are slow."""
_TRIES = 6
_PEOPLE = 200
_SNAPSHOT = (
    "select count(*), md5(string_agg(md5(t::text), '' order by t::text)) from whatsapp.{table} t",
    ("messages", "message_events", "contacts", "conversations", "consents", "webhook_events", "parked_statuses"),
)


def environment() -> dict[str, str]:
    """Of functions that know these accounts and can send for none."""
    variables = {"WHATSAPP_APP_SECRET": SECRET, "WHATSAPP_VERIFY_TOKEN": "unused", "WHATSAPP_KICK": "false"}
    for (country, account), (number, business) in ACCOUNTS.items():
        prefix = f"WHATSAPP_{country}_{account.upper()}"
        variables |= {f"{prefix}_PHONE_NUMBER_ID": number, f"{prefix}_WABA_ID": business}
    return variables


def generate(number: int, seed: int) -> Iterator[bytes]:
    """`number` bodies; the same for the same seed."""
    random = Random(seed)
    examples = [json.loads(path.read_bytes()) for path in sorted(EXAMPLES.glob("*.json"))]
    for _ in range(number):
        document = copy.deepcopy(random.choice(examples))
        if random.random() < 0.8:
            _renew(document, random)
        for _ in range(random.choice((0, 1, 1, 1, 2, 3, 8))):
            random.choice(_MUTATIONS)(document, examples, random)
        body = _dump(document)
        yield _damage(body, random) if random.random() < 0.05 else body


def _renew(document: Json, random: Random) -> None:
    """Other messages of other people, so that not everything is a repetition."""
    mark, person = f"{random.getrandbits(64):x}", random.randrange(_PEOPLE)
    for holder, key in list(_places(document)):
        value = holder[key]
        if isinstance(value, str) and value.startswith("wamid."):
            holder[key] = f"{value}{mark}"
        elif key in ("from", "wa_id", "recipient_id") and isinstance(value, str):
            holder[key] = f"{value[:-3]}{person:03}"
        elif key in ("user_id", "from_user_id", "recipient_user_id") and isinstance(value, str):
            holder[key] = f"{value}{person}"


Mutation = Callable[[Json, Sequence[Json], Random], None]


def _odd(document: Json, examples: Sequence[Json], random: Random) -> None:
    holder, key = _somewhere(document, random)
    holder[key] = copy.deepcopy(random.choice(ODD))


def _remove(document: Json, examples: Sequence[Json], random: Random) -> None:
    holder, key = _somewhere(document, random)
    del holder[key]


def _transplant(document: Json, examples: Sequence[Json], random: Random) -> None:
    holder, key = _somewhere(document, random)
    other, place = _somewhere(random.choice(examples), random)
    holder[key] = copy.deepcopy(other[place])


def _add(document: Json, examples: Sequence[Json], random: Random) -> None:
    """A member that belongs somewhere else, beside those that belong here."""
    holder, _ = _somewhere(document, random)
    other, place = _somewhere(random.choice(examples), random)
    if isinstance(holder, dict):
        holder[str(place)] = copy.deepcopy(other[place])
    else:
        holder.insert(random.randint(0, len(holder)), copy.deepcopy(other[place]))


def _repeat(document: Json, examples: Sequence[Json], random: Random) -> None:
    holder, key = _somewhere(document, random)
    if isinstance(holder, list):
        holder.extend(copy.deepcopy(holder[key]) for _ in range(random.choice((1, 2, 30))))
    else:
        holder[key] = [copy.deepcopy(holder[key]), copy.deepcopy(holder[key])]


def _rename(document: Json, examples: Sequence[Json], random: Random) -> None:
    holder, key = _somewhere(document, random)
    if isinstance(holder, dict):
        holder[random.choice(("", "type", "id", "errors", str(key).upper(), f"{key}s"))] = holder.pop(key)


_MUTATIONS: tuple[Mutation, ...] = (_odd, _odd, _remove, _transplant, _add, _repeat, _rename)


def _damage(body: bytes, random: Random) -> bytes:
    """No JSON any more, or hardly."""
    at = random.randrange(len(body) + 1)
    match random.randrange(5):
        case 0:
            return body[:at]
        case 1:
            return body[:at] + random.randbytes(4) + body[at:]
        case 2:
            return b"\xef\xbb\xbf" + body
        case 3:
            return body + body
        case _:
            return b"[" * 400 + b"]" * 400


def _places(document: Json) -> Iterator[tuple[Json, Any]]:
    """Every place in the document, as its holder and key."""
    waiting = [document]
    while waiting:
        holder = waiting.pop()
        keys: Iterable[Any] = holder if isinstance(holder, dict) else range(len(holder))
        for key in list(keys):
            yield holder, key
            if isinstance(holder[key], dict | list):
                waiting.append(holder[key])


def _somewhere(document: Json, random: Random) -> tuple[Json, Any]:
    """A place at random; a document that has been emptied gets one."""
    places = list(_places(document))
    if places:
        return random.choice(places)
    document["entry"] = []
    return document, "entry"


def _dump(document: Json) -> bytes:
    try:
        return orjson.dumps(document)
    except TypeError:  # half a surrogate pair, which JSON can spell and UTF-8 cannot
        return json.dumps(document).encode()


async def throw(stack: Stack, bodies: Sequence[bytes], again: int) -> tuple[dict[str, int], list[str]]:
    """Post all bodies, and the last `again` of them once more. Returns figures, and every promise that was broken."""
    for country, account in ACCOUNTS:
        _run(
            stack,
            "insert into whatsapp.accounts (country_id, account_id) values (%s, %s) on conflict do nothing",
            (country, account),
        )
    broken: list[str] = []
    statuses, tries = await _post(stack, bodies)
    broken += [f"answered {status}: {n} times" for status, n in statuses.items() if status != 200]
    missing, events = _missing(stack, bodies)
    broken += [f"an event is not in the database: {key}" for key in missing[:20]]
    before = _snapshot(stack)
    repeated, _ = await _post(stack, bodies[-again:])
    broken += [f"a repeated body was answered {status}: {n} times" for status, n in repeated.items() if status != 200]
    after = _snapshot(stack)
    broken += [f"a repeated body changed {table}" for table in before if before[table] != after[table]]
    figures = {"bodies": len(bodies), "events": events, "answered 200": statuses[200], "posted again": again}
    return figures | {f"tries that ended with {reason}": n for reason, n in tries.items()}, broken


async def _post(stack: Stack, bodies: Sequence[bytes]) -> tuple[Counter[int], Counter[str]]:
    """The last answers by status, and the tries before them by what ended them."""
    statuses: Counter[int] = Counter()
    tries: Counter[str] = Counter()
    waiting = iter(bodies)
    async with httpx.AsyncClient(base_url=stack.url, timeout=60, trust_env=False, transport=AiohttpTransport()) as http:

        async def deliver() -> None:
            for body in waiting:
                signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
                headers = {"x-hub-signature-256": f"sha256={signature}", "content-type": "application/json"}
                statuses[await _deliver(http, body, headers, tries)] += 1

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending a large body", ResourceWarning)  # on loopback it holds nobody up
            await asyncio.gather(*(deliver() for _ in range(_AT_ONCE)))
    return statuses, tries


async def _deliver(http: httpx.AsyncClient, body: bytes, headers: dict[str, str], tries: Counter[str]) -> int:
    """As Meta does: what was refused for want of room, or cut off, comes again. What always fails is told."""
    status = 0
    for again in range(_TRIES):
        await asyncio.sleep(again)
        try:
            status = (await http.post("/webhook", content=body, headers=headers)).status_code
        except httpx.TransportError as error:
            tries[type(error).__name__] += 1
            continue
        if status != httpx.codes.SERVICE_UNAVAILABLE:
            break
        tries[str(status)] += 1
    return status


def _missing(stack: Stack, bodies: Sequence[bytes]) -> tuple[list[str], int]:
    """The keys of events that are in the bodies and not in the database, and how many there are in all."""
    directory = Settings.read(stack.env() | environment()).directory
    keys = {uuid.UUID(event["key"]) for body in bodies for event in parse(body, directory)}
    with psycopg.connect(stack.database_url) as database:
        there = {
            row[0]
            for row in database.execute(
                "select event_key from whatsapp.webhook_events union all select event_key from whatsapp.parked_statuses"
            )
        }
    return sorted(map(str, keys - there)), len(keys)


def _snapshot(stack: Stack) -> dict[str, Any]:
    query, tables = _SNAPSHOT
    with psycopg.connect(stack.database_url) as database:
        return {table: database.execute(query.format(table=table).encode()).fetchone() for table in tables}


def _run(stack: Stack, statement: str, arguments: tuple[object, ...]) -> None:
    with psycopg.connect(stack.database_url, autocommit=True) as database:
        database.execute(statement.encode(), arguments)
