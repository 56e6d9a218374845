"""A campaign for a crowd: opened by the product's own verb, its rows written by plain SQL.

A million recipients through `bulk-enqueue` would take longer than everything that is measured on them. The rows are
those it leaves, in all tables; only triggers and foreign keys do not look at them.
"""

import itertools
import uuid
from dataclasses import dataclass
from typing import Any

import orjson
import psycopg

TEMPLATE = "spring_offer"
LANGUAGE = "es_MX"
_PHONES = itertools.count(5520000001)
_COMPONENTS = [
    {"type": "header", "parameters": [{"type": "image", "image": {"link": "https://shop.example/a.jpg"}}]},
    {"type": "body", "parameters": [{"type": "text", "text": "Ana"}]},
]
_CONTENT = {
    "type": "template",
    "template": {"name": TEMPLATE, "language": {"code": LANGUAGE}, "components": _COMPONENTS},
}
_FILL = (
    """create temporary table crowd on commit drop as
       select whatsapp_internal.uuid7() as contact_id, whatsapp_internal.uuid7() as message_id, '52' || n as digits
       from generate_series(%(first)s::bigint, %(last)s::bigint) n""",
    """insert into whatsapp.contacts (country_id, contact_id, phone, match_key)
       select %(country_id)s, contact_id, '+' || digits, digits from crowd""",
    """insert into whatsapp.conversations (country_id, account_id, contact_id)
       select %(country_id)s, %(account_id)s, contact_id from crowd""",
    """insert into whatsapp.messages (country_id, message_id, account_id, contact_id, direction, kind, state, content,
         template_name, template_language, category, campaign_id)
       select %(country_id)s, message_id, %(account_id)s, contact_id, 'outbound', 'template', 'queued', %(content)s,
         %(template)s, %(language)s, 'MARKETING', %(campaign_id)s from crowd""",
    """insert into whatsapp.campaign_people (country_id, campaign_id, contact_id, message_id)
       select %(country_id)s, %(campaign_id)s, contact_id, message_id from crowd""",
    """insert into whatsapp.queue (country_id, message_id, account_id, contact_id, lane, due_at, run_at)
       select %(country_id)s, message_id, %(account_id)s, contact_id, 'campaign:' || %(campaign_id)s, now(), now()
       from crowd""",
    """insert into whatsapp.campaign_counts (country_id, campaign_id, key, n)
       values (%(country_id)s, %(campaign_id)s, 'queued', %(count)s)""",
)


@dataclass(frozen=True, slots=True)
class Campaign:
    """A campaign of one number. `database` must be the superuser's connection."""

    database: psycopg.Connection[Any]
    country_id: str
    account_id: str
    campaign_id: str

    def add(self, count: int) -> None:
        """Queue a message each for `count` people nobody knew before."""
        first = next(_PHONES)
        given = {
            "country_id": self.country_id,
            "account_id": self.account_id,
            "campaign_id": self.campaign_id,
            "template": TEMPLATE,
            "language": LANGUAGE,
            "content": orjson.dumps(_CONTENT).decode(),
            "first": first,
            "last": first + count - 1,
            "count": count,
        }
        for _ in range(count - 1):
            next(_PHONES)
        with self.database.transaction(), self.database.cursor(binary=False) as cursor:
            cursor.execute("set local session_replication_role = replica")
            for statement in _FILL:
                cursor.execute(statement.encode(), given)

    def control(self, action: str) -> None:
        """pause, resume or cancel, as the function does."""
        self.database.execute(
            "select whatsapp.control_campaign(%s, %s, %s, null)", (self.country_id, self.campaign_id, action)
        )

    def message_ids(self) -> set[str]:
        rows = self.database.execute(
            "select message_id::text from whatsapp.messages where country_id = %s and campaign_id = %s",
            (self.country_id, self.campaign_id),
        )
        return {row[0] for row in rows}


def next_phone() -> str:
    """A phone no campaign here writes to."""
    return f"+52{next(_PHONES)}"


def open_account(database: psycopg.Connection[Any], country_id: str, account_id: str, **columns: object) -> None:
    """A number, or new settings for one that is there, with the template of all campaigns."""
    values = {
        "country_id": country_id,
        "account_id": account_id,
        "portfolio": "crowd",
        "messaging_limit": -1,
    } | columns
    changes = ", ".join(f"{name} = excluded.{name}" for name in values)
    names, places = ", ".join(values), ", ".join(["%s"] * len(values))
    database.execute(
        f"insert into whatsapp.accounts ({names}) values ({places})"
        f" on conflict (country_id, account_id) do update set {changes}".encode(),
        list(values.values()),
    )
    database.execute(
        """insert into whatsapp.templates (country_id, account_id, name, language, status, category)
           values (%s, %s, %s, %s, 'APPROVED', 'MARKETING')""",
        (country_id, account_id, TEMPLATE, LANGUAGE),
    )


def open_campaign(database: psycopg.Connection[Any], country_id: str, account_id: str) -> Campaign:
    opening = {
        "country_id": country_id,
        "account_id": account_id,
        "name": "benchmark",
        "template_name": TEMPLATE,
        "template_language": LANGUAGE,
        "key": str(uuid.uuid4()),
        "fingerprint": "benchmark",
    }
    row = database.execute(
        "select whatsapp.open_campaign(array[%s]::jsonb[])", (orjson.dumps(opening).decode(),)
    ).fetchone()
    assert row is not None
    return Campaign(database, country_id, account_id, row[0]["campaign_id"])
