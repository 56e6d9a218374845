"""The verbs by every way there is: the same tests are run over all of them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from services.whatsapp.clients import postgres
from services.whatsapp.clients.verbs import Verbs
from services.whatsapp.runtime import Runtime
from services.whatsapp.settings import Settings
from tests.local.pooler import pooler_of
from tests.local.stack import Stack

CONNECTION, POOLER = "a connection", "a pooler"


@pytest.fixture(params=["the Data API", CONNECTION, POOLER])
async def verbs(request: pytest.FixtureRequest, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Verbs]:
    async with AsyncExitStack() as cleanup:
        environment = stack.env()
        if request.param == CONNECTION:
            environment["SUPABASE_DB_URL"] = stack.database_url
        elif request.param == POOLER:
            pooler = await cleanup.enter_async_context(pooler_of(stack.database_url))
            monkeypatch.setattr(postgres, "POOLERS_PORT", pooler.port)
            environment["SUPABASE_DB_URL"] = pooler.url
        runtime = await cleanup.enter_async_context(Runtime(Settings.read(environment)))
        yield runtime.verbs
