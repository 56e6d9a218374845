"""The contenders of the webhook and cold start benchmarks: ASGI apps for uvicorn.

bare    Starlette that checks the signature and nothing else
naive   Starlette that checks, parses, and inserts one row per event by supabase-py
hello   Starlette that answers anything at once, for cold starts
"""

import functools
import json
import os
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.whatsapp.meta import signature

if TYPE_CHECKING:
    from supabase import AsyncClient


def _signed(request: Request, body: bytes) -> bool:
    return signature.verify([os.environ["WHATSAPP_APP_SECRET"]], request.headers.get("x-hub-signature-256"), body)


async def _check(request: Request) -> Response:
    return Response(b"{}" if _signed(request, await request.body()) else b"", media_type="application/json")


async def _insert(request: Request) -> Response:
    body = await request.body()
    if not _signed(request, body):
        return Response(status_code=401)
    database = await _database()
    for entry in json.loads(body)["entry"]:
        for change in entry["changes"]:
            for status in change["value"].get("statuses", []):
                row = {"id": f"{status['id']}:{status['status']}", "payload": status}
                await database.table("naive_events").insert(row).execute()
    return Response(b"{}", media_type="application/json")


_databases: "list[AsyncClient]" = []


async def _database() -> "AsyncClient":
    from supabase import acreate_client

    if not _databases:
        _databases.append(await acreate_client(os.environ["SUPABASE_URL"], os.environ["SUPABASE_SECRET_KEY"]))
    return _databases[0]


async def _hello(request: Request) -> Response:
    return Response(b"{}", media_type="application/json")


@functools.cache
def app(name: str) -> Starlette:
    endpoint = {"bare": _check, "naive": _insert}[name]
    return Starlette(routes=[Route("/webhook", endpoint, methods=["POST"])])


bare = app("bare")
naive = app("naive")
