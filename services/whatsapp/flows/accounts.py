"""The flow of accounts: a person stops a business number, or lets it go on after Meta's stop codes."""

from typing import TYPE_CHECKING, TypedDict

from services.whatsapp import log
from services.whatsapp.actors import Actor
from services.whatsapp.refusals import describe, refuse
from services.whatsapp.requests.accounts import AccountControl
from services.whatsapp.runtime import Runtime

if TYPE_CHECKING:
    from services.whatsapp.clients.verbs import AccountState

_log = log.get("accounts")


class Notice(TypedDict):
    """Why something waits, and what lets it go on."""

    code: str
    message: str
    hint: str


async def control(runtime: Runtime, asked: AccountControl, actor: Actor) -> "AccountState":
    """Pause or resume; without `account` the country's default. Answers the account's state. Raises RefusalError."""
    answer = await runtime.verbs.control_account(asked.country_id, asked.account, asked.action, actor)
    # The answer's own `code` is Meta's; a refusal comes with the field it is about.
    if "field" in answer:
        raise refuse(answer["code"], field=answer["field"])
    _log.info(
        "account_controlled",
        country_id=asked.country_id,
        account_id=answer["account"],
        action=asked.action,
        actor=actor.member_id,
    )
    return answer


def waiting_for(runtime: Runtime, country_id: str, account_id: str) -> Notice | None:
    """The notice of a message whose account has no credentials in the environment: it waits until they are there."""
    account = runtime.settings.directory.account(country_id, account_id)
    if account is not None and account.tokens:
        return None
    notice = describe("account_without_credentials")
    assert notice is not None  # noqa: S101 - a row of our own table
    return {"code": notice.code, "message": notice.message, "hint": notice.remedy}
