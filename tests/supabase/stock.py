"""A country with a past: people, a long log and what webhooks left, written in the time it takes to copy them.

The rows are those the verbs leave, in all tables; only triggers and foreign keys do not look at them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

_SQL = Path(__file__).with_name("stock.sql")


@dataclass(frozen=True, slots=True)
class Stock:
    """How much there is."""

    messages: int
    people: int


def fill(admin: psycopg.Connection[Any], country_id: str, stock: Stock, account_id: str = "main") -> None:
    """`admin` must be the superuser's connection, and the country empty."""
    given = {"country": country_id, "account": account_id, "messages": stock.messages, "people": stock.people}
    with admin.transaction():
        admin.execute("set local session_replication_role = replica")
        psycopg.ClientCursor(admin).execute(_SQL.read_bytes(), given)
