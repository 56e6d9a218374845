"""Status webhooks of the stand-in for Meta (tests only): sent, delivered, read, failed, as documented for
v24.0+.

Contract: Meta, webhooks/reference/messages/status. Order is not guaranteed, duplicates are normal.
"""

from dataclasses import dataclass
from random import Random
from time import time
from typing import Any

from tests.graph.courier import Courier
from tests.graph.envelope import Update, messages_webhook
from tests.graph.errors import webhook_error
from tests.graph.messages import Letter
from tests.graph.timing import Wheel
from tests.graph.world import Number


@dataclass(slots=True)
class Plan:
    """What happens to accepted messages. Delays in milliseconds since acceptance, shares from 0 to 1.

    `read_share` of messages get read; of those `skip_delivered_share` never report `delivered`. `batch`
    statuses share a POST, waiting at most `batch_wait_ms` for company. `shuffle_share` of messages report
    out of order, `duplicate_share` of statuses come twice, `lost_share` of them never.
    """

    sent_ms: float = 20
    delivered_ms: float = 60
    read_ms: float = 120
    failed_ms: float = 40
    jitter: float = 0
    read_share: float = 1
    skip_delivered_share: float = 0
    failed_share: float = 0
    failed_code: int = 131026
    shuffle_share: float = 0
    duplicate_share: float = 0
    lost_share: float = 0
    batch: int = 1
    batch_wait_ms: float = 10
    seed: int = 0


@dataclass(slots=True)
class Accepted:
    """An accepted message, as its statuses need it."""

    wamid: str
    number: Number
    letter: Letter
    at: float
    priced: bool = False


class Statuses:
    """Plans the statuses of each accepted message and hands them, batched, to the courier."""

    def __init__(self, courier: Courier, wheel: Wheel) -> None:
        self.plan = Plan()
        self._random = Random(0)
        self._courier = courier
        self._wheel = wheel
        self._outbox: list[Update] = []
        self._flush_due = False
        self.planned = 0

    def set_plan(self, plan: Plan) -> None:
        self.plan = plan
        self._random = Random(plan.seed)

    def accepted(self, message: Accepted, failed_with: int | None) -> None:
        """Schedule the statuses of a message; `failed_with` makes it fail with that code."""
        if self._courier.route.callback_url is None:
            return
        plan, random = self.plan, self._random
        if failed_with is None and plan.failed_share and random.random() < plan.failed_share:
            failed_with = plan.failed_code
        steps = self._steps(message, failed=failed_with is not None)
        delays = [delay for _, delay in steps]
        if len(steps) > 1 and plan.shuffle_share and random.random() < plan.shuffle_share:
            delays = out_of_order(delays, random)
        for (status, happened), delay in zip(steps, delays, strict=True):
            if plan.jitter:
                delay *= 1 + plan.jitter * (2 * random.random() - 1)
            if plan.lost_share and random.random() < plan.lost_share:
                continue
            update = status_update(message, status, message.at + happened / 1000, failed_with)
            self._put_after(delay, update)
            if plan.duplicate_share and random.random() < plan.duplicate_share:
                self._put_after(delay * (1 + random.random()), update)

    def put(self, update: Update) -> None:
        """Send an update with the next POST."""
        self.planned += 1
        self._put(update)

    def _put_after(self, delay_ms: float, update: Update) -> None:
        self.planned += 1
        self._wheel.after(delay_ms / 1000, self._put, update)

    def _put(self, update: Update) -> None:
        self._outbox.append(update)
        if len(self._outbox) >= self.plan.batch:
            self._flush()
        elif not self._flush_due:
            self._flush_due = True
            self._wheel.after(self.plan.batch_wait_ms / 1000, self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if self._outbox:
            self.planned -= len(self._outbox)
            says = [(update.entry["id"], update.entry.get("status", "received")) for update in self._outbox]
            self._courier.send(messages_webhook(self._outbox), says=says)
            self._outbox = []

    def _steps(self, message: Accepted, *, failed: bool) -> list[tuple[str, float]]:
        """Statuses in the order they happen, with the milliseconds after which they do."""
        plan = self.plan
        if failed:
            return [("failed", plan.failed_ms)]
        steps = [("sent", plan.sent_ms)]
        if message.letter.type == "reaction":
            return steps
        read = plan.read_share > 0 and self._random.random() < plan.read_share
        skip = read and plan.skip_delivered_share > 0 and self._random.random() < plan.skip_delivered_share
        if not skip:
            steps.append(("delivered", plan.delivered_ms))
        if read:
            steps.append(("read", plan.read_ms))
        return steps


def status_update(message: Accepted, status: str, at: float | None = None, code: int | None = None) -> Update:
    """One entry of `statuses[]` with its contact. Price comes on `sent` and on the first of delivered and
    read."""
    letter, person = message.letter, message.letter.person
    entry: dict[str, Any] = {"id": message.wamid, "status": status, "timestamp": str(int(at or time()))}
    if person.wa_id:
        entry["recipient_id"] = person.wa_id
    if status != "failed" or not letter.by_phone:
        entry["recipient_user_id"] = person.user_id
    if status == "sent" or (status in ("delivered", "read") and not message.priced):
        message.priced = message.priced or status != "sent"
        entry["pricing"] = pricing(letter.category)
    if letter.callback_data is not None:
        entry["biz_opaque_callback_data"] = letter.callback_data
    if status == "failed":
        entry["errors"] = [webhook_error(code or 131000)]
    return Update(message.number, "statuses", entry, None if status == "failed" else person.contact())


def pricing(category: str) -> dict[str, Any]:
    """Per-message pricing as since 2026-10-01; service messages are taken to be within the free tier."""
    free = category == "service"
    kind = "free_customer_service" if free else "regular"
    return {"billable": not free, "pricing_model": "PMP", "type": kind, "category": category}


def out_of_order(delays: list[float], random: Random) -> list[float]:
    """Another order of delays than the given one."""
    shuffled = random.sample(delays, len(delays))
    return shuffled if shuffled != delays else delays[::-1]
