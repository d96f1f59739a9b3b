"""`make bench` in small: does every line run, and find everything that it sent?"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RUN_S_MAX = 220
"""A deadline, not a measure: the run takes some twenty seconds."""

BESIDE_FLOORS = {
    "produce",
    "consume",
    "both",
    "schedule",
    "singles",
    "compatible produce, 1000",
    "compatible produce, 1",
}
ALONE = {
    "schedule: a year later",
    "lateness",
    "lateness: a year later",
    "keys: put",
    "keys: get",
    "burst",
    "pending",
    "pending: restart",
    "groups",
    "idle partitions",
    "leases given back",
    "nacked for an hour",
    "nacked, a time each",
    "fair",
    "client produce_many",
    "client async for + ack",
    *(
        f"{face} {work}"
        for face in ("AsyncClient", "Client")
        for work in ("produce", "consume", "futures", "callers")
    ),
}


@pytest.mark.fault
def test_every_line_of_the_bench_runs_and_loses_nothing() -> None:
    command = [sys.executable, "-m", "bench", "--quick", "--json"]

    run = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_S_MAX, check=False
    )

    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads(run.stdout)
    assert report["failures"] == {}
    assert ALONE | BESIDE_FLOORS == _lines_of(report, "node")
    assert BESIDE_FLOORS == _lines_of(report, "file")
    assert BESIDE_FLOORS == _lines_of(report, "empty")
    assert all(each["count"] > 0 and each["rate"] > 0 for each in report["figures"])
    (lateness,) = (each for each in report["figures"] if each["line"] == "lateness")
    assert lateness["notes"]["early"] == 0
    (burst,) = (each for each in report["figures"] if each["line"] == "burst")
    for floor in ("", "empty_", "file_"):
        assert {f"{floor}others_p99_ms", f"{floor}others_p99_ms_before"} <= set(burst["notes"])


def _lines_of(report: dict[str, Any], kind: str) -> set[str]:
    return {each["line"] for each in report["figures"] if each["kind"] == kind}
