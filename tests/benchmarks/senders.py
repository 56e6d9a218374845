"""The contenders of the drain: each sends the messages it was given, in a process of its own.

ours      the drainer, through Supabase's Data API or, with SUPABASE_DB_URL, straight to Postgres
ceiling   the same HTTP client with the same bodies and no database at all
naive     one select, one POST, one update per message: supabase-py and httpx as everybody begins
pgqueuer  PGQueuer, straight to Postgres, with a job that makes the same POST with the same client
"""

import asyncio
import gc
import os
import resource
from collections.abc import Awaitable, Callable
from datetime import timedelta
from time import perf_counter
from typing import Any

import orjson
import uvloop

from services.whatsapp.settings import Settings
from tests.benchmarks import child

Job = dict[str, Any]
Posts = list[tuple[str, str, dict[str, Any]]]
"""(country_id, account_id, body) of each message."""


async def ours(job: Job) -> float:
    from services.whatsapp.flows import draining
    from services.whatsapp.runtime import Runtime

    async with Runtime(Settings.read(os.environ)) as runtime:
        drainer = draining.Drainer(runtime)
        child.ready()
        began = perf_counter()
        await drainer.run(600, sweep=job.get("sweep", False))
        return perf_counter() - began


async def ceiling(job: Job) -> float:
    from services.whatsapp.clients.graph import Graph

    settings = Settings.read(os.environ)
    client = Graph(settings)
    posts: Posts = job["posts"]
    work = iter(posts)

    async def worker() -> None:
        for country_id, account_id, body in work:
            account = settings.directory.account(country_id, account_id)
            assert account is not None
            answer = await client.send(account, body)
            assert answer.outcome == "accepted", answer

    child.ready()
    began = perf_counter()
    await asyncio.gather(*(worker() for _ in range(settings.drain_concurrency)))
    took = perf_counter() - began
    await client.close()
    return took


async def naive(job: Job) -> float:
    import httpx

    from supabase import acreate_client

    settings = Settings.read(os.environ)
    database = await acreate_client(settings.supabase_url, settings.secret_key)
    work = iter(job["ids"])

    async def worker(client: httpx.AsyncClient) -> None:
        for number in work:
            found = await database.table("naive_queue").select("*").eq("id", number).single().execute()
            row: Any = found.data
            account = settings.directory.account(row["country_id"], row["account_id"])
            assert account is not None
            answer = await client.post(
                f"{settings.graph_url}/{settings.graph_version}/{account.phone_number_id}/messages",
                headers={"Authorization": f"Bearer {account.tokens[0]}"},
                json=row["body"],
            )
            change = {"state": "accepted", "wamid": answer.raise_for_status().json()["messages"][0]["id"]}
            await database.table("naive_queue").update(change).eq("id", number).execute()

    async with httpx.AsyncClient() as client:
        child.ready()
        began = perf_counter()
        await asyncio.gather(*(worker(client) for _ in range(job["concurrency"])))
        return perf_counter() - began


async def pgqueuer(job: Job) -> float:
    import asyncpg
    from pgqueuer import AsyncpgDriver, Queries, QueueManager
    from pgqueuer import Job as QueuedJob

    from services.whatsapp.clients.graph import Graph

    settings = Settings.read(os.environ)
    client = Graph(settings)
    left = job["count"]
    finished = asyncio.Event()
    connection = await asyncpg.connect(job["database_url"])
    manager = QueueManager(Queries(AsyncpgDriver(connection)))

    @manager.entrypoint("post")
    async def post(queued: QueuedJob) -> None:
        nonlocal left
        country_id, account_id, body = orjson.loads(queued.payload or b"")
        account = settings.directory.account(country_id, account_id)
        assert account is not None
        answer = await client.send(account, body)
        assert answer.outcome == "accepted", answer
        left -= 1
        if not left:
            finished.set()

    child.ready()
    began = perf_counter()
    running = asyncio.create_task(
        manager.run(
            timedelta(milliseconds=100),
            batch_size=settings.drain_concurrency // 2,
            max_concurrent_tasks=settings.drain_concurrency,
        )
    )
    all_posted = asyncio.create_task(finished.wait())
    await asyncio.wait((running, all_posted), return_when=asyncio.FIRST_COMPLETED)
    took = perf_counter() - began
    if not finished.is_set():
        await running
        raise RuntimeError(f"PGQueuer ended with {left} jobs left")
    manager.shutdown.set()
    await running
    await connection.close()
    await client.close()
    return took


CONTENDERS: dict[str, Callable[[Job], Awaitable[float]]] = {
    "ours": ours,
    "ceiling": ceiling,
    "naive": naive,
    "pgqueuer": pgqueuer,
}


async def main() -> None:
    gc.set_threshold(50_000, 20, 50)  # as the functions do, in whose process a drainer lives
    job = child.job()
    seconds = await CONTENDERS[job["contender"]](job)
    used = resource.getrusage(resource.RUSAGE_SELF)
    child.answer({"seconds": seconds, "cpu_seconds": used.ru_utime + used.ru_stime})


if __name__ == "__main__":
    uvloop.run(main())
