"""The demo on three nodes plays to its end though one is killed, and leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from demo.flights import read_flights
from demo.tally import Tally

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
BEGINS = datetime(2027, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def start_demo(temporary: Path, seconds: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "demo.cluster", "--seconds", str(seconds)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def running_in(directory: Path) -> list[str]:
    """The commands of processes that have something of this directory among their words."""
    commands: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in command:
            commands.append(command)
    return commands


@pytest.mark.fault
def test_board_goes_on_when_the_leader_is_killed(tmp_path: Path) -> None:
    demo = start_demo(tmp_path, 3)
    said, _ = demo.communicate(timeout=180)

    assert demo.returncode == 0, said
    assert "delivered 937 of 937" in said
    assert "0 lost, 0 early, 0 double" in said
    assert re.search(
        r"node0 was killed half way, with its engine; now they are led by node", said
    )
    assert re.search(r"nothing came for [\d.]+ s after the kill", said)
    assert running_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault
def test_stopping_it_stops_nodes_engines_and_gates(tmp_path: Path) -> None:
    demo = start_demo(tmp_path, 60)
    assert demo.stdout is not None
    while not re.match(r"\d\d:\d\d  ", line := demo.stdout.readline()):
        assert line, "the demo ended before the first departure"
    assert len(running_in(tmp_path)) == 6

    demo.send_signal(signal.SIGINT)
    said, _ = demo.communicate(timeout=60)

    assert demo.returncode == 130, said
    end_s = time.monotonic() + 60
    while running_in(tmp_path) and time.monotonic() < end_s:
        time.sleep(0.02)
    assert running_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
    assert "Traceback" not in said


# --- what counts as double where a leader may die ---------------------------------------------


@pytest.mark.parametrize(("acked_s", "doubles"), [(None, 0), (1, 1), (2, 1), (3, 0)])
def test_only_what_was_acknowledged_before_is_double(acked_s: int | None, doubles: int) -> None:
    flight = next(flight for flight in read_flights() if flight.departed is not None)
    tally = Tally({flight.value: (flight, BEGINS)}, is_forgiving=True)
    tally.took(flight.value, BEGINS, "gate-1")
    if acked_s is not None:
        tally.knows_acked(flight.value, BEGINS + acked_s * SECOND)

    tally.took(flight.value, BEGINS + 2 * SECOND, "gate-2")

    assert doubles == tally.double_count
    assert 1 - doubles == tally.again_count
    assert tally.is_good == (doubles == 0)


def test_longest_wait_is_counted_from_the_kill_on() -> None:
    flights = [flight for flight in read_flights() if flight.departed is not None][:4]
    tally = Tally({flight.value: (flight, BEGINS) for flight in flights})
    for flight, after_s in zip(flights, (0, 9, 12, 13), strict=True):
        tally.took(flight.value, BEGINS + after_s * SECOND, "gate-1")

    assert tally.longest_wait(BEGINS + 8 * SECOND) == 3 * SECOND
    assert tally.longest_wait(BEGINS + 13 * SECOND) == timedelta(0)
