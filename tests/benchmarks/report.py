"""What a benchmark measured, and how it is written down."""

import os
import platform
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import orjson

OURS, DIRECT = "ours", "ours, direct"
"""The product as it is by default, through the Data API, and with SUPABASE_DB_URL."""
RESULTS = Path(__file__).with_name("results")
_PACKAGES = (
    "supabase",
    "asyncpg",
    "httpx",
    "httpx-aiohttp",
    "aiohttp",
    "starlette",
    "uvicorn",
    "uvloop",
    "pgqueuer",
    "procrastinate",
    "pywa",
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one contender. `figures` by name; throughput is `per_second`, times end in `_ms`."""

    case: str
    contender: str
    figures: dict[str, float]


@dataclass(frozen=True, slots=True)
class Bar:
    """A promise: in `case`, `ours` compared with `other` by `figure` reaches `least` or stays under `most`.

    `ours` is the contender that promises.

    Without `other`, the figure itself is compared.
    """

    case: str
    figure: str
    other: str | None = None
    least: float | None = None
    most: float | None = None
    ours: str = OURS


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bar and what was reached; `reached` is a ratio to the other contender, or the figure itself."""

    bar: Bar
    reached: float
    kept: bool


@dataclass(slots=True)
class Report:
    """All samples of a run with the bars they are held against."""

    settings: dict[str, Any]
    samples: list[Sample] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)

    def add(self, case: str, contender: str, **figures: float) -> None:
        self.samples.append(Sample(case, contender, figures))
        words = "  ".join(f"{name} {_short(value)}" for name, value in figures.items())
        print(f"  {case:28} {contender:28} {words}", flush=True)

    def medians(self) -> dict[tuple[str, str], dict[str, float]]:
        """The median of each figure, by case and contender, in the order of their first sample."""
        found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for sample in self.samples:
            for name, value in sample.figures.items():
                found[sample.case, sample.contender][name].append(value)
        return {key: {name: median(values) for name, values in each.items()} for key, each in found.items()}

    def verdicts(self) -> list[Verdict]:
        medians = self.medians()
        return [verdict for bar in self.bars if (verdict := _judge(bar, medians)) is not None]

    def write(self) -> str:
        """Write latest.md and latest.json; returns the former."""
        RESULTS.mkdir(exist_ok=True)
        text = self.markdown()
        (RESULTS / "latest.md").write_text(text)
        document = {
            "settings": self.settings,
            "machine": machine(),
            "samples": [asdict(sample) for sample in self.samples],
            "medians": [
                {"case": case, "contender": contender, "figures": figures}
                for (case, contender), figures in self.medians().items()
            ],
            "bars": [asdict(verdict) for verdict in self.verdicts()],
        }
        (RESULTS / "latest.json").write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
        return text

    def markdown(self) -> str:
        lines = ["# Benchmarks", "", *(f"- {name}: {value}" for name, value in (machine() | self.settings).items())]
        cases: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
        for (case, contender), figures in self.medians().items():
            cases[case][contender] = figures
        for case, contenders in cases.items():
            names = list(dict.fromkeys(name for figures in contenders.values() for name in figures))
            rows = [
                [contender, *(_short(figures[name]) if name in figures else "" for name in names)]
                for contender, figures in contenders.items()
            ]
            lines += ["", f"## {case}", "", *_table(["", *names], rows)]
        rows = [
            [
                bar.bar.case,
                bar.bar.ours,
                f"{bar.bar.figure} / {bar.bar.other}" if bar.bar.other else bar.bar.figure,
                f">= {bar.bar.least:g}" if bar.bar.least is not None else f"<= {bar.bar.most:g}",
                f"{bar.reached:.2f}",
                "kept" if bar.kept else "MISSED",
            ]
            for bar in self.verdicts()
        ]
        lines += ["", "## Bars", "", *_table(["case", "who", "compared with", "bar", "reached", ""], rows), ""]
        return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "packages": ", ".join(
            [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in _PACKAGES)]
        ),
    }


def _judge(bar: Bar, medians: dict[tuple[str, str], dict[str, float]]) -> Verdict | None:
    ours = medians.get((bar.case, bar.ours), {}).get(bar.figure)
    if ours is None:
        return None
    if bar.other is not None:
        theirs = medians.get((bar.case, bar.other), {}).get(bar.figure)
        if not theirs:
            return None
        ours /= theirs
    kept = ours >= bar.least if bar.least is not None else ours <= (bar.most or 0)
    return Verdict(bar, ours, kept)


def _table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"| {' | '.join(['---', *['---:'] * (len(head) - 1)])} |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _short(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
