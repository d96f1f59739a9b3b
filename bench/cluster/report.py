"""The figures of a cluster, a floor beside each that has one, and what is to be reached."""

from collections.abc import Mapping

from bench.cluster.alone import LINE as ALONE
from bench.cluster.bench import NODES, RAW, SINGLE
from bench.lines import Figure
from bench.table import Report, Target, latencies

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


class ClusterReport(Report):
    """Three nodes; targets are told the part of the line's floor."""

    heads = HEADS
    kind = NODES
    targets = TARGETS

    def part(self, figure: Figure) -> float:
        """See `Report.part`."""
        kind = FLOORS.get(figure.line)
        for each in self.figures:
            if figure.kind == NODES and each.line == figure.line and each.kind == kind:
                return figure.rate / each.rate
        return 0.0

    def compared(self, figure: Figure) -> dict[str, object]:
        """See `Report.compared`."""
        return {"part": self.part(figure)}

    def said(self, figure: Figure) -> tuple[str, Mapping[str, float]]:
        """See `Report.said`; the engines have their column."""
        notes = {name: figure.notes[name] for name in figure.notes if name != "engines_us"}
        return f"{figure.line}, {figure.kind}", notes

    def row(self, figure: Figure) -> tuple[str, ...]:
        """See `Report.row`."""
        part, is_raw = self.part(figure), figure.kind == RAW
        is_rate = bool(figure.client_us)
        engines_us = figure.server_us if is_raw else figure.notes.get("engines_us")
        return (
            figure.line,
            figure.kind,
            f"{figure.rate:,.0f}" if is_rate else "",
            f"{part:.2f}" if part else "",
            f"{figure.server_us:.2f}" if is_rate and not is_raw else "",
            f"{engines_us:.2f}" if engines_us else "",
            f"{figure.client_us:.2f}" if is_rate else "",
            *latencies(figure),
            self.verdict(figure),
        )
