"""A process of our functions that is meant to die: `python -m tests.faults.worker --socket 5 --lease 12 --post 3`.

Serves all functions on a listening socket it inherits; several processes may share one, and go on when one is killed.
The long spans of the product are shortened, so that what a crash leaves behind is brought home within the run.
"""

import argparse
import socket

import uvloop

from tests.faults import clock


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", type=int, required=True, help="number of the inherited listening socket")
    parser.add_argument("--lease", type=float, required=True, help="seconds a claimed batch belongs to its drainer")
    parser.add_argument("--post", type=float, required=True, help="seconds a POST to Meta may take")
    parser.add_argument("--clock", type=float, default=0, help="seconds by which this process's clock is wrong")
    return parser.parse_args()


def shorten(lease: float, post: float) -> None:
    """Shorter leases and POSTs, before anything reads them."""
    from services.whatsapp.clients import graph

    graph.POST_TIMEOUT = post
    graph._TIMEOUTS["read"] = post
    from services.whatsapp.flows import draining

    draining.LEASE = lease
    draining._MARGIN = post + 2


async def serve(listener: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(
        "functions.serve:app", loop="uvloop", http="httptools", access_log=False, timeout_graceful_shutdown=25
    )
    await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    options = arguments()
    if options.clock:
        clock.shift(options.clock)
    shorten(options.lease, options.post)
    uvloop.run(serve(socket.socket(fileno=options.socket)))
