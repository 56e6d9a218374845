"""Meta's messaging limit, measured at Meta: several drainers, the numbers of two countries, one portfolio."""

import asyncio
import contextlib
import json

from tests.graph.world import Number
from tests.proofs.house import House, some_phone, until

LIMIT, EACH = 60, 50


def reached(house: House, *numbers: Number) -> set[str | None]:
    return {arrival.to for number in numbers for arrival in house.graph.arrived(number)}


async def drain(house: House, *numbers: Number) -> None:
    """Two drainers for each number, all at once, until they find nothing more to do."""
    with contextlib.ExitStack() as drainers:
        processes = [drainers.enter_context(house.drain_process(number, budget=6)) for number in numbers * 2]
        for process in processes:
            output, _ = await asyncio.to_thread(process.communicate)
            assert json.loads(output.splitlines()[-1])["failed"] == 0


async def test_all_drainers_of_all_countries_together_keep_the_limit_of_a_portfolio(house: House) -> None:
    shared = {"portfolio": "of two countries", "messaging_limit": LIMIT, "messages_per_second": 50}
    mexico, colombia = house.account("MX", **shared), house.account("CO", **shared)
    for number in (mexico, colombia):
        house.enqueue(number, {some_phone(number.country_id) for _ in range(EACH)})
    queued = house.count("queue where account_id in (%s, %s)", mexico.account_id, colombia.account_id)

    await drain(house, mexico, colombia)
    assert len(reached(house, mexico, colombia)) == LIMIT
    assert reached(house, mexico)
    assert reached(house, colombia)

    # A person who writes opens the window: an answer is not counted, and goes.
    writer = some_phone("MX")
    await house.open_window(mexico, writer)
    [answer] = house.enqueue(mexico, [writer])
    await house.drain(mexico, 1)
    assert house.arrivals(answer) == 1

    # The day after.
    day = "set minute = minute - interval '24 hours 2 minutes' where portfolio = 'of two countries'"
    for table in ("portfolio_people", "portfolio_minutes"):
        house.run(f"update whatsapp_internal.{table} {day}")
    house.run(
        "update whatsapp.queue set run_at = now() where account_id in (%s, %s)", mexico.account_id, colombia.account_id
    )
    await drain(house, mexico, colombia)
    assert len(reached(house, mexico, colombia) - {writer}) == queued
    assert house.graph.double_sent() == {}
    await until(lambda: not house.count("queue where account_id = %s", colombia.account_id))
