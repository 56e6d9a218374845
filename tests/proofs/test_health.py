"""What `health` tells of the database: whether its schema is the one this code was written for."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from services.whatsapp.flows.checking import NEEDED
from tests.local import sources
from tests.local.stack import running_stack
from tests.proofs.house import House, both_ways, check_refusal


async def health(house: House) -> httpx.Response:
    async with house.client() as client:
        return await client.get("/health", headers={"apikey": house.stack.secret_key})


@contextmanager
def changed(house: House, change: str, undo: str) -> Iterator[None]:
    house.run(change)
    try:
        yield
    finally:
        house.run(undo)


@contextmanager
def schema_version(house: House, number: int) -> Iterator[None]:
    define = "create or replace function whatsapp.schema_version() returns integer language sql as 'select {}'"
    with changed(house, define.format(number), define.format(NEEDED)):
        yield


def test_the_code_needs_what_the_sources_make() -> None:
    assert sources.version() == NEEDED


@both_ways
async def test_the_schema_it_was_written_for_is_well(house: House) -> None:
    answer = await health(house)

    assert answer.status_code == 200, answer.text
    assert answer.json()["schema"] == {"version": NEEDED, "needed": NEEDED, "code": None}


async def test_an_older_schema_is_refused_by_name(house: House) -> None:
    with schema_version(house, NEEDED - 1):
        answer = await health(house)

    check_refusal(answer, 503, "schema_outdated")
    assert f"version {NEEDED - 1}, and this code needs {NEEDED}" in answer.json()["message"]


async def test_a_newer_schema_is_told_and_no_fault(house: House) -> None:
    with schema_version(house, NEEDED + 1):
        answer = await health(house)

    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "attention"
    assert answer.json()["schema"] == {"version": NEEDED + 1, "needed": NEEDED, "code": "schema_newer"}


async def test_a_function_that_is_not_there_is_a_schema_that_is_not(house: House) -> None:
    gone, back = "whatsapp.schema_version() rename to gone", "whatsapp.gone() rename to schema_version"
    with changed(house, f"alter function {gone}", f"alter function {back}"):
        answer = await health(house)

    check_refusal(answer, 503, "schema_missing")


def test_a_database_without_migrations_is_refused_by_name(tmp_path: Path) -> None:
    with running_stack(supabase=tmp_path) as stack:
        answer = httpx.get(
            f"{stack.url}/functions/v1/health", headers={"apikey": stack.secret_key}, trust_env=False, timeout=30
        )

    check_refusal(answer, 503, "schema_missing")
