"""What each kind of fault does to the site: its harm, and to bring back what nobody else would bring back."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from random import Random

from tests.faults.schedule import Fault
from tests.faults.site import Site, Worker

Wrong = Callable[[Site, Random], Awaitable[None]]


async def inflict(site: Site, fault: Fault) -> None:
    await KINDS[fault.kind](site, Random(fault.seed))


# processes of ours


def _signal(group: str, number: signal.Signals) -> Wrong:
    async def wrong(site: Site, random: Random) -> None:
        _one_of(site, group, random).send(number)

    return wrong


async def freeze(site: Site, random: Random) -> None:
    """Longer than a lease: meanwhile others bring home what it holds, and then it wakes up and goes on."""
    worker = _one_of(site, "drainers", random)
    pid = worker.pid
    worker.send(signal.SIGSTOP)
    await asyncio.sleep(site.size.lease * random.uniform(1.1, 1.6))
    if worker.pid == pid:
        worker.send(signal.SIGCONT)


async def eight_drainers(site: Site, random: Random) -> None:
    for worker in site.extra:
        if not worker.pid:
            worker.start()
    await asyncio.sleep(random.uniform(6, 10))
    for worker in site.extra:
        worker.rest(random.choice((signal.SIGTERM, signal.SIGKILL)))
    await asyncio.gather(*(asyncio.to_thread(worker.stop) for worker in site.extra))


def _one_of(site: Site, group: str, random: Random) -> Worker:
    workers: list[Worker] = getattr(site, group)
    return random.choice(workers[1:] or workers)  # the first one is spared: its memory is watched


# the database and the way to it


async def crash_postgres(site: Site, random: Random) -> None:
    async with site.repairs:
        await asyncio.to_thread(site.stack.postgres.crash)
        await asyncio.sleep(random.uniform(0, 2))
        await asyncio.to_thread(site.stack.postgres.start_again)


async def crash_backend(site: Site, random: Random) -> None:
    async with site.repairs:
        await asyncio.to_thread(site.stack.postgres.crash_backend)
        await asyncio.to_thread(site.stack.postgres.wait_until_up)


async def stop_postgres_at_once(site: Site, random: Random) -> None:
    async with site.repairs:
        await asyncio.to_thread(site.stack.postgres.stop_at_once)
        await asyncio.sleep(random.uniform(0, 2))
        await asyncio.to_thread(site.stack.postgres.start_again)


async def kill_gateway(site: Site, random: Random) -> None:
    async with site.repairs:
        await asyncio.to_thread(site.stack.lite.crash)
        await asyncio.sleep(random.uniform(0, 2))
        await asyncio.to_thread(site.start_gateway)


def _way(mood: str, shortest: float, longest: float) -> Wrong:
    async def wrong(site: Site, random: Random) -> None:
        seconds, share = random.uniform(shortest, longest), random.choice((0.2, 0.5, 1))
        await asyncio.to_thread(site.way.be, mood, seconds, share)
        await asyncio.sleep(seconds)

    return wrong


# Meta


def _meta(inflict: Callable[[Site, Random], object]) -> Wrong:
    async def wrong(site: Site, random: Random) -> None:
        await asyncio.to_thread(inflict, site, random)

    return wrong


def lost_answers(site: Site, random: Random) -> None:
    site.graph.lose_answers(random.randint(1, 30))


def lost_answers_and_silence(site: Site, random: Random) -> None:
    """The only case in which a message may be sent twice: taken, no answer, no webhook either. Policy decides."""
    site.graph.lose_answers(random.randint(1, 4), mute=True)


def late_answers(site: Site, random: Random) -> None:
    """Some within the patience of a POST, some beyond it: statuses come long before them."""
    site.graph.slow(random.randint(1, 20), seconds=site.size.post * random.choice((0.5, 1.5)))


def no_answers(site: Site, random: Random) -> None:
    site.graph.hang(random.randint(1, 10), seconds=site.size.post * 2, accept=random.random() < 0.5)


def errors_with_object(site: Site, random: Random) -> None:
    code = random.choice((1, 2, 131000, 131016, 133004, 131026))
    site.graph.fail_next(random.randint(1, 20), code=code, http_status=random.choice((400, 500, 503)))


def errors_without_object(site: Site, random: Random) -> None:
    site.graph.server_error(
        random.randint(1, 20), http_status=random.choice((500, 502, 503)), accept=random.random() < 0.5
    )


def too_fast(site: Site, random: Random) -> None:
    site.graph.fail_next(random.randint(1, 3), code=130429, http_status=429)


def connections_cut(site: Site, random: Random) -> None:
    site.graph.cut()


def connections_refused(site: Site, random: Random) -> None:
    site.graph.refuse_connections(random.uniform(0.5, 3))


def requests_unread(site: Site, random: Random) -> None:
    site.graph.close_unread(random.randint(1, 20))


def webhooks_lost(site: Site, random: Random) -> None:
    site.graph.mute(random.randint(1, 20))


async def webhooks_held_back(site: Site, random: Random) -> None:
    """Longer than the deadline of unknowns: the feed is dead, and a dead feed proves nothing."""
    await asyncio.to_thread(site.graph.pause_webhooks)
    await asyncio.sleep(site.size.deadline * random.uniform(0.2, 1.5))
    await asyncio.to_thread(site.graph.pause_webhooks, False)


# everything


async def everything_away(site: Site, random: Random) -> None:
    """Functions, drainers, gateway and database, all at once and for longer than the deadline of unknowns."""
    async with site.repairs:
        workers = [*site.functions, *site.drainers]
        for worker in workers:
            worker.rest(signal.SIGKILL)
        await asyncio.gather(*(asyncio.to_thread(worker.stop) for worker in workers))
        await asyncio.to_thread(site.stack.lite.crash)
        await asyncio.to_thread(site.stack.postgres.crash)
        await asyncio.sleep(site.size.lease + site.size.deadline * random.uniform(1.1, 1.4))
        await asyncio.to_thread(site.stack.postgres.start_again)
        await asyncio.to_thread(site.start_gateway)
        for worker in workers:
            worker.start()


KINDS: dict[str, Wrong] = {
    "kill a drainer": _signal("drainers", signal.SIGKILL),
    "kill a function": _signal("functions", signal.SIGKILL),
    "terminate a drainer": _signal("drainers", signal.SIGTERM),
    "terminate a function": _signal("functions", signal.SIGTERM),
    "freeze a drainer": freeze,
    "eight drainers": eight_drainers,
    "crash postgres": crash_postgres,
    "crash a backend": crash_backend,
    "stop postgres at once": stop_postgres_at_once,
    "kill the gateway": kill_gateway,
    "gateway answers errors": _way("errors", 0.5, 4),
    "gateway answers pages": _way("pages", 0.5, 3),
    "gateway cuts requests": _way("cut", 0.5, 4),
    "gateway loses answers": _way("lose", 0.5, 6),
    "gateway is late": _way("late", 0.5, 3),
    "lost answers": _meta(lost_answers),
    "lost answers, silence": _meta(lost_answers_and_silence),
    "late answers": _meta(late_answers),
    "no answers": _meta(no_answers),
    "errors with an object": _meta(errors_with_object),
    "errors without an object": _meta(errors_without_object),
    "too fast": _meta(too_fast),
    "connections cut": _meta(connections_cut),
    "connections refused": _meta(connections_refused),
    "requests unread": _meta(requests_unread),
    "webhooks lost": _meta(webhooks_lost),
    "webhooks held back": webhooks_held_back,
    "everything away": everything_away,
}
