"""Remote control of the stand-in for Meta (tests only): `POST /_control/<verb>` with JSON, on a port of its
own.

Product code never uses it. The verbs are the public methods of `Verbs`; `tests.graph.client.Graph` calls
them.
"""

import asyncio
import secrets
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import orjson

from tests.graph.faults import Fault
from tests.graph.people import Person
from tests.graph.server import Connection, Listener
from tests.graph.stand_in import StandIn
from tests.graph.statuses import Plan
from tests.graph.timing import Latency
from tests.graph.world import Number

PREFIX = b"/_control/"


class Verbs:
    """What a test can ask of the stand-in. Each public method is one verb; its arguments are the JSON
    members."""

    def __init__(self, stand_in: StandIn, public: Listener) -> None:
        self._meta = stand_in
        self._public = public
        self._coming_back: asyncio.Task[None] | None = None

    async def counts(self) -> Any:
        webhooks = self._meta.courier.counts() | {"planned": self._meta.statuses.planned}
        return self._meta.ledger.counts() | {"webhooks": webhooks}

    async def arrived(self, after: int = 0, limit: int = 5_000) -> Any:
        return [arrival.to_dict() for arrival in self._meta.ledger.after(after, limit)]

    async def duplicates(self) -> Any:
        ledger = self._meta.ledger
        return {
            "accepted": {tag: count for tag, count in ledger.accepts_of.items() if count > 1},
            "arrived": {tag: count for tag, count in ledger.arrivals_of.items() if count > 1},
        }

    async def peak(self, number: str, seconds: float = 1.0) -> Any:
        return self._meta.ledger.peak(number, seconds=seconds)

    async def fault(self, **fault: Any) -> None:
        self._meta.faults.script.append(Fault(**fault))

    async def read(self, number: str, edge: str, answers: list[tuple[int, str]]) -> None:
        """What the next GETs of the number (edge "") or of an edge of its business account get, in this order."""
        node_id = self._number(number).waba_id if edge else number
        self._meta.reads[node_id, edge] = [(status, body) for status, body in answers]

    async def number(self, number: str, **members: Any) -> None:
        for name, value in members.items():
            setattr(self._number(number), name, value)

    async def clear_faults(self) -> None:
        self._meta.faults.script.clear()
        self._meta.faults.close_unread = 0

    async def close_unread(self, times: int) -> None:
        self._meta.faults.close_unread = times

    async def cut(self) -> Any:
        return self._public.cut()

    async def refuse_connections(self, seconds: float | None = None) -> None:
        self._public.refuse()
        if seconds is not None:
            self._coming_back = asyncio.create_task(self._come_back(seconds))

    async def accept_connections(self) -> None:
        await self._public.reopen()

    async def latency(self, **latency: float) -> None:
        self._meta.latency = Latency(**latency)

    async def throttle(self, number: str, per_second: float | None) -> None:
        self._meta.throughput.limit(number, per_second)

    async def pair_rate(self, every_seconds: float | None, burst: int = 45) -> None:
        self._meta.pair_rate.every_seconds = every_seconds
        self._meta.pair_rate.burst = burst

    async def windows(self, enforced: bool) -> None:
        self._meta.windows.enforced = enforced

    async def tokens(self, number: str, tokens: list[str]) -> None:
        self._number(number).tokens = tokens

    async def route(self, **route: Any) -> None:
        self._meta.courier.set_route(replace(self._meta.courier.route, **route))

    async def plan(self, **plan: Any) -> None:
        self._meta.statuses.set_plan(replace(Plan(), **plan))

    async def pause_webhooks(self, paused: bool) -> None:
        self._meta.courier.pause(paused)

    async def inbound(
        self,
        number: str,
        message: dict[str, Any],
        wa_id: str | None = None,
        user_id: str | None = None,
        name: str | None = None,
        hide_phone: bool = False,
        at: float | None = None,
    ) -> Any:
        person = self._person(wa_id, user_id)
        person.name = name or person.name
        wamid = self._meta.customer_sends(self._number(number), person, message, hide_phone=hide_phone, at=at)
        return {"wamid": wamid, "user_id": person.user_id}

    async def user_id(self, wa_id: str) -> Any:
        return self._meta.people.by_phone(wa_id.removeprefix("+")).user_id

    async def status(self, wamid: str, status: str, code: int | None = None) -> None:
        self._meta.push_status(wamid, status, code)

    async def webhook(self, body: str, signed: str | None = None) -> None:
        self._meta.courier.send(body.encode(), signed=signed)

    async def template_status(
        self, number: str, name: str, language: str, event: str, reason: str | None = None
    ) -> None:
        self._meta.template_event(self._number(number).waba_id, name, language, event, reason)

    async def template_change(
        self, number: str, name: str, language: str, field: str, value: dict[str, Any], members: dict[str, Any]
    ) -> None:
        self._meta.template_change(self._number(number).waba_id, name, language, field, value, members)

    async def verify(self) -> Any:
        """The handshake Meta does when a callback URL is saved: True if the challenge came back."""
        challenge = str(secrets.randbelow(10**10))
        query = {"hub.mode": "subscribe", "hub.challenge": challenge}
        token = {"hub.verify_token": self._meta.world.verify_token}
        status, body = await self._meta.courier.get("?" + urlencode(query | token))
        return status == 200 and body == challenge.encode()

    async def reset(self) -> None:
        await self._public.reopen()
        self._meta.reset()

    def _number(self, number_id: str) -> Number:
        number = self._meta.world.by_id(number_id)
        if number is None:
            raise KeyError(number_id)
        return number

    def _person(self, wa_id: str | None, user_id: str | None) -> Person:
        if wa_id is None:
            return self._meta.people.by_user_id(user_id or f"US.{secrets.randbelow(10**20)}")
        person = self._meta.people.by_phone(wa_id.removeprefix("+"))
        if user_id is not None:
            person.user_id = user_id
        return person

    async def _come_back(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._public.reopen()


class Control:
    """Hears the control port. What goes wrong in a verb is answered as 400 with its words."""

    def __init__(self, verbs: Verbs) -> None:
        self._verbs = verbs
        self._running: set[asyncio.Task[None]] = set()

    def close_unread(self) -> bool:
        return False

    def handle(self, connection: Connection) -> None:
        task = asyncio.create_task(self._answer(connection))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _answer(self, connection: Connection) -> None:
        name = connection.url.removeprefix(PREFIX).decode()
        verb = getattr(self._verbs, name, None)
        if verb is None or name.startswith("_") or not connection.url.startswith(PREFIX):
            connection.reply(404, orjson.dumps({"error": f"no verb {name}"}))
            return
        try:
            answer = await verb(**orjson.loads(connection.body or b"{}"))
        except Exception as error:
            connection.reply(400, orjson.dumps({"error": f"{type(error).__name__}: {error}"}))
        else:
            connection.reply(200, orjson.dumps(answer))
