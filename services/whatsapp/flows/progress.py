"""The flow of a campaign's progress: its counts as the caller may see them, at once or when they change."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypedDict

from services.whatsapp.actors import Actor
from services.whatsapp.flows.watching import Watch
from services.whatsapp.refusals import refuse
from services.whatsapp.requests import fingerprint
from services.whatsapp.requests.status_poll import OfCampaign
from services.whatsapp.runtime import Runtime

if TYPE_CHECKING:
    from services.whatsapp.clients.verbs import Held, NamedTemplate, Progress


class Seen(TypedDict):
    """A campaign as a caller sees it. `version` changes whenever anything else does."""

    country_id: str
    campaign_id: str
    account: str
    name: str
    template: "NamedTemplate"
    state: str
    reason: str | None
    by: str | None
    since: str
    held: "Held | None"
    send_at: str | None
    valid_until: str | None
    total: int
    states: dict[str, int]
    failed_by_code: dict[str, int]
    refused_by_code: dict[str, int]
    charged_by_category: dict[str, int]
    version: str


async def of_campaign(runtime: Runtime, asked: OfCampaign, actor: Actor) -> Seen:
    """The campaign as the caller may see it. Refuses `unknown_campaign`.

    With `wait` (seconds), answers when it is no longer as it was at `version`, or without that when it changes.
    """
    named = (asked.country_id, asked.campaign_id)
    seen = _seen(named, await _read(runtime, actor, [named]))
    known = asked.version or seen["version"]
    ends = time.monotonic() + asked.wait
    watch = runtime.part(_watch)
    while seen["version"] == known and time.monotonic() < ends:
        seen = _seen(named, await watch.look(actor, [named]))
    return seen


_Named = tuple[str, str]


def _watch(runtime: Runtime) -> "Watch[_Named, Progress]":
    return Watch(partial(_read, runtime))


async def _read(runtime: Runtime, actor: Actor, wanted: Sequence[_Named]) -> "dict[_Named, Progress]":
    found = [await runtime.reads.campaign_progress(*each, actor) for each in wanted]
    return {named: row for named, row in zip(wanted, found, strict=True) if row is not None}


def _seen(named: _Named, found: "Mapping[_Named, Progress]") -> Seen:
    if named not in found:
        raise refuse("unknown_campaign", field="campaign_id")
    return view(found[named])


def view(found: "Progress") -> Seen:
    """Progress with its counts by kind: states, failures and refusals by code, charged messages by category."""
    states: dict[str, int] = {}
    failed: dict[str, int] = {}
    refused: dict[str, int] = {}
    charged: dict[str, int] = {}
    by_kind = {"failed": failed, "refused": refused, "cost": charged}
    for key, n in found["counts"].items():
        kind, _, code = key.partition(":")
        if code:
            by_kind[kind][code] = n
        else:
            states[kind] = n
    return {
        "country_id": found["country_id"],
        "campaign_id": found["campaign_id"],
        "account": found["account"],
        "name": found["name"],
        "template": found["template"],
        "state": found["state"],
        "reason": found["reason"],
        "by": found["by"],
        "since": found["since"],
        "held": found["held"],
        "send_at": found["send_at"],
        "valid_until": found["valid_until"],
        "total": sum(states.values()),
        "states": states,
        "failed_by_code": failed,
        "refused_by_code": refused,
        "charged_by_category": charged,
        "version": fingerprint(found)[:16],
    }
