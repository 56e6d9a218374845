"""The jobs of sweep: each by itself, bounded, and no harm to the others."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from services.whatsapp.flows.draining import SWEEPS
from tests.local.stack import Stack
from tests.supabase.ground import Land

Database = psycopg.Connection[Any]


@pytest.fixture
def undone(stack: Stack) -> Iterator[Database]:
    """A connection whose transaction is never committed: what is broken in it is broken for nobody else."""
    with psycopg.connect(stack.database_url) as connection:
        yield connection
        connection.rollback()


def test_the_drainer_knows_every_job(database: Database) -> None:
    land = Land(database)
    assert land.sweep().keys() - {"failed"} == set(SWEEPS)


@pytest.mark.parametrize("job", SWEEPS)
def test_a_job_can_be_done_alone(database: Database, job: str) -> None:
    swept = Land(database).one("select whatsapp.sweep(array[%s]) as swept", (job,))["swept"]
    assert swept.keys() == {job, "failed"}
    assert swept["failed"] == []


def test_a_job_nobody_knows_is_refused(database: Database) -> None:
    with pytest.raises(psycopg.Error) as refused:
        database.execute("select whatsapp.sweep('{leases,dishes}')")
    assert refused.value.sqlstate == "PT400"


def test_a_job_that_fails_is_named_undone_and_stops_no_other(undone: Database) -> None:
    land = Land(undone)
    [verdict] = land.enqueue(land.template())
    message_id = verdict["message_id"]
    land.run("update whatsapp.queue set expires_at = now() where country_id = %s", land.country_id)
    undone.execute(
        "create or replace function whatsapp_internal.sweep_due(p_limit integer) returns integer language plpgsql as"
        " $$ begin delete from whatsapp.queue; raise exception 'broken on purpose'; end $$"
    )

    swept = land.one("select whatsapp.sweep() as swept")["swept"]

    assert swept["failed"] == ["due"]
    assert "due" not in swept
    assert land.message(message_id)["state"] == "expired"
