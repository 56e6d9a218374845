"""Large bodies of people who may not send them, bodies nobody signed, and bodies that never end."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.proofs.house import TEXT, House, some_phone, until

LARGE = 16_000_000
FUNCTIONS = {
    "send": ("POST", "/send", 1_000_000),
    "bulk-enqueue": ("POST", "/bulk-enqueue", LARGE),
    "consents": ("POST", "/consents", LARGE),
    "control of a campaign": ("PATCH", "/bulk-enqueue", 4_000),
    "accounts": ("PATCH", "/accounts", 4_000),
    "templates-sync": ("POST", "/templates-sync", 4_000),
}
CSV = {"content-type": "text/csv"}


@asynccontextmanager
async def begun(
    house: House, method: str, path: str, length: int, headers: dict[str, str]
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A request whose head was sent and whose body was not."""
    address = house.stack.url.removeprefix("http://")
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [f"{method} /functions/v1{path} HTTP/1.1", f"host: {address}", f"content-length: {length}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    await writer.drain()
    try:
        yield reader, writer
    finally:
        writer.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, Any]]:
    """The answer, which must come although no body does."""
    async with asyncio.timeout(5):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        return int(head.split()[1]), json.loads(await reader.readexactly(length))


def signed_in(house: House, user: str) -> dict[str, str]:
    return {"authorization": f"Bearer {house.users[user].token}", "idempotency-key": str(uuid.uuid4())}


@pytest.mark.parametrize(("method", "path", "length"), FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize(("user", "code"), [("nobody", "not_a_member"), ("viewer", "role_too_low")])
async def test_who_may_do_it_nowhere_is_refused_before_their_body_is_read(
    house: House, method: str, path: str, length: int, user: str, code: str
) -> None:
    async with begun(house, method, path, length, signed_in(house, user)) as (reader, _):
        status, body = await answer(reader)
    assert (status, body["code"]) == (403, code)


@pytest.mark.parametrize("path", ["/bulk-enqueue", "/consents"])
@pytest.mark.parametrize(("country_id", "user"), [("MX", "CO"), ("MX", "nobody"), ("", "MX"), ("%00", "MX")])
async def test_a_csv_for_another_country_is_refused_before_it_is_read(
    house: House, path: str, country_id: str, user: str
) -> None:
    address = f"{path}?country_id={country_id}"
    async with begun(house, "POST", address, LARGE, signed_in(house, user) | CSV) as (reader, _):
        status, body = await answer(reader)
    assert (status, body["code"]) == (403, "not_a_member")


SIGNATURES = {
    "none": (200_000, {}, 401, "signature_missing"),
    "an empty one": (200_000, {"x-hub-signature-256": ""}, 401, "signature_missing"),
    "of another shape": (200_000, {"x-hub-signature-256": "sha256=abc"}, 401, "signature_invalid"),
    "of another kind": (200_000, {"x-hub-signature-256": f"sha1={'0' * 40}"}, 401, "signature_invalid"),
    "a body too large": (5_000_000, {"x-hub-signature-256": f"sha256={'0' * 64}"}, 413, "body_too_large"),
}


@pytest.mark.parametrize(("length", "headers", "status", "code"), SIGNATURES.values(), ids=SIGNATURES)
async def test_what_nobody_can_have_signed_is_refused_before_it_is_read(
    house: House, length: int, headers: dict[str, str], status: int, code: str
) -> None:
    async with begun(house, "POST", "/webhook", length, headers) as (reader, _):
        got, body = await answer(reader)
    assert (got, body["code"]) == (status, code)


async def test_webhook_bodies_that_never_end_hold_up_no_webhook(house: House) -> None:
    forged = {"x-hub-signature-256": f"sha256={'0' * 64}"}
    stalled = [begun(house, "POST", "/webhook", 4_000_000, forged) for _ in range(50)]
    connections = [await each.__aenter__() for each in stalled]
    try:
        for _, writer in connections:
            writer.write(b"x" * 60_000)
        phone = some_phone()
        await house.open_window(house.graph.world.number("MX"), phone)
        assert (await house.post(phone, TEXT)).status_code == 202
    finally:
        for each in stalled:
            await each.__aexit__(None, None, None)
    await until(lambda: house.graph.counts().arrived == 1)
