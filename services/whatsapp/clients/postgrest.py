"""The client of Supabase: the only code that calls the verbs or reads a table.

On one HTTP client, whose connections belong to one event loop. Between us and the tables stand a gateway, PostgREST and
Postgres, and each of them fails in its own words. Only a short list of them says that a value can never be stored: that
is `Rejected`. Everything else may pass: every verb is safe to repeat, so it is tried again here for a while, and what
remains is refused as `database_unavailable` or `database_timeout` (`Unavailable`), with the true code in the log.

PostgREST's client of the `supabase` package is used by itself: the package as a whole costs twice the start-up time.
"""

import asyncio
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import httpx
import orjson
from postgrest import AsyncPostgrestClient
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from services.whatsapp import log
from services.whatsapp.actors import Actor, Member, Server
from services.whatsapp.refusals import RefusalError, describe, refuse
from services.whatsapp.settings import Settings

Row = dict[str, Any]

SCHEMA = "whatsapp"
_TOTAL = 20.0
"""Seconds a call may take in all, its repetitions included: well below a lease, and below what cron waits for."""
_TIMEOUT = httpx.Timeout(10, connect=3, pool=5)
"""Of one attempt. Supabase ends a statement after 8 seconds."""
_CONNECTIONS = 16
"""httpx itself slows down beyond about 20 connections; batching keeps us far below."""
_CONNECTIONS_OF_READERS = 6
_ATTEMPTS = 4
_CONTRACT_SECONDS = 30.0
_MOST_CONTRACTS = 1_000

_NEVER = re.compile(r"22[0-9A-Z]{3}|2350[23]|23514|54[0-9A-Z]{3}|PT4\d\d|PGRST10[02]|413")
"""The codes that say: this can never be stored. Data exceptions, a column that must not be empty, a row
that must be there, a check, a limit of Postgres; our own refusals; a request that cannot be read or is too large. A
duplicate key (23505) is none of them: it is what two transactions that write the same row at once may meet."""
_STATEMENT = re.compile(r"(?!08|25|28|42|53|57P|58|0[LP])[0-9A-Z]{5}|SUP")
"""Codes of one statement that failed, such as a deadlock, a duplicate key or an internal error: less at a time may do.
The others (no connection, no right, no function, a server that is starting) would meet every call. Supabase Lite says
SUP of whatever it has no word for."""
_NOT_BEGUN = re.compile(r"(25|28|42|53)[0-9A-Z]{3}|PGRST\d+|401|403|404|429")
"""Codes of calls that were turned away before anything was written."""

_SERVER = Server()

_log = log.get("store")

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


class Unavailable(RefusalError):
    """The database did not do it in the time there was.

    `cause` is the code it gave; `divisible` says that a single statement failed, so that part of what was asked may
    succeed; `perhaps_done`, that it may have been done without our hearing of it.
    """

    def __init__(self, code: str, cause: str, *, divisible: bool, perhaps_done: bool) -> None:
        refusal = describe(code)
        assert refusal is not None  # noqa: S101 - a row of our own table
        super().__init__(refusal, refusal.message, None, None)
        self.cause = cause
        self.divisible = divisible
        self.perhaps_done = perhaps_done


class Store:
    """The verbs, and reads as a member or as the server. One a loop: `Runtime.verbs`, `Runtime.reads`."""

    def __init__(self, settings: Settings, connections: int = _CONNECTIONS) -> None:
        self._settings = settings
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._http = httpx.AsyncClient(
            http2=False, timeout=_TIMEOUT, limits=limits, trust_env=False, event_hooks={"response": [_raise_failure]}
        )
        self._contracts: dict[_ContractKey, tuple[float, Row | None]] = {}
        self._contract_reads: dict[_ContractKey, asyncio.Task[Row | None]] = {}
        self._server = self._client(settings.secret_key, settings.secret_key)

    async def enqueue(self, items: Sequence[Row]) -> list[Row]:
        """A verdict per item, in order. See supabase/schemas/enqueue.sql for the shapes of all verbs."""
        return list(await self._call("enqueue", {"p_items": items}))

    async def claim(
        self,
        claim_id: str,
        accounts: Iterable[tuple[str, str]],
        *,
        limit: int,
        lease: float,
        horizon: float,
        ahead: float,
    ) -> Row:
        """A batch to post for `accounts`; `lease`, `horizon` and `ahead` in seconds.

        Whoever did not hear the answer asks again with the same `claim_id`, and gets the same batch.
        """
        arguments = {
            "p_claim_id": claim_id,
            "p_accounts": [f"{country}/{account}" for country, account in accounts],
            "p_limit": limit,
            "p_lease": f"{lease} seconds",
            "p_horizon": f"{horizon} seconds",
            "p_ahead": f"{ahead} seconds",
        }
        return dict(await self._call("claim", arguments))

    async def announce(self, leases: Sequence[Row]) -> list[str]:
        """Says how many messages of these leases may be posted; answers those of which it may be done."""
        return list(await self._call("announce", {"p_leases": leases}, attempts=1))

    async def settle(self, results: Sequence[Row], attempts: int = _ATTEMPTS) -> Row:
        return dict(await self._call("settle", {"p_results": results}, attempts))

    async def ingest(self, events: Sequence[Row], attempts: int = _ATTEMPTS) -> Row:
        return dict(await self._call("ingest", {"p_events": events}, attempts))

    async def sweep(self, job: str) -> Row:
        """One bounded piece of one job: `{job: rows}`, and `failed` names the job if it could not be done."""
        return dict(await self._call("sweep", {"p_jobs": [job]}, attempts=1))

    async def sync_templates(
        self, country_id: str, account_id: str, templates: Sequence[Row], *, complete: bool
    ) -> Row:
        """Stores the templates; what a complete listing lacks is removed."""
        arguments = {
            "p_country": country_id,
            "p_account": account_id,
            "p_templates": templates,
            "p_complete": complete,
        }
        synced = dict(await self._call("sync_templates", arguments))
        # What is being read just now may be of before: it is kept where nobody looks any more.
        self._contracts, self._contract_reads = {}, {}
        return synced

    async def sync_number(self, country_id: str, account_id: str, number: Row) -> Row:
        arguments = {"p_country": country_id, "p_account": account_id, "p_number": [number]}
        return dict(await self._call("sync_number", arguments))

    async def template_contract(self, country_id: str, account_id: str | None, name: str, language: str) -> Row | None:
        """What the template needs, or None where it is not known. Kept for half a minute: contracts change rarely.

        Many who ask at once share one read.
        """
        key = (country_id, account_id, name, language)
        kept = self._contracts.get(key)
        if kept is not None and kept[0] > time.monotonic():
            return kept[1]
        read = self._contract_reads.get(key)
        if read is None:
            read = self._contract_reads[key] = asyncio.get_running_loop().create_task(self._read_contract(key))
        return await asyncio.shield(read)

    async def _read_contract(self, key: "_ContractKey") -> Row | None:
        contracts, reads = self._contracts, self._contract_reads
        arguments = dict(zip(("p_country", "p_account", "p_name", "p_language"), key, strict=True))
        try:
            contract = await self._call("template_contract", arguments) or None
        finally:
            del reads[key]
        if len(contracts) >= _MOST_CONTRACTS:
            contracts.clear()
        contracts[key] = (time.monotonic() + _CONTRACT_SECONDS, contract)
        return contract

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

    async def control_campaign(self, country_id: str, campaign_id: str, action: str, actor: Actor) -> Row:
        arguments = {"p_country": country_id, "p_campaign": campaign_id, "p_action": action, "p_actor": actor.member_id}
        return dict(await self._call("control_campaign", arguments))

    async def control_account(self, country_id: str, account_id: str | None, action: str, actor: Actor) -> Row:
        arguments = {"p_country": country_id, "p_account": account_id, "p_action": action, "p_actor": actor.member_id}
        return dict(await self._call("control_account", arguments))

    async def campaign_progress(self, country_id: str, campaign_id: str, actor: Actor) -> Row | None:
        """The campaign's counts, by RLS for a member; None where there is none to see."""
        query = self._reader(actor).rpc("campaign_progress", {"p_country": country_id, "p_campaign": campaign_id})
        return await _execute(query, "campaign_progress", actor) or None

    async def record_consents(
        self, country_id: str, actor: Actor, key: str, fingerprint: str, rows: Sequence[Row]
    ) -> Row:
        arguments = {"p_country": country_id, "p_actor": actor.member_id, "p_key": key, "p_fingerprint": fingerprint}
        return dict(await self._call("record_consents", arguments | {"p_rows": rows}))

    async def account_states(self) -> list[Row]:
        """Every account with its state, for the health function."""
        query = self._server.from_("accounts").select(
            "country_id,account_id,state,state_reason,state_code,paused_until,templates_paused_until,messaging_limit,quality"
        )
        return await self._read(query, "accounts", _SERVER)

    async def messages(self, message_ids: Sequence[str], actor: Actor) -> list[Row]:
        """The messages with these ids that the actor may see: by RLS for a member, all for a server.

        Row level security looks in a member's countries. For the server a function looks in all, one by one: ids alone
        would be looked for in the whole log.
        """
        if isinstance(actor, Server):
            return list(await self._call("find_messages", {"p_ids": list(message_ids)}))
        query = self._reader(actor).from_("messages").select(MESSAGE_COLUMNS).in_("message_id", message_ids)
        return await self._read(query, "messages", actor)

    async def messages_after(self, country_id: str, after: str | None, limit: int, actor: Actor) -> list[Row]:
        """The country's messages after the message id `after`, oldest first."""
        query = self._reader(actor).from_("messages").select(MESSAGE_COLUMNS).eq("country_id", country_id)
        if after is not None:
            query = query.gt("message_id", after)
        return await self._read(query.order("message_id").limit(limit), "messages", actor)

    async def now(self) -> datetime:
        """The time by the database's clock, by which message ids are made."""
        return datetime.fromisoformat((await self._call("clock", {}))["now"])

    async def has_key(self, country_id: str, key: str) -> bool:
        """Whether this Idempotency-Key of `send` has been used."""
        query = self._server.from_("idempotency_keys").select("key").eq("country_id", country_id)
        return bool(await self._read(query.eq("scope", "send").eq("key", key), "idempotency_keys", _SERVER))

    async def roles_of(self, user_id: str) -> dict[str, str]:
        """The user's role by country."""
        query = self._server.from_("members").select("country_id,role").eq("user_id", user_id)
        return {row["country_id"]: row["role"] for row in await self._read(query, "members", _SERVER)}

    async def close(self) -> None:
        await self._http.aclose()

    def _reader(self, actor: Actor) -> AsyncPostgrestClient:
        if isinstance(actor, Server):
            return self._server
        return self._client(self._settings.publishable_key or self._settings.secret_key, actor.token)

    def _client(self, key: str, token: str) -> AsyncPostgrestClient:
        headers = {"apikey": key, "Authorization": f"Bearer {token}"}
        url = f"{self._settings.supabase_url}/rest/v1"
        return AsyncPostgrestClient(url, schema=SCHEMA, headers=headers, http_client=self._http, retry_enabled=False)

    async def _call(self, verb: str, arguments: Mapping[str, Any], attempts: int = _ATTEMPTS) -> Any:
        return await _execute(self._server.rpc(verb, dict(arguments)), verb, _SERVER, attempts=attempts)

    async def _read(self, query: Any, table: str, actor: Actor) -> list[Row]:
        return list(await _execute(query, table, actor))


_ContractKey = tuple[str, str | None, str, str]


class _Failed(Exception):
    """Somebody on the way to the database answered, but not with what was asked for."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason

    @property
    def divisible(self) -> bool:
        lost = self.code == "SUP" and "CONNECT" in self.reason.upper()
        return _STATEMENT.fullmatch(self.code) is not None and not lost


async def _raise_failure(response: httpx.Response) -> None:
    """Raises _Failed unless the answer is JSON of a call that succeeded; a gateway's page is none, whatever its status.

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
    told = body if isinstance(body, dict) and not response.is_success else {}
    raise _Failed(str(told.get("code") or response.status_code), str(told.get("message") or response.reason_phrase))


async def _execute(query: Any, name: str, actor: Actor, *, attempts: int = _ATTEMPTS) -> Any:
    """The data of a query of the actor's, repeated while its failure may pass. `name` is for the log."""
    failures: list[Exception] = []

    def note(state: RetryCallState) -> None:
        failures.append(_failure_of(state))
        _log.warning("trying_again", call=name, code=_code_of(failures[-1]))

    try:
        async with asyncio.timeout(_TOTAL):
            async for attempt in AsyncRetrying(
                retry=retry_if_exception(lambda error: _may_pass(error, actor)),
                stop=stop_after_attempt(attempts),
                wait=wait_random_exponential(multiplier=0.1, max=1),
                before_sleep=note,
                reraise=True,
            ):
                with attempt:
                    return (await query.execute()).data
    except (_Failed, httpx.TransportError, TimeoutError) as error:
        raise _as_ours([*failures, error], name, actor) from error
    raise AssertionError("a retry either returns or raises")


def _failure_of(state: RetryCallState) -> Exception:
    error = state.outcome.exception() if state.outcome is not None else None
    return error if isinstance(error, Exception) else AssertionError("only a failure is repeated")


def _may_pass(error: BaseException, actor: Actor) -> bool:
    if isinstance(error, _Failed):
        return not _NEVER.fullmatch(error.code) and not (isinstance(actor, Member) and _of_token(error))
    return isinstance(error, httpx.TransportError)


def _of_token(error: _Failed) -> bool:
    """PostgREST does not believe the token of the caller, such as one that has expired while they waited."""
    return error.code in ("PGRST301", "PGRST302", "PGRST303")


def _as_ours(failures: Sequence[Exception], name: str, actor: Actor) -> RefusalError | Rejected:
    """What a call's failures, the last one last, come to."""
    last = failures[-1]
    if isinstance(last, _Failed) and isinstance(actor, Member) and _of_token(last):
        return refuse("token_expired" if "expired" in last.reason.lower() else "invalid_token")
    if isinstance(last, _Failed) and _NEVER.fullmatch(last.code):
        return Rejected(last.code, last.reason)
    code = _code_of(last)
    _log.error("database_failed", call=name, code=code, attempts=len(failures), error=last)
    late = code == "57014" or isinstance(last, TimeoutError | httpx.TimeoutException)
    return Unavailable(
        "database_timeout" if late else "database_unavailable",
        code,
        divisible=isinstance(last, _Failed) and last.divisible,
        perhaps_done=not all(_was_not_done(each) for each in failures),
    )


def _code_of(error: Exception) -> str:
    return error.code if isinstance(error, _Failed) else type(error).__name__


def _was_not_done(error: Exception) -> bool:
    """Whether nothing of the call can have come to pass: it never got there, or was undone."""
    if isinstance(error, _Failed):
        return error.divisible or _NOT_BEGUN.fullmatch(error.code) is not None
    return isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
