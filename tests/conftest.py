"""Fixtures every test may use."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import httpx
import psycopg
import pytest

from tests.graph import World, graph_process
from tests.local import processes
from tests.local.stack import Stack, running_stack
from tests.proofs.house import CONNECTION, DATA_API, PATIENCE, House, until

SPARE_ACCOUNTS = [f"own-{number}" for number in range(1, 301)]


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A migrated Postgres with Supabase Lite in front, without our functions, shared by the whole run."""
    with running_stack(functions=None) as running:
        yield running


@pytest.fixture
def database(stack: Stack) -> Iterator[psycopg.Connection[Any]]:
    """A direct connection as `postgres`, the owner of our tables, in autocommit."""
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def houses() -> Iterator[Callable[[str], House]]:
    """The whole houses by the way their verbs go, each built when it is first asked for."""
    with ExitStack() as cleanup:
        yield cache(lambda way: cleanup.enter_context(_whole_house(direct=way == CONNECTION)))


@pytest.fixture(scope="session")
def whole_house(houses: Callable[[str], House]) -> House:
    """The house that most tests share."""
    return houses(DATA_API)


@contextmanager
def _whole_house(*, direct: bool) -> Iterator[House]:
    """One house for all proofs and attacks."""
    world = World.random(("MX", "CO"), ("main", *SPARE_ACCOUNTS))
    port = processes.free_port()
    callback = f"http://127.0.0.1:{port}/functions/v1/webhook"
    quick: dict[str, Any] = {"sent_ms": 1, "delivered_ms": 5, "read_ms": 10, "failed_ms": 1}
    with graph_process(world, callback_url=callback, **quick) as graph:
        environment = {name: value for name, value in graph.env().items() if not ("_OWN_" in name and "_TOKEN" in name)}
        with (
            running_stack(functions_env=environment, ports={"gateway": port}, direct=direct) as stack,
            psycopg.connect(stack.database_url, autocommit=True) as database,
        ):
            house = House(stack, graph, database, iter(SPARE_ACCOUNTS))
            house.sign_up("MX", {"MX": "operator"})
            house.sign_up("CO", {"CO": "operator"})
            house.sign_up("viewer", {"MX": "viewer"})
            house.sign_up("nobody", {})
            synced = httpx.post(
                f"{stack.url}/functions/v1/templates-sync",
                headers={"apikey": stack.secret_key},
                timeout=PATIENCE,
                trust_env=False,
            )
            assert synced.status_code == 200, synced.text
            yield house


@pytest.fixture
async def house(houses: Callable[[str], House], request: pytest.FixtureRequest) -> House:
    """The house with Meta at its best behaviour, and nothing of the test before under way. `both_ways` has it twice."""
    whole_house = houses(getattr(request, "param", DATA_API))
    busy = "select * from whatsapp.queue where account_id = 'main' and (lease_id is not null or run_at <= now())"
    try:
        await until(lambda: not whole_house.all(busy))
    except TimeoutError:
        pytest.fail(f"the test before left something under way: {whole_house.all(busy)}")
    whole_house.graph.reset()
    return whole_house
