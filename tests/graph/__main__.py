"""`python -m tests.graph`: the stand-in for Meta (tests only) as a process.

    python -m tests.graph --port 8900 --countries MX,CO --env-file graph.env --callback-url
    http://127.0.0.1:8000/webhook python -m tests.graph --port 8900 --world world.json --latency-ms 50

Prints one line of JSON, `{"url": …, "control_url": …}`, when it listens, and runs until it is interrupted.
"""

import argparse
import asyncio
import gc
import sys
from pathlib import Path

import orjson
import uvloop

from tests.graph.control import Control, Verbs
from tests.graph.courier import Route
from tests.graph.process import die_with_parent
from tests.graph.server import Listener
from tests.graph.stand_in import StandIn, Start
from tests.graph.statuses import Plan
from tests.graph.timing import Latency
from tests.graph.world import World

HOST = "127.0.0.1"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.graph", description="Stand-in for Meta's Graph API.")
    parser.add_argument("--port", type=int, default=0, help="port for the product (0: a free one)")
    parser.add_argument("--control-port", type=int, default=0, help="port of the control API (0: a free one)")
    parser.add_argument("--world", type=Path, help="file with a world as World.to_json() writes it")
    parser.add_argument("--countries", default="MX,CO", help="without --world: countries of a random world")
    parser.add_argument("--save-world", type=Path, help="write the world there")
    parser.add_argument("--env-file", type=Path, help="write the product's environment there")
    parser.add_argument("--latency-ms", type=float, default=0, help="time until each answer")
    parser.add_argument("--callback-url", help="where webhooks go; none without it")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def start_of(options: argparse.Namespace) -> Start:
    """From the options, or from one line on stdin when a test started us."""
    if options.child:
        line = orjson.loads(sys.stdin.buffer.readline())
        world = orjson.dumps(line["world"])
        book = None if line["book"] is None else Path(line["book"])
        return Start(world, Latency(**line["latency"]), Route(**line["route"]), Plan(**line["plan"]), book)
    world = options.world.read_bytes() if options.world else World.random(options.countries.split(",")).to_json()
    return Start(world, Latency(ms=options.latency_ms), Route(callback_url=options.callback_url))


async def serve(options: argparse.Namespace, start: Start) -> None:
    stand_in = StandIn(start)
    public = Listener(stand_in, HOST)
    await public.open(options.port)
    control = Listener(Control(Verbs(stand_in, public)), HOST)
    await control.open(options.control_port)
    stand_in.url = f"http://{HOST}:{public.port}"
    if options.save_world:
        options.save_world.write_bytes(start.world)
    if options.env_file:
        env = stand_in.world.env(stand_in.url)
        options.env_file.write_text("".join(f"{name}={value}\n" for name, value in env.items()))
    addresses = {"url": stand_in.url, "control_url": f"http://{HOST}:{control.port}"}
    print(orjson.dumps(addresses).decode(), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    options = arguments()
    start = start_of(options)
    if options.child:
        die_with_parent()
    # what is loaded stays; the ledger only grows, and looking through it for rubbish would cost pauses
    gc.freeze()
    gc.set_threshold(100_000, 50, 1_000)
    try:
        uvloop.run(serve(options, start))
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
