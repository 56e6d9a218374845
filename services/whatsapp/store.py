"""The window to Supabase: the only code that calls the verbs or reads a table.

One client a process and event loop, on one shared HTTP client. Every verb is safe to repeat, so a failure that may pass
(no connection, deadlock, timeout) is tried again here; what remains is refused as `database_unavailable` or
`database_timeout`. Where the database refuses what it was given, `Rejected` says so: repeating would not help.

PostgREST's client of the `supabase` package is used by itself: the package as a whole costs twice the start-up time.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import uuid4

import httpx
import orjson
from postgrest import AsyncPostgrestClient
from postgrest.exceptions import APIError
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from services.whatsapp.per_loop import PerLoop
from services.whatsapp.refusals import RefusalError, refuse
from services.whatsapp.settings import Settings

Row = dict[str, Any]

SCHEMA = "whatsapp"
_TIMEOUT = httpx.Timeout(20, connect=3, pool=5)
_LIMITS = httpx.Limits(max_connections=16, max_keepalive_connections=16)
"""httpx itself slows down beyond about 20 connections; batching keeps us far below."""
_ATTEMPTS = 4
_CONTRACT_SECONDS = 30.0
_MOST_CONTRACTS = 1_000
_PASSING_STATES = ("08", "53", "57P", "40001", "40P01", "55P03", "57014", "PGRST00")
"""Beginnings of SQLSTATE and PostgREST codes of failures that may pass."""
_GATEWAY_STATES = ("502", "503", "504", "520")

MESSAGE_COLUMNS = (
    "country_id,message_id,account_id,contact_id,direction,kind,state,ref,refusal,error_code,error_title,error_details,price,"
    "attempts,created_at,send_at,expires_at,accepted_at,sent_at,delivered_at,read_at,played_at,failed_at"
)


class Rejected(Exception):
    """The database refused the arguments of a verb; the same call would be refused again."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class Store:
    """The verbs, and reads as a member or as the server. Use `shared` to get one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._http = httpx.AsyncClient(http2=False, timeout=_TIMEOUT, limits=_LIMITS, trust_env=False)
        self._contracts: dict[tuple[str, str | None, str, str], tuple[float, Row | None]] = {}
        self._server = self._client(settings.secret_key, settings.secret_key)

    async def enqueue(self, items: Sequence[Row]) -> list[Row]:
        """A verdict per item, in order. See supabase/migrations/…_enqueue.sql for the shapes of all verbs."""
        return list(await self._call("enqueue", {"p_items": items}))

    async def claim(self, accounts: Iterable[tuple[str, str]], *, limit: int, lease: float, horizon: float) -> Row:
        """A batch to post for `accounts`; `lease` and `horizon` in seconds. A lost answer is asked for again."""
        arguments = {
            "p_claim_id": str(uuid4()),
            "p_accounts": [f"{country}/{account}" for country, account in accounts],
            "p_limit": limit,
            "p_lease": f"{lease} seconds",
            "p_horizon": f"{horizon} seconds",
        }
        return dict(await self._call("claim", arguments))

    async def settle(self, results: Sequence[Row]) -> Row:
        return dict(await self._call("settle", {"p_results": results}))

    async def ingest(self, events: Sequence[Row]) -> Row:
        return dict(await self._call("ingest", {"p_events": events}))

    async def sweep(self) -> Row:
        return dict(await self._call("sweep", {}))

    async def sync_templates(self, country_id: str, account_id: str, templates: Sequence[Row]) -> Row:
        arguments = {"p_country": country_id, "p_account": account_id, "p_templates": templates}
        synced = dict(await self._call("sync_templates", arguments))
        self._contracts.clear()
        return synced

    async def sync_number(self, country_id: str, account_id: str, number: Row) -> Row:
        arguments = {"p_country": country_id, "p_account": account_id, "p_number": [number]}
        return dict(await self._call("sync_number", arguments))

    async def template_contract(self, country_id: str, account_id: str | None, name: str, language: str) -> Row | None:
        """What the template needs, or None where it is not known. Kept for half a minute: contracts change rarely."""
        key = (country_id, account_id, name, language)
        now = time.monotonic()
        kept = self._contracts.get(key)
        if kept is not None and kept[0] > now:
            return kept[1]
        arguments = {"p_country": country_id, "p_account": account_id, "p_name": name, "p_language": language}
        contract = await self._call("template_contract", arguments)
        if len(self._contracts) >= _MOST_CONTRACTS:
            self._contracts.clear()
        self._contracts[key] = (now + _CONTRACT_SECONDS, contract or None)
        return contract or None

    async def open_campaign(self, campaign: Row) -> Row:
        return dict(await self._call("open_campaign", {"p_campaign": [campaign]}))

    async def enqueue_campaign(
        self, country_id: str, campaign_id: str, key: str, fingerprint: str, rows: Sequence[Row]
    ) -> Row:
        arguments: Row = {
            "p_country": country_id,
            "p_campaign": campaign_id,
            "p_key": key,
            "p_fingerprint": fingerprint,
            "p_rows": [row["row"] for row in rows],
            # As text: a list among the elements of an array would be taken for a second dimension of it.
            "p_components": [orjson.dumps(row["components"]).decode() if row["components"] else None for row in rows],
        }
        for name in ("phone", "match_key", "bsuid", "contact_id", "ref"):
            values = [row[name] for row in rows]
            # An array that is too short is filled up with null.
            arguments[f"p_{name}s"] = [] if values.count(None) == len(values) else values
        return dict(await self._call("enqueue_campaign", arguments))

    async def control_campaign(self, country_id: str, campaign_id: str, action: str, actor: str | None) -> Row:
        arguments = {"p_country": country_id, "p_campaign": campaign_id, "p_action": action, "p_actor": actor}
        return dict(await self._call("control_campaign", arguments))

    async def control_account(self, country_id: str, account_id: str | None, action: str, actor: str | None) -> Row:
        arguments = {"p_country": country_id, "p_account": account_id, "p_action": action, "p_actor": actor}
        return dict(await self._call("control_account", arguments))

    async def campaign_progress(self, country_id: str, campaign_id: str, token: str | None) -> Row | None:
        """The campaign's counts, by RLS with a user's `token`; None where there is none to see."""
        query = self._reader(token).rpc("campaign_progress", {"p_country": country_id, "p_campaign": campaign_id})
        return await _execute(query) or None

    async def record_consents(
        self, country_id: str, actor: str | None, key: str, fingerprint: str, rows: Sequence[Row]
    ) -> Row:
        arguments = {"p_country": country_id, "p_actor": actor, "p_key": key, "p_fingerprint": fingerprint}
        return dict(await self._call("record_consents", arguments | {"p_rows": rows}))

    async def account_states(self) -> list[Row]:
        """Every account with its state, for the health door."""
        query = self._server.from_("accounts").select(
            "country_id,account_id,state,state_reason,state_code,paused_until,templates_paused_until,messaging_limit,quality"
        )
        return await self._read(query)

    async def messages(self, message_ids: Sequence[str], token: str | None) -> list[Row]:
        """The messages with these ids that the caller may see: by RLS with a user's `token`, all without."""
        query = self._reader(token).from_("messages").select(MESSAGE_COLUMNS).in_("message_id", message_ids)
        return await self._read(query)

    async def messages_after(self, country_id: str, after: str | None, limit: int, token: str | None) -> list[Row]:
        """The country's messages after the message id `after`, oldest first."""
        query = self._reader(token).from_("messages").select(MESSAGE_COLUMNS).eq("country_id", country_id)
        if after is not None:
            query = query.gt("message_id", after)
        return await self._read(query.order("message_id").limit(limit))

    async def has_key(self, country_id: str, key: str) -> bool:
        """Whether this Idempotency-Key has been used."""
        query = self._server.from_("idempotency_keys").select("key").eq("country_id", country_id).eq("key", key)
        return bool(await self._read(query))

    async def role_of(self, country_id: str, user_id: str) -> str | None:
        """The role of the user in the country, or None."""
        query = self._server.from_("members").select("role").eq("country_id", country_id).eq("user_id", user_id)
        rows = await self._read(query)
        return str(rows[0]["role"]) if rows else None

    async def close(self) -> None:
        await self._http.aclose()

    def _reader(self, token: str | None) -> AsyncPostgrestClient:
        if token is None:
            return self._server
        return self._client(self._settings.publishable_key or self._settings.secret_key, token)

    def _client(self, key: str, token: str) -> AsyncPostgrestClient:
        headers = {"apikey": key, "Authorization": f"Bearer {token}"}
        url = f"{self._settings.supabase_url}/rest/v1"
        return AsyncPostgrestClient(url, schema=SCHEMA, headers=headers, http_client=self._http, retry_enabled=False)

    async def _call(self, verb: str, arguments: Mapping[str, Any]) -> Any:
        return await _execute(self._server.rpc(verb, dict(arguments)))

    async def _read(self, query: Any) -> list[Row]:
        return list(await _execute(query))


async def _execute(query: Any) -> Any:
    """The data of a query, repeated while its failure may pass."""
    try:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.1, max=1),
            reraise=True,
        ):
            with attempt:
                return (await query.execute()).data
    except httpx.TimeoutException as error:
        raise refuse("database_timeout") from error
    except httpx.TransportError as error:
        raise refuse("database_unavailable") from error
    except APIError as error:
        raise _as_ours(error) from error
    raise AssertionError("a retry either returns or raises")


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, APIError):
        code = str(error.code or "")
        return code.startswith(_PASSING_STATES) or code in _GATEWAY_STATES
    return isinstance(error, httpx.TransportError)


def _as_ours(error: APIError) -> RefusalError | Rejected:
    if error.code == "57014":
        return refuse("database_timeout")
    # Lite answers 500 with code "SUP" where its own connection to Postgres is gone; hosted answers 503 with 08* or
    # PGRST00*.
    if _may_pass(error) or (error.code == "SUP" and "CONNECT" in str(error.message).upper()):
        return refuse("database_unavailable")
    return Rejected(str(error.code), str(error.message))


_stores: PerLoop[Store] = PerLoop()


def shared(settings: Settings) -> Store:
    """The store of this event loop: HTTP connections belong to the loop they were made in."""
    return _stores.get(lambda: Store(settings))


async def close_shared() -> None:
    """Close this loop's store, if it has one."""
    store = _stores.pop()
    if store is not None:
        await store.close()
