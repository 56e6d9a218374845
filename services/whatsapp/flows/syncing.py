"""The flow of syncing: read every account's templates from Meta, and what Meta grants its number, and keep them so."""

import asyncio
from collections.abc import Iterable
from typing import Any, Required, TypedDict

import orjson

from services.whatsapp import log
from services.whatsapp.clients.failures import Rejected
from services.whatsapp.clients.graph import GraphError
from services.whatsapp.clients.verbs import JsonObject, NumberRow, TemplateRow
from services.whatsapp.directory import Account
from services.whatsapp.meta.templates import contract_of
from services.whatsapp.refusals import RefusalError
from services.whatsapp.runtime import Runtime

_log = log.get("templates")


class Problem(TypedDict):
    """Meta's code and words, or ours."""

    code: int | str | None
    message: str


class Report(TypedDict, total=False):
    """What became of an account's templates and of its number, and the first thing that went wrong."""

    country_id: Required[str]
    account: Required[str]
    stored: int
    removed: int
    incomplete: bool
    messaging_limit: int
    messages_per_second: int
    quality: str | None
    error: Problem


async def sync(runtime: Runtime, country_id: str | None = None) -> list[Report]:
    """Sync all accounts, or those of one country. An account's failure is in its report and stops no other."""
    accounts = [each for each in runtime.settings.directory if country_id in (None, each.country_id)]
    syncs = runtime.part(_Syncs)
    return [await syncs.of(account) for account in accounts]


async def refresh(runtime: Runtime, accounts: Iterable[Account]) -> None:
    """Sync these now, after a webhook about their templates."""
    for account in accounts:
        await runtime.part(_Syncs).of(account)


class _Syncs:
    """One sync of an account at a time. Whoever asks meanwhile shares the next one with all others who wait: what they
    ask for may have changed since this one began."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._running: dict[Account, asyncio.Task[Report]] = {}
        self._next: dict[Account, asyncio.Task[Report]] = {}

    async def of(self, account: Account) -> Report:
        """The report of a sync that begins from now on, whoever else goes away."""
        running = self._running.get(account)
        if running is None:
            sync = self._running[account] = asyncio.create_task(self._sync(account))
        elif (waiting := self._next.get(account)) is not None:
            sync = waiting
        else:
            sync = self._next[account] = asyncio.create_task(self._sync_after(running, account))
        return (await asyncio.shield(sync)).copy()

    async def _sync_after(self, running: asyncio.Task[Report], account: Account) -> Report:
        await asyncio.wait((running,))
        self._running[account] = self._next.pop(account)
        return await self._sync(account)

    async def _sync(self, account: Account) -> Report:
        try:
            return await _sync(self._runtime, account)
        finally:
            if account not in self._next:
                del self._running[account]

    async def close(self) -> None:
        """Break off whatever runs."""
        tasks = [*self._next.values(), *self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _sync(runtime: Runtime, account: Account) -> Report:
    """Its templates and its number, each for itself: what cannot be read of the one does not keep the other back."""
    report: Report = {"country_id": account.country_id, "account": account.account_id}
    for part in (_sync_templates, _sync_number):
        try:
            await part(runtime, account, report)
        except Exception as error:
            report.setdefault("error", _explained(error))
            _log.error("sync_failed", country_id=account.country_id, account_id=account.account_id, error=error)
    return report


async def _sync_templates(runtime: Runtime, account: Account, report: Report) -> None:
    listing = await runtime.graph.templates(account)
    rows = [row for row in map(row_of, listing.rows) if row is not None]
    # What a complete listing lacks, Meta has removed.
    complete = listing.complete and len(rows) == len(listing.rows)
    if not complete:
        _log.warning("listing_incomplete", country_id=account.country_id, account_id=account.account_id, rows=len(rows))
    synced = await runtime.verbs.sync_templates(account.country_id, account.account_id, rows, complete=complete)
    report["stored"], report["removed"] = synced["stored"], synced["removed"]
    if not complete:
        report["incomplete"] = True


async def _sync_number(runtime: Runtime, account: Account, report: Report) -> None:
    number = number_of(await runtime.graph.number(account))
    granted = await runtime.verbs.sync_number(account.country_id, account.account_id, number)
    report["messaging_limit"] = granted["messaging_limit"]
    report["messages_per_second"] = granted["messages_per_second"]
    report["quality"] = granted["quality"]


def _explained(error: Exception) -> Problem:
    if isinstance(error, GraphError):
        return {"code": error.failure.code if error.failure else None, "message": str(error)}
    if isinstance(error, Rejected):  # such as an account that has no row in whatsapp.accounts
        return {"code": error.code, "message": error.reason}
    if isinstance(error, RefusalError):
        return {"code": error.code, "message": str(error)}
    return {"code": "internal_error", "message": type(error).__name__}


def row_of(template: JsonObject) -> TemplateRow | None:
    """A template of Meta's as a row; None if not even its name can be read. Its id stays behind: ids of Meta are
    never stored."""
    name, language = _text(template.get("name")), _text(template.get("language"))
    if not name or not language:
        return None
    components: Any = template.get("components")
    category = _text(template.get("category"))
    contract = contract_of(components, category)
    if not _storable(components):
        components, contract = None, {"unsupported": "its components hold characters that cannot be stored"}
    quality, reason = template.get("quality_score"), _text(template.get("rejected_reason"))
    return {
        "name": name,
        "language": language.replace("-", "_"),
        "status": _text(template.get("status")),
        "category": category,
        "parameter_format": _text(template.get("parameter_format")),
        "components": components,
        "contract": contract,
        "quality": _text(quality.get("score")) if isinstance(quality, dict) else None,
        "reason": reason if reason != "NONE" else None,
    }


_LONGEST = 512


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and len(value) <= _LONGEST and _storable(value) else None


def _storable(value: object) -> bool:
    """Whether Postgres takes it: no NUL, no half of a character."""
    try:
        return b"\\u0000" not in orjson.dumps(value)
    except TypeError:
        return False


def number_of(node: JsonObject) -> NumberRow:
    """What Meta grants a number, in Meta's words. A member Meta left out is None: it changes nothing."""
    throughput = node.get("throughput")
    coexistence = node.get("is_on_biz_app")
    return {
        "messaging_limit": node.get("whatsapp_business_manager_messaging_limit", node.get("messaging_limit_tier")),
        "throughput": throughput.get("level") if isinstance(throughput, dict) else None,
        "coexistence": coexistence if isinstance(coexistence, bool) else None,
        "quality": node.get("quality_rating"),
    }
