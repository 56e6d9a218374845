"""The flow of a campaign's progress: its counts as the caller may see them, at once or when they change."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from services.whatsapp.actors import Actor
from services.whatsapp.clients.verbs import Progress
from services.whatsapp.flows.watching import Watch
from services.whatsapp.refusals import refuse
from services.whatsapp.requests import fingerprint
from services.whatsapp.requests.status_poll import OfCampaign
from services.whatsapp.runtime import Runtime


async def of_campaign(runtime: Runtime, asked: OfCampaign, actor: Actor) -> dict[str, Any]:
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


def _watch(runtime: Runtime) -> Watch[_Named, Progress]:
    return Watch(partial(_read, runtime))


async def _read(runtime: Runtime, actor: Actor, wanted: Sequence[_Named]) -> dict[_Named, Progress]:
    found = [await runtime.reads.campaign_progress(*each, actor) for each in wanted]
    return {named: row for named, row in zip(wanted, found, strict=True) if row is not None}


def _seen(named: _Named, found: Mapping[_Named, Progress]) -> dict[str, Any]:
    if named not in found:
        raise refuse("unknown_campaign", field="campaign_id")
    return view(found[named])


def view(found: Mapping[str, Any]) -> dict[str, Any]:
    """Progress with its counts by kind: states, failures and refusals by code, charged messages by category."""
    states: dict[str, int] = {}
    parts: dict[str, dict[str, int]] = {"failed": {}, "refused": {}, "cost": {}}
    for key, n in found["counts"].items():
        kind, _, code = key.partition(":")
        if code:
            parts[kind][code] = n
        else:
            states[kind] = n
    seen = {name: value for name, value in found.items() if name != "counts"}
    return seen | {
        "version": fingerprint(dict(found))[:16],
        "total": sum(states.values()),
        "states": states,
        "failed_by_code": parts["failed"],
        "refused_by_code": parts["refused"],
        "charged_by_category": parts["cost"],
    }
