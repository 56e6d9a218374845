"""The flow of syncing templates: read every account's templates from Meta and keep them as Meta has them."""

from typing import Any

from services.whatsapp import graph, log, store
from services.whatsapp.graph import GraphError
from services.whatsapp.settings import Settings
from services.whatsapp.template import contract_of

_log = log.get("templates")


async def sync(settings: Settings, country_id: str | None = None) -> list[dict[str, Any]]:
    """Sync all accounts, or those of one country. An account's failure is in its report and stops no other."""
    reports = []
    for account in settings.directory:
        if country_id is not None and account.country_id != country_id:
            continue
        report: dict[str, Any] = {"country_id": account.country_id, "account": account.account_id}
        try:
            rows = [row_of(template) async for page in graph.shared(settings).templates(account) for template in page]
            # Only a complete listing is stored: what it lacks, Meta has removed.
            report |= await store.shared(settings).sync_templates(account.country_id, account.account_id, rows)
        except GraphError as error:
            failure = error.failure
            report |= {"error": {"code": failure.code if failure else None, "message": str(error)}}
            _log.error("sync_failed", country_id=account.country_id, account_id=account.account_id, error=error)
        except store.Rejected as error:  # such as an account that has no row in whatsapp.accounts
            report |= {"error": {"code": error.code, "message": error.reason}}
            _log.error("sync_failed", country_id=account.country_id, account_id=account.account_id, error=error)
        reports.append(report)
    return reports


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
