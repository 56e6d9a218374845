"""The Data API of Supabase: the verbs as the server (`Postgrest`), and what members read as themselves (`Reads`).

Each on HTTP connections of its own, which belong to one event loop: however many look, nobody's send waits.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypedDict

import httpx
import orjson

from services.whatsapp.actors import Actor, Member, Server
from services.whatsapp.clients.failures import ATTEMPTS, Failed, persist
from services.whatsapp.clients.verbs import ACCOUNT_COLUMNS, AccountRow, Arguments, JsonObject, Progress, Verbs
from services.whatsapp.refusals import RefusalError, refuse
from services.whatsapp.settings import Settings

if TYPE_CHECKING:
    from postgrest import AsyncPostgrestClient

SCHEMA = "whatsapp"
_TIMEOUT = httpx.Timeout(10, connect=3, pool=5)
"""Of one attempt. Supabase ends a statement after 8 seconds."""
_CONNECTIONS = 16
"""httpx itself slows down beyond about 20 connections; batching keeps us far below."""
_CONNECTIONS_OF_READERS = 6
_OF_TOKEN = frozenset({"PGRST301", "PGRST302", "PGRST303"})
"""PostgREST does not believe the token of the caller, such as one that has expired while they waited."""


_SERVER = Server()


class MessageRow(TypedDict):
    """A message as its readers see it: without its content."""

    country_id: str
    message_id: str
    account_id: str
    contact_id: str
    direction: str
    kind: str
    state: str
    ref: str | None
    refusal: str | None
    error_code: int | None
    error_title: str | None
    error_details: str | None
    price: JsonObject | None
    attempts: int
    created_at: str
    send_at: str | None
    expires_at: str | None
    accepted_at: str | None
    sent_at: str | None
    delivered_at: str | None
    read_at: str | None
    played_at: str | None
    failed_at: str | None


_MESSAGE_COLUMNS = ",".join(MessageRow.__annotations__)


class Postgrest(Verbs):
    """The verbs over the Data API."""

    def __init__(self, settings: Settings) -> None:
        self._api = _Api(settings, _CONNECTIONS)
        self._contracts = self._keep_contracts()

    async def account_states(self) -> list[AccountRow]:
        query = self._api.tables(_SERVER).from_("accounts").select(ACCOUNT_COLUMNS)
        rows: list[AccountRow] = await self._api.read(query, "accounts", _SERVER)
        return rows

    async def has_key(self, country_id: str, key: str) -> bool:
        query = self._api.tables(_SERVER).from_("idempotency_keys").select("key").eq("country_id", country_id)
        return bool(await self._api.read(query.eq("scope", "send").eq("key", key), "idempotency_keys", _SERVER))

    async def roles_of(self, user_id: str) -> dict[str, str]:
        query = self._api.tables(_SERVER).from_("members").select("country_id,role").eq("user_id", user_id)
        return {row["country_id"]: row["role"] for row in await self._api.read(query, "members", _SERVER)}

    async def close(self) -> None:
        await self._contracts.close()
        await self._api.close()

    async def _call(
        self, verb: str, arguments: Arguments, attempts: int = ATTEMPTS, failures: list[Failed] | None = None
    ) -> Any:
        return await self._api.call(verb, arguments, _SERVER, attempts=attempts, failures=failures)


class Reads:
    """What callers read: a member by row level security, with their own token; a server everything."""

    def __init__(self, settings: Settings) -> None:
        self._api = _Api(settings, _CONNECTIONS_OF_READERS)

    async def messages(self, message_ids: Sequence[str], actor: Actor) -> list[MessageRow]:
        """The messages with these ids that the actor may see.

        Row level security looks in a member's countries. For the server a function looks in all, one by one: ids alone
        would be looked for in the whole log.
        """
        rows: list[MessageRow]
        if isinstance(actor, Server):
            rows = await self._api.call("find_messages", {"p_ids": list(message_ids)}, actor)
        else:
            query = self._api.tables(actor).from_("messages").select(_MESSAGE_COLUMNS)
            rows = await self._api.read(query.in_("message_id", message_ids), "messages", actor)
        return rows

    async def messages_after(self, country_id: str, after: str | None, limit: int, actor: Actor) -> list[MessageRow]:
        """The country's messages after the message id `after`, oldest first."""
        query = self._api.tables(actor).from_("messages").select(_MESSAGE_COLUMNS).eq("country_id", country_id)
        if after is not None:
            query = query.gt("message_id", after)
        rows: list[MessageRow] = await self._api.read(query.order("message_id").limit(limit), "messages", actor)
        return rows

    async def campaign_progress(self, country_id: str, campaign_id: str, actor: Actor) -> Progress | None:
        """The campaign's counts; None where there is none to see."""
        arguments = {"p_country": country_id, "p_campaign": campaign_id}
        return await self._api.call("campaign_progress", arguments, actor) or None

    async def now(self) -> datetime:
        """The time by the database's clock, by which message ids are made."""
        return datetime.fromisoformat((await self._api.call("clock", {}, _SERVER))["now"])

    async def close(self) -> None:
        await self._api.close()


class _Api:
    """The Data API of one project."""

    def __init__(self, settings: Settings, connections: int) -> None:
        self._settings = settings
        self._url = f"{settings.supabase_url}/rest/v1"
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._http = httpx.AsyncClient(
            http2=False, timeout=_TIMEOUT, limits=limits, trust_env=False, event_hooks={"response": [_raise_failure]}
        )

    async def call(
        self,
        function: str,
        arguments: Arguments,
        actor: Actor,
        *,
        attempts: int = ATTEMPTS,
        failures: list[Failed] | None = None,
    ) -> Any:
        """What an SQL function answers."""
        # Not by PostgREST's client, which writes and reads JSON at a third of the speed.
        headers = self._headers(actor) | {"content-type": "application/json", "content-profile": SCHEMA}
        content = orjson.dumps(arguments, default=_spelled)

        async def ask() -> Any:
            response = await self._http.post(f"{self._url}/rpc/{function}", content=content, headers=headers)
            return orjson.loads(response.content)

        return await self._persist(ask, function, actor, attempts, failures)

    def tables(self, actor: Actor) -> "AsyncPostgrestClient":
        """Builds queries of tables. Imported here: it doubles the time that the first webhook takes."""
        from postgrest import AsyncPostgrestClient

        return AsyncPostgrestClient(
            self._url, schema=SCHEMA, headers=self._headers(actor), http_client=self._http, retry_enabled=False
        )

    async def read(self, query: Any, table: str, actor: Actor) -> Any:
        """The rows of a query."""

        async def ask() -> Any:
            return (await query.execute()).data

        return await self._persist(ask, table, actor)

    async def close(self) -> None:
        await self._http.aclose()

    def _headers(self, actor: Actor) -> dict[str, str]:
        key = token = self._settings.secret_key
        if isinstance(actor, Member):
            key, token = self._settings.publishable_key or key, actor.token
        return {"apikey": key, "authorization": f"Bearer {token}"}

    async def _persist(
        self, ask: Any, name: str, actor: Actor, attempts: int = ATTEMPTS, failures: list[Failed] | None = None
    ) -> Any:
        async def attempt() -> Any:
            try:
                return await ask()
            except httpx.TransportError as error:
                raise _failure_of(error) from error

        verdict = _of_token if isinstance(actor, Member) else None
        return await persist(attempt, name, attempts=attempts, verdict=verdict, failures=failures)


def _spelled(value: object) -> str:
    if isinstance(value, timedelta):
        return f"{value.total_seconds()} seconds"
    raise TypeError(f"{type(value).__name__} is no argument of a verb")


async def _raise_failure(response: httpx.Response) -> None:
    """Raises Failed unless the answer is JSON of a call that succeeded; a gateway's page is none, whatever its status.

    PostgREST's code counts, else the HTTP status.
    """
    await response.aread()
    is_json = response.headers.get("content-type", "").startswith("application/json")
    if response.is_success and is_json and response.content:
        return
    try:
        body = orjson.loads(response.content) if is_json else None
    except orjson.JSONDecodeError:
        body = None
    told: Mapping[str, Any] = body if isinstance(body, dict) and not response.is_success else {}
    code = str(told.get("code") or response.status_code)
    reason = str(told.get("message") or response.reason_phrase)
    # Supabase Lite has one code for whatever befalls it, its own connection to Postgres included.
    raise Failed(code, reason, lost=code == "SUP" and "CONNECT" in reason.upper())


def _failure_of(error: httpx.TransportError) -> Failed:
    never_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    return Failed(type(error).__name__, "", sent=not never_sent, late=isinstance(error, httpx.TimeoutException))


def _of_token(failure: Failed) -> RefusalError | None:
    if failure.code not in _OF_TOKEN:
        return None
    return refuse("token_expired" if "expired" in failure.reason.lower() else "invalid_token")
