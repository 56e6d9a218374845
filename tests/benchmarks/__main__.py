"""`make bench`, or `python -m tests.benchmarks [drain|cap|lanes|bulk|webhook|cold|cost|growth] [--quick]`."""

import argparse

from tests.benchmarks import bulk, cap, cold, cost, drain, growth, lanes, webhook
from tests.benchmarks.report import Report

BENCHMARKS = {
    "drain": drain.run,
    "cap": cap.run,
    "lanes": lanes.run,
    "bulk": bulk.run,
    "webhook": webhook.run,
    "cold": cold.run,
    "cost": cost.run,
    "growth": growth.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("which", nargs="*", choices=[*BENCHMARKS, []], help="all without it")
    parser.add_argument("--quick", action="store_true", help="one small repetition: does it run at all")
    parser.add_argument("--repetitions", type=int, default=3, help="interleaved; medians are reported")
    parser.add_argument("--only", action="append", default=[], help="of the contenders, only this one (repeat it)")
    options = parser.parse_args()
    repetitions = 1 if options.quick else options.repetitions
    report = Report(
        {"repetitions": f"{repetitions}, interleaved; medians", "size": "quick" if options.quick else "full"}
    )
    for name in options.which or BENCHMARKS:
        print(f"{name}:", flush=True)
        BENCHMARKS[name](report, repetitions, quick=options.quick, only=frozenset(options.only))
    print("\n" + report.write())


if __name__ == "__main__":
    main()
