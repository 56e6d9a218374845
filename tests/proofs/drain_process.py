"""One drainer as a process of its own, to be killed or to compete: `python -m tests.proofs.drain_process 5 0.5 8`.

Arguments, in seconds: the lease, the time a POST needs room for within it, the budget. The environment says what to
drain. Prints the report as JSON.
"""

import asyncio
import json
import sys

from services.whatsapp.clients.graph import Graph
from services.whatsapp.clients.postgrest import Store
from services.whatsapp.flows import draining
from services.whatsapp.settings import settings
from services.whatsapp.sigterm import stop_on_sigterm


async def main(lease: float, margin: float, budget: float) -> None:
    draining.LEASE = lease
    draining._MARGIN = margin
    store, graph = Store(settings()), Graph(settings())
    try:
        drainer = draining.Drainer(store, graph, settings())
        with stop_on_sigterm(drainer.stop):
            report = await drainer.run(budget, sweep=False)
    finally:
        await graph.close()
        await store.close()
    print(json.dumps(report.body()))


if __name__ == "__main__":
    asyncio.run(main(*map(float, sys.argv[1:4])))
