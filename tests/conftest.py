"""Fixtures every test may use."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.local.stack import Stack, running_stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A migrated Postgres with Supabase Lite in front, without our functions, shared by the whole run."""
    with running_stack(functions=None) as running:
        yield running


@pytest.fixture
def database(stack: Stack) -> Iterator[psycopg.Connection[Any]]:
    """A direct connection as `postgres`, the owner of our tables, in autocommit."""
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        yield connection
