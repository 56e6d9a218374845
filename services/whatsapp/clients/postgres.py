"""Postgres itself: the verbs over a few connections of our own, past the Data API.

asyncpg rather than psycopg: it takes half as much of our processor for a batch of 200, and is loaded in half the time.

A connection acts as `service_role`, as the Data API does with a secret key, and ends a statement after as long. Where a
pooler hands out connections by the transaction (port 6543 on Supabase), nothing of a session is ours from one
transaction to the next: there each call is a transaction that says so itself, and nothing stays prepared.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import orjson

from services.whatsapp.clients.failures import ATTEMPTS, Failed, persist
from services.whatsapp.clients.verbs import ACCOUNT_COLUMNS, AccountRow, Arguments, Verbs
from services.whatsapp.settings import Settings

CONNECTIONS = 8
"""Of one process at the most, opened when they are needed: each kind of group commit has two calls in flight, a drainer
claims, announces, settles and sweeps at once."""
POOLERS_PORT = 6543
_STATEMENT = 8
_ATTEMPT, _CONNECT, _WAIT, _CLOSE = 10.0, 5.0, 5.0, 2.0
"""Seconds for one attempt, for a connection to be made, for one to be free, and for one to take its leave."""
_IDLE = 60.0
"""Seconds after which an idle connection is not trusted: what lies between may have forgotten it."""
_AS_SERVER = f"set{{}} role service_role; set{{}} statement_timeout = '{_STATEMENT}s'"


class Postgres(Verbs):
    """The verbs over connections to Postgres."""

    def __init__(self, settings: Settings) -> None:
        self._contracts = self._keep_contracts()
        self._pool = _Pool(settings.database_url or "")

    async def account_states(self) -> list[AccountRow]:
        rows: list[AccountRow] = await self._select(f"{ACCOUNT_COLUMNS} from whatsapp.accounts", "accounts")
        return rows

    async def has_key(self, country_id: str, key: str) -> bool:
        query = "key from whatsapp.idempotency_keys where country_id = $1 and scope = 'send' and key = $2"
        return bool(await self._select(query, "idempotency_keys", country_id, key))

    async def roles_of(self, user_id: str) -> dict[str, str]:
        rows = await self._select("country_id, role from whatsapp.members where user_id = $1", "members", user_id)
        return {row["country_id"]: row["role"] for row in rows}

    async def close(self) -> None:
        await self._contracts.close()
        await self._pool.close()

    async def _call(
        self, verb: str, arguments: Arguments, attempts: int = ATTEMPTS, failures: list[Failed] | None = None
    ) -> Any:
        places = ", ".join(f"{name} => ${n}" for n, name in enumerate(arguments, 1))
        values = [_encoded(value) for value in arguments.values()]
        return await self._ask(f"select to_jsonb(whatsapp.{verb}({places}))", values, verb, attempts, failures)

    async def _select(self, query: str, name: str, *values: object) -> Any:
        """Rows as JSON, as the Data API writes them."""
        rows = f"select coalesce(jsonb_agg(r), '[]') from (select {query}) r"  # noqa: S608 - of constants
        return await self._ask(rows, values, name)

    async def _ask(
        self,
        statement: str,
        values: Sequence[object],
        name: str,
        attempts: int = ATTEMPTS,
        failures: list[Failed] | None = None,
    ) -> Any:
        """The one JSON value that a statement gives."""
        answer = await persist(lambda: self._pool.fetch(statement, values), name, attempts=attempts, failures=failures)
        return None if answer is None else orjson.loads(answer)


class _Pool:
    """Connections that are opened when needed and lent one call at a time, the one used last first."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._by_transaction = urlsplit(url).port == POOLERS_PORT
        self._free = asyncio.Semaphore(CONNECTIONS)
        self._idle: list[tuple[float, asyncpg.Connection]] = []
        self._closed = False

    async def fetch(self, statement: str, values: Sequence[object]) -> str | None:
        """The one value that a statement gives, as text. Raises Failed."""
        async with self._lent() as connection:
            try:
                async with asyncio.timeout(_ATTEMPT):
                    return await self._fetch(connection, statement, values)
            except asyncpg.PostgresError as error:
                if _is_lost(error):
                    connection.terminate()
                raise _failure_of(error) from error
            except (asyncpg.InterfaceError, OSError) as error:
                connection.terminate()
                raise Failed(type(error).__name__, "", late=isinstance(error, TimeoutError)) from error
            except BaseException:
                # Broken off in the middle: nobody else may hear the answer.
                connection.terminate()
                raise

    async def close(self) -> None:
        """Close what is idle, and what is lent when it comes back."""
        self._closed = True
        idle, self._idle = self._idle, []
        leaving = (connection.close(timeout=_CLOSE) for _, connection in idle)
        await asyncio.gather(*leaving, return_exceptions=True)

    async def _fetch(self, connection: asyncpg.Connection, statement: str, values: Sequence[object]) -> str | None:
        if not self._by_transaction:
            answer: str | None = await connection.fetchval(statement, *values)
            return answer
        try:
            await connection.execute(f"begin; {_AS_SERVER.format(' local', ' local')}")
            answer = await connection.fetchval(statement, *values)
        except asyncpg.PostgresError as error:
            if not _is_lost(error):
                await connection.execute("rollback")
            raise
        await connection.execute("commit")
        return answer

    @contextlib.asynccontextmanager
    async def _lent(self) -> AsyncIterator[asyncpg.Connection]:
        try:
            async with asyncio.timeout(_WAIT):
                await self._free.acquire()
        except TimeoutError as error:
            raise Failed("PoolTimeout", "", sent=False, late=True) from error
        try:
            connection = self._waiting() or await self._open()
            try:
                yield connection
            finally:
                if self._closed:
                    connection.terminate()
                if not connection.is_closed():
                    self._idle.append((time.monotonic(), connection))
        finally:
            self._free.release()

    def _waiting(self) -> asyncpg.Connection | None:
        while self._idle:
            since, connection = self._idle.pop()
            if connection.is_closed():
                continue
            if time.monotonic() - since < _IDLE:
                return connection
            connection.terminate()
        return None

    async def _open(self) -> asyncpg.Connection:
        """A new connection. Whatever fails here, nothing has been asked for yet."""
        connection: asyncpg.Connection | None = None
        try:
            async with asyncio.timeout(_CONNECT):
                size = 0 if self._by_transaction else 100
                connection = await asyncpg.connect(self._url, statement_cache_size=size)
                if not self._by_transaction:
                    await connection.execute(_AS_SERVER.format("", ""))
        except BaseException as error:
            if connection is not None:
                connection.terminate()
            if not isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError | OSError):
                raise
            code = getattr(error, "sqlstate", None) or type(error).__name__
            raise Failed(code, "", sent=False, late=isinstance(error, TimeoutError)) from error
        return connection


def _encoded(value: object) -> object:
    """JSON is written once, by us: a jsonb[] is sent as the texts of its elements."""
    if isinstance(value, Sequence) and value and isinstance(value[0], Mapping):
        return [orjson.dumps(each).decode() for each in value]
    return value


def _failure_of(error: asyncpg.PostgresError) -> Failed:
    return Failed(str(error.sqlstate), str(getattr(error, "message", "")), lost=_is_lost(error))


def _is_lost(error: Exception) -> bool:
    """Whether the connection went with the statement."""
    return getattr(error, "severity_en", None) in ("FATAL", "PANIC") or isinstance(
        error, asyncpg.PostgresConnectionError
    )
