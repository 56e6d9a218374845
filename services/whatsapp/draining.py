"""The flow of draining: claim what may be sent, post it at its slot, settle what Meta answered.

Promises kept here:
  * No POST starts that could outlive its lease: a message whose turn comes too late is released unsent.
  * A POST is never repeated. Only an answer of Meta's, or a connection that was never made, gives a message back to
    the queue.
  * What Meta answered is kept until the database has taken it, however long that takes within this process. If the
    process dies, the lease runs out and the message becomes unknown (supabase/migrations/…_sweep.sql).
  * When told to stop, it claims nothing more, finishes what is in flight, settles, and releases the rest.

Overlapping drainers are safe, in one process or in many: the database hands each row to one of them.
"""

import asyncio
import contextlib
import random
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any

from services.whatsapp import graph, log, store
from services.whatsapp.directory import Account
from services.whatsapp.envelope import graph_body
from services.whatsapp.graph import POST_TIMEOUT, Answer, Graph
from services.whatsapp.meta_errors import Disposition, Effect
from services.whatsapp.pacing import Spacing, pair_delay, retry_delay
from services.whatsapp.refusals import RefusalError
from services.whatsapp.settings import Settings
from services.whatsapp.store import Store

LEASE = 60.0
"""Seconds a claimed batch is ours. Room for the longest POST, its slot, and settling."""
HORIZON = 0.5
"""Seconds ahead that slots are claimed: enough to keep busy, few enough to lose little in a crash."""
_MARGIN = POST_TIMEOUT + 5
_FLUSH_EVERY = 0.05
_FLUSH_AT = 250
_CLAIM_MOST = 500
_SWEEP_EVERY = 10.0
_SWEEP_AGAIN_AT = 500
_KICK_BUDGET = 20.0
_UNSENT_BASE, _UNSENT_CAP = 1.0, 30.0
_RETRY_BASE, _RETRY_CAP = 2.0, 300.0

_log = log.get("drain")


@dataclass
class Report:
    """What one run did, in messages."""

    claimed: int = 0
    accepted: int = 0
    failed: int = 0
    requeued: int = 0
    unknown: int = 0
    refused: int = 0
    released: int = 0

    def body(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Job:
    """A leased message, its account, the loop time after which its POST may not start, and how far slots lie apart."""

    account: Account
    lease_id: str
    message: dict[str, Any]
    last_start: float
    step: float


class Drainer:
    """One run of the drainer: `run` may be called once, `stop` ends it early."""

    def __init__(self, store: Store, graph: Graph, settings: Settings) -> None:
        self._store = store
        self._graph = graph
        self._settings = settings
        self._accounts = [(a.country_id, a.account_id) for a in settings.directory if a.tokens]
        # As many again as are in flight wait here while the next batch is claimed, so that no connection idles.
        self._most = settings.drain_concurrency * 3
        self._batch = settings.drain_concurrency
        self._hungry = False
        self._posting = asyncio.Semaphore(settings.drain_concurrency)
        self._sleeping: dict[str, tuple[asyncio.TimerHandle, Job]] = {}
        self._spacings: dict[tuple[str, str], Spacing] = {each: Spacing() for each in self._accounts}
        self._tasks: set[asyncio.Task[None]] = set()
        self._results: list[dict[str, Any]] = []
        self._settling = 0
        self._changed = asyncio.Event()
        self._stopping = False
        self._closing = False
        self.woken = False
        """Somebody called `wake` after the last claim: there may be a message that this run has not seen."""
        self.report = Report()

    async def run(self, budget: float, *, sweep: bool = True) -> Report:
        """Drain for at most `budget` seconds, or until nothing is left that falls due in that time."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + budget
        flusher = loop.create_task(self._flush_regularly())
        try:
            if sweep:
                await self._sweep()
            swept = loop.time()
            while not self._stopping and loop.time() < ends:
                if sweep and loop.time() - swept > _SWEEP_EVERY:
                    await self._sweep()
                    swept = loop.time()
                self._changed.clear()
                self.woken = False
                wait = await self._claim_once(loop)
                if wait is None or (loop.time() + wait > ends and not self._busy()):
                    break
                if wait > 0:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._changed.wait(), wait)
        finally:
            await self._finish()
            flusher.cancel()
        return self.report

    def wake(self) -> None:
        """There may be more to claim."""
        self.woken = True
        self._changed.set()

    def stop(self) -> None:
        """Claim no more; the run ends once what is in flight is settled."""
        self._stopping = True
        self._changed.set()

    async def _claim_once(self, loop: asyncio.AbstractEventLoop) -> float | None:
        """Claim if there is room. Returns how long to wait before the next claim at the most, or None when idle."""
        room = self._room()
        self._hungry = room < self._batch
        if self._hungry:
            return 0.2
        asked = loop.time()
        limit = min(room, _CLAIM_MOST)
        claim = await self._store.claim(self._accounts, limit=limit, lease=LEASE, horizon=HORIZON)
        self.report.refused += claim["refused"]
        claimed = 0
        for lease in claim["leases"]:
            # The lease may have been made at any time between our question and its answer: count from the question.
            claimed += self._schedule(lease, asked + min(lease["seconds"], LEASE) - _MARGIN)
        self.report.claimed += claimed
        next_due: float | None = claim["next_ms"] / 1000 if claim["next_ms"] is not None else None
        self._hungry = claimed >= limit
        if self._hungry and self._room() >= self._batch:
            return 0
        if claimed:
            # More is due: come back when the slots handed out now are half used.
            return HORIZON / 2 if next_due is not None else 0.2
        # Due, but held by another drainer's claim just now: come back, without hammering.
        if next_due is not None:
            next_due = max(next_due, 0.02)
        if self._busy():
            return min(next_due, 0.5) if next_due is not None else 0.5
        return next_due

    def _room(self) -> int:
        return self._most - len(self._sleeping) - len(self._tasks)

    def _busy(self) -> bool:
        return bool(self._sleeping or self._tasks or self._results or self._settling)

    def _schedule(self, lease: dict[str, Any], last_start: float) -> int:
        account = self._settings.directory.account(lease["country_id"], lease["account_id"])
        if account is None:
            raise LookupError("claimed for an account that is not in the directory")
        loop = asyncio.get_running_loop()
        for message in lease["messages"]:
            job = Job(account, lease["lease_id"], message, last_start, lease["step_ms"] / 1000)
            timer = loop.call_later(message["in_ms"] / 1000, self._take_turn, job)
            self._sleeping[message["message_id"]] = (timer, job)
        return len(lease["messages"])

    def _take_turn(self, job: Job) -> None:
        """Its slot has come; if this process was held up, so have others before it."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        at = self._spacings[job.account.country_id, job.account.account_id].reserve(now, job.step)
        if at > now:
            self._sleeping[job.message["message_id"]] = (loop.call_at(at, self._start, job), job)
        else:
            self._start(job)

    def _start(self, job: Job) -> None:
        self._sleeping.pop(job.message["message_id"], None)
        task = asyncio.get_running_loop().create_task(self._deliver(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, job: Job) -> None:
        async with self._posting:
            if self._closing or asyncio.get_running_loop().time() > job.last_start:
                self._record(job, {"outcome": "released"})
                return
            answer = await self._graph.send(job.account, _body(job.message))
        self._record(job, result_of(answer, job.message["attempts"], random.random(), job.message["waits"]))  # noqa: S311 - jitter

    def _record(self, job: Job, result: dict[str, Any]) -> None:
        result |= {
            "country_id": job.account.country_id,
            "message_id": job.message["message_id"],
            "lease_id": job.lease_id,
        }
        self._results.append(result)
        if self._hungry and self._room() >= self._batch:
            self._changed.set()
        self._count(result["outcome"])
        if result["outcome"] not in ("accepted", "released"):
            _log.warning(
                "not_accepted",
                country_id=job.account.country_id,
                account_id=job.account.account_id,
                message_id=job.message["message_id"],
                outcome=result["outcome"],
                code=result.get("code"),
                title=result.get("title"),
                note=(result.get("detail") or {}).get("note"),
            )

    def _count(self, outcome: str) -> None:
        names = {"rejected": "failed", "retry": "requeued", "held": "requeued"}
        name = names.get(outcome, outcome)
        setattr(self.report, name, getattr(self.report, name) + 1)

    async def _flush_regularly(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_EVERY)
            while self._results:
                await self._flush()
                if len(self._results) < _FLUSH_AT:
                    break

    async def _flush(self) -> None:
        """Settle what has been answered. What the database does not take now is kept for the next flush."""
        batch, self._results = self._results[:_CLAIM_MOST], self._results[_CLAIM_MOST:]
        self._settling += len(batch)
        try:
            await self._settle(batch)
        finally:
            self._settling -= len(batch)
            self._changed.set()

    async def _settle(self, batch: list[dict[str, Any]]) -> None:
        """One result the database cannot take must not hold up the others; it becomes unknown when its lease ends."""
        try:
            await self._store.settle(batch)
        except RefusalError as error:
            self._results = batch + self._results
            _log.error("settle_failed", code=error.code, waiting=len(self._results))
            await asyncio.sleep(1)
        except store.Rejected as error:
            _log.error("settle_rejected", error=error, results=len(batch), message_id=batch[0]["message_id"])
            if len(batch) > 1:
                await self._settle(batch[: len(batch) // 2])
                await self._settle(batch[len(batch) // 2 :])

    async def _finish(self) -> None:
        self._closing = True
        for timer, job in self._sleeping.values():
            timer.cancel()
            self._record(job, {"outcome": "released"})
        self._sleeping.clear()
        while self._tasks:
            await asyncio.wait(self._tasks)
        last = asyncio.get_running_loop().time() + LEASE
        while (self._results or self._settling) and asyncio.get_running_loop().time() < last:
            if self._results:
                await self._flush()
            else:
                await asyncio.sleep(_FLUSH_EVERY)

    async def _sweep(self) -> None:
        while not self._stopping:
            swept = await self._store.sweep()
            if any(swept.values()):
                _log.info("swept", **swept)
            if max(swept.values()) < _SWEEP_AGAIN_AT:
                return


def result_of(answer: Answer, attempts: int, jitter: float, waits: int = 0) -> dict[str, Any]:
    """The result to settle for an answer. `jitter` in 0..1 spreads retries.

    `attempts` counts this try; `waits` is how often in a row the message has been sent back for no fault of its own.
    """
    if answer.outcome == "accepted":
        status = {"message_status": answer.message_status} if answer.message_status not in (None, "accepted") else None
        return {
            "outcome": "accepted",
            "wamid": answer.wamid,
            "wa_id": answer.wa_id,
            "user_id": answer.user_id,
            "detail": status,
        }
    if answer.outcome == "unsent":
        wait = retry_delay(waits + 1, base=_UNSENT_BASE, cap=_UNSENT_CAP, jitter=(1 + jitter) / 2)
        return {"outcome": "held", "wait_seconds": wait, "detail": {"note": answer.note}}
    if answer.outcome == "unknown" or answer.failure is None:
        return {"outcome": "unknown", "detail": {"note": answer.note}}
    failure = answer.failure
    entry = failure.entry
    # A hold with a bound is counted like a retry: nothing else would end it (132001, a template that never comes).
    counted = entry.disposition is Disposition.RETRY or entry.attempts > 0
    result: dict[str, Any] = {
        "outcome": "retry" if counted else "rejected" if entry.disposition is Disposition.PERMANENT else "held",
        "code": failure.code,
        "title": failure.title,
        "details": failure.details,
        "effect": entry.effect.value,
        "wait_seconds": float(entry.wait_seconds),
        "detail": {"advice": entry.advice, "fbtrace_id": failure.fbtrace_id},
    }
    if counted:
        result["max_attempts"] = entry.attempts or None
        backoff = retry_delay(attempts, base=_RETRY_BASE, cap=_RETRY_CAP, jitter=(1 + jitter) / 2)
        result["wait_seconds"] = max(float(entry.wait_seconds), backoff)
    elif entry.effect is Effect.PAIR_WAIT:
        result["wait_seconds"] = pair_delay(waits + 1)
    return result


def _body(message: dict[str, Any]) -> dict[str, Any]:
    to = message["to"]
    return graph_body(
        message["content"],
        to=to,
        recipient=None if to else message["recipient"],
        message_id=message["message_id"],
    )


@contextlib.contextmanager
def stop_on_sigterm(drainer: Drainer) -> Iterator[None]:
    """Stop the drainer at SIGTERM, then let whoever handled the signal before have it too.

    Servers wait for open requests before they tell the app to stop, so a drain would otherwise run to the end of its
    budget.
    """
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(drainer.stop)
        if callable(before):
            before(number, frame)

    try:
        signal.signal(signal.SIGTERM, handle)
    except ValueError:  # not the main thread: nothing to hook
        yield
        return
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is handle:
            signal.signal(signal.SIGTERM, before)


async def drain(settings: Settings, budget: float) -> Report:
    """One run as cron asks for it."""
    drainer = Drainer(store.shared(settings), graph.shared(settings), settings)
    with stop_on_sigterm(drainer):
        return await drainer.run(budget)


_kicked: dict[asyncio.AbstractEventLoop, Drainer] = {}


async def kick(settings: Settings) -> None:
    """Drain now, after an answer: the message leaves within a second, without waiting for cron.

    One kicked drainer a process; while it runs, further kicks only wake it. A failure here is no harm: cron finishes
    the job.
    """
    loop = asyncio.get_running_loop()
    running = _kicked.get(loop)
    if running is not None:
        running.wake()
        return
    try:
        woken = True
        while woken:
            drainer = _kicked[loop] = Drainer(store.shared(settings), graph.shared(settings), settings)
            with stop_on_sigterm(drainer):
                await drainer.run(_KICK_BUDGET, sweep=False)
            woken = drainer.woken
    except RefusalError as error:
        _log.warning("kick_failed", code=error.code)
    finally:
        del _kicked[loop]
