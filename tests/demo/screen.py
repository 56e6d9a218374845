"""What the demo shows: one line a step with the seconds since the start, bars that climb, and tables.

On a terminal the bars move; elsewhere (in CI) plain lines take their place.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

NAMES = {"MX": "Mexico", "CO": "Colombia"}
_COLOURS = {"queued": "grey62", "accepted": "yellow", "sent": "dark_orange", "delivered": "cyan", "read": "green"}
_MARGIN = 9
_LINE_EVERY = 1.0

Show = Callable[[Mapping[str, Mapping[str, int]]], None]


@dataclass(frozen=True)
class Row:
    """One line of a table: a count of each country, and whether all are what they must be."""

    what: str
    counts: list[int]
    exact: bool


class Screen:
    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._started = time.monotonic()

    def title(self) -> None:
        lines = Text("The main job and a campaign, live on this machine.", style="bold")
        lines.append(
            "\nReal: Postgres, Supabase Lite, our functions over HTTP, the official client."
            "\nNot real: Meta. A stand-in from tests/graph takes Meta's place.",
            style="not bold",
        )
        self._console.print(Panel(lines, box=box.ROUNDED, border_style="green", expand=False))

    def scene(self, title: str) -> None:
        self._console.print()
        self._console.print(Rule(f"[bold]{title}[/]", align="left", style="grey37"))

    def say(self, text: str) -> None:
        self._line(Text(text))

    def tick(self, text: str) -> None:
        self._line(Text.assemble(("✓ ", "bold green"), text))

    def cross(self, text: str) -> None:
        self._line(Text.assemble(("✗ ", "bold red"), (text, "red")))

    def refusal(self, raised: str, body: Mapping[str, Any]) -> None:
        """A refusal as the caller sees it: what the official client raises, and the answer behind it."""
        self._line(Text.assemble("functions.invoke('send') raises ", (raised, "yellow"), "; the answer in full:"))
        table = Table.grid(padding=(0, 2))
        for name in ("http_status", "code", "message", "hint"):
            table.add_row(Text(name, style="grey62"), Text(str(body.get(name))))
        self._console.print(Padding(table, (0, 0, 0, _MARGIN + 2)))

    def refused_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The rows that a bulk call gave back."""
        table = Table.grid(padding=(0, 2))
        for row in rows:
            table.add_row(Text(f"row {row['row']}", style="grey62"), Text(row["code"], style="yellow"), _reason(row))
        self._console.print(Padding(table, (0, 0, 0, _MARGIN + 2)))

    @contextmanager
    def climbing(self, states: Sequence[str], countries: Sequence[str], total: int) -> Iterator[Show]:
        """Gives a function that shows how many messages of each country have reached each state."""
        if not self._console.is_terminal:
            yield self._lines()
            return
        bars = Table.grid(padding=(0, 4))
        groups = {country: _Bars(states, total) for country in countries}
        bars.add_row(*(Text(NAMES[country], style="bold") for country in countries))
        bars.add_row(*(group.progress for group in groups.values()))

        def show(reached: Mapping[str, Mapping[str, int]]) -> None:
            for country, counts in reached.items():
                groups[country].show(counts)

        with Live(Padding(bars, (0, 0, 0, _MARGIN)), console=self._console, refresh_per_second=12):
            yield show

    def story(self, events: Sequence[Mapping[str, Any]]) -> None:
        """The steps of one message, each by the clock that knows it."""
        table = Table(box=box.SIMPLE_HEAD, header_style="grey62", pad_edge=False)
        for title in ("our clock", "what happened", "Meta's clock"):
            table.add_column(title)
        for event in events:
            name = str(event["event"]).removeprefix("message_")
            from_meta = name in ("sent", "delivered", "read")
            ours, meta = ("", _clock(event["at"])[:8]) if from_meta else (_clock(event["at"]), "")
            table.add_row(ours, Text(name, style=_COLOURS.get(name, "")), meta)
        self._console.print(Padding(table, (0, 0, 0, _MARGIN)))

    def table(self, counted: str, countries: Sequence[str], rows: Sequence[Row]) -> None:
        table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
        table.add_column(counted)
        for country in countries:
            table.add_column(NAMES[country], justify="right")
        table.add_column("")
        for row in rows:
            mark = "[bold green]✓[/]" if row.exact else "[bold red]✗[/]"
            counts = [f"{count:,}" for count in row.counts]
            table.add_row(row.what, *counts, mark, style="" if row.exact else "red")
        self._console.print(Padding(table, (0, 0, 0, _MARGIN)))

    def verdict(self, failed: Sequence[str]) -> int:
        """Say how it ended; returns the exit code."""
        seconds = time.monotonic() - self._started
        self._console.print()
        for one in failed:
            self._console.print(Text(f"✗ {one}", style="red"))
        if failed:
            self._console.print(
                Text(f"Not every count is exact: {len(failed)} of the checks failed.", style="bold red")
            )
            return 1
        self._console.print(f"[bold green]Every count is exact.[/] {seconds:.0f} seconds in all.")
        return 0

    def _line(self, text: Text) -> None:
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=_MARGIN - 1, justify="right", style="grey62")
        grid.add_column()
        grid.add_row(f"{time.monotonic() - self._started:.1f} s", text)
        self._console.print(grid)

    def _lines(self) -> Show:
        last = 0.0

        def show(reached: Mapping[str, Mapping[str, int]]) -> None:
            nonlocal last
            if time.monotonic() - last < _LINE_EVERY:
                return
            last = time.monotonic()
            for country, counts in sorted(reached.items(), reverse=True):
                self.say(f"{country}  " + "  ".join(f"{state} {count}" for state, count in counts.items()))

        return show


class _Bars:
    """The bars of one country, one a state."""

    def __init__(self, states: Sequence[str], total: int) -> None:
        self.progress = Progress(TextColumn("{task.description:<9}"), BarColumn(bar_width=18), MofNCompleteColumn())
        self._tasks: dict[str, TaskID] = {
            state: self.progress.add_task(f"[{_COLOURS[state]}]{state:<9}[/]", total=total) for state in states
        }

    def show(self, counts: Mapping[str, int]) -> None:
        for state, count in counts.items():
            self.progress.update(self._tasks[state], completed=count)


def _reason(row: Mapping[str, Any]) -> str:
    return f"{row['field']}: {row['reason'] or row['message']}"


def _clock(moment: str) -> str:
    """Time of day of an ISO 8601 time, to the millisecond."""
    return datetime.fromisoformat(moment).strftime("%H:%M:%S.%f")[:-3]
