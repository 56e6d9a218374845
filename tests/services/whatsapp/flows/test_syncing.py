"""Syncing: what is wrong with one account, one page, one template or one field stops nothing else."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import psycopg
import pytest

from services.whatsapp.flows import syncing
from services.whatsapp.runtime import Runtime
from services.whatsapp.settings import Settings
from tests.graph import Graph
from tests.graph.errors import unknown_object
from tests.graph.process import graph_process
from tests.graph.world import World
from tests.local.stack import Stack

Row = dict[str, Any]
NUL = chr(92) + "u0000"


@pytest.fixture(autouse=True)
def no_templates(database: psycopg.Connection[Any]) -> Iterator[None]:
    yield
    database.execute("delete from whatsapp.templates where country_id in ('CO', 'MX') and account_id = 'main'")


@pytest.fixture(scope="module")
def running() -> Iterator[Graph]:
    with graph_process(World.random(("AR", "CO", "MX"))) as graph:
        yield graph


Meta = Callable[..., AbstractAsyncContextManager[tuple[Graph, Runtime]]]


@pytest.fixture
def meta(stack: Stack, running: Graph) -> Meta:
    """The stand-in and the runtime of a process that knows the accounts of these countries."""

    @asynccontextmanager
    async def standing_in(*countries: str, **changes: str) -> AsyncIterator[tuple[Graph, Runtime]]:
        running.reset()
        others = tuple(f"{one.env_prefix}_" for one in running.world.numbers if one.country_id not in countries)
        environment = stack.env() | running.env() | changes
        known = {name: value for name, value in environment.items() if not name.startswith(others)}
        async with Runtime(Settings.read(known)) as runtime:
            yield running, runtime

    return standing_in


async def test_an_account_without_a_row_is_reported_and_stops_no_other(meta: Meta) -> None:
    """AR's account `main` is in the environment and has no row in whatsapp.accounts; it comes before MX."""
    async with meta("AR", "MX") as (standing_in, runtime):
        reports = await syncing.sync(runtime)
        assert [report["country_id"] for report in reports] == ["AR", "MX"]
        assert reports[0]["error"] == {"code": "PT404", "message": "no such account"}
        assert reports[1]["stored"] == len(standing_in.world.templates[standing_in.world.number("MX").waba_id])


async def test_an_account_whose_token_is_dead_is_reported_and_stops_no_other(meta: Meta) -> None:
    async with meta("CO", "MX") as (standing_in, runtime):
        standing_in.tokens(standing_in.world.number("CO"), ["another"])
        dead, alive = await syncing.sync(runtime)
    assert (dead["country_id"], dead["account"]) == ("CO", "main")
    assert dead["error"] == {"code": 190, "message": "The access token is expired or invalid"}
    assert "error" not in alive
    assert alive["stored"] > 0


ODD_ANSWERS = {
    "no JSON": (200, "<html>"),
    "a list": (200, "[]"),
    "an error of odd shape": (400, '{"error": "no"}'),
    "a breakdown": (500, ""),
}


@pytest.mark.parametrize("name", ODD_ANSWERS)
@pytest.mark.parametrize("edge", ["message_templates", ""], ids=["templates", "number"])
async def test_what_meta_answers_for_one_account_stops_no_other(meta: Meta, name: str, edge: str) -> None:
    async with meta("CO", "MX") as (standing_in, runtime):
        standing_in.read(standing_in.world.number("CO"), edge, ODD_ANSWERS[name])
        odd, other = await syncing.sync(runtime)
    assert odd["error"]
    # One of the two reads failed; the other has been taken over all the same.
    assert ("stored" in odd, "messages_per_second" in odd) == (bool(not edge), bool(edge))
    assert "error" not in other


# ── Pages and templates of odd shape ──────────────────────────────────────────────────────────────

GOOD: Row = {"name": "good", "language": "es-MX", "status": "APPROVED", "category": "UTILITY", "components": []}
ODD_TEMPLATES = {
    "no object": "5",
    "null": "null",
    "no name": json.dumps(GOOD | {"name": None}),
    "a number for a name": json.dumps(GOOD | {"name": 5}),
    "an endless name": json.dumps(GOOD | {"name": "a" * 5_000}),
    "no language": json.dumps(GOOD | {"language": {}}),
    "NUL in the name": json.dumps(GOOD | {"name": "odd"}).replace("odd", f"od{NUL}d"),
}
ODD_PAGES = {
    "no data": {"paging": {}},
    "data is an object": {"data": {"a": 1}},
    "data is null": {"data": None},
    "paging is a list": {"data": [GOOD], "paging": []},
    "cursors is a list": {"data": [GOOD], "paging": {"cursors": [], "next": "https://x"}},
    "no cursor": {"data": [GOOD], "paging": {"next": "https://x"}},
    "the cursor is no text": {"data": [GOOD], "paging": {"cursors": {"after": {}}, "next": "https://x"}},
    "the same cursor again": {"data": [GOOD], "paging": {"cursors": {"after": "a"}, "next": "https://x"}},
}


async def listing(meta: Meta, *pages: str) -> syncing.Report:
    """What a sync reports when Meta lists MX's templates like this."""
    async with meta("MX") as (standing_in, runtime):
        standing_in.read(standing_in.world.number("MX"), "message_templates", *((200, page) for page in pages))
        [report] = await syncing.sync(runtime)
    return report


def names(database: psycopg.Connection[Any]) -> set[str]:
    query = "select name from whatsapp.templates where country_id = 'MX' and account_id = 'main'"
    return {str(row[0]) for row in database.execute(query).fetchall()}


@pytest.mark.parametrize("name", ODD_TEMPLATES)
async def test_a_template_without_a_readable_name_costs_no_other(
    meta: Meta, database: psycopg.Connection[Any], name: str
) -> None:
    await listing(meta, json.dumps({"data": [GOOD | {"name": "kept"}]}))
    report = await listing(meta, f'{{"data": [{ODD_TEMPLATES[name]}, {json.dumps(GOOD)}]}}')
    assert "error" not in report
    # What could not be read may be one of those we know: none is removed for it.
    assert (report["stored"], report["removed"], report["incomplete"]) == (1, 0, True)
    assert names(database) == {"kept", "good"}


@pytest.mark.parametrize("name", ODD_PAGES)
async def test_a_page_of_odd_shape_removes_nothing(meta: Meta, database: psycopg.Connection[Any], name: str) -> None:
    await listing(meta, json.dumps({"data": [GOOD, GOOD | {"name": "kept"}]}))
    page = json.dumps(ODD_PAGES[name])
    report = await listing(meta, page, page)
    assert "error" not in report
    complete = name == "paging is a list"
    assert (report["removed"], report.get("incomplete", False)) == (1 if complete else 0, not complete)
    assert names(database) == ({"good"} if complete else {"good", "kept"})


ODD_PARTS: dict[str, Row] = {
    "components are text": {"components": "BODY"},
    "buttons are a number": {"components": [{"type": "BUTTONS", "buttons": 5}]},
    "a card is text": {"components": [{"type": "CAROUSEL", "cards": ["card"]}]},
    "an offer is a list": {"components": [{"type": "LIMITED_TIME_OFFER", "limited_time_offer": ["a"]}]},
    "NUL in a text": {"components": [{"type": "BODY", "text": "a\0b"}]},
    "half a character": {"components": [{"type": "BODY", "text": "a\ud800b"}]},
}


@pytest.mark.parametrize("name", ODD_PARTS)
async def test_a_template_of_odd_shape_is_not_sent_and_costs_no_other(
    meta: Meta, database: psycopg.Connection[Any], name: str
) -> None:
    odd = GOOD | {"name": "odd"} | ODD_PARTS[name]
    report = await listing(meta, json.dumps({"data": [odd, GOOD]}))
    assert (report["stored"], report.get("incomplete")) == (2, None)
    query = "select contract from whatsapp.templates where country_id = 'MX' and account_id = 'main' and name = %s"
    contracts = [database.execute(query, [one]).fetchone() for one in ("odd", "good")]
    assert [set(row[0]) for row in contracts if row] == [{"unsupported"}, {"parameters"}]


async def test_odd_words_beside_a_template_are_left_out(meta: Meta, database: psycopg.Connection[Any]) -> None:
    odd = GOOD | {"category": {}, "quality_score": [], "rejected_reason": 5, "parameter_format": "a\0"}
    report = await listing(meta, json.dumps({"data": [odd]}))
    assert report["stored"] == 1
    query = "select category, quality, reason, parameter_format from whatsapp.templates where country_id = 'MX'"
    assert database.execute(f"{query} and account_id = 'main'").fetchall() == [("UNKNOWN", None, None, None)]


async def test_none_is_no_reason(meta: Meta, database: psycopg.Connection[Any]) -> None:
    await listing(meta, json.dumps({"data": [GOOD | {"rejected_reason": "NONE"}]}))
    query = "select reason from whatsapp.templates where country_id = 'MX' and account_id = 'main'"
    assert database.execute(query).fetchall() == [(None,)]


# ── The number ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("version", ["v21.0", "v23.0", "v24.0", "v25.0"])
async def test_the_messaging_limit_is_read_on_every_version(meta: Meta, version: str) -> None:
    async with meta("MX", META_GRAPH_VERSION=version) as (_, runtime):
        [report] = await syncing.sync(runtime)
    assert "error" not in report
    assert (report["messaging_limit"], report["quality"]) == (2_000, "GREEN")


def refusal(words: str, code: int = 100) -> tuple[int, str]:
    return 400, json.dumps({"error": {"message": f"(#{code}) {words}", "type": "OAuthException", "code": code}})


@pytest.mark.parametrize(
    "words",
    [
        "Tried accessing nonexisting field (whatsapp_business_manager_messaging_limit) on node type (Any)",
        "Tried accessing nonexisting field (is_on_biz_app) on node type (Any)",
        "Tried accessing nonexisting field (throughput) on node type (Any)",
        "Something about a field, in words that nobody knows",
    ],
)
async def test_a_refused_field_does_not_cost_the_others(meta: Meta, words: str) -> None:
    async with meta("MX") as (standing_in, runtime):
        standing_in.read(standing_in.world.number("MX"), "", refusal(words))
        [report] = await syncing.sync(runtime)
    assert "error" not in report
    assert report["quality"] == "GREEN"


@pytest.mark.parametrize("answer", [refusal("No", 10), (400, unknown_object("1", "get").body().decode())])
async def test_what_is_refused_for_another_reason_is_asked_once(meta: Meta, answer: tuple[int, str]) -> None:
    async with meta("MX") as (standing_in, runtime):
        standing_in.read(standing_in.world.number("MX"), "", answer)
        [report] = await syncing.sync(runtime)
    assert report["error"]["code"] in (10, 100)
    assert "quality" not in report


async def test_a_read_that_is_refused_for_ever_ends(meta: Meta) -> None:
    async with meta("MX") as (standing_in, runtime):
        standing_in.read(standing_in.world.number("MX"), "", *[refusal("No")] * 20)
        [report] = await syncing.sync(runtime)
    assert report["error"]["code"] == 100


RATES = [
    # What it was set to, then what Meta says in turn, and the rate it ends with.
    (80, ["coexistence"], 20),
    (80, ["coexistence", "STANDARD"], 80),
    (80, ["coexistence", "coexistence", "HIGH"], 1000),
    (1000, ["coexistence", "STANDARD", "HIGH"], 1000),
    (10, ["coexistence", "STANDARD"], 10),
    (20, ["STANDARD"], 20),
    (20, ["HIGH"], 20),
    (80, ["HIGH", "STANDARD"], 80),
]


@pytest.mark.parametrize(("rate", "told", "ends"), RATES)
async def test_a_rate_follows_meta_into_coexistence_and_out_of_it(
    meta: Meta, database: psycopg.Connection[Any], rate: int, told: list[str], ends: int
) -> None:
    """CO's account is given back as it was."""
    where = "where country_id = 'CO' and account_id = 'main'"
    row = database.execute(f"select messages_per_second from whatsapp.accounts {where}").fetchone()
    assert row is not None
    change = f"update whatsapp.accounts set messages_per_second = %s, coexistence = false {where}"
    database.execute(change.encode(), [rate])
    try:
        async with meta("CO") as (standing_in, runtime):
            for words in told:
                level = words if words != "coexistence" else "STANDARD"
                standing_in.change_number(
                    standing_in.world.number("CO"), throughput=level, is_on_biz_app=words == "coexistence"
                )
                [report] = await syncing.sync(runtime)
        assert report["messages_per_second"] == ends
    finally:
        database.execute(change.encode(), row)


async def test_those_who_ask_at_once_share_what_is_read(meta: Meta) -> None:
    """One sync runs; all who come meanwhile share the next one, for the first may have read before they changed what
    they ask for."""
    pages = [json.dumps({"data": [GOOD | {"name": f"good_{number}"} for number in range(n)]}) for n in (1, 2, 3)]
    async with meta("MX") as (standing_in, runtime):
        standing_in.read(standing_in.world.number("MX"), "message_templates", *((200, page) for page in pages))
        reports = await asyncio.gather(*(syncing.sync(runtime) for _ in range(60)))
        [later] = await syncing.sync(runtime)
    assert [report["stored"] for [report] in reports] == [1, *[2] * 59]
    assert later["stored"] == 3


async def test_whoever_goes_away_takes_nobodys_sync_along(meta: Meta) -> None:
    async with meta("MX") as (_, runtime):
        impatient = [asyncio.create_task(syncing.sync(runtime)) for _ in range(3)]
        patient = [asyncio.create_task(syncing.sync(runtime)) for _ in range(3)]
        await asyncio.sleep(0)
        for task in impatient:
            task.cancel()
        reports = await asyncio.gather(*patient)
        reports.append(await syncing.sync(runtime))
    assert ["error" in report for [report] in reports] == [False] * 4
