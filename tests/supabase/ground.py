"""A country of its own for each test of the database: the verbs as a drainer and a webhook would call them."""

import itertools
import secrets
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from tests.local.stack import Stack

Found = TypeVar("Found")
Row = dict[str, Any]
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TAKEN = {"MX", "CO", "AR", "ZZ"}
"""Countries of other tests, and the one of events nobody can be routed to."""
_numbers = itertools.count(secrets.randbelow(5 * 10**9))
_codes = (code for a, b in itertools.product(_LETTERS, _LETTERS) if (code := a + b) not in _TAKEN)

TEMPLATES = {"plain": "UTILITY", "offer": "MARKETING"}


class Land:
    """A fresh country with one default account `main` and two approved templates, plain and offer."""

    def __init__(self, database: psycopg.Connection[Any], **account: object) -> None:
        self.country_id = next(_codes)
        self._database = database
        columns: dict[str, object] = {
            "country_id": self.country_id,
            "account_id": "main",
            "is_default": True,
            "portfolio": self.country_id,
            "messaging_limit": -1,
        } | account
        names, places = ", ".join(columns), ", ".join(["%s"] * len(columns))
        database.execute(f"insert into whatsapp.accounts ({names}) values ({places})", list(columns.values()))
        templates = [
            {"name": name, "language": "es", "status": "APPROVED", "category": category}
            for name, category in TEMPLATES.items()
        ]
        arguments = (self.country_id, "main", [Jsonb(one) for one in templates])
        database.execute("select whatsapp.sync_templates(%s, %s, %s::jsonb[])", arguments)

    @classmethod
    def known(cls, database: psycopg.Connection[Any], country_id: str) -> "Land":
        """A country that is there already."""
        land = cls.__new__(cls)
        land.country_id, land._database = country_id, database
        return land

    # the verbs

    def enqueue(self, *items: Mapping[str, object]) -> list[Row]:
        return list(self._verb("enqueue", items))

    def claim(self, limit: int = 200, claim_id: uuid.UUID | None = None) -> Row:
        return claim(self._database, self.accounts, limit, claim_id)

    @property
    def accounts(self) -> list[str]:
        return [f"{self.country_id}/main"]

    def settle(self, *results: Mapping[str, object]) -> Row:
        return dict(self._verb("settle", results))

    def ingest(self, *events: Mapping[str, object]) -> Row:
        return dict(self._verb("ingest", events))

    def sweep(self) -> Row:
        """Sweeps every country: count nothing of its answer that may be another test's."""
        swept = dict(self.one("select whatsapp.sweep() as swept")["swept"])
        assert swept["failed"] == []
        return swept

    def _verb(self, name: str, items: Iterable[Mapping[str, object]]) -> Any:
        arguments = ([Jsonb(dict(item)) for item in items],)
        return self.one(f"select whatsapp.{name}(%s::jsonb[]) as answer", arguments)["answer"]

    # what they are given

    def template(self, name: str = "plain", phone: str | None = None, **more: object) -> Row:
        """An item for enqueue: a template to a person, by default somebody new."""
        content = {"type": "template", "template": {"name": name, "language": {"code": "es"}}}
        return self._item(phone, "template", content) | {"template_name": name, "template_language": "es"} | more

    def text(self, phone: str, **more: object) -> Row:
        return self._item(phone, "text", {"type": "text", "text": {"body": "hello"}}) | more

    def progress(self, campaign_id: str) -> Row:
        row = self.one("select whatsapp.campaign_progress(%s, %s) as answer", (self.country_id, campaign_id))
        return dict(row["answer"])

    def _item(self, phone: str | None, kind: str, content: object) -> Row:
        phone = phone or some_phone()
        return {
            "country_id": self.country_id,
            "phone": phone,
            "match_key": phone[1:],
            "kind": kind,
            "content": content,
            "key": str(uuid.uuid4()),
            "fingerprint": "same",
        }

    def leased(self, *items: Mapping[str, object]) -> list[Row]:
        """Enqueues the items and claims them: what a drainer holds, with `lease_id` in each message."""
        for verdict in self.enqueue(*items):
            assert verdict["status"] == "accepted", verdict
        messages = messages_of(self.claim())
        assert len(messages) == len(items)
        return messages

    def campaign(self, *phones: str) -> Row:
        """A running campaign of the template `offer` to these people: its `campaign_id`, and what became of them."""
        campaign_id = self.open_campaign()
        rows = list(range(len(phones))), list(phones), [phone[1:] for phone in phones]
        row = self.one(
            "select whatsapp.enqueue_campaign("
            "%s, %s, %s, 'f', %s::int[], %s::text[], %s::text[], '{}', '{}', '{}', '{}') as answer",
            (self.country_id, campaign_id, str(uuid.uuid4()), *rows),
        )
        return {"campaign_id": campaign_id, **row["answer"]}

    def open_campaign(self, account: str | None = None) -> str:
        """A running campaign of the template `offer` to nobody yet, by default of the country's default account."""
        opening = {"country_id": self.country_id, "name": "spring", "template_name": "offer", "template_language": "es"}
        opening |= {"key": str(uuid.uuid4()), "fingerprint": "f"} | ({"account_id": account} if account else {})
        opened = self.one("select whatsapp.open_campaign(array[%s]::jsonb[]) as answer", [Jsonb(opening)])["answer"]
        return str(opened["campaign_id"])

    def outcome(self, message: Mapping[str, object], outcome: str, **more: object) -> Row:
        """A result for settle."""
        names = ("message_id", "lease_id")
        return {"country_id": self.country_id, "outcome": outcome} | {name: message[name] for name in names} | more

    def status(self, wamid: str, state: str, at: float, message_id: object = None, **more: object) -> Row:
        """A status event for ingest, with the key that equal deliveries share."""
        return {
            "key": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self.country_id} {wamid} {state}")),
            "country_id": self.country_id,
            "account_id": "main",
            "field": "messages",
            "kind": "status",
            "at": at,
            "wamid": wamid,
            "message_id": message_id,
            "state": state,
            "payload": {},
        } | more

    def writes(self, phone: str, at: float) -> Row:
        """A person's message for ingest."""
        wamid = new_wamid()
        return {
            "key": str(uuid.uuid4()),
            "country_id": self.country_id,
            "account_id": "main",
            "field": "messages",
            "kind": "message",
            "at": at,
            "wamid": wamid,
            "contact": {"wa_id": phone[1:], "match_key": phone[1:]},
            "content": {"type": "text", "text": {"body": "hello"}},
            "payload": {},
        }

    def template_status(self, name: str, event: str, at: float) -> Row:
        """Meta's word about a template for ingest."""
        return {
            "key": str(uuid.uuid4()),
            "country_id": self.country_id,
            "account_id": "main",
            "field": "message_template_status_update",
            "kind": "template",
            "at": at,
            "content": {"message_template_name": name, "message_template_language": "es", "event": event},
            "payload": {},
        }

    # what is in the tables

    def message(self, message_id: object) -> Row:
        return self.one(
            "select * from whatsapp.messages where country_id = %s and message_id = %s", (self.country_id, message_id)
        )

    def queued(self, message_id: object) -> Row | None:
        return (
            self.all(
                "select * from whatsapp.queue where country_id = %s and message_id = %s", (self.country_id, message_id)
            ).pop()
            if self.count("queue", message_id=message_id)
            else None
        )

    def count(self, table: str, **where: object) -> int:
        conditions = "".join(f" and {name} = %s" for name in where)
        query = f"select count(*) as n from whatsapp.{table} where country_id = %s{conditions}"
        return int(self.one(query, (self.country_id, *where.values()))["n"])

    def one(self, query: str, arguments: Iterable[object] = ()) -> Row:
        rows = self.all(query, arguments)
        assert len(rows) == 1, rows
        return rows[0]

    def all(self, query: str, arguments: Iterable[object] = ()) -> list[Row]:
        with self._database.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query.encode(), list(arguments)).fetchall()

    def run(self, statement: str, *arguments: object) -> None:
        self._database.execute(statement.encode(), arguments)


def claim(
    database: psycopg.Connection[Any], accounts: list[str], limit: int = 200, claim_id: uuid.UUID | None = None
) -> Row:
    query = "select whatsapp.claim(%s, %s, %s, '60 seconds', '100 seconds')"
    row = database.execute(query, (claim_id or uuid.uuid4(), accounts, limit)).fetchone()
    assert row is not None
    return dict(row[0])


@contextmanager
def beside(stack: Stack, call: Callable[[psycopg.Connection[Any]], Found]) -> Iterator["Future[Found]"]:
    """Runs `call` on a connection of its own; gives its future once the call waits for a lock that somebody holds."""
    with psycopg.connect(stack.database_url, autocommit=True) as connection, ThreadPoolExecutor(1) as pool:
        future = pool.submit(call, connection)
        waiting = "select 1 from pg_stat_activity where pid = %s and wait_event_type = 'Lock'"
        deadline = time.monotonic() + 10
        with psycopg.connect(stack.database_url, autocommit=True) as watcher:
            while watcher.execute(waiting, [connection.info.backend_pid]).fetchone() is None:
                if future.done() or time.monotonic() > deadline:
                    break
        yield future


def messages_of(claimed: Row) -> list[Row]:
    """The messages of all leases of a claim, each with its `lease_id`."""
    return [message | {"lease_id": lease["lease_id"]} for lease in claimed["leases"] for message in lease["messages"]]


def some_phone() -> str:
    """Somebody new: of hundreds of thousands drawn by chance two would be one."""
    return f"+99{next(_numbers):010}"


def new_wamid() -> str:
    return f"wamid.{secrets.token_hex(12)}"
