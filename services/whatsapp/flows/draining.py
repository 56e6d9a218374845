"""The flow of draining: claim what may be sent, post it at its slot, settle what Meta answered.

Promises kept here:
  * No POST starts that could outlive its lease: a message whose turn comes too late is released unsent.
  * A POST is never repeated. Only an answer of Meta's, or a connection that was never made, gives a message back to
    the queue.
  * What Meta answered is kept until the database has taken it, however long that takes within this process
    (settling.py). If the process dies, the lease runs out and the message becomes unknown (sweep.sql).
  * Nothing is posted that was not announced before (announcing.py): what a dead process had not announced was not sent.
  * A claim is asked for under one id until it is answered: what may have been leased to us is never left lying about.
  * Sweeping comes after claiming and beside it: however much there is to sweep, and whatever fails in it, messages
    leave.
  * When told to stop, it claims nothing more, finishes what is in flight, settles, and releases the rest.

Overlapping drainers are safe, in one process or in many: the database hands each row to one of them.
"""

import asyncio
import contextlib
import functools
import random
import time
from dataclasses import asdict, dataclass
from uuid import uuid4

from services.whatsapp import log
from services.whatsapp.clients.failures import Unavailable
from services.whatsapp.clients.graph import POST_TIMEOUT, Answer
from services.whatsapp.clients.verbs import Claimed, JsonObject, Leased, Message, Result
from services.whatsapp.directory import Account
from services.whatsapp.flows.announcing import Announcing, Lease
from services.whatsapp.flows.settling import Settling
from services.whatsapp.meta.envelope import graph_body
from services.whatsapp.meta.errors import Disposition, Effect
from services.whatsapp.pacing import Spacing, pair_delay, retry_delay
from services.whatsapp.refusals import RefusalError
from services.whatsapp.runtime import Runtime

LEASE = 60.0
"""Seconds a claimed batch is ours. Room for the longest POST, its slot, and settling."""
HORIZON = 0.5
"""Seconds ahead that slots are claimed: enough to keep busy, few enough to lose little in a crash."""
_MARGIN = POST_TIMEOUT + 5
_CLAIM_MOST = 500
_CLAIM_AGAIN, _CLAIM_AGAIN_CAP = 0.5, 5.0
_SETTLE_LAST = LEASE
"""Seconds after a run in which its last answers may reach the database."""
SWEEPS = (
    "leases",
    "unknowns",
    "accounts",
    "campaigns",
    "due",
    "expired",
    "cancelled",
    "held",
    "parked",
    "partitions",
    "retention",
    "portfolios",
    "statistics",
)
"""The jobs of whatsapp.sweep, those that keep a message from leaving first."""
_SWEEP_EVERY = 10.0
_SWEEP_LONGEST = 5.0
"""Seconds after which a job's piece is not waited for any longer."""
_SWEEP_FULL = 500
"""Rows after which a job has more to do. The same as in sweep.sql."""
_SWEEP_SHARE = 4
"""While messages leave, sweeping rests this many times as long as it took."""
_KICK_BUDGET = 20.0
_UNSENT_BASE, _UNSENT_CAP = 1.0, 30.0
_BROKEN_WAIT = 60.0
"""Seconds a message waits whose POST we could not even begin, for a reason nobody foresaw."""
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
    """A leased message, its account and lease, the time (of the monotonic clock) after which its POST may not start,
    and how far slots lie apart."""

    account: Account
    lease: Lease
    message: Message
    last_start: float
    step: float


class Drainer:
    """One run of the drainer: `run` may be called once, `stop` ends it early."""

    def __init__(self, runtime: Runtime) -> None:
        settings, verbs = runtime.settings, runtime.verbs
        self._settings = settings
        self._verbs = verbs
        self._graph = runtime.graph
        self._accounts = [(a.country_id, a.account_id) for a in settings.directory if a.tokens]
        # As many again as are in flight wait here while the next batch is claimed, so that no connection idles.
        self._most = settings.drain_concurrency * 3
        self._batch = settings.drain_concurrency
        self._hungry = False
        self._posting = asyncio.Semaphore(settings.drain_concurrency)
        self._sleeping: dict[str, tuple[asyncio.TimerHandle, Job]] = {}
        self._spacings: dict[tuple[str, str], Spacing] = {each: Spacing() for each in self._accounts}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._settling = Settling(verbs.settle, self._changed)
        self._announcing = Announcing(verbs.announce)
        self._claim_id: str | None = None
        """The claim that is not answered yet."""
        self._perhaps_leased = False
        """Its answer was lost, and there may be leases that we do not know of."""
        self._unclaimed: Unavailable | None = None
        """Why it is not answered."""
        self._claim_failures = 0
        self._swept = asyncio.Event()
        self._stopping = False
        self._closing = False
        self.woken = False
        """Somebody called `wake` after the last claim: there may be a message that this run has not seen."""
        self.report = Report()

    async def run(self, budget: float, *, sweep: bool = True) -> Report:
        """Drain for at most `budget` seconds, or until nothing is left that falls due in that time.

        Refuses `database_unavailable` or `database_timeout` if the last claim got no answer.
        """
        async with self._settling:
            await self._run(time.monotonic() + budget, sweep)
        if self._unclaimed is not None:
            raise self._unclaimed
        return self.report

    def wake(self) -> None:
        """There may be more to claim."""
        self.woken = True
        self._changed.set()

    def stop(self) -> None:
        """Claim no more; the run ends once what is in flight is settled."""
        self._stopping = True
        self._changed.set()

    async def _run(self, ends: float, sweep: bool) -> None:
        loop = asyncio.get_running_loop()
        announcer = loop.create_task(self._announcing.run())
        sweeper: asyncio.Task[None] | None = None
        try:
            while not self._stopping and time.monotonic() < ends:
                self._changed.clear()
                self.woken = False
                swept = not sweep or self._swept.is_set()
                wait = await self._claim_once()
                if sweep and sweeper is None:
                    sweeper = loop.create_task(self._sweep_regularly(ends))
                if wait is None or (time.monotonic() + wait > ends and not self._busy()):
                    if swept:
                        break
                    # Nothing to send; what is swept home may change that.
                    wait = ends - time.monotonic()
                if wait > 0:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._changed.wait(), wait)
        finally:
            await _end(sweeper)
            await _end(announcer)
            await self._finish()

    async def _claim_once(self) -> float | None:
        """Claim if there is room. Returns how long to wait before the next claim at the most, or None when idle."""
        room = self._room()
        self._hungry = room < self._batch
        # While the database takes no answers, more of them would only be more to lose.
        if self._hungry or self._settling.is_held_up:
            return 0.2
        limit = min(room, _CLAIM_MOST)
        claim = await self._claim(limit)
        if claim is None:
            self._claim_failures += 1
            return min(_CLAIM_AGAIN * self._claim_failures, _CLAIM_AGAIN_CAP)
        self._claim_failures = 0
        claimed = sum(len(lease["messages"]) for lease in claim["leases"])
        next_due = claim["next_ms"] / 1000 if claim["next_ms"] is not None else None
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

    async def _claim(self, limit: int) -> Claimed | None:
        """A batch, scheduled; or None without an answer. Then the next call asks for the same batch again."""
        asked = time.monotonic()
        self._claim_id = self._claim_id or str(uuid4())
        try:
            claim = await self._verbs.claim(
                self._claim_id, self._accounts, limit=limit, lease=LEASE, horizon=HORIZON, ahead=self._announcing.ahead
            )
        except Unavailable as error:
            self._unclaimed = error
            self._perhaps_leased |= error.perhaps_done
            _log.warning("claim_unanswered", code=error.cause)
            return None
        self._announcing.learn(time.monotonic() - asked)
        self._claim_id, self._unclaimed, self._perhaps_leased = None, None, False
        self.report.refused += claim["refused"]
        for lease in claim["leases"]:
            # The lease may have been made at any time between our question and its answer: count from the question.
            self.report.claimed += self._schedule(lease, asked + min(lease["seconds"], LEASE) - _MARGIN)
        return claim

    def _room(self) -> int:
        return self._most - len(self._sleeping) - len(self._tasks)

    def _busy(self) -> bool:
        return bool(self._sleeping or self._tasks or len(self._settling))

    def _schedule(self, lease: Leased, last_start: float) -> int:
        account = self._settings.directory.account(lease["country_id"], lease["account_id"])
        if account is None:
            raise LookupError("claimed for an account that is not in the directory")
        loop = asyncio.get_running_loop()
        now = loop.time()
        slots = [(message["place"], now + message["in_ms"] / 1000) for message in lease["messages"]]
        batch = Lease(account.country_id, lease["lease_id"], slots, lease["may_post"])
        for message, (place, slot) in zip(lease["messages"], slots, strict=True):
            job = Job(account, batch, message, last_start, lease["step_ms"] / 1000)
            timer = loop.call_at(slot, batch.when_announced, place, functools.partial(self._take_turn, job))
            self._sleeping[message["message_id"]] = (timer, job)
        if not batch.is_announced:
            self._announcing.add(batch)
            loop.call_later(max(0.0, last_start - time.monotonic()), self._release_sleeping, batch)
        return len(lease["messages"])

    def _take_turn(self, job: Job) -> None:
        """Its slot has come and it is announced; if this process was held up, so have others before it."""
        sleeping = self._sleeping.get(job.message["message_id"])
        if sleeping is None or sleeping[1] is not job:
            return  # released meanwhile, and perhaps claimed again under another lease
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
        """Post one message and record what became of it, whatever happens."""
        posting = False
        try:
            async with self._posting:
                # Not the loop's clock: it may stand still while the loop is busy, and the lease does not.
                if self._closing or time.monotonic() > job.last_start:
                    self._record(job, {"outcome": "released"})
                    return
                body = _body(job.message)
                posting = True
                answer = await self._graph.send(job.account, body)
            jitter = random.random()  # noqa: S311 - not for secrets
            result = result_of(answer, job.message["attempts"], jitter, job.message["waits"])
        except BaseException as error:
            note = {"note": type(error).__name__}
            if posting:
                self._record(job, {"outcome": "unknown", "detail": note})
            else:
                self._record(job, {"outcome": "released", "wait_seconds": _BROKEN_WAIT, "detail": note})
            if not isinstance(error, Exception):
                raise
            _log.error("deliver_broke", message_id=job.message["message_id"], posting=posting, error=error)
        else:
            self._record(job, result)

    def _record(self, job: Job, result: Result) -> None:
        result |= {
            "country_id": job.account.country_id,
            "message_id": job.message["message_id"],
            "lease_id": job.lease.lease_id,
        }
        self._settling.add(result)
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

    async def _finish(self) -> None:
        """Release what has not begun, wait for what has, and for the database to have it all."""
        self._closing = True
        self._release_sleeping()
        while self._tasks:
            await asyncio.wait(self._tasks)
        ends = time.monotonic() + _SETTLE_LAST
        await self._find_leases(ends)
        await self._settling.finish(ends - time.monotonic())

    async def _find_leases(self, ends: float) -> None:
        """Ask for the claim that was never answered until it is, and release what it leased."""
        try:
            while self._perhaps_leased and time.monotonic() < ends:
                # One is asked for where the claim was never made; where it was, the whole batch comes.
                if await self._claim(1) is None:
                    await asyncio.sleep(_CLAIM_AGAIN)
                self._release_sleeping()
        except Exception as error:
            _log.error("claim_broke", error=error)

    def _release_sleeping(self, lease: Lease | None = None) -> None:
        """What sleeps, or what of a lease does: it may not be posted any more."""
        for message_id, (timer, job) in tuple(self._sleeping.items()):
            if lease in (None, job.lease):
                timer.cancel()
                del self._sleeping[message_id]
                self._record(job, {"outcome": "released"})

    async def _sweep_regularly(self, ends: float) -> None:
        """Round after round, until cancelled. In a round each job has a turn; those that have more to do, another."""
        while True:
            jobs = list(SWEEPS)
            self._swept.clear()
            while jobs and not self._stopping and time.monotonic() < ends:
                jobs = [job for job in jobs if await self._sweep(job)]
            self._swept.set()
            self._changed.set()
            await asyncio.sleep(_SWEEP_EVERY)

    async def _sweep(self, job: str) -> bool:
        """A bounded piece of a job. Whether it has more to do; if it fails, its next turn is in the next round."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(_SWEEP_LONGEST):
                swept = await self._verbs.sweep(job)
            rows = swept.rows
            if swept.failed:
                raise RuntimeError(f"the database could not do {job}: its log says why")
        except Exception as error:
            _log.error("sweep_failed", job=job, error=error)
            rows = 0
        if rows:
            _log.info("swept", job=job, rows=rows)
            self._changed.set()
        if self._busy():
            await asyncio.sleep(_SWEEP_SHARE * (time.monotonic() - began))
        return rows >= _SWEEP_FULL


def result_of(answer: Answer, attempts: int, jitter: float, waits: int = 0) -> Result:
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
    result: Result = {
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


def _body(message: Message) -> JsonObject:
    to = message["to"]
    return graph_body(
        message["content"],
        to=to,
        recipient=None if to else message["recipient"],
        message_id=message["message_id"],
    )


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait([task])


async def drain(runtime: Runtime, budget: float) -> Report:
    """One run as cron asks for it."""
    drainer = Drainer(runtime)
    with runtime.running(drainer):
        return await drainer.run(budget)


async def kick(runtime: Runtime) -> None:
    """Drain now, after an answer: the message leaves within a second, without waiting for cron.

    One kicked drainer a loop; while it runs, further kicks only wake it. A failure here is no harm: cron finishes
    the job.
    """
    kicked = runtime.part(_Kicked)
    if kicked.drainer is not None:
        kicked.drainer.wake()
        return
    try:
        woken = True
        while woken:
            drainer = kicked.drainer = Drainer(runtime)
            with runtime.running(drainer):
                await drainer.run(_KICK_BUDGET, sweep=False)
            woken = drainer.woken
    except RefusalError as error:
        _log.warning("kick_failed", code=error.code)
    finally:
        kicked.drainer = None


class _Kicked:
    """The drainer that was kicked off and still runs."""

    def __init__(self, _: Runtime) -> None:
        self.drainer: Drainer | None = None
