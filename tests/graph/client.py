"""The typed client of the stand-in for Meta (tests only): ask what arrived, script what goes wrong.

Calls are synchronous and short. In async tests use `until` to wait, and `asyncio.to_thread(graph.verify)`
when the callback is served by the test's own loop.
"""

import asyncio
import http.client
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import orjson

from tests.graph.world import Number, World

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message POST that really arrived; meaning of members: `tests.graph.ledger.Arrival`."""

    seq: int
    number_id: str
    to: str | None
    type: str | None
    template: str | None
    callback_data: str | None
    body: Any
    wall: float
    monotonic: float
    wamid: str | None
    http_status: int | None
    code: int | None
    fate: str

    @property
    def accepted(self) -> bool:
        return self.wamid is not None


@dataclass(frozen=True, slots=True)
class Webhooks:
    """Delivery of webhooks. `planned` are statuses not yet in a POST, `pending` POSTs not answered 200 yet,
    `delivered` those that were; `updates_delivered` counts the statuses and messages in them. `refused` are other
    answers by status, `broken` lost connections and timeouts."""

    planned: int
    pending: int
    delivered: int
    updates_delivered: int
    refused: dict[int, int]
    broken: int
    p50_ms: float
    p99_ms: float

    @property
    def settled(self) -> bool:
        """Nothing is left to deliver."""
        return self.planned == self.pending == 0


@dataclass(frozen=True, slots=True)
class Counts:
    """Message POSTs. `codes` are Meta's error codes answered; `repeated` are callback data that arrived more
    than once, `double_sent` those that were *accepted* more than once (must stay 0); `per_second` by unix
    second."""

    arrived: int
    accepted: int
    codes: dict[int, int]
    repeated: int
    double_sent: int
    closed_unread: int
    receipts: int
    numbers: dict[str, Json]
    webhooks: Webhooks

    def of(self, number: Number | str) -> Json:
        """arrived, accepted, codes, per_second of one number."""
        empty = {"arrived": 0, "accepted": 0, "codes": {}, "per_second": {}}
        return self.numbers.get(node_id(number), empty)


class Graph:
    """A running stand-in. `url` is what the product gets as META_GRAPH_URL."""

    def __init__(self, url: str, control_url: str, world: World) -> None:
        self.url = url
        self.world = world
        self._address = control_url.removeprefix("http://")
        self._lock = threading.Lock()
        self._http: http.client.HTTPConnection | None = None

    def env(self) -> dict[str, str]:
        """The environment under which the product meets this stand-in."""
        return self.world.env(self.url)

    # what arrived

    def arrived(self, number: Number | str | None = None, callback_data: str | None = None) -> list[Arrival]:
        """Every message POST in order of arrival, of one number or tag if given."""
        found: list[Arrival] = []
        seq = 0
        while lines := self._call("arrived", after=seq):
            seq = lines[-1]["seq"]
            found += [Arrival(**line) for line in lines]
        return [
            one
            for one in found
            if (number is None or one.number_id == node_id(number))
            and (callback_data is None or one.callback_data == callback_data)
        ]

    def counts(self) -> Counts:
        raw = self._call("counts")
        webhooks = raw.pop("webhooks")
        refused = by_number(webhooks.pop("refused"))
        numbers = {
            number: counts | {key: by_number(counts[key]) for key in ("codes", "per_second")}
            for number, counts in raw.pop("numbers").items()
        }
        codes = by_number(raw.pop("codes"))
        return Counts(**raw, codes=codes, numbers=numbers, webhooks=Webhooks(**webhooks, refused=refused))

    def double_sent(self) -> dict[str, int]:
        """Callback data accepted more than once, with how often: people who got a message twice."""
        found: dict[str, int] = self._call("duplicates")["accepted"]
        return found

    def repeated(self) -> dict[str, int]:
        """Callback data that arrived more than once, accepted or not."""
        found: dict[str, int] = self._call("duplicates")["arrived"]
        return found

    def peak(self, number: Number | str, seconds: float = 1.0) -> int:
        """Most arrivals of a number within any moving span of `seconds`."""
        return int(self._call("peak", number=node_id(number), seconds=seconds))

    # what goes wrong

    def fail_next(self, times: int | None = 1, *, code: int, **match: Any) -> None:
        """Answer Meta's error `code`. Match by number=, to=, template=, callback_data=, type=; also
        http_status=, details=, subcode=. `times=None`: until `clear_faults`."""
        self._fault("error", times, match | {"code": code})

    def fail_later(self, times: int | None = 1, *, code: int, **match: Any) -> None:
        """Accept, then a `failed` status webhook with `code`."""
        self._fault("fail_later", times, match | {"code": code})

    def server_error(
        self, times: int | None = 1, *, http_status: int = 502, accept: bool = False, **match: Any
    ) -> None:
        """Answer 5xx with HTML instead of Meta's JSON; accepted all the same if `accept`."""
        self._fault("server_error", times, match | {"http_status": http_status, "accept": accept})

    def lose_answers(self, times: int | None = 1, **match: Any) -> None:
        """Accept, then close the connection without an answer."""
        self._fault("lose_answer", times, match)

    def hang(self, times: int | None = 1, *, seconds: float | None = None, accept: bool = True, **match: Any) -> None:
        """Never answer; close the connection after `seconds` if given."""
        self._fault("hang", times, match | {"seconds": seconds, "accept": accept})

    def slow(self, times: int | None = 1, *, seconds: float, **match: Any) -> None:
        """Accept, and answer after `seconds`."""
        self._fault("slow", times, match | {"seconds": seconds})

    def mute(self, times: int | None = 1, **match: Any) -> None:
        """Accept and answer, and lose every status webhook. `lose_answers`, `hang` and others take mute=True, too."""
        self._fault("take", times, match | {"mute": True})

    def hold(self, times: int | None = 1, **match: Any) -> None:
        """Accept as held_for_quality_assessment (template pacing); push a `status` to end it."""
        self._fault("hold", times, match)

    def close_unread(self, times: int) -> None:
        """Close the connection at the first byte of each of the next requests: they never arrive."""
        self._call("close_unread", times=times)

    def refuse_connections(self, seconds: float | None = None) -> None:
        """Refuse connections (and cut those open) for `seconds`, or until `accept_connections`."""
        self._call("refuse_connections", seconds=seconds)

    def accept_connections(self) -> None:
        self._call("accept_connections")

    def cut(self) -> int:
        """Cut every open connection, idle ones too; returns how many."""
        return int(self._call("cut"))

    def clear_faults(self) -> None:
        self._call("clear_faults")

    def latency(self, ms: float, *, jitter_ms: float = 0, tail_share: float = 0, tail_ms: float = 0) -> None:
        """Answers take `ms` plus up to `jitter_ms`; a `tail_share` of them `tail_ms`."""
        self._call("latency", ms=ms, jitter_ms=jitter_ms, tail_share=tail_share, tail_ms=tail_ms)

    def throttle(self, number: Number | str, per_second: float | None) -> None:
        """130429 above `per_second` messages in any one second; None switches it off."""
        self._call("throttle", number=node_id(number), per_second=per_second)

    def pair_rate(self, every_seconds: float | None = 6, burst: int = 45) -> None:
        """131056 above one message per `every_seconds` to a person, `burst` ahead; None switches it off."""
        self._call("pair_rate", every_seconds=every_seconds, burst=burst)

    def windows(self, enforced: bool = True) -> None:
        """Free-form messages to people who did not write within 24 hours are accepted, then fail with
        131047."""
        self._call("windows", enforced=enforced)

    def tokens(self, number: Number | str, tokens: list[str]) -> None:
        """The tokens that are valid for a number from now on."""
        self._call("tokens", number=node_id(number), tokens=tokens)

    # webhooks

    def callback(self, url: str | None, **route: Any) -> None:
        """Deliver webhooks to `url` (http on loopback); connections=, timeout_ms=, retry_ms=,
        retry_most_ms=."""
        self._call("route", callback_url=url, **route)

    def statuses(self, **plan: Any) -> None:
        """How accepted messages report; members of `tests.graph.statuses.Plan`, the others at their
        defaults."""
        self._call("plan", **plan)

    def status(self, wamid: str, status: str, *, code: int | None = None) -> None:
        """Push one status of an accepted message now."""
        self._call("status", wamid=wamid, status=status, code=code)

    def customer_writes(
        self, number: Number | str, from_wa_id: str | None, text: str, *, name: str | None = None, **more: Any
    ) -> str:
        """A text message from a person; more= user_id, hide_phone, at (unix seconds). Returns its wamid."""
        message = {"type": "text", "text": {"body": text}}
        return self.customer_sends(number, from_wa_id, message, name=name, **more)

    def customer_sends(
        self,
        number: Number | str,
        from_wa_id: str | None,
        message: Json,
        *,
        name: str | None = None,
        **more: Any,
    ) -> str:
        """Any inbound message: `message` is its type and object. Returns its wamid."""
        number = node_id(number)
        return str(self._call("inbound", number=number, wa_id=from_wa_id, message=message, name=name, **more)["wamid"])

    def user_id(self, wa_id: str) -> str:
        """The business-scoped user id of the person with this phone."""
        return str(self._call("user_id", wa_id=wa_id))

    def webhook(self, body: Json | str, *, signature: str | None = None) -> None:
        """Post any body, signed with the app secret, or with `signature` as the header says."""
        text = body if isinstance(body, str) else orjson.dumps(body).decode()
        self._call("webhook", body=text, signed=signature)

    def template_status(
        self, number: Number | str, name: str, language: str, event: str, *, reason: str | None = None
    ) -> None:
        """Change a template's state at Meta and push `message_template_status_update`."""
        number = node_id(number)
        self._call("template_status", number=number, name=name, language=language, event=event, reason=reason)

    def read(self, number: Number | str, edge: str, *answers: tuple[int, str]) -> None:
        """What the next GETs of the number (edge "") or of an edge of its business account get: status and body."""
        self._call("read", number=node_id(number), edge=edge, answers=answers)

    def change_number(self, number: Number | str, **members: Any) -> None:
        """What Meta says of the number from now on: throughput=, is_on_biz_app=, messaging_limit=, quality_rating="""
        self._call("number", number=node_id(number), **members)

    def template_change(
        self, number: Number | str, name: str, language: str, field: str, value: Json, **members: Any
    ) -> None:
        """Change `members` of a template at Meta and push the webhook `field`; `value` is what it says of it."""
        arguments = {"number": node_id(number), "name": name, "language": language}
        self._call("template_change", **arguments, field=field, value=value, members=members)

    def account_webhook(self, number: Number, field: str, value: Json) -> None:
        """Push a webhook about the account of a number."""
        change = {"field": field, "value": value}
        entry = {"id": number.waba_id, "time": int(time.time()), "changes": [change]}
        self.webhook({"object": "whatsapp_business_account", "entry": [entry]})

    def pause_webhooks(self, paused: bool = True) -> None:
        """Hold all webhooks back, as when Meta's feed is dead; False lets them flow."""
        self._call("pause_webhooks", paused=paused)

    def verify(self) -> bool:
        """Do Meta's GET handshake with the callback URL: True if it echoed the challenge."""
        return bool(self._call("verify"))

    # waiting

    def wait_until(self, predicate: Callable[[Counts], bool], timeout: float = 60) -> Counts:
        """Block until `predicate(counts)`; TimeoutError with the last counts otherwise."""
        deadline = time.monotonic() + timeout
        while not predicate(counts := self.counts()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {timeout} s: {counts}")
            time.sleep(0.01)
        return counts

    async def until(self, predicate: Callable[[Counts], bool], timeout: float = 60) -> Counts:
        """`wait_until` for async tests: lets the loop run in between."""
        deadline = time.monotonic() + timeout
        while not predicate(counts := self.counts()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {timeout} s: {counts}")
            await asyncio.sleep(0.01)
        return counts

    def reset(self) -> None:
        """Back to how it started: nothing arrived, no faults, first world. Callback and plan are the start's
        too."""
        self._call("reset")

    def close(self) -> None:
        if self._http is not None:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _fault(self, kind: str, times: int | None, members: Json) -> None:
        if isinstance(members.get("number"), Number):
            members["number"] = members["number"].phone_number_id
        self._call("fault", kind=kind, times=times, **members)

    def _call(self, verb: str, **members: Any) -> Any:
        with self._lock:
            if self._http is None:
                self._http = http.client.HTTPConnection(self._address, timeout=60)
            self._http.request("POST", f"/_control/{verb}", orjson.dumps(members))
            answer = self._http.getresponse()
            body = orjson.loads(answer.read())
        if answer.status != 200:
            raise ValueError(f"{verb}: {body['error']}")
        return body


def node_id(number: Number | str) -> str:
    return number if isinstance(number, str) else number.phone_number_id


def by_number(counts: dict[str, int]) -> dict[int, int]:
    return {int(key): count for key, count in counts.items()}
