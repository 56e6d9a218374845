"""The result as a person reads it."""

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from tests.faults.experiment import Run


def markdown(done: Run) -> str:
    """The tables of a run."""
    books = done.books
    parts = [
        "# The experiment",
        f"Seed {done.seed}, {sum(done.inflicted.values())} faults, {done.seconds / 60:.1f} minutes, {done.rest:.0f} s"
        f" from the last fault to rest. {_where()}",
        "Written by `make faults`. What is counted and how: [docs/faults.md](../../../docs/faults.md).",
        f"**{'Every promise was kept.' if not books.broken else 'PROMISES WERE BROKEN.'}**",
        *(f"- {sentence}" for sentence in books.broken),
        table("Messages", books.figures),
        table("In the end they are", dict(books.states.most_common())),
        table("Ended unknown, by cause", dict(books.unknowns.most_common())),
        "## Doubled by policy, one by one\n\n" + ("\n".join(f"- {each}" for each in books.doubles) or "None."),
        table("Faults", dict(done.inflicted.most_common())),
        table("Supabase Lite started again beyond that, and why", dict(done.gateway_starts.most_common())),
        table("Memory, KB when warm and at the end", memory(done)),
        table("Lines in the logs that should not be there", {word: n for word, n in done.noise.items() if n}),
    ]
    return "\n\n".join(parts) + "\n"


def of_bodies(seed: int, seconds: float, figures: Mapping[str, int], broken: Sequence[str]) -> str:
    """What came of the generated webhook bodies."""
    parts = [
        "# Generated webhook bodies",
        f"Seed {seed}, {seconds / 60:.1f} minutes. {_where()}",
        "Written by `make faults`. What is counted and how: [docs/faults.md](../../../docs/faults.md).",
        f"**{'Every promise was kept.' if not broken else 'PROMISES WERE BROKEN.'}**",
        *(f"- {sentence}" for sentence in broken),
        table("Bodies", figures),
    ]
    return "\n\n".join(parts) + "\n"


def _where() -> str:
    day = datetime.now(UTC).date().isoformat()
    return f"{day}, {os.cpu_count()} cores, Python {platform.python_version()}."


def memory(done: Run) -> dict[str, str]:
    """Of the processes that lived longest."""
    longest = sorted(done.memory.items(), key=lambda item: -len(item[1]))[:4]
    return {name: f"{samples[len(samples) // 4]} → {samples[-1]}" for name, samples in longest}


def table(title: str, rows: Mapping[str, object]) -> str:
    if not rows:
        return f"## {title}\n\nNone."
    lines = (
        f"| {name} | {value:,} |" if isinstance(value, int) else f"| {name} | {value} |" for name, value in rows.items()
    )
    return f"## {title}\n\n| | |\n|---|---:|\n" + "\n".join(lines)
