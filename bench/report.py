"""The figures of one node: floors beside them, and what is to be reached."""

from bench.faces import PART_TO_REACH
from bench.lines import NODE, Figure
from bench.table import Report, Target, latencies

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


class NodeReport(Report):
    """One node, beside the floors `file` and `empty`; targets are told the part of `file`."""

    heads = HEADS
    kind = NODE
    targets = TARGETS

    def part(self, figure: Figure) -> float:
        """See `Report.part`."""
        return self._parts(figure).get("file", 0.0)

    def compared(self, figure: Figure) -> dict[str, object]:
        """See `Report.compared`."""
        return {"of_floor": self._parts(figure)}

    def row(self, figure: Figure) -> tuple[str, ...]:
        """See `Report.row`."""
        parts = self._parts(figure)
        goal = ""
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
            *latencies(figure),
            str(figure.memory_mb),
            self.verdict(figure, goal),
        )

    def _parts(self, figure: Figure) -> dict[str, float]:
        """What part of each floor's rate it reached."""
        return {
            each.kind: figure.rate / each.rate
            for each in self.figures
            if each.line == figure.line and each.kind != NODE and figure.kind == NODE
        }
