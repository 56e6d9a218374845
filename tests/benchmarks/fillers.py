"""The contenders of the bulk benchmark: each queues the recipients it was given, in a process of its own.

ours            one POST to bulk-enqueue for each 10,000, from bodies that are JSON already
COPY            the same rows into a table without any index: what Postgres does at its fastest
procrastinate   batch_defer_async, its documented way for many jobs
pgqueuer        Queries.enqueue with lists, its documented way for many jobs

Each transaction of a contender takes one call's recipients, and is durable when its answer comes.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

import orjson
import uvloop

from tests.benchmarks import child

Job = dict[str, Any]


async def ours(job: Job, *, at_once: int = 1) -> float:
    import httpx

    opening = {"country_id": "MX", "name": "spring", "template": {"name": "spring", "language": "es_MX"}}
    headers = {"apikey": job["secret_key"], "content-type": "application/json"}
    recipients = [orjson.dumps(call) for call in job["calls"]]
    async with httpx.AsyncClient(base_url=job["functions_url"], headers=headers, timeout=60, trust_env=False) as client:

        async def call(number: int, head: dict[str, Any]) -> str:
            body = orjson.dumps(head)[:-1] + b',"recipients":' + recipients[number] + b"}"
            key = {"idempotency-key": f"{job['run']} {number}"}
            answer = await client.post("/bulk-enqueue", content=body, headers=key)
            assert answer.status_code == 202, answer.text
            done = answer.json()
            assert (done["accepted"], done["refused"]) == (len(job["calls"][number]), []), answer.text
            return str(done["campaign_id"])

        async def caller(campaign_id: str) -> None:
            for number in left:
                await call(number, {"country_id": "MX", "campaign_id": campaign_id})

        left = iter(range(1, len(recipients)))
        child.ready()
        began = perf_counter()
        campaign_id = await call(0, opening)
        await asyncio.gather(*(caller(campaign_id) for _ in range(at_once)))
        return perf_counter() - began


async def copy(job: Job) -> float:
    import asyncpg

    calls = [
        [("MX", row["to"], orjson.dumps(row["parameters"]).decode(), row["ref"]) for row in call]
        for call in job["calls"]
    ]
    connection = await asyncpg.connect(job["database_url"])
    child.ready()
    began = perf_counter()
    for call in calls:
        await connection.copy_records_to_table("copied", records=call)
    took = perf_counter() - began
    await connection.close()
    return took


async def procrastinate(job: Job) -> float:
    from procrastinate import App, PsycopgConnector

    app = App(connector=PsycopgConnector(conninfo=job["database_url"]))

    @app.task(name="post")
    async def post(**_: Any) -> None:
        """Never run here."""

    async with app.open_async():
        if not await app.check_connection_async():
            await app.schema_manager.apply_schema_async()
        child.ready()
        began = perf_counter()
        for call in job["calls"]:
            await post.batch_defer_async(*call)
        return perf_counter() - began


async def pgqueuer(job: Job) -> float:
    import asyncpg
    from pgqueuer import AsyncpgDriver, Queries

    calls = [[orjson.dumps(row) for row in call] for call in job["calls"]]
    connection = await asyncpg.connect(job["database_url"])
    queries = Queries(AsyncpgDriver(connection))
    if not await queries.has_table("pgqueuer"):
        await queries.install()
    child.ready()
    began = perf_counter()
    for call in calls:
        await queries.enqueue(["post"] * len(call), call, [0] * len(call))
    took = perf_counter() - began
    await connection.close()
    return took


CONTENDERS: dict[str, Callable[[Job], Awaitable[float]]] = {
    "ours": ours,
    "ours, two calls at once": functools.partial(ours, at_once=2),
    "ours, direct": ours,
    "ours, direct, two calls at once": functools.partial(ours, at_once=2),
    "COPY": copy,
    "procrastinate": procrastinate,
    "pgqueuer": pgqueuer,
}


async def main() -> None:
    job = child.job()
    child.answer({"seconds": await CONTENDERS[job["contender"]](job)})


if __name__ == "__main__":
    uvloop.run(main())
