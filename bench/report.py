"""Figures as a table for the terminal, as Markdown, and as JSON."""

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.faces import PART_TO_REACH
from bench.lines import NODE, Figure

HEADS = (
    "line",
    "server",
    "msg/s",
    "of file",
    "of empty",
    "server µs",
    "client µs",
    "p50 ms",
    "p99 ms",
    "max ms",
    "of",
    "MB",
    "to reach",
)


@dataclass(frozen=True, slots=True)
class Target:
    """What a line has to reach. `is_met` is told the figure and its part of the file floor."""

    text: str
    is_met: Callable[[Figure, float], bool]


TARGETS = {
    "produce": Target(
        "server <= 0.9 µs, >= 0.5 of file",
        lambda each, part: each.server_us <= 0.9 and part >= 0.5,
    ),
    "consume": Target("server <= 0.9 µs", lambda each, _: each.server_us <= 0.9),
    "both": Target(">= 800,000 msg/s", lambda each, _: each.rate >= 800_000),
    "schedule": Target(">= 200,000 msg/s", lambda each, _: each.rate >= 200_000),
    "lateness": Target(
        "p50 <= 2, p99 <= 5 ms, 0 early",
        lambda each, _: each.p50_ms <= 2 and each.p99_ms <= 5 and not each.notes["early"],
    ),
    "compatible produce, 1000": Target(
        "server <= 1.6 µs", lambda each, _: each.server_us <= 1.6
    ),
    "compatible produce, 1": Target(
        "server <= 1.3 of empty", lambda each, _: each.notes["server_of_empty"] <= 1.3
    ),
    "client produce_many": Target("aim: 150,000 msg/s", lambda each, _: each.rate >= 150_000),
    "singles": Target(">= 15,000 msg/s", lambda each, _: each.rate >= 15_000),
    "burst": Target(
        "drained in <= 3 s, others' p99 < 2 x before",
        lambda each, _: (
            each.notes["drained_s"] <= 3
            and each.notes["others_p99_ms"] < 2 * each.notes["others_p99_ms_before"]
        ),
    ),
    "pending": Target(
        "memory within 64 MB of none", lambda each, _: each.notes["more_mb"] <= 64
    ),
    "pending: restart": Target(
        "<= 1 s after SIGTERM, <= 2 s after kill -9",
        lambda each, _: (
            each.notes["after_term_ms"] <= 1000 and each.notes["after_kill_ms"] <= 2000
        ),
    ),
    "groups": Target("no stall above 50 ms", lambda each, _: each.notes["stall_ms"] <= 50),
    "idle partitions": Target(
        "no stall above 50 ms, >= 0.8 of plain",
        lambda each, _: each.notes["stall_ms"] <= 50 and each.notes["of_plain"] >= 0.8,
    ),
    "leases given back": Target(
        "no stall above 50 ms", lambda each, _: each.notes["stall_ms"] <= 50
    ),
    "nacked for an hour": Target(
        "no stall above 50 ms, >= 0.8 of plain",
        lambda each, _: each.notes["stall_ms"] <= 50 and each.notes["of_plain"] >= 0.8,
    ),
    "nacked, a time each": Target(
        "no stall above 50 ms, >= 0.8 of plain",
        lambda each, _: each.notes["stall_ms"] <= 50 and each.notes["of_plain"] >= 0.8,
    ),
    "fair": Target(
        "within 20 %",
        lambda each, _: (
            each.notes["partitions_off"] <= 0.2 and each.notes["consumers_off"] <= 0.2
        ),
    ),
    "client async for + ack": Target("aim: 80,000 msg/s", lambda each, _: each.rate >= 80_000),
}
TARGETS |= {
    f"Client {work}": Target(
        ">= 0.7 of AsyncClient", lambda each, _: each.notes["part"] >= PART_TO_REACH
    )
    for work in ("produce", "consume", "futures", "callers")
}


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
                {**each.as_dict(), "of_floor": self._parts(each), "is_met": self.is_met(each)}
                for each in self.figures
            ],
            "failures": self.failures,
        }

    def is_met(self, figure: Figure) -> bool | None:
        """None where nothing is to be reached."""
        target = TARGETS.get(figure.line)
        if target is None or figure.kind != NODE:
            return None
        return target.is_met(figure, self._parts(figure).get("file", 0.0))

    def rows(self) -> list[tuple[str, ...]]:
        """As texts, in the order of `HEADS`."""
        return [self._row(each) for each in self.figures]

    def notes(self) -> list[str]:
        """What there is to say beside the columns, a line each."""
        return [
            f"{each.line}: "
            + ", ".join(f"{name} {each.notes[name]:.4g}" for name in each.notes)
            for each in self.figures
            if each.notes
        ]

    def _row(self, figure: Figure) -> tuple[str, ...]:
        parts = self._parts(figure)
        is_met = self.is_met(figure)
        goal = "" if is_met is None else TARGETS[figure.line].text
        if "part" in figure.notes:
            goal = f"{figure.notes['part']:.2f} of AsyncClient, >= {PART_TO_REACH}"
        return (
            figure.line,
            figure.kind,
            f"{figure.rate:,.0f}",
            f"{parts['file']:.2f}" if "file" in parts else "",
            f"{parts['empty']:.2f}" if "empty" in parts else "",
            f"{figure.server_us:.2f}",
            f"{figure.client_us:.2f}",
            f"{figure.p50_ms:.1f}" if figure.latency else "",
            f"{figure.p99_ms:.1f}" if figure.latency else "",
            f"{figure.max_ms:.1f}" if figure.latency else "",
            figure.latency,
            str(figure.memory_mb),
            f"{goal}: {'yes' if is_met else 'NO'}" if goal else "",
        )

    def _parts(self, figure: Figure) -> dict[str, float]:
        """What part of each floor's rate it reached."""
        return {
            each.kind: figure.rate / each.rate
            for each in self.figures
            if each.line == figure.line and each.kind != NODE and figure.kind == NODE
        }


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


def show(report: Report) -> None:
    """Prints a table."""
    table = Table(*HEADS, box=None, header_style="bold")
    for place, row in enumerate(report.rows()):
        figure = report.figures[place]
        style = "dim" if figure.kind != NODE else ""
        table.add_row(*row, style="red" if report.is_met(figure) is False else style)
    for column in table.columns[2:-1]:
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
