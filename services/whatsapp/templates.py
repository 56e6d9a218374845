"""The flow of syncing: read every account's templates from Meta, and what Meta grants its number, and keep them so."""

from collections.abc import Iterable
from typing import Any

from services.whatsapp import graph, log, store
from services.whatsapp.directory import Account
from services.whatsapp.graph import GraphError
from services.whatsapp.settings import Settings
from services.whatsapp.template import contract_of

_log = log.get("templates")


async def sync(settings: Settings, country_id: str | None = None) -> list[dict[str, Any]]:
    """Sync all accounts, or those of one country. An account's failure is in its report and stops no other."""
    accounts = [each for each in settings.directory if country_id in (None, each.country_id)]
    return [await _sync(account, settings) for account in accounts]


_again: dict[Account, bool] = {}


async def refresh(accounts: Iterable[Account], settings: Settings) -> None:
    """Sync these now, after a webhook about their templates. One that is being synced already is synced once more."""
    for account in accounts:
        if account in _again:
            _again[account] = True
            continue
        _again[account] = True
        try:
            while _again[account]:
                _again[account] = False
                await _sync(account, settings)
        finally:
            del _again[account]


async def _sync(account: Account, settings: Settings) -> dict[str, Any]:
    report: dict[str, Any] = {"country_id": account.country_id, "account": account.account_id}
    try:
        rows = [row_of(template) async for page in graph.shared(settings).templates(account) for template in page]
        # Only a complete listing is stored: what it lacks, Meta has removed.
        report |= await store.shared(settings).sync_templates(account.country_id, account.account_id, rows)
        number = number_of(await graph.shared(settings).number(account))
        report |= await store.shared(settings).sync_number(account.country_id, account.account_id, number)
    except GraphError as error:
        failure = error.failure
        report |= {"error": {"code": failure.code if failure else None, "message": str(error)}}
        _log.error("sync_failed", country_id=account.country_id, account_id=account.account_id, error=error)
    except store.Rejected as error:  # such as an account that has no row in whatsapp.accounts
        report |= {"error": {"code": error.code, "message": error.reason}}
        _log.error("sync_failed", country_id=account.country_id, account_id=account.account_id, error=error)
    return report


def row_of(template: dict[str, Any]) -> dict[str, Any]:
    """A template of Meta's as a row. Its id stays behind: ids of Meta are never stored."""
    quality = template.get("quality_score")
    return {
        "name": template.get("name"),
        "language": str(template.get("language", "")).replace("-", "_"),
        "status": template.get("status"),
        "category": template.get("category"),
        "parameter_format": template.get("parameter_format"),
        "components": template.get("components"),
        "contract": contract_of(template.get("components"), template.get("category")),
        "quality": quality.get("score") if isinstance(quality, dict) else None,
        "reason": template.get("rejected_reason"),
    }


def number_of(node: dict[str, Any]) -> dict[str, Any]:
    """What Meta grants a number, in Meta's words. A member Meta left out is None: it changes nothing."""
    throughput = node.get("throughput")
    return {
        "messaging_limit": node.get("whatsapp_business_manager_messaging_limit"),
        "throughput": throughput.get("level") if isinstance(throughput, dict) else None,
        "coexistence": node.get("is_on_biz_app") is True,
        "quality": node.get("quality_rating"),
    }
