"""The flow of health: is the database the one this code was written for, and is every account well."""

import re
from typing import Any

from services.whatsapp.clients.failures import Unavailable
from services.whatsapp.clients.verbs import AccountRow
from services.whatsapp.refusals import refuse
from services.whatsapp.runtime import Runtime

NEEDED = 1
"""The version of the schema that this code calls: supabase/schemas/version.sql."""

_NOT_THERE = re.compile(r"PGRST(106|202)|3F000|42883|404")
"""Codes of a schema that is not exposed, and of a schema or function that is not there."""


async def check(runtime: Runtime) -> dict[str, Any]:
    """What is well and what is not. Raises RefusalError where the database cannot serve this code."""
    schema = await _schema(runtime)
    accounts = [_account(runtime, row) for row in await runtime.verbs.account_states()]
    problems = list(runtime.settings.directory_problems)
    well = all(each["state"] == "active" and each["credentials"] for each in accounts)
    status = "ok" if well and not problems and schema["code"] is None else "attention"
    return {"status": status, "schema": schema, "accounts": accounts, "problems": problems}


async def _schema(runtime: Runtime) -> dict[str, Any]:
    """A newer one is no fault: it comes before the functions do, and knows those of the version before."""
    try:
        version = await runtime.verbs.schema_version()
    except Unavailable as error:
        if _NOT_THERE.fullmatch(error.cause):
            raise refuse("schema_missing") from error
        raise
    if version < NEEDED:
        raise refuse("schema_outdated", version=version, needed=NEEDED)
    return {"version": version, "needed": NEEDED, "code": "schema_newer" if version > NEEDED else None}


def _account(runtime: Runtime, row: AccountRow) -> dict[str, Any]:
    known = runtime.settings.directory.account(row["country_id"], row["account_id"])
    return {
        "country_id": row["country_id"],
        "account": row["account_id"],
        "state": row["state"],
        "reason": row["state_reason"],
        "code": row["state_code"],
        "paused_until": row["paused_until"],
        "templates_paused_until": row["templates_paused_until"],
        "messaging_limit": row["messaging_limit"],
        "quality": row["quality"],
        "credentials": known is not None and bool(known.tokens),
    }
