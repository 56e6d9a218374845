"""Every kind of message, from a request to Meta: in the window it arrives as it was given, else it never leaves."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.proofs.house import House, both_ways, check_refusal, some_phone, until

pytestmark = both_ways

PAYLOADS = sorted((Path(__file__).parents[1] / "payloads" / "messages").glob("*.json"))
ENVELOPE = {"messaging_product", "recipient_type", "to", "biz_opaque_callback_data"}


def message_of(path: Path) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["message"]
    return message


async def test_every_kind_arrives_as_it_was_given(house: House) -> None:
    number = house.graph.world.number("MX")

    async def converse(path: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
        phone, given = some_phone(), message_of(path)
        await house.open_window(number, phone)
        message_id = await house.send(phone, given)
        [arrival] = await until(lambda: house.graph.arrived(callback_data=message_id))
        assert arrival.accepted, (path.stem, arrival.code)
        return message_id, given, {name: part for name, part in arrival.body.items() if name not in ENVELOPE}

    told = await asyncio.gather(*map(converse, PAYLOADS))

    for message_id, given, arrived in told:
        assert json.dumps(arrived, sort_keys=True) == json.dumps(given, sort_keys=True)
        await house.until_state(message_id, "sent", "delivered", "read", "played")


@pytest.mark.parametrize("name", ["image_by_id", "contacts", "interactive_list", "interactive_carousel_of_links"])
async def test_what_is_no_template_needs_an_open_window(house: House, name: str) -> None:
    message = message_of(PAYLOADS[0].parent / f"{name}.json")
    check_refusal(await house.post(some_phone(), message), 409, "window_closed")
