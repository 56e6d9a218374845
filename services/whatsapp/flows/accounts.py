"""The flow of accounts: a person stops a business number, or lets it go on after Meta's stop codes."""

from collections.abc import Mapping
from typing import Any

from services.whatsapp import log, requests
from services.whatsapp.actors import Actor
from services.whatsapp.refusals import refuse
from services.whatsapp.runtime import Runtime

_FIELDS = frozenset({"country_id", "account", "action"})
_ACTIONS = frozenset({"pause", "resume"})

_log = log.get("accounts")


async def control(runtime: Runtime, request: Mapping[str, Any], actor: Actor) -> dict[str, Any]:
    """Pause or resume; without `account` the country's default. Answers the account's state. Raises RefusalError."""
    requests.only(request, _FIELDS)
    country_id, account_id = requests.country(request), requests.account(request)
    action = request.get("action")
    if not isinstance(action, str) or action not in _ACTIONS:
        raise refuse("invalid_field", field="action", reason="it must be pause or resume")
    answer = await runtime.verbs.control_account(country_id, account_id, action, actor)
    # The answer's own `code` is Meta's; a refusal comes with the field it is about.
    if "field" in answer:
        raise refuse(answer["code"], field=answer["field"])
    _log.info(
        "account_controlled", country_id=country_id, account_id=answer["account"], action=action, actor=actor.member_id
    )
    return answer
