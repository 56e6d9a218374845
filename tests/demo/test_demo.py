"""The demo in small, and that it would tell if something were wrong."""

import dataclasses
import io
import re
import subprocess
import sys

import pytest
from rich.console import Console

from tests.demo.checks import EXACT, Checks
from tests.demo.figures import Figures
from tests.demo.screen import Screen
from tests.local.stack import ROOT

RIGHT = Figures(logged=4, accepted=4, twice=0, lost=0, strays=0, read=4, status_events=12)


@pytest.fixture
def checks() -> Checks:
    return Checks(Screen(Console(file=io.StringIO())))


def test_small_demo() -> None:
    """Twenty messages a country, without a terminal."""
    command = [sys.executable, "-m", "tests.demo", "--messages", "20"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Every count is exact." in run.stdout
    assert re.search(r"accepted by the stand-in for Meta +21 +20 +✓", run.stdout), run.stdout
    assert "✗" not in run.stdout


def test_exact_counts_pass(checks: Checks) -> None:
    rows = checks.rows({"MX": RIGHT, "CO": RIGHT}, {"MX": 4, "CO": 4})
    assert all(row.exact for row in rows)
    assert checks.failed == []
    assert checks.screen.verdict(checks.failed) == 0


@pytest.mark.parametrize("member", [member for member, _, _ in EXACT])
def test_one_wrong_count_fails(checks: Checks, member: str) -> None:
    wrong = dataclasses.replace(RIGHT, **{member: getattr(RIGHT, member) + 1})
    rows = checks.rows({"MX": RIGHT, "CO": wrong}, {"MX": 4, "CO": 4})
    assert [row.exact for row in rows].count(False) == 1
    assert len(checks.failed) == 1
    assert checks.screen.verdict(checks.failed) == 1


def test_expectation_that_fails_is_named(checks: Checks) -> None:
    checks.expect("refused as window_closed", "202", "window_closed")
    assert checks.failed == ["refused as window_closed: 202 instead of window_closed"]
