"""The flow of sending one message: let the database judge it and write it.

The answer is given once the message is durable in the queue; it leaves by the drainer. Concurrent requests of one
process share one call of `enqueue`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.whatsapp.actors import Actor
from services.whatsapp.batching import GroupCommit, Overloaded
from services.whatsapp.flows import members
from services.whatsapp.flows.accounts import Notice, waiting_for
from services.whatsapp.meta import templates
from services.whatsapp.meta.messages import Message
from services.whatsapp.refusals import RefusalError, refuse
from services.whatsapp.requests.send import Send
from services.whatsapp.runtime import Runtime

if TYPE_CHECKING:
    from services.whatsapp.clients.verbs import Content, Item, Refused, Verdict

_MOST = 200


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that is in the log and the queue. `waiting` is a notice: why it will not leave yet."""

    message_id: str
    status: str
    account: str
    waiting: Notice | None = None

    def body(self) -> dict[str, object]:
        body: dict[str, object] = {
            "message_id": self.message_id,
            "status": self.status,
            "account": self.account,
        }
        return body | {"waiting": self.waiting} if self.waiting else body


async def send(runtime: Runtime, asked: Send, actor: Actor) -> Sent:
    """Put one message into the queue. Raises RefusalError with the field, the reason and the remedy."""
    # Before anything of the country is looked at: an outsider learns neither its templates nor its keys.
    await members.check(runtime, actor, asked.country_id)
    item = item_of(asked, actor)
    await _check_contract(runtime, item)
    try:
        verdict = await runtime.part(_commits).add(item)
    except Overloaded:
        raise refuse("database_unavailable") from None
    if isinstance(verdict, RefusalError):
        raise verdict
    if verdict["status"] == "refused":
        raise refused(verdict, item)
    account_id = verdict["account_id"]
    waiting = waiting_for(runtime, asked.country_id, account_id)
    return Sent(verdict["message_id"], verdict["state"], account_id, waiting)


def item_of(asked: Send, actor: Actor) -> "Item":
    """As the verb takes it."""
    return {
        "country_id": asked.country_id,
        "account_id": asked.account,
        "actor": actor.member_id,
        **asked.to,
        **_content(asked.message),
        "key": asked.key,
        "fingerprint": asked.fingerprint,
        "send_at": asked.send_at,
        "expires_at": asked.expires_at,
        "ref": asked.ref,
    }


def refused(verdict: "Refused", item: "Item") -> RefusalError:
    """The refusal the database gave, in words."""
    of_template = str(verdict["code"]).startswith("template")
    reason = f"{item.get('template_name')} in {item.get('template_language')}" if of_template else None
    return refuse(verdict["code"], field=verdict.get("field"), reason=reason)


async def _check_contract(runtime: Runtime, item: "Item") -> None:
    """Refuses `template_parameters` where what is supplied does not fit the template as Meta approved it."""
    if item["kind"] != "template":
        return
    contract = await runtime.verbs.template_contract(
        item["country_id"], item["account_id"], item["template_name"], item["template_language"]
    )
    problem = templates.check(contract, item["content"]["template"].get("components")) if contract is not None else None
    # A repeated call gets its old answer, whatever the template has become since.
    if problem is not None and not await runtime.verbs.has_key(item["country_id"], item["key"]):
        raise refuse("template_parameters", field=problem.field, reason=problem.reason)


def _commits(runtime: Runtime) -> "GroupCommit[Item, Verdict | RefusalError]":
    async def commit(items: "Sequence[Item]") -> "Sequence[Verdict | RefusalError]":
        # Imported here: a request that is refused for its shape needs no client of Supabase.
        from services.whatsapp.flows.bisecting import write_apart

        return await write_apart(items, runtime.verbs.enqueue, _cannot_be_stored)

    return GroupCommit(commit, most=_MOST)


def _cannot_be_stored(item: "Item") -> "Verdict":
    return {"status": "refused", "code": "invalid_item"}


def _content(message: Message) -> "Content":
    content = message.content()
    if message.template_key is None:
        return {"kind": content["type"], "content": content}
    name, language = message.template_key
    # Meta lists languages with an underscore and finds a translation by the exact code only.
    language = content["template"]["language"]["code"] = language.replace("-", "_")
    return {"kind": "template", "content": content, "template_name": name, "template_language": language}
