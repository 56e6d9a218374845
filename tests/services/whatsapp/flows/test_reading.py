"""Reading page by page, while others write."""

import json
import os
import subprocess
import sys
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.local.stack import ROOT, Stack
from tests.supabase.ground import Land

PAGE = """
import asyncio, json, sys
from tests.faults import clock
clock.shift(float(sys.argv[1]))
from services.whatsapp.actors import Server
from services.whatsapp.flows import reading
from services.whatsapp.requests.status_poll import OfCountry
from services.whatsapp.runtime import Runtime

async def page():
    asked = OfCountry(country_id=sys.argv[2], after=sys.argv[3] or None)
    rows, cursor = await reading.of_country(Runtime.of_loop(), asked, Server())
    await Runtime.close_of_loop()
    return [[row["message_id"] for row in rows], cursor]

print(json.dumps(asyncio.run(page())))
"""


def page(stack: Stack, country_id: str, after: str | None, clock: float) -> tuple[list[str], str]:
    """A page as a function sees it whose clock is off by so many seconds."""
    arguments = [sys.executable, "-c", PAGE, str(clock), country_id, after or ""]
    environment = os.environ | stack.env() | {"WHATSAPP_DOTENV": "off"}
    told = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    ids, cursor = json.loads(told.stdout.splitlines()[-1])
    return ids, cursor


@pytest.mark.parametrize("clock", [120, -120])
def test_no_page_leaves_out_what_a_slower_transaction_writes(
    stack: Stack, database: psycopg.Connection[Any], clock: float
) -> None:
    land = Land(database)
    land.enqueue(land.template())
    with psycopg.connect(stack.database_url) as slow:
        written = slow.execute("select whatsapp.enqueue(array[%s]::jsonb[])", [Jsonb(land.template())]).fetchone()
        land.enqueue(land.template())
        seen, cursor = page(stack, land.country_id, None, clock)
        slow.commit()

    after, _ = page(stack, land.country_id, cursor, clock)

    assert written is not None
    assert len(seen) == 2
    assert written[0][0]["message_id"] in after
