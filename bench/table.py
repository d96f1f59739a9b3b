"""
What benches have in common: they run their lines, compare what they measured with a floor, and
show it as a table for the terminal, as Markdown, and as JSON.

A bench says how by a `Report` of its own.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console
from rich.table import Table

from bench.lines import Figure
from bench.load import WrongError


@dataclass(frozen=True, slots=True)
class Target:
    """What a line has to reach. `is_met` is told the figure, and its part of the floor."""

    text: str
    is_met: Callable[[Figure, float], bool]


@dataclass(frozen=True)
class Report:
    """All that was measured. `failures`: by line, why its figures count for nothing."""

    machine: str
    figures: list[Figure]
    failures: dict[str, str]

    heads: ClassVar[tuple[str, ...]]
    """Of the columns; the last one says what is to be reached."""
    kind: ClassVar[str]
    """Of the servers that are measured; others are floors."""
    targets: ClassVar[Mapping[str, Target]]

    def part(self, figure: Figure) -> float:
        """What part of its floor's rate it reached; 0 of none."""
        raise NotImplementedError

    def compared(self, figure: Figure) -> dict[str, object]:
        """What JSON says of it and its floors."""
        raise NotImplementedError

    def row(self, figure: Figure) -> tuple[str, ...]:
        """As texts, in the order of `heads`."""
        raise NotImplementedError

    def said(self, figure: Figure) -> tuple[str, Mapping[str, float]]:
        """What there is to say of it beside the columns, and by which name."""
        return figure.line, figure.notes

    def is_met(self, figure: Figure) -> bool | None:
        """None where nothing is to be reached."""
        target = self.targets.get(figure.line)
        if target is None or figure.kind != self.kind:
            return None
        return target.is_met(figure, self.part(figure))

    def verdict(self, figure: Figure, goal: str = "") -> str:
        """What is to be reached, and whether it was."""
        is_met = self.is_met(figure)
        if is_met is None:
            return ""
        return f"{goal or self.targets[figure.line].text}: {'yes' if is_met else 'NO'}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "machine": self.machine,
            "figures": [
                {**each.as_dict(), **self.compared(each), "is_met": self.is_met(each)}
                for each in self.figures
            ],
            "failures": self.failures,
        }

    def notes(self) -> list[str]:
        """What there is to say beside the columns, a line each."""
        return [
            f"{name}: " + ", ".join(f"{each} {number:.4g}" for each, number in notes.items())
            for name, notes in map(self.said, self.figures)
            if notes
        ]

    def show(self) -> None:
        """Prints a table."""
        table = Table(*self.heads, box=None, header_style="bold")
        for figure in self.figures:
            style = "dim" if figure.kind != self.kind else ""
            is_missed = self.is_met(figure) is False
            table.add_row(*self.row(figure), style="red" if is_missed else style)
        for column in table.columns[2:-1]:
            column.justify = "right"
        console = Console(width=None if sys.stdout.isatty() else 170)
        console.print(table)
        for line in self.notes():
            console.print(line, style="dim", highlight=False)
        console.print(self.machine, style="dim", highlight=False)
        for name, failure in self.failures.items():
            console.print(f"{name}: {failure}", style="bold red", highlight=False)

    def markdown(self) -> str:
        """The table for docs/performance.md."""
        rows = [self.heads, ["---"] * len(self.heads), *map(self.row, self.figures)]
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        lines += [f"\n{name}: {failure}" for name, failure in self.failures.items()]
        lines += ["", *(f"- {line}" for line in self.notes())]
        return "\n".join([*lines, "", self.machine])


def latencies(figure: Figure) -> tuple[str, str, str, str]:
    """p50, p99, the longest, and of what."""
    if not figure.latency:
        return "", "", "", ""
    numbers = figure.p50_ms, figure.p99_ms, figure.max_ms
    p50, p99, longest = (f"{ms:.1f}" for ms in numbers)
    return p50, p99, longest, figure.latency


def add_options(parser: argparse.ArgumentParser, lines: Iterable[str]) -> None:
    """What every bench may be asked for."""
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run at all?")
    parser.add_argument("--line", action="append", choices=lines, help="only this one")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true")


async def measure(
    lines: Mapping[str, Callable[[], Awaitable[list[Figure]]]], *, line_s_max: float
) -> tuple[list[Figure], dict[str, str]]:
    """The figures of these lines, one after the other; and of those that failed, why."""
    figures: list[Figure] = []
    failures: dict[str, str] = {}
    for name, line in lines.items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            async with asyncio.timeout(line_s_max):
                figures += await line()
        except (WrongError, TimeoutError) as error:
            failures[name] = f"{type(error).__name__}: {error}"
    return figures, failures


def say(report: Report, options: argparse.Namespace) -> int:
    """Prints it as it was asked for; returns the exit code."""
    if options.json:
        print(json.dumps(report.as_dict(), indent=2))
    elif options.markdown:
        print(report.markdown())
    else:
        report.show()
    return 1 if report.failures else 0


def machine() -> str:
    """What the figures depend on: processor, cores, versions."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("grpcio", "protobuf", "rocksdict", "uvloop")
    )
    cores = len(os.sched_getaffinity(0))
    return (
        f"{model}, {cores} cores; Linux {platform.release()};"
        f" Python {platform.python_version()}, {packages}"
    )
