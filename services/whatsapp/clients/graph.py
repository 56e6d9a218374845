"""The client of Meta: the only code that builds a request to the Graph API.

What matters most here is to tell apart what is known of a message after a failed POST, for Meta has no idempotency key:

    accepted  Meta answered 200 with a message id
    refused   Meta answered with its error object: it did not take the message
    unsent    the connection was never made: nothing was written
    unknown   anything else: a timeout, a broken connection, an answer without Meta's error object, or a breakdown of
              Meta's (5xx) with a code that nobody knows

httpx over aiohttp is used because httpx's own pool collapses above about twenty connections. Its transport is called
directly: redirects, cookies and auth flows of the client are of no use here and cost as much as the request.
"""

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp
import httpx
import orjson
from httpx_aiohttp import AiohttpTransport

from services.whatsapp.directory import Account
from services.whatsapp.meta.errors import Disposition, Failure, from_graph
from services.whatsapp.settings import Settings

Outcome = Literal["accepted", "refused", "unsent", "unknown"]

POST_TIMEOUT = 20.0
"""Seconds a message's POST may take in all, connecting and a second token included."""
_TIMEOUTS = {"connect": 5.0, "read": POST_TIMEOUT, "write": 10.0, "pool": 5.0}
_KEEP_ALIVE = 30.0
_TOKEN_EXPIRED = 190
_PAGE = 100
_TEMPLATE_FIELDS = "name,language,status,category,parameter_format,components,quality_score,rejected_reason"
_NUMBER_FIELDS = ("throughput", "quality_rating", "is_on_biz_app")
_LIMIT_FIELD, _LIMIT_FIELD_OF_OLD, _LIMIT_SINCE = (
    "whatsapp_business_manager_messaging_limit",
    "messaging_limit_tier",
    24,
)
"""What the portfolio may send is asked by its own field from Graph v24.0 on; before, each number told its tier."""
_BAD_REQUEST = 100


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of one message after its POST."""

    outcome: Outcome
    wamid: str | None = None
    wa_id: str | None = None
    user_id: str | None = None
    message_status: str | None = None
    """`accepted`, or `held_for_quality_assessment`: Meta paces the template and decides later."""
    failure: Failure | None = None
    note: str | None = None
    """For unsent and unknown: what happened, in a word or two."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The templates of an account, as Meta lists them; `complete` unless a page, or a row of one, could not be read."""

    rows: list[dict[str, Any]]
    complete: bool


class GraphError(Exception):
    """A read failed. Holds what Meta said, without ids."""

    def __init__(self, failure: Failure | None, note: str) -> None:
        super().__init__(failure.title if failure else note)
        self.failure = failure


class Graph:
    """Talks to one Graph API with many connections. One a loop: `Runtime.graph`."""

    def __init__(self, settings: Settings) -> None:
        self._base = f"{settings.graph_url}/{settings.graph_version}"
        recent = int(settings.graph_version[1:].partition(".")[0]) >= _LIMIT_SINCE
        self._limit_field = _LIMIT_FIELD if recent else _LIMIT_FIELD_OF_OLD
        limits = httpx.Limits(max_connections=settings.drain_concurrency, keepalive_expiry=_KEEP_ALIVE)
        self._transport = AiohttpTransport(limits=limits, trust_env=False)
        self._urls: dict[str, httpx.URL] = {}

    async def send(self, account: Account, body: dict[str, Any]) -> Answer:
        """POST one message. Never raises: a failure is an answer too.

        While tokens are rotated the account has several: one that Meta calls expired (190) gives way to the next. All
        of them together take POST_TIMEOUT at the most, so that no POST outlives the message's lease.
        """
        answer = Answer("unsent", note="no_token")
        content = orjson.dumps(body)
        ends = time.monotonic() + POST_TIMEOUT
        for token in account.tokens:
            left = ends - time.monotonic()
            if left < POST_TIMEOUT / 4:
                return Answer("unsent", note="no_time_for_next_token")
            answer = await self._send(account, token, content, left)
            if answer.failure is None or answer.failure.code != _TOKEN_EXPIRED:
                break
        return answer

    async def templates(self, account: Account) -> Listing:
        """The account's message templates, from all pages. Raises GraphError.

        Source: M:templates/template-management. A page may be empty and still have a next one.
        """
        rows: list[dict[str, Any]] = []
        complete = True
        seen: set[str | None] = set()
        after: str | None = None
        while after not in seen:
            seen.add(after)
            query = {"fields": _TEMPLATE_FIELDS, "limit": str(_PAGE)} | ({"after": after} if after else {})
            page = await self._get(account, f"{account.waba_id}/message_templates", query)
            listed = page.get("data")
            readable = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
            rows += readable
            complete = complete and isinstance(listed, list) and len(readable) == len(listed)
            paging = page.get("paging")
            paging = paging if isinstance(paging, dict) else {}
            if not paging.get("next"):
                return Listing(rows, complete)
            cursors = paging.get("cursors")
            after = cursors.get("after") if isinstance(cursors, dict) else None
            after = after if isinstance(after, str) else None
        # There is more, and Meta does not say where.
        return Listing(rows, complete=False)

    async def number(self, account: Account) -> dict[str, Any]:
        """The account's number as Meta has it: what it may send, and how it is rated. Raises GraphError.

        Graph refuses the whole read for one field that this number or version does not have: it is asked again without.
        Source: M:business-phone-numbers/phone-numbers, M:messaging-limits, M:throughput.
        """
        fields = [self._limit_field, *_NUMBER_FIELDS]
        while True:
            try:
                return await self._get(account, account.phone_number_id, {"fields": ",".join(fields)})
            except GraphError as error:
                refused = _refused_field(error.failure, fields)
                if refused is None:
                    raise
                fields.remove(refused)

    async def close(self) -> None:
        await self._transport.aclose()

    async def _send(self, account: Account, token: str, content: bytes, seconds: float) -> Answer:
        url = self._urls.get(account.phone_number_id)
        if url is None:
            url = self._urls[account.phone_number_id] = httpx.URL(f"{self._base}/{account.phone_number_id}/messages")
        headers = [
            ("authorization", f"Bearer {token}"),
            ("content-type", "application/json"),
            ("accept-encoding", "identity"),
        ]
        request = httpx.Request("POST", url, headers=headers, content=content, extensions={"timeout": _TIMEOUTS})
        try:
            async with asyncio.timeout(seconds):
                response = await self._transport.handle_async_request(request)
                return read_answer(response.status_code, await _body(response))
        except Exception as error:
            return Answer(
                "unsent" if _never_written(error) else "unknown", note=type(error.__cause__ or error).__name__
            )

    async def _get(self, account: Account, path: str, query: dict[str, str]) -> dict[str, Any]:
        failure: Failure | None = None
        for token in account.tokens:
            url = httpx.URL(f"{self._base}/{path}", params=query)
            headers = [("authorization", f"Bearer {token}"), ("accept-encoding", "identity")]
            request = httpx.Request("GET", url, headers=headers, extensions={"timeout": _TIMEOUTS})
            try:
                response = await self._transport.handle_async_request(request)
                document = _document(await _body(response))
            except (httpx.HTTPError, aiohttp.ClientError, OSError) as error:
                raise GraphError(None, type(error).__name__) from None
            if response.status_code == httpx.codes.OK and document and "error" not in document:
                return document
            failure = from_graph(document["error"]) if isinstance(document.get("error"), dict) else None
            if failure is None or failure.code != _TOKEN_EXPIRED:
                break
        raise GraphError(failure, "no_token" if not account.tokens else "not_meta")


def read_answer(status: int, body: bytes) -> Answer:
    """What Meta's answer to a POST of a message says. Source: M:messages/send-messages, M:support/error-codes."""
    document = _document(body)
    error = document.get("error")
    if isinstance(error, dict):
        return _refused(status, error)
    message = _first(document.get("messages"))
    wamid = message.get("id")
    if status != httpx.codes.OK or not isinstance(wamid, str) or not wamid:
        return Answer("unknown", note=f"http_{status}")
    contact = _first(document.get("contacts"))
    return Answer("accepted", wamid, contact.get("wa_id"), contact.get("user_id"), message.get("message_status"))


def _refused(status: int, error: dict[str, Any]) -> Answer:
    """A code we know says what happened, and so does a throttled call. A code we do not know is a no, but not beside
    a breakdown."""
    failure = from_graph(error, status)
    told = failure.code is not None and status < httpx.codes.INTERNAL_SERVER_ERROR
    if told or failure.entry.known or failure.entry.disposition is Disposition.WAIT:
        return Answer("refused", failure=failure)
    return Answer("unknown", note=f"http_{status}" + ("" if failure.code is None else f", code {failure.code}"))


def _refused_field(failure: Failure | None, fields: list[str]) -> str | None:
    """The field for which Graph refused a read. Where it names none of ours, it is the one that comes and goes."""
    refused = (
        failure is not None and failure.code == _BAD_REQUEST and failure.entry.disposition is Disposition.PERMANENT
    )
    if failure is None or not refused or len(fields) == 1:
        return None
    named = [field for field in fields if field in (failure.details or "")]
    limits = [field for field in fields if field not in _NUMBER_FIELDS]
    return next(iter(named + limits), None)


async def _body(response: httpx.Response) -> bytes:
    """All of it. Where it breaks off, its connection is let go of at once, not when somebody tidies up."""
    try:
        return await response.aread()
    except BaseException:
        await response.aclose()
        raise


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        # One lone surrogate in the words of one template must not cost the page.
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            return {}
    return document if isinstance(document, dict) else {}


def _first(items: object) -> dict[str, Any]:
    return items[0] if isinstance(items, list) and items and isinstance(items[0], dict) else {}


def _never_written(error: BaseException) -> bool:
    """Whether the failure came before the request was written.

    Decided by aiohttp's own exception: the transport's translation calls a server that hung up after reading the
    request a ConnectTimeout.
    """
    cause = error.__cause__ or error
    return isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
