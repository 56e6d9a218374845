"""What stops a campaign, and what does not: its template, its failures, and troubles of our own."""

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.local.stack import Stack
from tests.supabase.ground import Land, Row, beside, messages_of, some_phone

OFFER = {"name": "offer", "language": "es", "status": "APPROVED", "category": "MARKETING"}
PLAIN = {"name": "plain", "language": "es", "status": "APPROVED", "category": "UTILITY"}


@pytest.fixture
def land(database: psycopg.Connection[Any]) -> Land:
    return Land(database)


def test_a_campaign_whose_template_is_removed_rests_until_it_is_listed_again(land: Land) -> None:
    campaign_id = land.campaign(some_phone())["campaign_id"]

    sync(land, PLAIN)

    assert state(land, campaign_id) == ("paused", "template_unknown")
    claimed = land.claim()
    assert (claimed["leases"], claimed["next_ms"]) == ([], None)

    sync(land, PLAIN, OFFER)

    assert state(land, campaign_id) == ("running", None)
    assert len(messages_of(land.claim())) == 1


def test_a_single_message_whose_template_is_removed_is_refused(land: Land) -> None:
    [verdict] = land.enqueue(land.template())

    sync(land, OFFER)

    assert land.claim()["refused"] == 1
    row = land.message(verdict["message_id"])
    assert (row["state"], row["refusal"]) == ("refused", "template_unknown")


@pytest.mark.parametrize("now", ["running", "scheduled"])
def test_sweep_waits_for_no_campaign_that_somebody_is_changing(stack: Stack, land: Land, now: str) -> None:
    campaign_id = land.campaign(some_phone())["campaign_id"]
    land.run("update whatsapp.campaigns set state = %s, send_at = now() where campaign_id = %s", now, campaign_id)
    land.run(
        "insert into whatsapp.campaign_counts (country_id, campaign_id, key, n) values (%s, %s, 'failed', 300)",
        *(land.country_id, campaign_id),
    )

    with psycopg.connect(stack.database_url) as somebody:
        somebody.execute("select from whatsapp.campaigns where campaign_id = %s for no key update", [campaign_id])
        with beside(stack, lambda sweep: sweep.execute("select whatsapp.sweep('{campaigns}')").fetchone()) as swept:
            waited = not swept.done()
            somebody.rollback()

    assert not waited


def sync(land: Land, *templates: Row) -> None:
    arguments = (land.country_id, "main", [Jsonb(one) for one in templates])
    land.run("select whatsapp.sync_templates(%s, %s, %s::jsonb[])", *arguments)


def state(land: Land, campaign_id: str) -> tuple[Any, Any]:
    row = land.one(
        "select state, state_reason from whatsapp.campaigns where country_id = %s and campaign_id = %s",
        (land.country_id, campaign_id),
    )
    return row["state"], row["state_reason"]


ENDS: dict[str, Row] = {
    "ours": {"state": "failed", "failed_at": "now", "error_title": "outcome_unknown"},
    "metas": {"state": "failed", "failed_at": "now", "error_code": 131026},
    "accepted": {"state": "accepted", "accepted_at": "now"},
}


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ({"ours": 150, "accepted": 100}, ("running", None)),
        ({"ours": 150, "metas": 100, "accepted": 150}, ("paused", "too_many_failures")),
        ({"metas": 100, "accepted": 150}, ("paused", "too_many_failures")),
        ({"metas": 60, "accepted": 150}, ("running", None)),
    ],
)
def test_only_failures_by_metas_word_pause_a_campaign(
    land: Land, ends: dict[str, int], expected: tuple[str, str | None]
) -> None:
    campaign_id = land.campaign(*phones(sum(ends.values()) + 1))["campaign_id"]
    for kind, n in ends.items():
        settle_as(land, ENDS[kind], n)

    land.sweep()

    assert state(land, campaign_id) == expected


def test_a_campaign_of_which_only_unknowns_are_left_is_not_paused(land: Land) -> None:
    campaign_id = land.campaign(*phones(251))["campaign_id"]
    settle_as(land, ENDS["metas"], 250)
    land.run(
        "update whatsapp.queue set lease_id = gen_random_uuid(), unknown_until = now() + interval '1 hour',"
        " leased_at = now()"
        " where country_id = %s",
        land.country_id,
    )

    land.sweep()

    assert state(land, campaign_id) == ("running", None)


def phones(n: int) -> list[str]:
    return [f"+99{number:010}" for number in range(n)]


def settle_as(land: Land, columns: Row, n: int) -> None:
    """Ends `n` queued messages so, as settle would."""
    changes = ", ".join(f"{name} = %s" for name in columns)
    land.run(
        "with gone as (delete from whatsapp.queue where (country_id, message_id) in ("
        "select country_id, message_id from whatsapp.queue where country_id = %s limit %s)"
        " returning country_id, message_id)"
        f" update whatsapp.messages m set {changes} from gone g"
        " where m.country_id = g.country_id and m.message_id = g.message_id",
        *(land.country_id, n, *columns.values()),
    )
