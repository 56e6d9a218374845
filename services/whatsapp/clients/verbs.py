"""The verbs: what our code asks of the database, as the server, past row level security.

Each is one SQL function, one short transaction over a batch, and safe to repeat; supabase/schemas/ tells the story of
each. How a verb gets there is the clients' own: `postgrest` (the Data API) or `postgres` (a connection). Both fail in
the same way: `Rejected` and `Unavailable` of failures.py. What members read goes another way, with their own token:
`postgrest.Reads`.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NotRequired, Protocol, Required, TypedDict, final

import orjson

from services.whatsapp.actors import Actor
from services.whatsapp.clients.failures import ATTEMPTS, Failed, Unavailable, in_doubt
from services.whatsapp.identity import Person
from services.whatsapp.kept import Kept

if TYPE_CHECKING:
    from services.whatsapp.meta.events import Event
    from services.whatsapp.meta.templates import Component, Contract

JsonObject = dict[str, Any]
"""Where JSON of somebody else's enters: Meta's objects, kept as they are."""

# ── What goes in, and what comes back ─────────────────────────────────────────────────────────────


class Content(TypedDict):
    """What a message says, and the template it is made from."""

    kind: str
    content: JsonObject
    template_name: NotRequired[str]
    template_language: NotRequired[str]


class Item(Person, Content, total=False):
    """A message to enqueue; without `account_id` by the country's default, without `actor` for a trusted server."""

    country_id: Required[str]
    account_id: str | None
    actor: str | None
    key: Required[str]
    fingerprint: Required[str]
    send_at: str | None
    expires_at: str | None
    ref: str | None


class Taken(TypedDict):
    """The verdict on an item that is in the log and the queue, now or since its key was used first."""

    status: Literal["accepted", "replayed"]
    message_id: str
    state: str
    account_id: str


class Refused(TypedDict):
    """The verdict on an item that is not: a code of refusals.py, and the member it is about."""

    status: Literal["refused"]
    code: str
    field: NotRequired[str]


Verdict = Taken | Refused


class Message(TypedDict):
    """A leased message: its place in the lease, whom it goes to, and in how many milliseconds its slot comes."""

    place: int
    message_id: str
    contact_id: str
    kind: str
    category: str | None
    content: JsonObject
    attempts: int
    waits: int
    to: str | None
    recipient: str | None
    in_ms: float


class Leased(TypedDict):
    """A batch of one account's messages, ours for `seconds`; up to the place `may_post` none need be announced."""

    lease_id: str
    country_id: str
    account_id: str
    seconds: float
    step_ms: float
    may_post: int
    messages: list[Message]


class Claimed(TypedDict):
    leases: list[Leased]
    refused: int
    next_ms: float | None
    """Milliseconds until it is worth asking again; None where nothing waits."""


class Announced(TypedDict):
    """Up to which place the messages of a lease are about to be posted."""

    country_id: str
    lease_id: str
    may_post: int


Outcome = Literal["accepted", "rejected", "retry", "held", "released", "unknown"]


class Result(TypedDict, total=False):
    """What became of a leased message, and what Meta said."""

    country_id: str
    message_id: str
    lease_id: str
    outcome: Required[Outcome]
    wamid: str | None
    wa_id: str | None
    user_id: str | None
    code: int | None
    title: str | None
    details: str | None
    effect: str | None
    wait_seconds: float
    max_attempts: int | None
    detail: JsonObject | None


class Settled(TypedDict):
    settled: int
    stale: int


class Ingested(TypedDict):
    received: int
    applied: int
    parked: int


class Swept(NamedTuple):
    """A bounded piece of a job: the rows it moved, and whether it could not be done."""

    rows: int
    failed: bool


class TemplateRow(TypedDict):
    """A template of Meta's, without its id."""

    name: str
    language: str
    status: str | None
    category: str | None
    parameter_format: str | None
    components: Any
    contract: "Contract"
    quality: str | None
    reason: str | None


class SyncedTemplates(TypedDict):
    stored: int
    removed: int


class NumberRow(TypedDict):
    """What Meta grants a number, in Meta's words. None changes nothing."""

    messaging_limit: Any
    throughput: Any
    coexistence: bool | None
    quality: Any


class SyncedNumber(TypedDict):
    messaging_limit: int
    messages_per_second: int
    quality: str | None


@final
class RefusedCall(TypedDict):
    """A call that was refused as a whole."""

    code: str
    field: str


class Opening(TypedDict, total=False):
    """A campaign to open, or with `campaign_id` to find again."""

    country_id: Required[str]
    actor: str | None
    campaign_id: str
    account_id: str | None
    name: str
    template_name: str
    template_language: str
    send_at: str | None
    valid_until: str | None
    draft: bool
    key: str
    fingerprint: str


@final
class Opened(TypedDict):
    campaign_id: str
    account_id: str
    state: str
    template_name: str
    template_language: str
    contract: "Contract | None"


class Recipient(Person, total=False):
    """A row of a bulk call: its number, the person, and the components of the template that are theirs."""

    row: Required[int]
    components: "Required[list[Component] | None]"
    ref: str | None


class RefusedRow(TypedDict):
    row: int
    code: str
    field: str | None


@final
class Enqueued(TypedDict):
    accepted: int
    refused: list[RefusedRow]


class NamedTemplate(TypedDict):
    name: str
    language: str


class Held(TypedDict):
    reason: str
    until: str | None


@final
class Progress(TypedDict):
    """A campaign, and its messages counted by state (`sent`) and by what became of them (`failed:131026`)."""

    country_id: str
    campaign_id: str
    account: str
    name: str
    template: NamedTemplate
    state: str
    reason: str | None
    by: str | None
    since: str
    send_at: str | None
    valid_until: str | None
    held: Held | None
    counts: dict[str, int]


@final
class AccountState(TypedDict):
    """`code` is Meta's, by which the account stopped."""

    country_id: str
    account: str
    state: str
    reason: str | None
    code: int | None
    since: str
    paused_until: str | None
    templates_paused_until: str | None


class Consent(Person, total=False):
    """A row of a call of `consents`: what the person said, when, how and in which words."""

    row: Required[int]
    what: Required[str]
    scope: Required[str]
    at: str | None
    how: Required[str | None]
    proof: str | None


@final
class Recorded(TypedDict):
    recorded: int
    refused: list[RefusedRow]


class AccountRow(TypedDict):
    country_id: str
    account_id: str
    state: str
    state_reason: str | None
    state_code: int | None
    paused_until: str | None
    templates_paused_until: str | None
    messaging_limit: int
    quality: str | None


ACCOUNT_COLUMNS = ",".join(AccountRow.__annotations__)

# ── The verbs ─────────────────────────────────────────────────────────────────────────────────────

Arguments = Mapping[str, object]
"""By the names that the SQL function gives them. A sequence of mappings is a jsonb[]."""


ContractKey = tuple[str, str | None, str, str]
"""Country, account, name and language of a template."""


class Verbs(Protocol):
    """Everything the server asks of the database; a client adds the way there."""

    _contracts: "Kept[ContractKey, Contract | None]"

    async def _call(
        self, verb: str, arguments: Arguments, attempts: int = ATTEMPTS, failures: list[Failed] | None = None
    ) -> Any:
        """What the SQL function `verb` answers. Raises Rejected and Unavailable."""

    async def account_states(self) -> list[AccountRow]:
        """Every account with its state, for the health function."""

    async def has_key(self, country_id: str, key: str) -> bool:
        """Whether this Idempotency-Key of `send` has been used."""

    async def roles_of(self, user_id: str) -> dict[str, str]:
        """The user's role by country."""

    async def close(self) -> None:
        """Let go of the connections."""

    async def enqueue(self, items: Sequence[Item], attempts: int = ATTEMPTS) -> list[Verdict | Unavailable]:
        """A verdict per item, in order.

        A refusal is none where an earlier attempt may still be under way: that one may find the person's window open.
        """
        failures: list[Failed] = []
        answer = _expect(list, await self._call("enqueue", {"p_items": items}, attempts, failures))
        verdicts: list[Verdict] = answer
        doubt = in_doubt(failures)
        return [doubt if doubt and verdict["status"] == "refused" else verdict for verdict in verdicts]

    async def claim(
        self,
        claim_id: str,
        accounts: Iterable[tuple[str, str]],
        *,
        limit: int,
        lease: float,
        horizon: float,
        ahead: float,
    ) -> Claimed:
        """A batch to post for `accounts`; `lease`, `horizon` and `ahead` in seconds.

        Whoever did not hear the answer asks again with the same `claim_id`, and gets the same batch.
        """
        arguments = {
            "p_claim_id": claim_id,
            "p_accounts": [f"{country}/{account}" for country, account in accounts],
            "p_limit": limit,
            "p_lease": timedelta(seconds=lease),
            "p_horizon": timedelta(seconds=horizon),
            "p_ahead": timedelta(seconds=ahead),
        }
        claimed: Claimed = await self._object("claim", arguments)
        return claimed

    async def announce(self, leases: Sequence[Announced]) -> list[str]:
        """Says how many messages of these leases may be posted; answers those of which it may be done."""
        held: list[str] = await self._list("announce", {"p_leases": leases}, attempts=1)
        return held

    async def settle(self, results: Sequence[Result], attempts: int = ATTEMPTS) -> Settled:
        settled: Settled = await self._object("settle", {"p_results": results}, attempts)
        return settled

    async def ingest(self, events: "Sequence[Event]", attempts: int = ATTEMPTS) -> Ingested:
        ingested: Ingested = await self._object("ingest", {"p_events": events}, attempts)
        return ingested

    async def sweep(self, job: str) -> Swept:
        """One bounded piece of one job."""
        swept = await self._object("sweep", {"p_jobs": [job]}, attempts=1)
        return Swept(int(swept.get(job) or 0), bool(swept["failed"]))

    async def schema_version(self) -> int:
        """The version of the database's schema: supabase/schemas/version.sql."""
        version: int = _expect(int, await self._call("schema_version", {}, attempts=1))
        return version

    async def sync_templates(
        self, country_id: str, account_id: str, templates: Sequence[TemplateRow], *, complete: bool
    ) -> SyncedTemplates:
        """Stores the templates; what a complete listing lacks is removed."""
        arguments = {
            "p_country": country_id,
            "p_account": account_id,
            "p_templates": templates,
            "p_complete": complete,
        }
        synced: SyncedTemplates = await self._object("sync_templates", arguments)
        self._contracts.forget()
        return synced

    async def sync_number(self, country_id: str, account_id: str, number: NumberRow) -> SyncedNumber:
        arguments = {"p_country": country_id, "p_account": account_id, "p_number": [number]}
        synced: SyncedNumber = await self._object("sync_number", arguments)
        return synced

    async def template_contract(
        self, country_id: str, account_id: str | None, name: str, language: str
    ) -> "Contract | None":
        """What the template needs, or None where it is not known. May be half a minute old."""
        return await self._contracts.get((country_id, account_id, name, language))

    def _keep_contracts(self) -> "Kept[ContractKey, Contract | None]":
        """They change rarely, and every message of a template needs one."""
        return Kept(self._contract, seconds=30.0, most=1_000)

    async def _contract(self, key: ContractKey) -> "Contract | None":
        arguments = dict(zip(("p_country", "p_account", "p_name", "p_language"), key, strict=True))
        return await self._call("template_contract", arguments) or None

    async def open_campaign(self, campaign: Opening) -> Opened | RefusedCall:
        opened: Opened | RefusedCall = await self._object("open_campaign", {"p_campaign": [campaign]})
        return opened

    async def enqueue_campaign(
        self, country_id: str, campaign_id: str, key: str, fingerprint: str, rows: Sequence[Recipient]
    ) -> Enqueued | RefusedCall:
        arguments: dict[str, object] = {
            "p_country": country_id,
            "p_campaign": campaign_id,
            "p_key": key,
            "p_fingerprint": fingerprint,
            "p_rows": [row["row"] for row in rows],
            # As text: a list among the elements of an array would be taken for a second dimension of it.
            "p_components": [orjson.dumps(row["components"]).decode() if row["components"] else None for row in rows],
        }
        for name in ("phone", "match_key", "bsuid", "contact_id", "ref"):
            values = [row[name] for row in rows]
            # An array that is too short is filled up with null.
            arguments[f"p_{name}s"] = [] if values.count(None) == len(values) else values
        enqueued: Enqueued | RefusedCall = await self._object("enqueue_campaign", arguments)
        return enqueued

    async def control_campaign(
        self, country_id: str, campaign_id: str, action: str, actor: Actor
    ) -> Progress | RefusedCall:
        arguments = {"p_country": country_id, "p_campaign": campaign_id, "p_action": action, "p_actor": actor.member_id}
        controlled: Progress | RefusedCall = await self._object("control_campaign", arguments)
        return controlled

    async def control_account(
        self, country_id: str, account_id: str | None, action: str, actor: Actor
    ) -> AccountState | RefusedCall:
        arguments = {"p_country": country_id, "p_account": account_id, "p_action": action, "p_actor": actor.member_id}
        controlled: AccountState | RefusedCall = await self._object("control_account", arguments)
        return controlled

    async def record_consents(
        self, country_id: str, actor: Actor, key: str, fingerprint: str, rows: Sequence[Consent]
    ) -> Recorded | RefusedCall:
        arguments = {"p_country": country_id, "p_actor": actor.member_id, "p_key": key, "p_fingerprint": fingerprint}
        recorded: Recorded | RefusedCall = await self._object("record_consents", arguments | {"p_rows": rows})
        return recorded

    async def _object(self, verb: str, arguments: Arguments, attempts: int = ATTEMPTS) -> Any:
        return _expect(dict, await self._call(verb, arguments, attempts))

    async def _list(self, verb: str, arguments: Arguments, attempts: int = ATTEMPTS) -> Any:
        return _expect(list, await self._call(verb, arguments, attempts))


def _expect(kind: type, answer: object) -> Any:
    """An answer that is none of the verb's, such as a gateway's own JSON, must not pass for one."""
    if not isinstance(answer, kind):
        raise TypeError(f"the database answered no {kind.__name__}")
    return answer
