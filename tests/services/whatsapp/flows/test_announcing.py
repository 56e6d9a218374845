"""Announcing: a call that fails is made again, but not at once, again and again."""

import asyncio
import contextlib
from collections.abc import Sequence

from services.whatsapp.clients.verbs import Announced
from services.whatsapp.flows.announcing import Announcing, Lease


async def test_what_fails_is_asked_for_at_growing_intervals_until_it_succeeds() -> None:
    pauses: list[float] = []
    done = asyncio.Event()

    async def announce(leases: Sequence[Announced]) -> list[str]:
        pauses.append(announcing.pause)
        if len(pauses) < 8:
            raise ConnectionError
        done.set()
        return [lease["lease_id"] for lease in leases]

    announcing = Announcing(announce)
    started: list[int] = []
    lease = Lease("MX", "a lease", [(1, 0.0)], may_post=0)
    lease.when_announced(1, lambda: started.append(1))
    announcing.add(lease)
    running = asyncio.create_task(announcing.run())
    await done.wait()
    await asyncio.sleep(0)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running

    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1, 1, 1]
    assert announcing.pause == 0.05
    assert started == [1]
