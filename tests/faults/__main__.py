"""`make faults`, or `python -m tests.faults --messages 5000 --faults 60 --minutes 3 --seed 7`: the long form.

Prints the schedule as it is drawn, then the result, which is also written to tests/faults/results/latest.md; what came
of the generated bodies is in bodies.md beside it. `--bodies 0` leaves these out, `--messages 0` all else. Ends with 1
when a promise is broken.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import bodies
from tests.faults.experiment import run
from tests.faults.report import markdown, of_bodies
from tests.faults.site import Size
from tests.local import processes
from tests.local.stack import running_stack

LATEST = Path(__file__).parent / "results" / "latest.md"
BODIES = LATEST.with_name("bodies.md")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="The experiment, in its long form.")
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=24, help="over which messages and faults are spread")
    parser.add_argument("--bodies", type=int, default=100_000, help="generated webhook bodies, before the rest")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--functions", type=int, default=2, help="processes of functions")
    parser.add_argument("--drainers", type=int, default=3, help="drainers beside those of the functions")
    parser.add_argument("--keep", type=Path, help="a new folder for ledgers and logs, kept afterwards")
    parser.add_argument("--into", type=Path, default=LATEST, help="where the result is written")
    return parser.parse_args()


def throw_bodies(number: int, seed: int) -> bool:
    """Post so many bodies, and write down what came of it; whether every promise was kept."""
    begin = time.monotonic()
    with running_stack(functions_env=bodies.environment()) as stack:
        generated = list(bodies.generate(number, seed))
        figures, broken = asyncio.run(bodies.throw(stack, generated, again=number // 10))
    BODIES.write_text(text := of_bodies(seed, time.monotonic() - begin, figures, broken))
    print(text)
    return not broken


def main() -> int:
    options = arguments()
    kept = throw_bodies(options.bodies, options.seed) if options.bodies else True
    kept = experiment(options) and kept if options.messages else kept
    return 0 if kept else 1


def experiment(options: argparse.Namespace) -> bool:
    """Run the experiment, and write down what came of it; whether every promise was kept."""
    folder = options.keep or Path(tempfile.mkdtemp(prefix="faults-"))
    if options.keep is not None:
        folder.mkdir(parents=True)  # the books of another run would be added to these
    else:
        processes.remove_folder_at_exit(folder)
    done = asyncio.run(
        run(
            folder,
            messages=options.messages,
            faults=options.faults,
            seed=options.seed,
            seconds=options.minutes * 60,
            size=Size(functions=options.functions, drainers=options.drainers),
        )
    )
    if options.keep is None:
        shutil.rmtree(folder)
    options.into.write_text(text := markdown(done))
    print(text)
    return not done.books.broken


if __name__ == "__main__":
    sys.exit(main())
