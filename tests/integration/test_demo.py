"""The demo plays the day to its end, notices what goes wrong, and leaves nothing behind."""

import io
import os
import pty
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from demo import departures
from demo.board import COLUMNS_MIN, LINES_MIN, LiveBoard, PlainBoard, board_for
from demo.emails import Rates
from demo.flights import Flight, Squeeze, read_flights
from demo.tally import Tally

ROOT = Path(__file__).resolve().parents[2]
BEGINS = datetime(2027, 1, 1, tzinfo=UTC)
HANGUP = pytest.param(
    *(signal.SIGHUP, 129),
    marks=pytest.mark.skipif(
        signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, reason="we run under nohup"
    ),
)


def start_demo(temporary: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "demo.departures", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def children_of(pid: int) -> set[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return {int(child) for child in text.split()}


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def until_gone(pids: set[int], *, within_s: float = 60) -> set[int]:
    end_s = time.monotonic() + within_s
    while any(map(is_running, pids)) and time.monotonic() < end_s:
        time.sleep(0.02)
    return set(filter(is_running, pids))


def test_whole_day_comes_once_and_in_time(tmp_path: Path) -> None:
    demo = start_demo(tmp_path, "--seconds", "3", "--emails", "2000")
    said, _ = demo.communicate(timeout=120)

    assert 0 == demo.returncode, said
    lines = said.splitlines()
    flights = [line for line in lines if re.match(r"(\d\d|--):(\d\d|--)  \d\d:\d\d  ", line)]
    assert 1006 == len(flights)
    assert 69 == sum("cancelled" in line for line in flights)
    assert "delivered 937 of 937" in said
    assert "0 lost, 0 early, 0 double" in said
    assert re.search(r"lateness p50 [\d.]+ ms, p99 [\d.]+ ms, max [\d.]+ ms", said)
    assert "consumed and acked 2,000 one by one" in said
    assert [] == list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for children in /proc")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), HANGUP]
)
def test_stopping_it_stops_the_node_and_the_gates(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    demo = start_demo(tmp_path, "--seconds", "60")
    assert demo.stdout is not None
    while not re.match(r"\d\d:\d\d  ", line := demo.stdout.readline()):
        assert line, "the demo ended before the first departure"
    children = children_of(demo.pid)

    demo.send_signal(number)
    said, _ = demo.communicate(timeout=60)

    assert code == demo.returncode, said
    assert 3 == len(children)
    assert set() == until_gone(children)
    assert [] == list(tmp_path.iterdir())
    assert "Traceback" not in said


def test_reader_that_goes_away_ends_it_without_a_traceback(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "demo.departures", "--seconds", "60"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert demo.stdout is not None
    assert demo.stderr is not None
    demo.stdout.readline()

    demo.stdout.close()

    assert 1 == demo.wait(timeout=60)
    assert b"" == demo.stderr.read()
    assert [] == list(tmp_path.iterdir())
    demo.stderr.close()


def test_file_of_the_day_is_whole() -> None:
    flights = read_flights()

    assert 1006 == len(flights)
    assert 937 == sum(flight.departed is not None for flight in flights)
    assert 1006 == len({flight.value for flight in flights})


def test_squeezed_day_keeps_its_order_and_its_length() -> None:
    flights = read_flights()
    left = sorted(flight.departed for flight in flights if flight.departed is not None)

    squeeze = Squeeze.of(flights, begins=BEGINS + timedelta(microseconds=1234), seconds=30)
    due = [squeeze.due(moment) for moment in left]

    assert sorted(due) == due
    assert due[0] == BEGINS + timedelta(milliseconds=1)
    assert due[-1] == due[0] + timedelta(seconds=30)
    assert all(each.microsecond % 1000 == 0 for each in due)


# --- what goes wrong is noticed ---------------------------------------------------------------


@pytest.fixture
def flight() -> Flight:
    return next(flight for flight in read_flights() if flight.departed is not None)


@pytest.fixture
def tally(flight: Flight) -> Tally:
    return Tally({flight.value: (flight, BEGINS)})


def test_message_in_time_is_good(flight: Flight, tally: Tally) -> None:
    departure = tally.took(flight.value, BEGINS, "gate-1")

    assert departure is not None
    assert tally.is_good
    assert tally.is_complete


def test_message_that_never_came_is_lost(tally: Tally) -> None:
    assert 1 == tally.lost_count
    assert not tally.is_good


def test_message_before_its_time_is_early(flight: Flight, tally: Tally) -> None:
    tally.took(flight.value, BEGINS - timedelta(microseconds=1), "gate-1")

    assert 1 == tally.early_count
    assert not tally.is_good


def test_message_that_came_again_is_double(flight: Flight, tally: Tally) -> None:
    tally.took(flight.value, BEGINS, "gate-1")

    again = tally.took(flight.value, BEGINS, "gate-2")

    assert again is None
    assert 1 == tally.double_count
    assert not tally.is_good


def test_message_with_other_bytes_is_unknown(flight: Flight, tally: Tally) -> None:
    tally.took(flight.value, BEGINS, "gate-1")

    tally.took(flight.value + b" ", BEGINS, "gate-1")

    assert 1 == tally.unknown_count
    assert not tally.is_good


@pytest.mark.parametrize(
    "counts",
    [(10, 9, 0, 9), (10, 10, 1, 10), (10, 10, 0, 9)],
    ids=["lost", "double", "unacked"],
)
def test_emails_that_went_wrong_are_not_good(counts: tuple[int, int, int, int]) -> None:
    sent, taken, double, acked = counts

    assert not Rates(sent, 1.0, taken, 1.0, double, acked).is_good
    assert Rates(10, 1.0, 10, 1.0, 0, 10).is_good


@pytest.mark.parametrize(("is_good", "code"), [(True, 0), (False, 1)])
def test_exit_code_says_whether_all_went_well(
    monkeypatch: pytest.MonkeyPatch, is_good: bool, code: int
) -> None:
    async def play(*_: object, **__: object) -> bool:
        return is_good

    monkeypatch.setattr(departures, "play", play)
    monkeypatch.setattr(sys, "argv", ["demo"])

    assert code == departures.main()


# --- the board --------------------------------------------------------------------------------


def test_board_is_lines_where_nobody_watches() -> None:
    assert isinstance(board_for(Console(file=io.StringIO())), PlainBoard)


@pytest.mark.parametrize(
    ("width", "height", "kind"),
    [
        (80, 24, LiveBoard),
        (COLUMNS_MIN, LINES_MIN, LiveBoard),
        (COLUMNS_MIN - 1, 24, PlainBoard),
        (80, LINES_MIN - 1, PlainBoard),
    ],
)
def test_board_is_live_where_a_terminal_has_room_for_it(
    width: int, height: int, kind: type[object]
) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        console = Console(file=terminal, width=width, height=height, force_terminal=True)

        board = board_for(console)

    os.close(ours)
    assert isinstance(board, kind)


def test_live_board_shows_departures_and_cancellations(flight: Flight, tally: Tally) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, height=30)
    departure = tally.took(flight.value, BEGINS + timedelta(milliseconds=2), "gate-1")
    assert departure is not None
    never_left = next(each for each in read_flights() if each.departed is None)

    with LiveBoard(console) as board:
        board.departed(departure)
        board.cancelled(never_left)
        board.refresh(flight.scheduled, tally)

    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert flight.name in shown
    assert "2.0 ms" in shown
    assert never_left.name in shown
    assert "1 of 1 left, 1 cancelled, 0 early" in shown
