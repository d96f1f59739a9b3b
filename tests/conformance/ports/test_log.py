"""
What every `Log` has to do, in memory and in files alike.

A crash of the file log is a copy of the directory of a log that is open: another process would
find just that.
"""

import errno
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sandglass.adapters.filelog import FileLog
from sandglass.adapters.memory_log import MemoryLog
from sandglass.errors import NoSpaceError, OutOfRangeError, UnavailableError
from sandglass.ports import Log
from tests.unit.adapters.faulty_files import FaultyFiles

SEGMENT_BYTES = 4096
RECORD = b"r" * 1000
"""Three of them fill a segment."""


class Harness(Protocol):
    """A log, and what happens to its process and its disk."""

    @property
    def log(self) -> Log: ...

    def restart(self) -> None: ...
    def crash(self, *, is_unsynced_kept: bool = False) -> None: ...
    def fail_sync(self) -> None: ...
    def fill_disk(self) -> None: ...
    def clear_disk(self) -> None: ...
    def end(self) -> None: ...


class MemoryHarness:
    def __init__(self) -> None:
        self.log = MemoryLog(reserve_bytes=SEGMENT_BYTES)

    def restart(self) -> None:
        self.log.close()
        self.log.reopen()

    def crash(self, *, is_unsynced_kept: bool = False) -> None:
        self.log.crash(1_000_000 if is_unsynced_kept else 0)
        self.log.reopen()

    def fail_sync(self) -> None:
        self.log.fail_sync()

    def fill_disk(self) -> None:
        self.log.capacity_bytes = 0

    def clear_disk(self) -> None:
        self.log.capacity_bytes = None

    def end(self) -> None:
        self.log.close()


class FileHarness:
    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="sandglass-log-")
        self._directory = Path(self._folder.name) / "log"
        self._open()

    def restart(self) -> None:
        self.log.close()
        self._open()

    def crash(self, *, is_unsynced_kept: bool = False) -> None:
        if is_unsynced_kept:
            # All is written, and then the sync does not come back.
            self._files.errors["sync"] = errno.EIO
            self._files.skip_counts["sync"] = 1 if self._is_new_segment() else 0
            with pytest.raises(UnavailableError):
                self.log.sync()
        after = self._directory.with_name(self._directory.name + "-")
        shutil.copytree(self._directory, after)
        self._files.errors.clear()
        self.log.close()
        shutil.rmtree(self._directory)
        self._directory = after
        self._open()

    def fail_sync(self) -> None:
        self._files.errors["sync"] = errno.EIO

    def fill_disk(self) -> None:
        self._files.room_bytes = 0

    def clear_disk(self) -> None:
        self._files.room_bytes = None

    def end(self) -> None:
        self._files.errors.clear()
        self.log.close()
        self._folder.cleanup()

    def _open(self) -> None:
        self._files = FaultyFiles()
        self.log = FileLog(
            self._directory,
            segment_bytes=SEGMENT_BYTES,
            reserve_bytes=SEGMENT_BYTES,
            files=self._files,
        )

    def _is_new_segment(self) -> bool:
        return any(not segment.is_started for segment in self.log._segments)


HARNESSES: dict[str, type[MemoryHarness] | type[FileHarness]] = {
    "memory": MemoryHarness,
    "file": FileHarness,
}


@pytest.fixture(params=HARNESSES)
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    harness = HARNESSES[request.param]()
    yield harness
    harness.end()


def all_of(log: Log) -> list[tuple[int, bytes]]:
    return list(log.read(log.first_position))


def put(log: Log, *records: bytes) -> int:
    log.append(records)
    return log.sync()


def test_new_log_is_empty(harness: Harness) -> None:
    log = harness.log

    assert (log.first_position, log.last_position, log.durable_position) == (1, 0, 0)
    assert all_of(log) == []
    assert log.sync() == 0


def test_positions_count_records_from_1(harness: Harness) -> None:
    log = harness.log

    assert log.append([b"a"]) == 1
    assert log.append([b"b", b"", b"c"]) == 4
    assert log.last_position == 4
    assert log.sync() == 4
    assert all_of(log) == [(1, b"a"), (2, b"b"), (3, b""), (4, b"c")]


def test_append_of_nothing_changes_nothing(harness: Harness) -> None:
    put(harness.log, b"a")

    assert harness.log.append([]) == 1
    assert harness.log.sync() == 1
    assert all_of(harness.log) == [(1, b"a")]


def test_what_is_not_synced_is_not_read(harness: Harness) -> None:
    log = harness.log
    put(log, b"a")

    log.append([b"b"])

    assert (log.last_position, log.durable_position) == (2, 1)
    assert all_of(log) == [(1, b"a")]
    log.sync()
    assert all_of(log) == [(1, b"a"), (2, b"b")]


def test_a_caller_may_reuse_its_list_of_records(harness: Harness) -> None:
    records = [b"a", b"b"]
    harness.log.append(records)

    records.clear()

    harness.log.sync()
    assert all_of(harness.log) == [(1, b"a"), (2, b"b")]


def test_read_starts_within_a_batch(harness: Harness) -> None:
    put(harness.log, b"a", b"b", b"c")
    put(harness.log, b"d")

    assert list(harness.log.read(2)) == [(2, b"b"), (3, b"c"), (4, b"d")]
    assert list(harness.log.read(4)) == [(4, b"d")]


def test_read_beyond_the_durable_end_yields_nothing(harness: Harness) -> None:
    put(harness.log, b"a")
    harness.log.append([b"b"])

    assert list(harness.log.read(2)) == []
    assert list(harness.log.read(3)) == []
    assert list(harness.log.read(99)) == []


def test_read_below_the_first_position_is_out_of_range_at_once(harness: Harness) -> None:
    with pytest.raises(OutOfRangeError):
        harness.log.read(0)


def test_a_read_under_way_goes_on_into_what_is_synced_meanwhile(harness: Harness) -> None:
    log = harness.log
    put(log, RECORD)
    reading = log.read(1)
    assert next(reading) == (1, RECORD)

    for _ in range(10):
        put(log, RECORD)

    assert [position for position, _ in reading] == list(range(2, 12))


def test_records_of_every_size_come_back(harness: Harness) -> None:
    sizes = [0, 1, SEGMENT_BYTES - 1, SEGMENT_BYTES, 70_000, 1_100_000]
    records = [bytes([size % 251]) * size for size in sizes]
    for record in records:
        put(harness.log, record)
    put(harness.log, *records)

    harness.restart()

    assert [record for _, record in all_of(harness.log)] == records + records


def test_a_batch_of_thousands_of_records_comes_back(harness: Harness) -> None:
    records = [b"" if number % 3 else str(number).encode() * 30 for number in range(5000)]
    put(harness.log, *records)

    harness.restart()

    assert [record for _, record in all_of(harness.log)] == records


def test_clean_stop_keeps_what_was_synced(harness: Harness) -> None:
    for number in range(20):
        put(harness.log, RECORD, str(number).encode())
    before = all_of(harness.log)

    harness.restart()

    log = harness.log
    assert (log.first_position, log.last_position, log.durable_position) == (1, 40, 40)
    assert all_of(log) == before
    assert log.append([b"next"]) == 41


def test_close_makes_nothing_durable(harness: Harness) -> None:
    put(harness.log, b"a")
    harness.log.append([b"b"])

    harness.restart()

    assert harness.log.last_position == 1
    assert put(harness.log, b"c") == 2
    assert all_of(harness.log) == [(1, b"a"), (2, b"c")]


def test_closed_log_takes_nothing_and_may_be_closed_again(harness: Harness) -> None:
    harness.log.close()
    harness.log.close()

    with pytest.raises(UnavailableError):
        harness.log.append([b"a"])
    with pytest.raises(UnavailableError):
        harness.log.sync()


def test_crash_keeps_all_that_was_synced(harness: Harness) -> None:
    for number in range(20):
        put(harness.log, RECORD, str(number).encode())
    before = all_of(harness.log)
    harness.log.append([b"lost"])

    harness.crash()

    assert harness.log.durable_position == harness.log.last_position == 40
    assert all_of(harness.log) == before


def test_what_a_crash_leaves_of_the_unsynced_is_durable_before_it_is_read(
    harness: Harness,
) -> None:
    put(harness.log, b"a")
    harness.log.append([b"b", b"c"])

    harness.crash(is_unsynced_kept=True)
    assert harness.log.durable_position == harness.log.last_position == 3
    harness.crash()

    assert all_of(harness.log) == [(1, b"a"), (2, b"b"), (3, b"c")]


def test_log_goes_on_after_each_of_many_crashes(harness: Harness) -> None:
    for number in range(6):
        put(harness.log, str(number).encode())
        harness.log.append([RECORD])
        harness.crash(is_unsynced_kept=number % 2 == 1)

    records = [record for _, record in all_of(harness.log)]

    assert records == [b"0", b"1", RECORD, b"2", b"3", RECORD, b"4", b"5", RECORD]


def test_failed_sync_says_that_its_outcome_is_unknown(harness: Harness) -> None:
    put(harness.log, b"a")
    harness.log.append([b"b"])
    harness.fail_sync()

    with pytest.raises(UnavailableError) as caught:
        harness.log.sync()

    assert caught.value.is_result_unknown
    assert harness.log.durable_position == 1
    assert all_of(harness.log) == [(1, b"a")]


def test_after_a_failed_sync_nothing_is_taken(harness: Harness) -> None:
    harness.log.append([b"a"])
    harness.fail_sync()
    with pytest.raises(UnavailableError):
        harness.log.sync()

    for _ in range(2):
        with pytest.raises(UnavailableError):
            harness.log.append([b"b"])
        with pytest.raises(UnavailableError):
            harness.log.sync()

    assert harness.log.last_position == 1
    assert harness.log.durable_position == 0


def test_trim_keeps_what_is_not_below_it(harness: Harness) -> None:
    log = harness.log
    for _ in range(20):
        put(log, RECORD)

    log.trim(11)

    assert 1 < log.first_position <= 11
    assert [position for position, _ in log.read(11)] == list(range(11, 21))
    assert [position for position, _ in all_of(log)] == list(range(log.first_position, 21))
    with pytest.raises(OutOfRangeError):
        log.read(log.first_position - 1)


def test_trimmed_log_opens_and_goes_on(harness: Harness) -> None:
    for _ in range(20):
        put(harness.log, RECORD)
    harness.log.trim(11)
    harness.log.sync()
    first = harness.log.first_position

    harness.crash()
    assert harness.log.first_position == first
    harness.restart()
    assert harness.log.first_position == first

    assert put(harness.log, b"next") == 21
    assert [position for position, _ in all_of(harness.log)] == list(range(first, 22))


def test_trim_never_takes_what_is_not_durable_nor_the_count(harness: Harness) -> None:
    for _ in range(9):
        put(harness.log, RECORD)
    harness.log.append([RECORD])

    harness.log.trim(99)
    harness.log.sync()
    harness.log.trim(99)
    harness.log.sync()
    harness.crash()

    assert harness.log.last_position == 10
    assert put(harness.log, b"next") == 11
    assert list(harness.log.read(11)) == [(11, b"next")]


def test_read_that_is_overtaken_by_trim_says_so(harness: Harness) -> None:
    log = harness.log
    for _ in range(20):
        put(log, RECORD)
    reading = log.read(1)
    next(reading)

    log.trim(20)
    log.sync()

    with pytest.raises(OutOfRangeError):
        list(reading)


def test_full_disk_refuses_append_and_takes_nothing(harness: Harness) -> None:
    log = harness.log
    put(log, b"a")
    harness.fill_disk()

    with pytest.raises(NoSpaceError) as caught:
        log.append([RECORD] * 10)

    assert caught.value.retry_after_ms > 0
    assert log.last_position == 1
    assert log.sync() == 1
    harness.clear_disk()
    assert put(log, *[RECORD] * 10) == 11
    assert len(all_of(log)) == 11


def test_reserve_takes_what_makes_room_while_the_disk_is_full(harness: Harness) -> None:
    log = harness.log
    put(log, b"first")
    harness.fill_disk()
    taken = append_until_full(log, may_use_reserve=False)

    log.append([RECORD], may_use_reserve=True)
    with pytest.raises(NoSpaceError):
        log.append([RECORD])
    log.append([b"ack"], may_use_reserve=True)

    assert log.sync() == taken + 2
    harness.crash()
    assert [record for _, record in all_of(harness.log)][-2:] == [RECORD, b"ack"]


def test_reserve_comes_to_an_end(harness: Harness) -> None:
    harness.fill_disk()

    taken = append_until_full(harness.log, may_use_reserve=True)

    assert 0 < taken < 20
    assert harness.log.sync() == taken


def test_reserve_is_there_again_once_the_disk_was_not_full(harness: Harness) -> None:
    harness.fill_disk()
    append_until_full(harness.log, may_use_reserve=True)
    harness.log.sync()
    harness.clear_disk()
    for _ in range(9):
        put(harness.log, RECORD)
    harness.log.trim(harness.log.last_position)
    harness.log.sync()

    harness.fill_disk()
    before = append_until_full(harness.log, may_use_reserve=False)

    assert append_until_full(harness.log, may_use_reserve=True) > before


def append_until_full(log: Log, *, may_use_reserve: bool) -> int:
    """Appends until there is no room; returns the last position."""
    for _ in range(50):
        try:
            log.append([RECORD], may_use_reserve=may_use_reserve)
        except NoSpaceError:
            return log.last_position
    raise AssertionError("the disk is full, and the log doesn't notice")


def test_append_and_sync_go_on_side_by_side(harness: Harness) -> None:
    """One thread appends, one syncs: each sync covers what was appended before it began."""
    log = harness.log
    done = threading.Event()
    wrong: list[str] = []

    def sync_on() -> None:
        while not done.is_set():
            before = log.last_position
            if log.sync() < before:
                wrong.append(f"sync left {before} behind")

    syncing = threading.Thread(target=sync_on)
    syncing.start()
    for number in range(300):
        log.append([str(number).encode(), RECORD])
    done.set()
    syncing.join(timeout=60)

    assert not syncing.is_alive()
    assert wrong == []
    assert log.sync() == 600
    assert [record for _, record in all_of(log)][::2] == [
        str(number).encode() for number in range(300)
    ]


class LogMachine(RuleBasedStateMachine):
    """Any course of events, beside a list that says what must be there."""

    harness_kind: type[MemoryHarness] | type[FileHarness]

    @initialize()
    def begin(self) -> None:
        self.harness = self.harness_kind()
        self.records: list[bytes] = []
        self.durable = 0
        self.needed = 1

    @rule(records=st.lists(st.binary(max_size=1500), max_size=4))
    def append(self, records: list[bytes]) -> None:
        self.records += records
        assert self.harness.log.append(records) == len(self.records)

    @rule()
    def sync(self) -> None:
        self.durable = len(self.records)
        assert self.harness.log.sync() == self.durable

    @rule(part=st.floats(0, 1))
    def trim(self, part: float) -> None:
        self.needed = max(self.needed, 1 + round(part * self.durable))
        self.harness.log.trim(self.needed)

    @rule()
    def restart(self) -> None:
        del self.records[self.durable :]
        self.harness.restart()

    @rule()
    def crash(self) -> None:
        del self.records[self.durable :]
        self.harness.crash()

    @rule()
    def crash_and_keep(self) -> None:
        if self.durable == len(self.records):
            return
        # What filled a segment may have been synced, and the rest not: still there is one end.
        self.harness.crash(is_unsynced_kept=True)
        last = self.harness.log.last_position
        assert self.durable <= last <= len(self.records)
        del self.records[last:]
        self.durable = last

    @invariant()
    def holds(self) -> None:
        log = self.harness.log
        assert log.last_position == len(self.records)
        assert log.durable_position == self.durable
        assert log.first_position <= self.needed
        expected = list(enumerate(self.records[: self.durable], 1))
        assert all_of(log) == expected[log.first_position - 1 :]

    def teardown(self) -> None:
        if hasattr(self, "harness"):
            self.harness.end()


class MemoryLogMachine(LogMachine):
    harness_kind = MemoryHarness


class FileLogMachine(LogMachine):
    harness_kind = FileHarness


TestMemoryLogMachine = MemoryLogMachine.TestCase
TestMemoryLogMachine.settings = settings(max_examples=60, deadline=None)
TestFileLogMachine = FileLogMachine.TestCase
TestFileLogMachine.settings = settings(max_examples=60, deadline=None)
