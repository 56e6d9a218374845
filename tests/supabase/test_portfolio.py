"""Meta's messaging limit: different people a portfolio writes to first in rolling 24 hours, over all its countries."""

import threading
import time
import uuid
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.local.stack import Stack
from tests.supabase.ground import Land, Row, beside, claim, messages_of, some_phone

Database = psycopg.Connection[Any]


@pytest.fixture
def portfolio() -> str:
    return some_portfolio()


def some_portfolio() -> str:
    return f"p-{uuid.uuid4().hex}"


def land(database: Database, portfolio: str, limit: int | None) -> Land:
    return Land(database, portfolio=portfolio, messaging_limit=limit, messages_per_second=1000)


def reached(claimed: Row) -> list[str]:
    return sorted(message["to"] for message in messages_of(claimed))


def accept(here: Land, claimed: Row) -> None:
    results = [here.outcome(one, "accepted", wamid=f"wamid.{uuid.uuid4().hex}") for one in messages_of(claimed)]
    here.settle(*results)


def used(database: Database, portfolio: str) -> int:
    query = (
        "select coalesce(sum(people), 0) from whatsapp_internal.portfolio_minutes"
        " where portfolio = %s and minute > whatsapp_internal.portfolio_horizon(now())"
    )
    row = database.execute(query, (portfolio,)).fetchone()
    assert row is not None
    return int(row[0])


def turn_clock(here: Land, portfolio: str, hours: float) -> None:
    """As if everything counted had happened so long before."""
    far = 1_000_000
    for table in ("portfolio_people", "portfolio_minutes"):
        shift = f"update whatsapp_internal.{table} set minute = minute - %s * interval '1 hour' where portfolio = %s"
        for step in (far, hours - far):  # in one step, a minute would meet the one that is still where it goes
            here.run(shift, step, portfolio)
    here.run("update whatsapp.queue set run_at = now() where country_id = %s and lease_id is null", here.country_id)


def test_no_more_different_people_than_the_limit(database: Database, portfolio: str) -> None:
    here = land(database, portfolio, 3)
    here.enqueue(*(here.template() for _ in range(5)))

    assert len(reached(here.claim())) == 3
    assert here.claim()["leases"] == []


def test_who_was_counted_may_be_written_to_again(database: Database, portfolio: str) -> None:
    here = land(database, portfolio, 1)
    somebody = some_phone()
    here.enqueue(here.template(phone=somebody))
    accept(here, here.claim())

    here.enqueue(here.template(), here.template(phone=somebody))

    assert reached(here.claim()) == [somebody]
    assert used(database, portfolio) == 1


def test_an_answer_to_a_person_does_not_count(database: Database, portfolio: str) -> None:
    here = land(database, portfolio, 1)
    writer, other = some_phone(), some_phone()
    here.ingest(here.writes(writer, time.time()))
    here.enqueue(here.template(phone=writer), here.template(phone=other))

    assert reached(here.claim()) == sorted([writer, other])
    assert used(database, portfolio) == 1


def test_without_a_limit_nobody_is_counted(database: Database, portfolio: str) -> None:
    here = land(database, portfolio, -1)
    here.enqueue(*(here.template() for _ in range(5)))

    assert len(reached(here.claim())) == 5
    assert used(database, portfolio) == 0


def test_until_meta_tells_the_limit_it_is_that_of_a_new_business(database: Database, portfolio: str) -> None:
    here = land(database, portfolio, None)
    here.enqueue(*(here.template() for _ in range(260)))

    assert len(reached(here.claim(limit=1000))) == 250


@pytest.mark.parametrize(("told", "reached_people"), [(400, 300), (-1, 300), (260, 260)])
def test_an_account_just_added_does_not_cut_its_portfolio(
    database: Database, portfolio: str, told: int, reached_people: int
) -> None:
    here = land(database, portfolio, told)
    land(database, portfolio, None)
    here.enqueue(*(here.template() for _ in range(300)))

    assert len(reached(here.claim(limit=1000))) == reached_people


@pytest.mark.parametrize("limit", [4, -1])
def test_a_limit_that_is_raised_lets_single_messages_go_that_waited_for_it(
    database: Database, portfolio: str, limit: int
) -> None:
    here = land(database, portfolio, 1)
    here.enqueue(*(here.template() for _ in range(4)))
    first = here.claim()
    assert (len(reached(first)), here.claim()["leases"]) == (1, [])

    here.sweep()
    assert here.claim()["leases"] == []
    here.run("update whatsapp.accounts set messaging_limit = %s where country_id = %s", limit, here.country_id)
    here.sweep()

    assert len(reached(here.claim())) == 3


def test_a_limit_raised_while_a_claim_holds_a_campaign_lets_it_go(
    stack: Stack, database: Database, portfolio: str
) -> None:
    here = land(database, portfolio, 1)
    here.campaign(*(some_phone() for _ in range(4)))
    raised = "update whatsapp.accounts set messaging_limit = 4 where country_id = %s"
    with psycopg.connect(stack.database_url) as claiming:
        assert len(reached(claim(claiming, here.accounts))) == 1
        assert claim(claiming, here.accounts)["leases"] == []  # the campaign is held now
        with beside(stack, lambda other: other.execute(raised, [here.country_id])) as raising:
            claiming.commit()
            raising.result(10)

    assert len(reached(here.claim())) == 3


def test_of_what_waits_for_the_limit_the_urgent_goes_first(database: Database, portfolio: str) -> None:
    here = land(database, portfolio, 1)
    here.enqueue(here.template())
    here.claim()
    here.enqueue(*(here.template("offer") for _ in range(3)))
    password = some_phone()
    here.enqueue(here.template(phone=password))
    assert here.claim()["leases"] == []

    here.run("update whatsapp.accounts set messaging_limit = 2 where country_id = %s", here.country_id)
    here.sweep()

    assert reached(here.claim()) == [password]


def test_quiet_hours_that_are_taken_back_let_single_messages_go(database: Database, portfolio: str) -> None:
    here = land(database, portfolio, -1)
    here.run(
        "update whatsapp.accounts set quiet_from = (now() at time zone 'UTC')::time - interval '1 hour',"
        " quiet_until = (now() at time zone 'UTC')::time + interval '1 hour' where country_id = %s",
        here.country_id,
    )
    here.enqueue(here.template("offer"))
    here.sweep()
    assert here.claim()["leases"] == []

    here.run(
        "update whatsapp.accounts set quiet_from = null, quiet_until = null where country_id = %s", here.country_id
    )
    here.sweep()

    assert len(reached(here.claim())) == 1


def test_the_rest_goes_when_a_day_has_passed(database: Database, portfolio: str) -> None:
    here = land(database, portfolio, 2)
    here.enqueue(*(here.template() for _ in range(4)))
    accept(here, here.claim())

    turn_clock(here, portfolio, 23.9)
    assert here.claim()["leases"] == []
    turn_clock(here, portfolio, 0.2)
    assert len(reached(here.claim())) == 2


def test_the_waiting_message_says_when_it_is_its_turn(database: Database, portfolio: str) -> None:
    here = land(database, portfolio, 1)
    here.enqueue(here.template(), here.template())
    here.claim()

    [row] = here.all(
        "select extract(epoch from run_at - now()) as seconds from whatsapp.queue"
        " where country_id = %s and lease_id is null",
        (here.country_id,),
    )
    assert 24 * 3600 - 1 <= row["seconds"] <= 24 * 3600 + 61


def test_the_countries_of_one_portfolio_share_the_limit(database: Database, portfolio: str) -> None:
    here, there = land(database, portfolio, 3), land(database, portfolio, 10)
    for each in (here, there):
        each.enqueue(*(each.template() for _ in range(3)))

    together = claim(database, [f"{here.country_id}/main", f"{there.country_id}/main"])

    assert len(messages_of(together)) == 3


def test_a_person_counts_once_in_two_countries(database: Database, portfolio: str) -> None:
    here, there = land(database, portfolio, 2), land(database, portfolio, 2)
    somebody = some_phone()
    here.enqueue(here.template(phone=somebody))
    here.claim()
    there.enqueue(there.template(phone=somebody), there.template(), there.template())

    assert len(reached(there.claim())) == 2
    assert used(database, portfolio) == 2


def test_another_portfolio_is_not_concerned(database: Database, portfolio: str) -> None:
    here, elsewhere = land(database, portfolio, 1), land(database, some_portfolio(), 1)
    for each in (here, elsewhere):
        each.enqueue(each.template())

    assert len(reached(here.claim())) == 1
    assert len(reached(elsewhere.claim())) == 1


def test_claims_at_once_do_not_spend_the_same_room(stack: Stack, database: Database, portfolio: str) -> None:
    lands = [land(database, portfolio, 50) for _ in range(4)]
    for each in lands:
        each.enqueue(*(each.template() for _ in range(40)))
    start = threading.Barrier(len(lands))
    claimed: list[str] = []

    def drain(here: Land) -> None:
        with psycopg.connect(stack.database_url, autocommit=True) as connection:
            start.wait()
            for _ in range(8):
                claimed.extend(reached(claim(connection, [f"{here.country_id}/main"], 5)))

    drainers = [threading.Thread(target=drain, args=[each]) for each in lands]
    for one in drainers:
        one.start()
    for one in drainers:
        one.join()

    assert len(claimed) == len(set(claimed)) == 50
    assert used(database, portfolio) == 50


def test_two_claims_over_the_same_two_portfolios_do_not_lock_each_other_out(stack: Stack, database: Database) -> None:
    portfolios = [some_portfolio(), some_portfolio()]
    lands = [land(database, each, 30) for each in portfolios * 2]
    for each in lands:
        each.enqueue(*(each.template() for _ in range(30)))
    accounts = [f"{each.country_id}/main" for each in lands]
    start = threading.Barrier(4)
    failures: list[BaseException] = []

    def drain() -> None:
        try:
            with psycopg.connect(stack.database_url, autocommit=True) as connection:
                start.wait()
                for _ in range(20):
                    claim(connection, accounts, 4)
        except BaseException as error:
            failures.append(error)
            raise

    drainers = [threading.Thread(target=drain) for _ in range(4)]
    for one in drainers:
        one.start()
    for one in drainers:
        one.join()

    assert failures == []
    assert [used(database, each) for each in portfolios] == [30, 30]


def test_sweep_forgets_who_no_longer_counts(database: Database, portfolio: str) -> None:
    here = land(database, portfolio, 2)
    here.enqueue(here.template(), here.template())
    here.claim()
    turn_clock(here, portfolio, 24.1)

    here.sweep()

    query = "select 1 from whatsapp_internal.portfolio_people where portfolio = %s"
    assert here.all(query, (portfolio,)) == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 14)), min_size=1, max_size=12))
def test_in_any_24_hours_no_more_people_than_the_limit(database: Database, steps: list[tuple[str, int]]) -> None:
    """`steps`: to whom, and how many hours after the step before."""
    portfolio, limit = some_portfolio(), 2
    here = land(database, portfolio, limit)
    phones = {name: some_phone() for name in "abcdef"}
    sent: list[tuple[int, str]] = []
    clock = 0
    for name, hours in steps:
        clock += hours
        turn_clock(here, portfolio, hours)
        here.run("update whatsapp.conversations set sending_until = null where country_id = %s", here.country_id)
        here.enqueue(here.template(phone=phones[name]))
        claimed = here.claim()
        sent += [(clock, phone) for phone in reached(claimed)]
        accept(here, claimed)
    for start, _ in sent:
        assert len({phone for at, phone in sent if start <= at < start + 24}) <= limit
    counted = {phone for at, phone in sent if at > clock - 24}
    assert used(database, portfolio) >= len(counted)


@pytest.mark.parametrize(
    ("tier", "people"),
    [
        ("TIER_50", 50),
        ("TIER_250", 250),
        ("TIER_2K", 2_000),
        ("TIER_100K", 100_000),
        ("TIER_UNLIMITED", -1),
        ("UNLIMITED", -1),
        ("-1", -1),
        ("2000", 2_000),
        ("TIER_NOT_SET", None),
        ("0", None),
        ("a tier of next year", None),
        (None, None),
    ],
)
def test_metas_words_for_a_limit(database: Database, tier: str | None, people: int | None) -> None:
    row = database.execute("select whatsapp_internal.people_of_tier(%s)", (tier,)).fetchone()
    assert row == (people,)
