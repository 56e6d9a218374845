"""One drainer as a process of its own, to be killed or to compete: `python -m tests.proofs.drain_process 5 0.5 8`.

Arguments, in seconds: the lease, the time a POST needs room for within it, the budget. The environment says what to
drain. Prints `ready`, begins when a line is read, and prints the report as JSON.
"""

import asyncio
import json
import sys

from services.whatsapp.flows import draining
from services.whatsapp.runtime import Runtime
from services.whatsapp.settings import settings


async def main(lease: float, margin: float, budget: float) -> None:
    draining.LEASE = lease
    draining._MARGIN = margin
    async with Runtime(settings()) as runtime:
        drainer = draining.Drainer(runtime)
        with runtime.running(drainer):
            report = await drainer.run(budget, sweep=False)
    print(json.dumps(report.body()))


if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    asyncio.run(main(*map(float, sys.argv[1:4])))
