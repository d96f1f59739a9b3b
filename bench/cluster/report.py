"""The figures of a cluster as a table for the terminal, as Markdown, and as JSON."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.cluster.alone import LINE as ALONE
from bench.cluster.bench import FILE, NODES, RAW, SINGLE
from bench.lines import Figure

HEADS = (
    "line",
    "server",
    "msg/s",
    "of engine",
    "nodes µs",
    "engines µs",
    "client µs",
    "p50 ms",
    "p99 ms",
    "max ms",
    "of",
    "to reach",
)


@dataclass(frozen=True, slots=True)
class Target:
    """What a line has to reach. `is_met` is told the figure, and its part of the floor."""

    text: str
    is_met: Callable[[Figure, float], bool]


TARGETS = {
    "produce": Target(
        ">= 0.6 of engine, >= 300,000 msg/s",
        lambda each, part: part >= 0.6 and each.rate >= 300_000,
    ),
    "failover: SIGTERM": Target("<= 200 ms", lambda each, _: each.max_ms <= 200),
    "failover: node killed": Target("<= 2,500 ms", lambda each, _: each.max_ms <= 2500),
    "failover: node and engine killed": Target(
        "<= 10,000 ms", lambda each, _: each.max_ms <= 10_000
    ),
    ALONE: Target("within 10 % of a single node", lambda _, part: part >= 0.9),
}
FLOORS = {"produce": RAW, ALONE: SINGLE}
"""By line, the kind of server whose rate is the floor."""


@dataclass(frozen=True, slots=True)
class Report:
    """All that was measured. `failures`: by line, why its figures count for nothing."""

    machine: str
    figures: list[Figure]
    failures: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "machine": self.machine,
            "figures": [
                {**each.as_dict(), "part": self._part(each), "is_met": self.is_met(each)}
                for each in self.figures
            ],
            "failures": self.failures,
        }

    def is_met(self, figure: Figure) -> bool | None:
        """None where nothing is to be reached."""
        target = TARGETS.get(figure.line)
        if target is None or figure.kind != NODES:
            return None
        return target.is_met(figure, self._part(figure))

    def rows(self) -> list[tuple[str, ...]]:
        """As texts, in the order of `HEADS`."""
        return [self._row(each) for each in self.figures]

    def notes(self) -> list[str]:
        """What there is to say beside the columns, a line each."""
        said = [
            (each, {name: each.notes[name] for name in each.notes if name != "engines_us"})
            for each in self.figures
        ]
        return [
            f"{each.line}, {each.kind}: "
            + ", ".join(f"{name} {number:.4g}" for name, number in notes.items())
            for each, notes in said
            if notes
        ]

    def _row(self, figure: Figure) -> tuple[str, ...]:
        is_met, part = self.is_met(figure), self._part(figure)
        is_rate = bool(figure.client_us)
        engines_us = figure.notes.get("engines_us")
        return (
            figure.line,
            figure.kind,
            f"{figure.rate:,.0f}" if is_rate else "",
            f"{part:.2f}" if part else "",
            f"{figure.server_us:.2f}" if is_rate and figure.kind != RAW else "",
            f"{figure.server_us if figure.kind == RAW else engines_us:.2f}"
            if figure.kind == RAW or engines_us
            else "",
            f"{figure.client_us:.2f}" if is_rate else "",
            f"{figure.p50_ms:.1f}" if figure.latency else "",
            f"{figure.p99_ms:.1f}" if figure.latency else "",
            f"{figure.max_ms:.1f}" if figure.latency else "",
            figure.latency,
            ""
            if is_met is None
            else f"{TARGETS[figure.line].text}: {'yes' if is_met else 'NO'}",
        )

    def _part(self, figure: Figure) -> float:
        """What part of its floor's rate it reached; 0 of none."""
        kind = FLOORS.get(figure.line)
        for each in self.figures:
            if figure.kind == NODES and each.line == figure.line and each.kind == kind:
                return figure.rate / each.rate
        return 0.0


def show(report: Report) -> None:
    """Prints a table."""
    table = Table(*HEADS, box=None, header_style="bold")
    for figure, row in zip(report.figures, report.rows(), strict=True):
        style = "dim" if figure.kind in {RAW, FILE, SINGLE} else ""
        table.add_row(*row, style="red" if report.is_met(figure) is False else style)
    for column in table.columns[2:-2]:
        column.justify = "right"
    console = Console(width=None if sys.stdout.isatty() else 170)
    console.print(table)
    for line in report.notes():
        console.print(line, style="dim", highlight=False)
    console.print(report.machine, style="dim", highlight=False)
    for name, failure in report.failures.items():
        console.print(f"{name}: {failure}", style="bold red", highlight=False)


def markdown(report: Report) -> str:
    """The table for docs/performance.md."""
    lines = ["| " + " | ".join(HEADS) + " |", "| " + " | ".join("---" for _ in HEADS) + " |"]
    lines += ["| " + " | ".join(row) + " |" for row in report.rows()]
    lines += [f"\n{name}: {failure}" for name, failure in report.failures.items()]
    lines += ["", *(f"- {line}" for line in report.notes())]
    return "\n".join([*lines, "", report.machine])
