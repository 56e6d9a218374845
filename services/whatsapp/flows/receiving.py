"""The flow of receiving: check who sends, read what is said, store it once, and only then say yes.

Meta repeats what is not answered 200 for up to seven days, so the only reasons to answer anything else are a
signature that is not Meta's and a database that does not take it now. Source: M:webhooks/overview.

Posts share a batch and nothing else. One event that the database can never take is kept raw beside the others; one that
it does not take now costs its own post the 200, so that Meta brings it again, and no other.
"""

import functools
import hmac
from collections.abc import Sequence

from services.whatsapp import log
from services.whatsapp.batching import GroupCommit, Overloaded
from services.whatsapp.meta import signature
from services.whatsapp.meta.events import Event, parse
from services.whatsapp.refusals import RefusalError, refuse
from services.whatsapp.requests.webhook import Handshake
from services.whatsapp.runtime import Runtime

LIMIT = 4 * 1024 * 1024
"""Bytes of a body: Meta sends up to 3 MB."""
_MOST_POSTS = 250
_MOST_SHARED = 128 * 1024
"""Bytes of a body that is stored together with others: a synced history has megabytes, and is kept whole."""
_ELSEWHERE = frozenset(("PARTNER_REMOVED", "PARTNER_APP_UNINSTALLED"))

_log = log.get("webhook")


def handshake(runtime: Runtime, asked: Handshake) -> str:
    """The challenge to echo when Meta verifies the callback URL.

    Refuses `webhook_not_configured` and `verify_token_mismatch`. Source: M:webhooks/create-webhook-endpoint.
    """
    if not runtime.settings.verify_tokens:
        raise refuse("webhook_not_configured", reason="WHATSAPP_VERIFY_TOKEN is not set")
    given = asked.verify_token.encode()
    matches = [hmac.compare_digest(given, token.encode()) for token in runtime.settings.verify_tokens]
    if asked.mode != "subscribe" or not any(matches):
        raise refuse("verify_token_mismatch", field="hub.verify_token")
    return asked.challenge


def expect_signature(runtime: Runtime, header: str | None) -> str:
    """The signature that a body will be held against. What has none is refused before its body is read.

    Refuses `webhook_not_configured`, `signature_missing` and `signature_invalid`.
    """
    if not runtime.settings.app_secrets:
        raise refuse("webhook_not_configured", reason="WHATSAPP_APP_SECRET is not set")
    if not header:
        raise refuse("signature_missing", field="X-Hub-Signature-256")
    if not signature.is_one(header):
        raise refuse("signature_invalid", field="X-Hub-Signature-256")
    return header


def check_signature(runtime: Runtime, header: str, body: bytes) -> None:
    """Refuses `signature_invalid`."""
    if not signature.verify(runtime.settings.app_secrets, header, body):
        raise refuse("signature_invalid", field="X-Hub-Signature-256")


async def receive(runtime: Runtime, body: bytes) -> list[Event]:
    """Store the events of a checked body; returns them once they are durable.

    Refuses `database_unavailable`, `database_timeout` and `webhook_overloaded`: Meta will send it again.
    """
    events = parse(body, runtime.settings.directory)
    if not events:
        return []
    try:
        if len(body) > _MOST_SHARED:
            [problem] = await _commit(runtime, [events])
        else:
            problem = await runtime.part(_commits).add(events)
    except Overloaded:
        raise refuse("webhook_overloaded") from None
    if problem is not None:
        raise problem
    return events


async def follow_up(runtime: Runtime, events: Sequence[Event]) -> None:
    """What is better done at once than at cron's next tick, once Meta has its 200. If this process dies, cron does it.

    A webhook tells the status, quality or category of a template, but not all of its components: these are read anew.
    And where a template may be sent again, its campaigns go on.
    """
    _warn_of_removals(events)
    keys = {(each["country_id"], each["account_id"] or "") for each in events if each["kind"] == "template"}
    accounts = [found for key in sorted(keys) if (found := runtime.settings.directory.account(*key)) and found.tokens]
    if not accounts:
        return
    from services.whatsapp.flows import syncing

    try:
        await syncing.refresh(runtime, accounts)
        if runtime.settings.kick:
            from services.whatsapp.flows import draining

            await draining.kick(runtime)
    except RefusalError as error:
        _log.warning("refresh_failed", code=error.code)


def _warn_of_removals(events: Sequence[Event]) -> None:
    """A partner was removed who is not known to be this app: no account stops by it, but a person should look."""
    for event in events:
        if event["field"] == "account_update" and event["kind"] == "ignored":
            what = event["payload"].get("event")
            if what in _ELSEWHERE:
                _log.warning("partner_removed", what=what, country=event["country_id"], account=event["account_id"])


def _commits(runtime: Runtime) -> GroupCommit[list[Event], RefusalError | None]:
    return GroupCommit(functools.partial(_commit, runtime), most=_MOST_POSTS)


async def _commit(runtime: Runtime, posts: Sequence[list[Event]]) -> Sequence[RefusalError | None]:
    # Imported here: a process that has only been shaken hands with needs no client of Supabase.
    from services.whatsapp.flows import ingesting

    return await ingesting.ingest(posts, runtime.verbs.ingest)
