"""What a campaign costs: what Meta charges for, which is what reached a person, whatever order Meta tells it in."""

from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.supabase.ground import Land, Row, messages_of, new_wamid, some_phone

START = 1_760_000_000
STATES = ("sent", "delivered", "read", "played", "failed")
REACHED = {"delivered", "read", "played"}
PRICES: dict[str, Row | None] = {
    "regular": {"type": "regular", "billable": True, "category": "marketing", "pricing_model": "PMP"},
    "free": {"type": "free_entry_point", "billable": False, "category": "referral_conversion"},
    "none": None,
}
ERROR = {"code": 131026, "title": "Message undeliverable", "details": "d", "effect": "none", "wait_seconds": 0}


@pytest.fixture
def land(database: psycopg.Connection[Any]) -> Land:
    return Land(database)


@st.composite
def histories(draw: st.DrawFn) -> list[list[tuple[str, bool]]]:
    """Batches of (state, tells the price): each state of a subset once or twice, in any order."""
    happened = draw(st.sets(st.sampled_from(STATES), min_size=1))
    doubled = draw(st.sets(st.sampled_from(sorted(happened))))
    batches: list[list[tuple[str, bool]]] = [[]]
    for state in draw(st.permutations([*sorted(happened), *sorted(doubled)])):
        if draw(st.booleans()):
            batches.append([])
        batches[-1].append((state, draw(st.booleans())))
    return [batch for batch in batches if batch]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories(), price=st.sampled_from(sorted(PRICES)))
def test_only_what_reached_a_person_costs_whatever_the_order(
    land: Land, history: list[list[tuple[str, bool]]], price: str
) -> None:
    campaign_id = land.campaign(some_phone())["campaign_id"]
    [message] = messages_of(land.claim())
    wamid = new_wamid()
    land.settle(land.outcome(message, "accepted", wamid=wamid))
    stored: set[str] = set()
    told = False
    for batch in history:
        # Of one status delivered twice, the first counts: webhooks are stored once.
        for state, tells in batch:
            told = told or (tells and state not in stored)
            stored.add(state)
        land.ingest(*(status(land, wamid, state, PRICES[price] if tells else None) for state, tells in batch))

    costs = 1 if told and price == "regular" and stored & REACHED else 0
    assert counts(land, campaign_id).get("cost:marketing", 0) == costs
    assert {key for key in counts(land, campaign_id) if key.startswith("cost:")} <= {"cost:marketing"}


def test_what_is_sent_and_never_delivered_costs_nothing(land: Land) -> None:
    campaign_id = land.campaign(*(some_phone() for _ in range(3)))["campaign_id"]
    wamids = [new_wamid() for _ in range(3)]
    leased = messages_of(land.claim())
    land.settle(
        *(land.outcome(message, "accepted", wamid=wamid) for message, wamid in zip(leased, wamids, strict=True))
    )
    land.ingest(*(status(land, wamid, "sent", PRICES["regular"]) for wamid in wamids))
    assert counts(land, campaign_id) == {"sent": 3}

    land.ingest(status(land, wamids[0], "failed", None), status(land, wamids[1], "delivered", None))
    assert counts(land, campaign_id) == {
        "sent": 1,
        "delivered": 1,
        "failed": 1,
        "failed:131026": 1,
        "cost:marketing": 1,
    }


def status(land: Land, wamid: str, state: str, price: Row | None) -> Row:
    more = {"error": ERROR} if state == "failed" else {}
    return land.status(wamid, state, START + STATES.index(state), price=price, **more)


def counts(land: Land, campaign_id: str) -> dict[str, int]:
    row = land.one("select whatsapp.campaign_progress(%s, %s) as progress", [land.country_id, campaign_id])
    return dict(row["progress"]["counts"])
