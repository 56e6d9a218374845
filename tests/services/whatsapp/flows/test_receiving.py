"""Receiving: posts share a batch and nothing else, and no answer but the truth: stored, or bring it again."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import orjson
import psycopg
import pytest

from services.whatsapp.flows import receiving
from services.whatsapp.meta.events import parse
from services.whatsapp.refusals import RefusalError
from services.whatsapp.runtime import Runtime
from services.whatsapp.settings import Settings
from tests.graph import World
from tests.local.front import Front, front_of
from tests.local.stack import ROOT, Stack
from tests.proofs.house import until
from tests.supabase.ground import new_wamid, some_phone

Database = psycopg.Connection[Any]
Break = Callable[[str, str, str], None]
FAILING = """
create function whatsapp_internal.broken_on_purpose() returns trigger language plpgsql as
$$ begin raise exception 'broken on purpose' using errcode = '{state}'; end $$;
create trigger broken_on_purpose before insert on whatsapp.{table} for each row when ({when})
execute function whatsapp_internal.broken_on_purpose();
"""
FIRST = """
import asyncio, sys
from services.whatsapp.flows import receiving
from services.whatsapp.runtime import Runtime

async def first():
    await receiving.receive(Runtime.of_loop(), sys.stdin.buffer.read())
    await Runtime.close_of_loop()

asyncio.run(first())
print(*(name for name in sys.argv[1:] if name in sys.modules))
"""
POISON = "new.content #>> '{text,body}' = 'poison'"


@pytest.fixture
def world() -> World:
    return World.random(("MX",))


@pytest.fixture
async def front(stack: Stack) -> AsyncIterator[Front]:
    async with front_of(stack.rest_url) as front:
        yield front


@pytest.fixture
async def runtime(stack: Stack, world: World, front: Front) -> AsyncIterator[Runtime]:
    environment = stack.env() | world.env("http://127.0.0.1:9") | {"SUPABASE_URL": front.url}
    async with Runtime(Settings.read(environment)) as runtime:
        yield runtime


@pytest.fixture
def broken(database: Database) -> Iterator[Break]:
    """Breaks the inserts into a table, once or until the end of the test."""

    def mend() -> None:
        database.execute("drop function if exists whatsapp_internal.broken_on_purpose cascade")

    def break_it(table: str, state: str, when: str) -> None:
        mend()
        database.execute(FAILING.format(table=table, state=state, when=when).encode())

    yield break_it
    mend()


def written(world: World, wamid: str, text: str = "hola", phone: str | None = None, bsuid: str | None = None) -> bytes:
    number, phone = world.number("MX"), phone or some_phone()
    message = {"from": phone[1:], "id": wamid, "timestamp": "1795500000", "type": "text", "text": {"body": text}}
    contact = {"wa_id": phone[1:]}
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"phone_number_id": number.phone_number_id},
        "contacts": [contact | ({"user_id": bsuid} if bsuid else {})],
        "messages": [message | ({"from_user_id": bsuid} if bsuid else {})],
    }
    entry = {"id": number.waba_id, "changes": [{"field": "messages", "value": value}]}
    return orjson.dumps({"object": "whatsapp_business_account", "entry": [entry]})


async def receive(runtime: Runtime, body: bytes) -> int:
    """The status that the webhook would answer."""
    try:
        await receiving.receive(runtime, body)
    except RefusalError as error:
        return error.status
    return 200


def stored(database: Database, wamids: list[str]) -> set[str]:
    rows = database.execute("select wamid from whatsapp.messages where wamid = any (%s)", (wamids,)).fetchall()
    return {wamid for (wamid,) in rows}


async def receive_with_poison(runtime: Runtime, world: World) -> tuple[list[str], list[int]]:
    """Thirty posts at once, of which the eighth is poison."""
    wamids = [new_wamid() for _ in range(30)]
    bodies = [written(world, wamid, "poison" if at == 7 else "hola") for at, wamid in enumerate(wamids)]
    return wamids, list(await asyncio.gather(*(receive(runtime, body) for body in bodies)))


async def test_an_event_that_can_never_be_stored_is_kept_raw_beside_the_others(
    world: World, runtime: Runtime, database: Database, broken: Break
) -> None:
    broken("messages", "22023", POISON)
    wamids, statuses = await receive_with_poison(runtime, world)

    assert statuses == [200] * 30
    assert stored(database, wamids) == set(wamids) - {wamids[7]}
    kept = (
        "select country_id, account_id from whatsapp.webhook_events where outcome = 'unparsable' and payload::text ~ %s"
    )
    assert database.execute(kept, (wamids[7],)).fetchall() == [("MX", "main")]


@pytest.mark.parametrize("state", ["XX000", "23505"])
async def test_an_event_that_is_not_stored_now_costs_its_own_post_alone_and_comes_again(
    world: World, runtime: Runtime, database: Database, broken: Break, state: str
) -> None:
    broken("messages", state, POISON)
    wamids, statuses = await receive_with_poison(runtime, world)

    assert [at for at, status in enumerate(statuses) if status != 200] == [7]
    assert statuses[7] == 503
    assert stored(database, wamids) == set(wamids) - {wamids[7]}

    broken("messages", state, "false")
    assert await receive(runtime, written(world, wamids[7], "poison")) == 200
    assert stored(database, wamids) == set(wamids)


async def test_what_cannot_even_be_set_aside_costs_its_own_post_alone(
    world: World, runtime: Runtime, database: Database, broken: Break
) -> None:
    broken("webhook_events", "22023", "new.payload::text ~ 'poison'")
    wamids, statuses = await receive_with_poison(runtime, world)

    assert [at for at, status in enumerate(statuses) if status != 200] == [7]
    assert statuses[7] == 503
    assert stored(database, wamids) == set(wamids) - {wamids[7]}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, {"message": "An unexpected error occurred"}),
        (521, b"<html>"),
        (409, {"code": "23505", "message": "duplicate key"}),
        (500, {"code": "XX000", "message": "cache lookup failed"}),
        (404, {"code": "PGRST202", "message": "Could not find the function"}),
        (405, {"code": "25006", "message": "read-only transaction"}),
        (500, {"code": "40P01", "message": "deadlock detected"}),
        (401, {"message": "Invalid API key"}),
    ],
    ids=str,
)
async def test_a_moment_passes_unnoticed_and_what_stays_is_a_503(
    world: World, runtime: Runtime, front: Front, database: Database, status: int, body: Any
) -> None:
    wamid = new_wamid()
    front.fail("/rpc/ingest", status, body, times=2)
    assert await receive(runtime, written(world, wamid)) == 200
    assert stored(database, [wamid]) == {wamid}

    front.fail("/rpc/ingest", status, body)
    late = new_wamid()
    assert await receive(runtime, written(world, late)) == 503
    front.heal()
    assert await receive(runtime, written(world, late)) == 200
    assert stored(database, [late]) == {late}


async def test_a_person_whom_send_is_writing_down_just_now_is_heard_all_the_same(
    world: World, runtime: Runtime, database: Database, stack: Stack
) -> None:
    """Known by user id only, and writes with phone and user id while a contact of the phone is not yet committed."""
    phone, bsuid = some_phone(), f"MX.{some_phone()[1:]}"
    first, second = new_wamid(), new_wamid()
    database.execute("insert into whatsapp.contacts (country_id, bsuid) values ('MX', %s)", (bsuid,))
    assert await receive(runtime, written(world, first, phone=some_phone())) == 200
    with psycopg.connect(stack.database_url) as sending:
        sending.execute(
            "insert into whatsapp.contacts (country_id, phone, match_key) values ('MX', %s, %s)", (phone, phone[1:])
        )
        answer = asyncio.create_task(receive(runtime, written(world, second, phone=phone, bsuid=bsuid)))
        waiting = "select 1 from pg_catalog.pg_stat_activity where wait_event_type = 'Lock'"
        await until(lambda: database.execute(waiting).fetchone())
        sending.commit()
    assert await answer == 200
    assert stored(database, [second]) == {second}


async def test_that_a_partner_was_removed_is_said_where_it_stops_nothing(
    runtime: Runtime, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    number = world.numbers[0]
    value = {"event": "PARTNER_REMOVED", "waba_info": {"waba_id": number.waba_id, "partner_app_id": "5" * 15}}
    entry = {"id": number.waba_id, "time": 1795500200, "changes": [{"field": "account_update", "value": value}]}
    body = orjson.dumps({"object": "whatsapp_business_account", "entry": [entry]})

    await receiving.follow_up(runtime, parse(body, runtime.settings.directory))

    line = orjson.loads(capsys.readouterr().out)
    assert (line["event"], line["what"], line["country"]) == ("partner_removed", "PARTNER_REMOVED", "MX")


async def test_a_large_post_is_stored_by_itself_and_small_ones_together(
    world: World, runtime: Runtime, front: Front, database: Database
) -> None:
    wamids = [new_wamid() for _ in range(20)]
    large = written(world, wamids[7], "hola " * 40_000)
    bodies = [large if at == 7 else written(world, wamid) for at, wamid in enumerate(wamids)]
    assert await asyncio.gather(*(receive(runtime, body) for body in bodies)) == [200] * 20

    batches = [[event.get("wamid") for event in each["p_events"]] for each in front.asked("/rpc/ingest")]
    assert [wamids[7]] in batches
    assert len(batches) <= 3
    assert stored(database, wamids) == set(wamids)


async def test_who_says_nothing_costs_no_call(runtime: Runtime, front: Front) -> None:
    assert await receive(runtime, b'{"object":"whatsapp_business_account","entry":[]}') == 200
    assert front.paths == []


async def test_where_too_much_waits_meta_is_told_to_come_back(
    world: World, runtime: Runtime, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.part(receiving._commits), "_backlog", 0)
    with pytest.raises(RefusalError) as refused:
        await receiving.receive(runtime, written(world, new_wamid()))
    assert (refused.value.status, refused.value.code) == (503, "webhook_overloaded")
    assert front.paths == []


async def test_what_follows_a_webhook_never_fails_it(
    runtime: Runtime, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """A template has changed, and Meta cannot be asked: cron will."""
    number = world.numbers[0]
    value = {"event": "APPROVED", "message_template_id": 1, "message_template_name": "plain"}
    change = {"field": "message_template_status_update", "value": value | {"message_template_language": "es_MX"}}
    entry = {"id": number.waba_id, "time": 1795500200, "changes": [change]}
    events = parse(orjson.dumps({"object": "whatsapp_business_account", "entry": [entry]}), runtime.settings.directory)
    assert [event["kind"] for event in events] == ["template"]
    environment = world.env("http://127.0.0.1:9") | {"WHATSAPP_KICK": "false"}
    environment |= {"SUPABASE_URL": "http://127.0.0.1:9", "SUPABASE_SECRET_KEY": "sb_secret_one"}
    async with Runtime(Settings.read(environment)) as cut_off:
        await receiving.follow_up(cut_off, events)
    assert "GraphError" in capsys.readouterr().out


def test_the_first_webhook_of_a_cold_process_loads_nothing_of_sending(
    stack: Stack, database: Database, world: World
) -> None:
    clients, flows = "services.whatsapp.clients", "services.whatsapp.flows"
    sending = [f"{clients}.graph", f"{flows}.draining", f"{flows}.sending", "aiohttp", "pydantic", "phonenumbers"]
    environment = os.environ | stack.env() | world.env("http://127.0.0.1:9") | {"WHATSAPP_DOTENV": "off"}
    loaded = subprocess.run(
        [sys.executable, "-c", FIRST, f"{clients}.verbs", *sending],
        input=written(world, wamid := new_wamid()),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        check=True,
    )
    assert loaded.stdout.split() == [f"{clients}.verbs".encode()]
    assert stored(database, [wamid]) == {wamid}
