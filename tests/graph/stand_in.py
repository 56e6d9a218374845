"""The stand-in for Meta (tests only): hears a request, judges it, remembers it, answers, and reports
statuses."""

import asyncio
import re
import secrets
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic, time
from typing import Any
from urllib.parse import parse_qsl

import orjson

from tests.graph import nodes
from tests.graph.courier import Courier, Route
from tests.graph.envelope import Update, account_webhook
from tests.graph.errors import Refused, invalid_token, unknown_object
from tests.graph.faults import Fault, Faults
from tests.graph.ledger import Arrival, Book, Ledger
from tests.graph.limits import PairRate, Throughput, Windows
from tests.graph.messages import Letter, read
from tests.graph.people import People, Person
from tests.graph.server import JSON_TYPE, Connection
from tests.graph.statuses import Accepted, Plan, Statuses, status_update
from tests.graph.timing import Latency, Wheel
from tests.graph.world import Number, World

Json = dict[str, Any]
PATH = re.compile(r"/v(\d{1,2})\.\d/(\d+)(?:/(\w+))?")
SUCCESS = b'{"success":true}'


@dataclass(slots=True)
class Start:
    """How the stand-in begins, and what `reset` returns to."""

    world: bytes
    latency: Latency = field(default_factory=Latency)
    route: Route = field(default_factory=Route)
    plan: Plan = field(default_factory=Plan)
    book: Path | None = None


class StandIn:
    """All parts of the stand-in; `handle` is the hot path."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.book = Book(start.book)
        self.url = ""
        self._answers = Wheel(asyncio.get_running_loop())
        self._webhooks = Wheel(asyncio.get_running_loop())
        self.courier = Courier("", self._webhooks, self.book)
        self.reset()

    def reset(self) -> None:
        """Forget everything. Answers still under way are given."""
        self._webhooks.clear()
        self.courier.stop()
        self.world = World.from_json(self.start.world)
        self.people = People(self.world.salt, self.world.wa_ids)
        self.ledger = Ledger(self.book)
        self.faults = Faults()
        self.reads: dict[tuple[str, str], list[tuple[int, str]]] = {}
        self.throughput = Throughput()
        self.pair_rate = PairRate()
        self.windows = Windows()
        self.latency = self.start.latency
        self.courier = Courier(self.world.app_secret, self._webhooks, self.book)
        self.courier.set_route(self.start.route)
        self.statuses = Statuses(self.courier, self._webhooks)
        self.statuses.set_plan(self.start.plan)
        self.sent: dict[str, Accepted] = {}
        self._random = Random(0)
        self._mark = secrets.token_hex(6)
        self._message_ids = 0
        self._paths: dict[bytes, tuple[str, str, Number | None]] = {}

    # the functions

    def close_unread(self) -> bool:
        if not self.faults.take_close():
            return False
        self.ledger.closed_unread += 1
        return True

    def handle(self, connection: Connection) -> None:
        """Answer a request, after the latency of the day."""
        known = self._paths.get(connection.url)
        if known is not None and connection.method == b"POST":
            node_id, edge, number = known
            self._post_message(connection, node_id, number)
            return
        path, _, query = connection.url.decode("ascii", "replace").partition("?")
        match = PATH.fullmatch(path)
        if match is None:
            self._answer_refusal(connection, Refused(2500, f"Unknown path components: {path}"))
            return
        version, node_id, edge = int(match[1]), match[2], match[3] or ""
        if connection.method == b"POST" and edge == "messages":
            number = self.world.by_id(node_id)
            if number is not None and not query:
                self._paths[connection.url] = (node_id, edge, number)
            self._post_message(connection, node_id, number)
            return
        scripted = self.reads.get((node_id, edge))
        if connection.method == b"GET" and scripted:
            status, body = scripted.pop(0)
            self._later(connection, status, body.encode("utf-8", "surrogatepass"))
            return
        try:
            answer = self._node(connection, version, node_id, edge, path, dict(parse_qsl(query)))
        except Refused as refused:
            self._answer_refusal(connection, refused)
        else:
            self._later(connection, 200, orjson.dumps(answer))

    # messages

    def _post_message(self, connection: Connection, number_id: str, number: Number | None) -> None:
        try:
            content = orjson.loads(connection.body)
        except orjson.JSONDecodeError:
            content = None
        if isinstance(content, dict) and "status" in content:
            self._receipt(connection, number_id, number, content)
            return
        arrival = self.ledger.arrive(number_id, connection.body)
        try:
            if isinstance(content, dict):
                self._note(arrival, content)
            number = self._authorise(connection.authorization, number_id, number)
            if not isinstance(content, dict):
                raise Refused(100, "The request body must be a JSON object.")
            letter = read(content, number, self.world, self.people)
            self._check_limits(arrival, letter)
            fault = self.faults.take(number_id, letter)
            if fault is not None and fault.kind == "error":
                raise Refused(fault.code, fault.details, http_status=fault.http_status, subcode=fault.subcode)
        except Refused as refused:
            self.ledger.refuse(arrival, refused.code)
            self._later(connection, refused.http_status, refused.body(), arrival)
            return
        if fault is None:
            failed_with = self._window_code(number_id, letter)
            self._later(connection, 200, self._accept(arrival, number, letter, failed_with), arrival)
        else:
            self._play(fault, connection, arrival, number, letter)

    def _note(self, arrival: Arrival, content: Json) -> None:
        """Write down who and what, before anything is judged."""
        to, kind, callback_data = content.get("to") or content.get("recipient"), content.get("type"), None
        arrival.to = to if isinstance(to, str) else None
        arrival.type = kind if isinstance(kind, str) else None
        template = content.get("template")
        if isinstance(template, dict) and isinstance(template.get("name"), str):
            arrival.template = template["name"]
        callback_data = content.get("biz_opaque_callback_data")
        if isinstance(callback_data, str):
            self.ledger.named(arrival, callback_data)

    def _authorise(self, authorization: bytes, node_id: str, number: Number | None) -> Number:
        """The number, if this token may use it. A valid token of another number sees no such object."""
        token = bearer(authorization)
        if number is not None and token in number.tokens:
            return number
        if not any(token in one.tokens for one in self.world.numbers):
            raise invalid_token()
        raise unknown_object(node_id, "post")

    def _check_limits(self, arrival: Arrival, letter: Letter) -> None:
        if not self.throughput.spend(arrival.number_id, arrival.monotonic):
            raise Refused(130429, "Cloud API message throughput has been reached.")
        if not self.pair_rate.spend(arrival.number_id, letter.person.user_id, arrival.monotonic):
            raise Refused(131056, "Too many messages sent to the same phone number in a short period of time.")

    def _window_code(self, number_id: str, letter: Letter) -> int | None:
        free_form = letter.template_name is None
        return 131047 if free_form and self.windows.closed(number_id, letter.person.user_id) else None

    def _accept(
        self,
        arrival: Arrival,
        number: Number,
        letter: Letter,
        failed_with: int | None = None,
        *,
        held: bool = False,
        mute: bool = False,
    ) -> bytes:
        """Take the message, plan its statuses unless it is held or mute; returns the answer."""
        wamid = self.new_wamid(letter.address)
        self.ledger.accept(arrival, wamid)
        message = self.sent[wamid] = Accepted(wamid, number, letter, arrival.wall)
        if mute:
            self.book.write("mute", wamid)
        elif not held:
            self.statuses.accepted(message, failed_with)
        contact = {"input": letter.address}
        if letter.by_phone:
            contact["wa_id"] = letter.person.wa_id or ""
        else:
            contact["user_id"] = letter.person.user_id
        status = "held_for_quality_assessment" if held else "accepted"
        return orjson.dumps(
            {
                "messaging_product": "whatsapp",
                "contacts": [contact],
                "messages": [{"id": wamid, "message_status": status}],
            }
        )

    def _play(self, fault: Fault, connection: Connection, arrival: Arrival, number: Number, letter: Letter) -> None:
        """Let the scripted fault happen."""
        taken = b""
        if fault.accept or fault.kind not in ("server_error", "hang"):
            failed_with = fault.code if fault.kind == "fail_later" else None
            taken = self._accept(arrival, number, letter, failed_with, held=fault.kind == "hold", mute=fault.mute)
        if fault.kind == "server_error":
            status = fault.http_status or 502
            self._later(connection, status, fault.body.encode(), arrival, content_type="text/html")
        elif fault.kind == "lose_answer":
            arrival.fate = "lost"
            self._answers.after(self.latency.draw(self._random), connection.drop)
        elif fault.kind == "hang":
            arrival.fate = "hung"
            if fault.seconds is not None:
                self._answers.after(fault.seconds, connection.drop)
        elif fault.kind == "slow":
            self._answers.after(fault.seconds or 0, self._answer, connection, 200, taken, arrival, JSON_TYPE)
        else:
            self._later(connection, 200, taken, arrival)

    def _receipt(self, connection: Connection, number_id: str, number: Number | None, content: Json) -> None:
        """Mark as read, and the typing indicator."""
        try:
            self._authorise(connection.authorization, number_id, number)
            if content.get("messaging_product") != "whatsapp":
                raise Refused(100, "The parameter messaging_product is required.")
            if content["status"] != "read" or content.get("typing_indicator", {"type": "text"}) != {"type": "text"}:
                raise Refused(131009, "Parameter status or typing_indicator is not valid")
            if not str(content.get("message_id", "")).startswith("wamid."):
                raise Refused(131009, "Parameter message_id is not valid")
        except Refused as refused:
            self._answer_refusal(connection, refused)
            return
        self.ledger.receipts += 1
        self._later(connection, 200, SUCCESS)

    # other nodes

    def _node(
        self, connection: Connection, version: int, node_id: str, edge: str, path: str, query: dict[str, str]
    ) -> Json:
        token = bearer(connection.authorization) or query.get("access_token", "")
        owned = [one for one in self.world.numbers if token in one.tokens]
        if not owned:
            raise invalid_token()
        get, fields = connection.method == b"GET", query.get("fields")
        for number in owned:
            if node_id == number.phone_number_id and get and not edge:
                return nodes.phone_number(number, fields, version)
            if node_id == number.waba_id:
                if edge == "message_templates" and get:
                    templates = self.world.templates.get(node_id, [])
                    # Graph writes the token into `next`: a client that logs the URL logs the token
                    return nodes.templates_page(templates, {"access_token": token} | query, self.url + path)
                if edge == "phone_numbers" and get:
                    return nodes.phone_numbers(self.world, node_id, fields, version)
                if edge == "subscribed_apps":
                    return {"data": []} if get else {"success": True}
                if get and not edge:
                    return nodes.waba(node_id, fields)
        raise unknown_object(node_id, connection.method.decode().lower())

    # webhooks that nobody's message caused

    def customer_sends(
        self,
        number: Number,
        person: Person,
        message: Json,
        *,
        hide_phone: bool = False,
        at: float | None = None,
    ) -> str:
        """An inbound message of a person to a number; returns its wamid. It opens the person's window."""
        at = at or time()
        wamid = self.new_wamid(number.display_phone_number)
        contact = person.contact()
        entry: Json = {"from": person.wa_id, "from_user_id": person.user_id, "id": wamid}
        if hide_phone or person.wa_id is None:
            del entry["from"]
            contact.pop("wa_id", None)
        entry |= {"timestamp": str(int(at))} | message
        self.windows.opened(number.phone_number_id, person.user_id, at)
        self.throughput.spend(number.phone_number_id, monotonic())
        self.statuses.put(Update(number, "messages", entry, contact))
        return wamid

    def push_status(self, wamid: str, status: str, code: int | None = None) -> None:
        """A status of an accepted message, now. KeyError when no such message was accepted."""
        self.statuses.put(status_update(self.sent[wamid], status, None, code))

    def template_event(self, waba_id: str, name: str, language: str, event: str, reason: str | None) -> None:
        """Meta changes a template's state and says so. KeyError when there is no such template."""
        template = self.world.template(waba_id, name, language)
        if template is None:
            raise KeyError(name)
        template.status = "APPROVED" if event in ("REINSTATED", "UNARCHIVED") else event
        value = {
            "event": event,
            "message_template_id": int(template.id),
            "message_template_name": name,
            "message_template_language": language,
            "reason": reason,
            "message_template_category": template.category,
        }
        self.courier.send(account_webhook(waba_id, "message_template_status_update", value, int(time())))

    def template_change(self, waba_id: str, name: str, language: str, field: str, value: Json, members: Json) -> None:
        """Meta changes `members` of a template and says so by the webhook `field`. KeyError when there is none such."""
        template = self.world.template(waba_id, name, language)
        if template is None:
            raise KeyError(name)
        for member, changed in members.items():
            setattr(template, member, changed)
        ids = {
            "message_template_id": int(template.id),
            "message_template_name": name,
            "message_template_language": language.replace("_", "-"),
        }
        self.courier.send(account_webhook(waba_id, field, ids | value, int(time())))

    def new_wamid(self, address: str) -> str:
        """An opaque id such as Meta's, unique over all starts."""
        self._message_ids += 1
        inner = f"\x1c\x18\x0c{address[:13]}\x15\x02\x00\x11{self._mark}{self._message_ids:012X}"
        return "wamid." + b64encode(inner.encode()).decode()

    # answers

    def _answer_refusal(self, connection: Connection, refused: Refused) -> None:
        self._later(connection, refused.http_status, refused.body())

    def _later(
        self,
        connection: Connection,
        status: int,
        body: bytes,
        arrival: Arrival | None = None,
        *,
        content_type: str = JSON_TYPE,
    ) -> None:
        seconds = self.latency.draw(self._random)
        self._answers.after(seconds, self._answer, connection, status, body, arrival, content_type)

    def _answer(
        self, connection: Connection, status: int, body: bytes, arrival: Arrival | None, content_type: str
    ) -> None:
        told = connection.reply(status, body, content_type)
        if arrival is not None:
            arrival.http_status = status
            arrival.fate = "answered" if told else "client_gone"


def bearer(authorization: bytes) -> str:
    """The token of an `Authorization: Bearer …` header, or nothing."""
    scheme, _, token = authorization.partition(b" ")
    return token.strip().decode("ascii", "replace") if scheme.lower() == b"bearer" else ""
