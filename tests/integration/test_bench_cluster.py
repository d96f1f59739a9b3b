"""`make bench-cluster` in small: does every line run, and find everything that it sent?"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN_S_MAX = 600
"""A deadline, not a measure: the run takes some forty seconds."""

LINES = {
    "produce",
    "both",
    "singles",
    "1 partition, RF 1",
    "1 partition, RF 2",
    "1 partition, RF 3",
    "2 partitions, RF 3",
    "4 partitions, RF 3",
    "RF 1, peers away",
    "failover: SIGTERM",
    "failover: node killed",
    "failover: node and engine killed",
    "idle: 3 partitions",
    "catch-up",
}
FLOORS = {
    ("produce", "engine"),
    ("RF 1, peers away", "file"),
    ("RF 1, peers away", "single node"),
}


@pytest.mark.fault
def test_every_line_of_the_cluster_bench_runs_and_loses_nothing() -> None:
    command = [sys.executable, "-m", "bench.cluster", "--quick", "--json"]

    run = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_S_MAX, check=False
    )

    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads(run.stdout)
    assert report["failures"] == {}
    assert {(line, "nodes") for line in LINES} | FLOORS == {
        (each["line"], each["kind"]) for each in report["figures"]
    }
    assert all(each["count"] > 0 for each in report["figures"])
