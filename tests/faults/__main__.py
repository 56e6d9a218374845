"""`make faults`, or `python -m tests.faults --messages 5000 --faults 60 --minutes 3 --seed 7`: the long form.

Prints the schedule as it is drawn, then the result, which is also written to tests/faults/results/latest.md. Ends with
1 when a promise is broken.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from tests.faults import bodies
from tests.faults.experiment import run
from tests.faults.report import markdown
from tests.faults.site import Size
from tests.local import processes
from tests.local.stack import running_stack

LATEST = Path(__file__).parent / "results" / "latest.md"


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


async def throw_bodies(number: int, seed: int) -> tuple[dict[str, int], list[str]]:
    with running_stack(functions_env=bodies.environment()) as stack:
        return await bodies.throw(stack, list(bodies.generate(number, seed)), again=number // 10)


def main() -> int:
    options = arguments()
    thrown = asyncio.run(throw_bodies(options.bodies, options.seed)) if options.bodies else ({}, [])
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
    done.books.broken += thrown[1]
    text = markdown(done, thrown[0])
    options.into.write_text(text)
    print(text)
    return 1 if done.books.broken else 0


if __name__ == "__main__":
    sys.exit(main())
