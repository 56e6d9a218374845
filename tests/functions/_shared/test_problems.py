"""Each error is one JSON body that helps the caller and shows nothing of ours."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp

from functions._shared.app import function
from services.whatsapp.refusals import refuse
from services.whatsapp.settings import ConfigurationError
from tests.functions._shared.asgi import call

HIDDEN = "hidden words about +5215512345678"


async def answer_to(error: Exception) -> httpx.Response:
    async def handler(request: Request) -> ASGIApp:
        raise error

    return await call(function("send", {"POST": handler}), "POST", "/send")


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (refuse("window_closed", field="to"), 409, "window_closed"),
        (refuse("database_unavailable"), 503, "database_unavailable"),
        (RuntimeError(HIDDEN), 500, "internal_error"),
        (KeyError(HIDDEN), 500, "internal_error"),
        (ConfigurationError("META_GRAPH_URL", HIDDEN), 500, "configuration_error"),
        (HTTPException(404, HIDDEN), 404, "not_found"),
        (HTTPException(400, HIDDEN), 400, "invalid_request"),
        (HTTPException(500, HIDDEN), 500, "internal_error"),
    ],
)
async def test_an_exception_becomes_our_body(error: Exception, status: int, code: str) -> None:
    response = await answer_to(error)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-supabase-server-error"] == code
    assert set(response.json()) == {"code", "message", "details", "hint", "error"}
    assert response.json()["code"] == code
    assert "hidden" not in response.text
    assert "META_GRAPH_URL" not in response.text


async def test_details_lead_to_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    details = (await answer_to(RuntimeError(HIDDEN))).json()["details"]
    [line] = [line for line in lines_of(capsys) if line["event"] == "failed"]
    assert details == f"request {line['request_id']}"
    assert line["error_type"] == "RuntimeError"
    assert "5512345678" not in json.dumps(line)


async def test_the_log_names_the_variable_of_a_configuration_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    await answer_to(ConfigurationError("META_GRAPH_URL", "is missing"))
    assert any(line.get("variable") == "META_GRAPH_URL" for line in lines_of(capsys))


@pytest.mark.parametrize(
    ("code", "header", "value"),
    [("missing_credentials", "www-authenticate", "Bearer"), ("database_unavailable", "retry-after", "5")],
)
async def test_statuses_come_with_their_headers(code: str, header: str, value: str) -> None:
    assert (await answer_to(refuse(code))).headers[header] == value


async def test_an_error_after_the_answer_began_reaches_the_server() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"some"
        raise RuntimeError("broke off")

    async def handler(request: Request) -> ASGIApp:
        return StreamingResponse(broken())

    with pytest.raises(RuntimeError, match="broke off"):
        await call(function("send", {"POST": handler}), "POST", "/send")
