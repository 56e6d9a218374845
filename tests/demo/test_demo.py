"""The demo in small, and that it would tell if something were wrong."""

import dataclasses
import io
import re
import subprocess
import sys
from typing import Any

import pytest
from rich.console import Console

from services.whatsapp.requests.bulk_enqueue import read_csv
from tests.demo.audience import Line, gather
from tests.demo.checks import EXACT, REACHED, Checks
from tests.demo.figures import Figures, Reach, reach
from tests.demo.screen import Screen
from tests.graph.client import Arrival
from tests.local.stack import ROOT

QUERY = {"country_id": "MX", "name": "offer", "template": "offer", "language": "es_MX"}
RIGHT = Figures(logged=4, accepted=4, twice=0, lost=0, strays=0, read=4, status_events=12)
REACH = Reach(once=4, twice=0, never=0, uninvited=0, mixed_up=0, elsewhere=0)
ANA, EVA = Line("+525512345678", "https://shop.example/1.jpg", "Ana"), Line("+525587654321", "", "Eva")


@pytest.fixture
def checks() -> Checks:
    return Checks(Screen(Console(file=io.StringIO())))


def test_small_demo() -> None:
    """Twenty messages a country and a campaign of 200 rows, seven of them wrong, without a terminal."""
    command = [sys.executable, "-m", "tests.demo", "--messages", "20", "--rows", "200"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Every count is exact." in run.stdout
    for line in (
        r"160 rows as JSON: 202, 156 accepted, 4 refused",
        r"40 rows as CSV, appended: 202, 37 accepted, 3 refused",
        r"pause: paused, by_a_person",
        r"✓ the campaign paused itself: template_paused",
        r"✓ status-poll: completed, 193 read",
        r"got it once +193 +✓",
        r"accepted by the stand-in for Meta +214 +20 +✓",
    ):
        assert re.search(line, run.stdout), run.stdout
    assert "✗" not in run.stdout


def test_exact_counts_pass(checks: Checks) -> None:
    rows = checks.rows({"MX": RIGHT, "CO": RIGHT}, {"MX": 4, "CO": 4}, EXACT, "promised")
    rows += checks.rows({"MX": REACH}, {"MX": 4}, REACHED, "promised")
    assert all(row.exact for row in rows)
    assert checks.failed == []
    assert checks.screen.verdict(checks.failed) == 0


@pytest.mark.parametrize("member", [member for member, _, _ in EXACT])
def test_one_wrong_count_fails(checks: Checks, member: str) -> None:
    wrong = dataclasses.replace(RIGHT, **{member: getattr(RIGHT, member) + 1})
    rows = checks.rows({"MX": RIGHT, "CO": wrong}, {"MX": 4, "CO": 4}, EXACT, "promised")
    assert [row.exact for row in rows].count(False) == 1
    assert len(checks.failed) == 1
    assert checks.screen.verdict(checks.failed) == 1


@pytest.mark.parametrize("member", [member for member, _, _ in REACHED])
def test_one_person_wrong_in_a_campaign_fails(checks: Checks, member: str) -> None:
    wrong = dataclasses.replace(REACH, **{member: getattr(REACH, member) + 1})
    rows = checks.rows({"MX": wrong}, {"MX": 4}, REACHED, "promised")
    assert [row.exact for row in rows].count(False) == 1
    assert checks.screen.verdict(checks.failed) == 1


def test_expectation_that_fails_is_named(checks: Checks) -> None:
    checks.expect("refused as window_closed", "202", "window_closed")
    assert checks.failed == ["refused as window_closed: 202 instead of window_closed"]


def test_who_was_reached() -> None:
    """What Meta refused reached nobody; everything else that arrived is held against the list."""
    invited = {ANA.to: ANA.parameters, "+1": {}, "+2": {}}
    ours = [
        arrival(ANA.to, ANA),
        arrival("+1", EVA, wamid=None),
        arrival("+2", EVA),
        arrival("+2", EVA),
        arrival("+3", EVA),
        arrival("+1", EVA, number_id="other"),
    ]
    assert reach(invited, "offer", "ours", ours) == Reach(
        once=1, twice=1, never=1, uninvited=1, mixed_up=2, elsewhere=1
    )


def test_every_row_of_a_list_is_either_invited_or_wrong() -> None:
    audience = gather(200)
    parts = (audience.opening, audience.more)
    assert sum(len(part.lines) for part in parts) == 200
    assert len(audience.invited) == sum(len(part.good) for part in parts) == 200 - 7
    assert audience.stopped not in audience.invited
    assert {code for part in parts for _, code, _ in part.wrong} == {
        "invalid_phone", "duplicate_recipient", "template_parameters", "opted_out"
    }  # fmt: skip
    assert read_csv("k", audience.more.csv().encode(), QUERY).recipients == audience.more.recipients()


def arrival(to: str, line: Line, *, number_id: str = "ours", wamid: str | None = "wamid.1") -> Arrival:
    """The template of a row as it arrives."""
    components = [
        {"type": "header", "parameters": [{"type": "image", "image": {"link": line.picture}}]},
        {"type": "body", "parameters": [{"type": "text", "text": line.name}]},
    ]
    body: dict[str, Any] = {"template": {"components": components}}
    return Arrival(1, number_id, to, "template", "offer", None, body, 0, 0, wamid, None, None, "answered")
