"""A body is read whole or not at all, and never beyond its limit."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from starlette.requests import Request
from starlette.types import ASGIApp, Message

from functions._shared.answers import Answer
from functions._shared.app import function
from functions._shared.body import LIMIT, is_csv, read_body, read_json, read_raw
from services.whatsapp.refusals import RefusalError
from tests.functions._shared.asgi import call, exchange

SMALL = 100


async def read_small(request: Request) -> ASGIApp:
    return Answer(await read_json(request, limit=SMALL))


async def read_default(request: Request) -> ASGIApp:
    return Answer({"fields": list(await read_json(request))})


async def read_rows(request: Request) -> ASGIApp:
    if is_csv(request):
        return Answer({"csv": (await read_body(request, limit=SMALL)).decode()})
    return Answer(await read_json(request, limit=SMALL))


SEND = function("send", {"POST": read_small})


@pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain;charset=UTF-8", "", "application/octet-stream"]
)
async def test_json_is_read_whatever_it_is_called(content_type: str) -> None:
    content = '{"to": "año"}'.encode()
    response = await call(SEND, "POST", "/send", content=content, headers={"content-type": content_type})
    assert response.json() == {"to": "año"}


@pytest.mark.parametrize(
    ("content", "code", "details"),
    [
        (b"", "malformed_json", "the body is empty"),
        (b'{"a": 1,\n  b}', "malformed_json", "line 2, column 3"),
        (b"{} {}", "malformed_json", "line 1, column 4"),
        (b'{"a": NaN}', "malformed_json", "line 1, column 7"),
        (b'{"a": "\xff"}', "malformed_json", "line 1"),
        (b'{"a":' * 15, "malformed_json", "line 1"),
        (b"[1]", "body_not_object", "an array"),
        (b'"{}"', "body_not_object", "a string"),
        (b"null", "body_not_object", "null"),
        (b"7", "body_not_object", "a number"),
    ],
)
async def test_what_is_no_object_is_refused_with_its_place(content: bytes, code: str, details: str) -> None:
    response = await call(SEND, "POST", "/send", content=content)
    assert response.status_code == 400
    assert response.json()["code"] == code
    assert details in response.json()["details"]


@pytest.mark.parametrize(("size", "status"), [(SMALL, 200), (SMALL + 1, 413)])
async def test_the_limit_is_exact(size: int, status: int) -> None:
    body = b'{"a": "' + b"x" * (size - 9) + b'"}'
    assert len(body) == size
    assert (await call(SEND, "POST", "/send", content=body)).status_code == status


async def test_a_streamed_body_is_cut_off_at_the_limit() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 40
            yield b" " * 40

    response = await call(SEND, "POST", "/send", content=endless())
    assert response.status_code == 413
    assert response.json()["code"] == "body_too_large"
    assert sent <= SMALL + 80


async def test_an_announced_length_is_believed_before_a_byte_is_read() -> None:
    scope = {"type": "http", "method": "POST", "path": "/send", "headers": [(b"content-length", b"101")]}
    sent = await exchange(SEND, scope)
    assert sent[0]["status"] == 413


async def test_a_caller_that_hangs_up_gets_no_answer() -> None:
    scope = {"type": "http", "method": "POST", "path": "/send", "headers": []}
    half = {"type": "http.request", "body": b"{", "more_body": True}
    assert await exchange(SEND, scope, half, {"type": "http.disconnect"}) == []


@pytest.mark.parametrize(("extra", "status"), [("", 200), (" ", 413)])
async def test_a_mebibyte_is_read_by_default(extra: str, status: int) -> None:
    body = json.dumps({"a": "x" * (LIMIT - 9)})
    assert len(body) == LIMIT == 1_048_576
    response = await call(function("send", {"POST": read_default}), "POST", "/send", content=body + extra)
    assert response.status_code == status


@pytest.mark.parametrize("content_type", ["text/csv", "Text/CSV; charset=utf-8", "text/csv ;header=present"])
async def test_a_csv_is_read_as_text_if_it_says_so(content_type: str) -> None:
    rows = function("send", {"POST": read_rows})
    csv = await call(rows, "POST", "/send", content="to\naño\n".encode(), headers={"content-type": content_type})
    assert csv.json() == {"csv": "to\naño\n"}
    other = await call(rows, "POST", "/send", content=b'{"a": 1}', headers={"content-type": "text/plain"})
    assert other.json() == {"a": 1}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a":' + b"[" * 300 + b"]" * 300 + b"}", "nested more than 64 levels"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, "nested more than 64 levels"),
        (b'{"a":[' + b"{}," * 260_000 + b"{}]}", "more than 500000 values"),
    ],
)
async def test_what_would_take_far_more_than_its_bytes_is_refused(content: bytes, words: str) -> None:
    response = await call(function("send", {"POST": read_default}), "POST", "/send", content=content)
    assert (response.status_code, response.json()["code"]) == (413, "body_too_complex")
    assert words in response.json()["details"]


@pytest.mark.parametrize("depth", [1, 64])
async def test_what_is_nested_as_deep_as_allowed_is_read(depth: int) -> None:
    content = b'{"a":' * depth + b"1" + b"}" * depth
    assert (await call(function("send", {"POST": read_default}), "POST", "/send", content=content)).status_code == 200


async def test_a_large_body_is_read_as_a_small_one() -> None:
    body = json.dumps({"a": ["x" * 100] * 5_000})
    assert len(body) > 256 * 1024
    response = await call(function("send", {"POST": read_default}), "POST", "/send", content=body)
    assert response.json() == {"fields": ["a"]}


async def test_a_body_that_does_not_arrive_is_waited_for_only_so_long() -> None:
    scope = {"type": "http", "method": "POST", "path": "/send", "headers": [(b"content-length", b"9")]}

    async def stalled() -> Message:
        await asyncio.Event().wait()
        raise AssertionError("nothing comes")

    with pytest.raises(RefusalError) as refused:
        await read_raw(scope, stalled, seconds=0.01)
    assert refused.value.code == "body_too_slow"


async def test_a_length_of_many_digits_is_too_large() -> None:
    scope = {"type": "http", "method": "POST", "path": "/send", "headers": [(b"content-length", b"9" * 5_000)]}
    sent = await exchange(SEND, scope)
    assert sent[0]["status"] == 413
