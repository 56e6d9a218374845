"""`make demo`: play the scenes, print what was counted, and exit 0 only if every count is exact."""

import argparse
import asyncio
import sys

from tests.demo import campaign, scenes
from tests.demo.checks import Checks
from tests.demo.screen import Screen
from tests.demo.stage import raise_curtain


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description="The main job, live, on this machine.")
    parser.add_argument("--messages", type=int, default=500, help="template messages a country (default: 500)")
    parser.add_argument("--rows", type=int, default=5_000, help="rows of the campaign's list (default: 5000)")
    arguments = parser.parse_args()
    screen = Screen()
    checks = Checks(screen)
    try:
        asyncio.run(play(screen, checks, arguments.messages, arguments.rows))
    except KeyboardInterrupt:
        return 130
    return screen.verdict(checks.failed)


async def play(screen: Screen, checks: Checks, messages: int, rows: int) -> None:
    """All scenes, in the order they are shown."""
    screen.title()
    async with raise_curtain(screen, checks, campaign.rate(rows)) as stage:
        await scenes.sign_up(stage)
        await scenes.closed_window(stage, checks)
        await scenes.customer_writes(stage, checks)
        await scenes.other_country(stage, checks)
        await scenes.many_messages(stage, messages)
        await scenes.story(stage, checks)
        await campaign.play(stage, checks, rows)
        await scenes.rows_of_others(stage, checks)
        await scenes.reckoning(stage, checks)


if __name__ == "__main__":
    sys.exit(main())
