"""
What is RocksDB's own about the store: bounds, damage, stalls, flushes.

What every store must do stands in tests/conformance/ports/test_store.py; kill -9 and a full
disk in test_rocksdb_crash.py.
"""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from sandglass.adapters import rocksdb
from sandglass.adapters.rocksdb import CUT_ROW_COUNT_MAX, RocksStore, StoreHealth
from sandglass.adapters.rocksdb_errors import translated
from sandglass.adapters.rocksdb_options import BLOB_BYTES_MIN
from sandglass.core.view import RESERVED_KEY, Changes, Row
from sandglass.errors import (
    BusyError,
    CorruptError,
    NoSpaceError,
    PreconditionError,
)

LOWEST, HIGHEST = b"", b"\xff" * 16


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "view"


@pytest.fixture
def store(directory: Path) -> Iterator[RocksStore]:
    store = RocksStore(directory, is_new=True)
    yield store
    store.close()


def rows_of(store: RocksStore) -> list[Row]:
    return list(store.range(LOWEST, HIGHEST))


def write(store: RocksStore, rows: dict[bytes, bytes | None]) -> None:
    store.write(Changes(rows), store.applied_position + 1)


def eventually(condition: Callable[[], bool], *, deadline_s: float = 60) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


# --- one log, one column family, bounds -------------------------------------------------------


def test_own_log_of_rocksdb_stays_empty(store: RocksStore, directory: Path) -> None:
    write(store, {b"a": b"1" * 1000})

    assert [path.stat().st_size for path in directory.glob("*.log")] == [0]


def test_there_is_one_column_family(store: RocksStore, directory: Path) -> None:
    assert Rdict.list_cf(str(directory)) == ["default"]


def test_memory_and_files_are_bounded(store: RocksStore, directory: Path) -> None:
    text = next(directory.glob("OPTIONS-*")).read_text()

    for setting in (
        f"write_buffer_size={16 * 1024 * 1024}",
        "max_write_buffer_number=6",
        "max_open_files=512",
        "enable_blob_files=true",
        "enable_blob_garbage_collection=true",
        f"min_blob_size={BLOB_BYTES_MIN}",
        "level0_slowdown_writes_trigger=20",
        "cache_index_and_filter_blocks=true",
        "create_if_missing=true",
    ):
        assert setting in text


def test_database_is_only_created_when_new(store: RocksStore, directory: Path) -> None:
    store.close()

    RocksStore(directory, is_new=False).close()

    newest = max(directory.glob("OPTIONS-*"))
    assert "create_if_missing=false" in newest.read_text()


def test_nothing_iterates_behind_the_status_or_trusts_the_lower_bound() -> None:
    """`items()` and the like end silently at a bad block; the lower bound sets the upper."""
    source = Path(rocksdb.__file__).read_text()

    assert not re.findall(r"\.(?:items|keys|values|columns|entities)\(", source)
    assert not re.findall(r"\.set_iterate_lower_bound\(", source)
    assert len(re.findall(r"\.iter\(", source)) == 1


# --- opening ----------------------------------------------------------------------------------


def test_new_store_may_be_created_over_one_that_was_left_half_made(directory: Path) -> None:
    RocksStore(directory, is_new=True).close()

    store = RocksStore(directory, is_new=True)

    assert store.applied_position == 0
    store.close()


def test_missing_database_is_not_replaced_by_an_empty_one(directory: Path) -> None:
    with pytest.raises(CorruptError, match=re.escape(str(directory))):
        RocksStore(directory, is_new=False)

    assert not directory.exists()


def test_missing_parent_directory_is_said(tmp_path: Path) -> None:
    with pytest.raises(PreconditionError, match="No such file"):
        RocksStore(tmp_path / "no" / "view", is_new=True)


def test_directory_in_use_is_refused(store: RocksStore, directory: Path) -> None:
    with pytest.raises(PreconditionError, match="in use"):
        RocksStore(directory, is_new=False)


def test_directory_in_use_by_another_process_is_refused(
    store: RocksStore, directory: Path
) -> None:
    code = f"from rocksdict import *; Rdict({str(directory)!r}, Options(raw_mode=True))"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )

    status = found.stderr.strip().splitlines()[-1]
    error = translated(Exception(status), directory, lambda: "")

    assert isinstance(error, PreconditionError)


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("CURRENT", "missing"),
        ("CURRENT", "cut short"),
        ("MANIFEST-*", "missing"),
        ("*.sst", "missing"),
        ("*.sst", "cut short"),
    ],
)
def test_files_that_are_gone_or_short_are_found_when_opened(
    store: RocksStore, directory: Path, pattern: str, damage: str
) -> None:
    write(store, {b"%05d" % number: b"v" * 100 for number in range(1000)})
    store.close()
    path = next(directory.glob(pattern))
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    with pytest.raises(CorruptError, match=r"view .* is damaged: .* restore .* backup"):
        RocksStore(directory, is_new=False)


def test_manifest_that_was_cut_short_shows_in_the_applied_position(
    store: RocksStore, directory: Path
) -> None:
    """
    To RocksDB it is a torn write, and the state before it is good. The log shows that it isn't:
    it doesn't reach back so far.
    """
    write(store, {b"a": b"1"})
    store._database.flush()
    path = next(directory.glob("MANIFEST-*"))
    manifest = path.read_bytes()
    write(store, {b"b": b"2"})
    store.close()
    path.write_bytes(manifest)

    store = RocksStore(directory, is_new=False)

    assert (store.applied_position, rows_of(store)) == (1, [(b"a", b"1")])
    store.close()


def test_applied_position_of_a_wrong_length_is_corrupt(
    store: RocksStore, directory: Path
) -> None:
    store.close()
    database = Rdict(str(directory), Options(raw_mode=True))
    database[RESERVED_KEY] = b"123"
    database.close()

    for _ in range(2):  # the first refusal leaves no lock behind
        with pytest.raises(CorruptError, match="applied position has 3 bytes"):
            RocksStore(directory, is_new=False)


# --- damage -----------------------------------------------------------------------------------


def flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    at = int(len(data) * place)
    data[at : at + 8] = bytes(byte ^ 0xFF for byte in data[at : at + 8])
    path.write_bytes(data)


def read_until_error(store: RocksStore) -> tuple[int, CorruptError]:
    """How many rows were read before the error."""
    found = 0
    try:
        for _ in store.range(LOWEST, HIGHEST):
            found += 1
    except CorruptError as error:
        return found, error
    pytest.fail(f"{found} rows and a silent end")


def test_damaged_block_is_an_error_and_never_a_silent_end(
    store: RocksStore, directory: Path
) -> None:
    count = 20_000
    for first in range(0, count, 1000):
        write(
            store,
            {b"%06d" % number: b"%06d" % number * 20 for number in range(first, first + 1000)},
        )
    store.close()
    flip(next(directory.glob("*.sst")), 0.4)

    store = RocksStore(directory, is_new=False)
    found, error = read_until_error(store)
    assert "is damaged: Corruption: " in error.message
    assert ".sst" in error.message
    assert 0 < found < count
    with pytest.raises(CorruptError):
        store.last(b"", b"%06d" % (found + 5))
    with pytest.raises(CorruptError):
        store.get(b"%06d" % (found + 5))
    with pytest.raises(CorruptError):
        store.write(Changes(cuts=[(b"%06d" % (found - 5), b"%06d" % (found + 5))]), 100)
    assert store.applied_position == count // 1000
    store.close()


def test_damaged_blob_is_an_error(store: RocksStore, directory: Path) -> None:
    write(store, {b"%03d" % number: b"%03d" % number * 3000 for number in range(100)})
    store.close()
    flip(next(directory.glob("*.blob")), 0.5)

    store = RocksStore(directory, is_new=False)

    found, error = read_until_error(store)
    assert "blob" in error.message
    with pytest.raises(CorruptError):
        store.last(LOWEST, b"%03d" % (found + 1))
    with pytest.raises(CorruptError):
        store.get(b"%03d" % found)
    store.close()


def test_missing_blob_file_is_an_error(store: RocksStore, directory: Path) -> None:
    write(store, {b"a": b"x" * BLOB_BYTES_MIN})
    store.close()
    next(directory.glob("*.blob")).unlink()

    store = RocksStore(directory, is_new=False)

    with pytest.raises(CorruptError):
        rows_of(store)
    with pytest.raises(CorruptError):
        store.get(b"a")
    store.close()


# --- cuts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "entry_count"),
    [(CUT_ROW_COUNT_MAX, CUT_ROW_COUNT_MAX), (CUT_ROW_COUNT_MAX + 1, 1)],
)
def test_few_rows_are_deleted_and_many_are_cut_as_a_range(
    store: RocksStore, count: int, entry_count: int
) -> None:
    write(store, {b"k%04d" % number: b"v" for number in range(count)})
    before = store._database.latest_sequence_number()
    changes = Changes()
    changes.cut(b"k", b"l")

    store.write(changes, 2)

    assert rows_of(store) == []
    assert store._database.latest_sequence_number() - before == entry_count + 1


@pytest.mark.slow
def test_room_of_cut_rows_is_given_back(directory: Path) -> None:
    store = RocksStore(directory, is_new=True)
    for first in range(0, 400, 100):
        write(store, {b"k%04d" % number: b"x" * 20_000 for number in range(first, first + 100)})
    store._database.flush()
    blobs_before = set(directory.glob("*.blob"))
    changes = Changes()
    changes.cut(b"k", b"l")
    store.write(changes, store.applied_position + 1)

    def are_blobs_gone() -> bool:
        write(store, {b"k": None, b"l%d" % store.applied_position: b"z" * 100})
        store._database.flush()
        return not blobs_before & set(directory.glob("*.blob"))

    eventually(are_blobs_gone)
    store.close()


# --- stalls -----------------------------------------------------------------------------------


def stall(store: RocksStore) -> None:
    """Makes RocksDB stop writes: two files at level 0 are too many, and nobody merges them."""
    store._database.set_options({"level0_file_num_compaction_trigger": "100"})
    for number in range(2):
        write(store, {b"stall%d" % number: b"1"})
        store._database.flush()
    stall_now(store)


def stall_now(store: RocksStore) -> None:
    store._database.set_options(
        {"level0_slowdown_writes_trigger": "2", "level0_stop_writes_trigger": "2"}
    )


def unstall(store: RocksStore) -> None:
    store._database.set_options(
        {"level0_slowdown_writes_trigger": "20", "level0_stop_writes_trigger": "36"}
    )


def test_stalled_store_is_busy_and_writes_nothing_and_goes_on_later(store: RocksStore) -> None:
    stall(store)
    changes = Changes({b"a": b"1", b"stall0": None})
    changes.cuts.append((b"stall1", b"stall2"))

    with pytest.raises(BusyError) as raised:
        store.write(changes, 9)

    assert raised.value.retry_after_ms == 5
    assert store.health().is_stalled
    assert store.applied_position == 2
    assert rows_of(store) == [(b"stall0", b"1"), (b"stall1", b"1")]
    unstall(store)
    store.write(changes, 9)
    assert not store.health().is_stalled
    assert store.applied_position == 9
    assert rows_of(store) == [(b"a", b"1")]


def test_no_flush_is_started_that_would_wait_for_a_stall(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RocksDB's flush waits, even when told not to, until it would stall nobody."""

    class NoFlush:
        def __init__(self, database: Rdict) -> None:
            self.property_int_value = database.property_int_value

        def flush(self, wait: bool = True) -> None:
            pytest.fail("it would wait for ever")

    store = RocksStore(directory, is_new=True, flush_bytes=4096)
    stall(store)
    unstall(store)
    write(store, {b"a": b"x" * 10_000})
    stall_now(store)
    assert store._number("cur-size-active-mem-table") > 4096
    with monkeypatch.context() as patch:
        patch.setattr(store, "_database", NoFlush(store._database))

        store.flushed_position()

    unstall(store)
    store.close()


def test_health_counts_what_is_waiting(store: RocksStore) -> None:
    quiet = store.health()
    stall(store)

    assert quiet == StoreHealth(0, 0, is_stalled=False)
    assert store.health().level0_file_count == 2
    unstall(store)


# --- flushes ----------------------------------------------------------------------------------


def test_nothing_is_flushed_below_the_amount(store: RocksStore) -> None:
    for _ in range(50):
        write(store, {b"a": b"x" * 1000})

        assert store.flushed_position() == 0


def test_flush_starts_by_itself_and_is_reported_when_done(directory: Path) -> None:
    store = RocksStore(directory, is_new=True, flush_bytes=64 * 1024)
    for number in range(100):
        write(store, {b"%03d" % number: b"x" * 1000})

    eventually(lambda: store.flushed_position() == 100)

    assert list(directory.glob("*.sst"))
    store.close()


def test_flushed_position_is_that_of_the_memtables_gone(directory: Path) -> None:
    store = RocksStore(directory, is_new=True, flush_bytes=1024 * 1024)
    write(store, {b"a": b"x" * 40_000})
    write(store, {b"b": b"x" * 40_000})
    store._database.flush()
    write(store, {b"c": b"x" * 40_000})
    write(store, {b"d": None})

    assert store.flushed_position() == 2
    store._database.flush()
    assert store.flushed_position() == 4
    store.close()


def test_memtables_hold_one_entry_for_each_row_or_deletion(store: RocksStore) -> None:
    """What `flushed_position` rests on: replaced rows, deletions and ranges count as well."""
    for position in range(1, 20):
        changes = Changes({b"same": b"1", b"k%d" % position: b"2", b"none": None})
        changes.cuts.append((b"k", b"l"))
        store.write(changes, position)
    write(store, {b"m%04d" % number: b"" for number in range(CUT_ROW_COUNT_MAX + 1)})
    changes = Changes()
    changes.cut(b"m", b"n")
    store.write(changes, 30)

    assert store._number("num-entries-active-mem-table") == store._entry_count

    store._database.flush()
    assert store._number("num-entries-active-mem-table") == 0
    assert store._number("num-entries-imm-mem-tables") == 0


# --- opening again, closing ------------------------------------------------------------------


def test_closed_store_can_be_reopened(store: RocksStore) -> None:
    write(store, {b"a": b"1"})
    store.close()

    store.reopen()

    assert rows_of(store) == [(b"a", b"1")]


def test_full_disk_at_close_is_said_and_the_lock_is_released(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullDisk:
        def __init__(self, database: Rdict) -> None:
            self.close = database.close

        def flush(self, wait: bool = True) -> None:
            raise Exception("IO error: No space left on device: While appending")

    store = RocksStore(directory, is_new=True)
    monkeypatch.setattr(store, "_database", FullDisk(store._database))

    with pytest.raises(NoSpaceError):
        store.close()

    RocksStore(directory, is_new=False).close()
