"""The migrations on every Postgres they promise to run on, and a message through all five verbs there."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.local import migrations, postgres
from tests.supabase.ground import Land, messages_of, new_wamid, some_phone

pytestmark = pytest.mark.postgres_versions


@pytest.fixture(params=postgres.VERSIONS)
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[psycopg.Connection[Any]]:
    """A database of this version with nothing but our migrations."""
    server = postgres.start(tmp_path, request.param, durable=False)
    try:
        migrations.prepare(server)
        assert migrations.migrate(server)
        assert migrations.migrate(server) == []
        with psycopg.connect(server.url(), autocommit=True) as database:
            assert database.info.server_version // 10_000 == request.param
            yield database
    finally:
        server.stop()


def test_a_message_goes_through_all_five_verbs(fresh: psycopg.Connection[Any]) -> None:
    land, phone = Land(fresh), some_phone()
    land.ingest(land.writes(phone, time.time()))
    land.enqueue(land.text(phone), land.template())

    reply, notice = messages_of(land.claim())
    land.settle(land.outcome(reply, "accepted", wamid=new_wamid()), land.outcome(notice, "unknown"))
    land.ingest(land.status(new_wamid(), "read", time.time(), notice["message_id"]))
    swept = land.sweep()

    assert land.message(reply["message_id"])["state"] == "accepted"
    assert land.message(notice["message_id"])["state"] == "read"
    assert land.count("queue") == 0
    assert not any(swept.values()), swept
