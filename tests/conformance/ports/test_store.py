"""
What every `Store` has to do, in memory and in RocksDB alike.

A crash of RocksDB is a copy of the directory of a store that is open: its own log is off, so
the files are what a new process would find.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandglass.adapters.memory_store import MemoryStore
from sandglass.adapters.rocksdb import CUT_ROW_COUNT_MAX, RocksStore
from sandglass.adapters.shared_store import StorePart
from sandglass.core.keys import MARK_KEY
from sandglass.core.view import RESERVED_KEY, Changes, Row
from sandglass.errors import BusyError, UnavailableError
from sandglass.ports import FrozenRows, Store
from tests.store_model import carry_out

LOWEST, HIGHEST = b"", b"\xff" * 16


class Harness(Protocol):
    """A store, and what happens to its process."""

    @property
    def store(self) -> Store: ...

    def restart(self) -> None: ...
    def crash(self) -> None: ...
    def end(self) -> None: ...


class MemoryHarness:
    def __init__(self) -> None:
        self.store = MemoryStore(flush_write_count=4)

    def restart(self) -> None:
        self.store.close()
        self.store.reopen()

    def crash(self) -> None:
        self.store.crash(kept_write_count=self.store.unflushed_write_count // 2)
        self.store.reopen()

    def end(self) -> None:
        self.store.close()


class RocksHarness:
    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="sandglass-store-")
        self._directory = Path(self._folder.name) / "view"
        self.store = self._open(is_new=True)

    def restart(self) -> None:
        self.store.close()
        self.store = self._open(is_new=False)

    def crash(self) -> None:
        after = self._directory.with_name(self._directory.name + "-after")
        deadline = time.monotonic() + 60
        # A copy takes its time: it counts when the files stayed the same meanwhile.
        while not self._is_copied(after):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        self.store.close()
        self._directory = after
        self.store = self._open(is_new=False)

    def _is_copied(self, after: Path) -> bool:
        shutil.rmtree(after, ignore_errors=True)
        before = self._files()
        try:
            shutil.copytree(self._directory, after)
        except shutil.Error:
            return False
        return before is not None and before == self._files()

    def _files(self) -> list[str] | None:
        """Their names, or None while RocksDB is at work on them."""
        if any(
            self.store._number(f"num-running-{work}") for work in ("flushes", "compactions")
        ):
            return None
        return sorted(path.name for path in self._directory.iterdir())

    def end(self) -> None:
        self.store.close()
        self._folder.cleanup()

    def _open(self, *, is_new: bool) -> RocksStore:
        return RocksStore(
            self._directory, is_new=is_new, write_buffer_bytes=65536, flush_bytes=16384
        )


class PartHarness:
    """A part of a database, between two others that hold something."""

    def __init__(self) -> None:
        self._below = RocksHarness()
        for number in (6, 8):
            neighbour = StorePart(self._below.store, number)
            neighbour.write(Changes({LOWEST + b"a": b"other", HIGHEST: b"other"}), 100)
        self.store = StorePart(self._below.store, 7)

    def restart(self) -> None:
        self._below.restart()
        self.store = StorePart(self._below.store, 7)

    def crash(self) -> None:
        self._below.crash()
        self.store = StorePart(self._below.store, 7)

    def end(self) -> None:
        for number in (6, 8):
            neighbour = StorePart(self._below.store, number)
            assert neighbour.applied_position in {0, 100}  # a crash may have taken it
            assert len(list(neighbour.range(LOWEST, HIGHEST + b"\xff"))) in {0, 2}
        self._below.end()


HARNESSES: dict[str, type[MemoryHarness] | type[RocksHarness] | type[PartHarness]] = {
    "memory": MemoryHarness,
    "rocksdb": RocksHarness,
    "part": PartHarness,
}


@pytest.fixture(params=HARNESSES)
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    harness = HARNESSES[request.param]()
    yield harness
    harness.end()


def rows_of(store: Store) -> list[Row]:
    return list(store.range(LOWEST, HIGHEST))


def write(store: Store, rows: dict[bytes, bytes | None], *cuts: tuple[bytes, bytes]) -> None:
    write_at(store, Changes(rows, list(cuts)), store.applied_position + 1)


def write_at(store: Store, changes: Changes, position: int) -> None:
    """As the node does: a stalled store is asked again."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return store.write(changes, position)
        except BusyError as error:
            assert time.monotonic() < deadline
            time.sleep(error.retry_after_ms / 1000)


def test_new_store_is_empty_and_at_position_0(harness: Harness) -> None:
    store = harness.store

    assert store.applied_position == 0
    assert store.flushed_position() == 0
    assert rows_of(store) == []
    assert store.last(LOWEST, HIGHEST) is None
    assert store.get(b"a") is None


def test_what_is_written_is_read(harness: Harness) -> None:
    write(harness.store, {b"b": b"2", b"a": b"1", b"c": b""})

    assert harness.store.get(b"a") == b"1"
    assert harness.store.get(b"c") == b""
    assert harness.store.get(b"aa") is None
    assert rows_of(harness.store) == [(b"a", b"1"), (b"b", b"2"), (b"c", b"")]


@pytest.mark.parametrize("is_restarted", [False, True])
def test_has_tells_a_row_from_none_however_large(harness: Harness, is_restarted: bool) -> None:
    write(harness.store, {b"b": bytes(1 << 20), b"a": b"1", b"c": b"", b"d": b"4"})
    write(harness.store, {b"a": None}, (b"d", b"e"))
    if is_restarted:
        harness.restart()

    asked = (b"a", b"b", b"b\0", b"bb", b"c", b"d", b"")
    assert [key for key in asked if harness.store.has(key)] == [b"b", b"c"]


def test_range_holds_its_first_key_and_not_its_end(harness: Harness) -> None:
    write(harness.store, dict.fromkeys([b"a", b"b", b"b\x00", b"c"], b"v"))

    assert [key for key, _ in harness.store.range(b"b", b"c")] == [b"b", b"b\x00"]
    assert [key for key, _ in harness.store.range(b"aa", b"b")] == []


@pytest.mark.parametrize(("first", "end"), [(b"b", b"b"), (b"c", b"a"), (HIGHEST, LOWEST)])
def test_empty_range_has_no_rows(harness: Harness, first: bytes, end: bytes) -> None:
    write(harness.store, dict.fromkeys([b"a", b"b", b"c"], b"v"))

    assert list(harness.store.range(first, end)) == []
    assert harness.store.last(first, end) is None


def test_order_is_that_of_unsigned_bytes(harness: Harness) -> None:
    keys = [b"\x00", b"\x00\x00", b"\x7f", b"\x80", b"\xff", b"\xff\x00"]
    write(harness.store, dict.fromkeys(reversed(keys), b"v"))

    assert [key for key, _ in rows_of(harness.store)] == keys


def test_last_is_the_greatest_below_the_end(harness: Harness) -> None:
    store = harness.store
    write(store, {b"a": b"1", b"b": b"2", b"d": b"4"})

    assert store.last(b"a", b"d") == (b"b", b"2")
    assert store.last(b"a", b"d\x00") == (b"d", b"4")
    assert store.last(b"c", b"d") is None
    assert store.last(b"e", b"f") is None


def test_none_deletes_and_may_find_nothing_to_delete(harness: Harness) -> None:
    write(harness.store, {b"a": b"1", b"b": b"2"})

    write(harness.store, {b"a": None, b"zz": None})

    assert rows_of(harness.store) == [(b"b", b"2")]
    assert harness.store.get(b"a") is None


def test_cuts_come_before_rows(harness: Harness) -> None:
    write(harness.store, {b"a": b"old", b"b": b"old"})

    write(harness.store, {b"b": b"new"}, (b"a", b"c"))

    assert rows_of(harness.store) == [(b"b", b"new")]


@pytest.mark.parametrize("count", [0, 1, CUT_ROW_COUNT_MAX, CUT_ROW_COUNT_MAX + 1, 500])
def test_cut_takes_its_range_and_no_more(harness: Harness, count: int) -> None:
    keys = [b"k%04d" % number for number in range(count)]
    write(harness.store, {**dict.fromkeys(keys, b"v"), b"j": b"1", b"l": b"2"})

    write(harness.store, {}, (b"k", b"l"))

    assert rows_of(harness.store) == [(b"j", b"1"), (b"l", b"2")]


def test_large_values_come_back_whole(harness: Harness) -> None:
    value = bytes(range(256)) * 4096

    write(harness.store, {b"large": value, b"small": b"s"})
    harness.restart()

    assert harness.store.get(b"large") == value
    assert rows_of(harness.store) == [(b"large", value), (b"small", b"s")]


def test_applied_position_is_what_the_last_write_carried(harness: Harness) -> None:
    harness.store.write(Changes({b"a": b"1"}), 7)
    harness.store.write(Changes(), 12)

    assert harness.store.applied_position == 12


def test_applied_position_is_no_row_and_no_cut_takes_it(harness: Harness) -> None:
    store = harness.store
    write(store, {b"\x00applie": b"1", b"\x00applied\x00": b"2"})

    assert rows_of(store) == [(b"\x00applie", b"1"), (b"\x00applied\x00", b"2")]
    assert store.last(LOWEST, b"\x00applied\x00") == (b"\x00applie", b"1")
    assert store.last(RESERVED_KEY, RESERVED_KEY + b"\x00") is None
    write(store, {}, (LOWEST, HIGHEST))
    harness.restart()
    assert rows_of(harness.store) == []
    assert harness.store.applied_position == 2


def test_row_with_the_reserved_key_is_a_defect(harness: Harness) -> None:
    with pytest.raises(AssertionError, match="reserved"):
        write(harness.store, {RESERVED_KEY: b"1"})


def test_applied_position_that_goes_back_is_a_defect(harness: Harness) -> None:
    harness.store.write(Changes(), 5)

    with pytest.raises(AssertionError, match="went back"):
        harness.store.write(Changes(), 4)


def test_range_is_over_with_the_next_write(harness: Harness) -> None:
    write(harness.store, {b"a": b"1", b"b": b"2"})
    rows = harness.store.range(LOWEST, HIGHEST)
    assert next(rows) == (b"a", b"1")

    write(harness.store, {b"c": b"3"})

    with pytest.raises(AssertionError, match="over with the next write"):
        next(rows)


def test_close_keeps_everything(harness: Harness) -> None:
    for number in range(50):
        write(harness.store, {b"%03d" % number: b"v" * 100})
    before = rows_of(harness.store)

    harness.restart()

    assert rows_of(harness.store) == before
    assert harness.store.applied_position == 50
    assert harness.store.flushed_position() == 50


def test_close_may_be_repeated(harness: Harness) -> None:
    harness.store.close()
    harness.store.close()


def test_open_ranges_do_not_hinder_a_restart(harness: Harness) -> None:
    write(harness.store, {b"a": b"1", b"b": b"2"})
    rows = harness.store.range(LOWEST, HIGHEST)
    next(rows)

    harness.restart()

    assert rows_of(harness.store) == [(b"a", b"1"), (b"b", b"2")]


def test_crash_leaves_an_exact_prefix_that_reaches_the_flushed_position(
    harness: Harness,
) -> None:
    """Each write adds, changes, deletes and now and then cuts, so every position differs."""
    histories: list[list[Row]] = [[]]
    model: dict[bytes, bytes] = {}
    flushed_position = 0
    for position in range(1, 401):
        changes = changes_at(position)
        write_at(harness.store, changes, position)
        carry_out(changes, model)
        histories.append(sorted(model.items()))
        flushed = harness.store.flushed_position()
        assert flushed_position <= flushed <= position
        flushed_position = flushed
    # A flush runs in the background: the first may still be under way.
    deadline = time.monotonic() + 60
    while not flushed_position:
        assert time.monotonic() < deadline
        time.sleep(0.002)
        flushed_position = harness.store.flushed_position()

    harness.crash()

    assert 0 < flushed_position <= harness.store.applied_position
    assert rows_of(harness.store) == histories[harness.store.applied_position]
    assert harness.store.flushed_position() == harness.store.applied_position


def test_store_goes_on_after_a_crash(harness: Harness) -> None:
    for position in range(1, 101):
        write_at(harness.store, changes_at(position), position)

    harness.crash()
    for position in range(harness.store.applied_position + 1, 101):
        write_at(harness.store, changes_at(position), position)

    model: dict[bytes, bytes] = {}
    for position in range(1, 101):
        carry_out(changes_at(position), model)
    assert rows_of(harness.store) == sorted(model.items())


def changes_at(position: int) -> Changes:
    """What the record at this position does: the same each time."""
    changes = Changes()
    if position % 20 == 0:
        changes.cut(b"k%06d" % (position - 20), b"k%06d" % (position - 10))
    changes.rows[b"k%06d" % position] = b"%d " % position * 100
    changes.rows[b"k%06d" % (position - 3)] = None
    changes.rows[b"latest"] = b"%d" % position
    return changes


KEYS = st.one_of(
    st.text("\x00ab\xff", max_size=3).map(lambda text: text.encode("latin-1")),
    st.sampled_from([b"\x00applie", b"\x00applied\x00", b"\x00b"]),
)
VALUES = st.one_of(st.none(), st.binary(max_size=3), st.just(b"x" * 5000))
CHANGES = st.builds(
    Changes,
    st.dictionaries(KEYS, VALUES, max_size=5),
    st.lists(st.tuples(KEYS, KEYS), max_size=2),
)


@pytest.mark.parametrize("name", HARNESSES)
@settings(max_examples=40, deadline=None)
@given(
    writes=st.lists(st.tuples(CHANGES, st.booleans()), max_size=6),
    reads=st.lists(st.tuples(KEYS, KEYS), min_size=1, max_size=6),
)
def test_store_agrees_with_a_dict(
    name: str, writes: list[tuple[Changes, bool]], reads: list[tuple[bytes, bytes]]
) -> None:
    harness: Harness = HARNESSES[name]()
    model: dict[bytes, bytes] = {}
    try:
        for changes, is_restarted in writes:
            harness.store.write(changes, harness.store.applied_position + 1)
            carry_out(changes, model)
            if is_restarted:
                harness.restart()
            for first, end in [*reads, (LOWEST, HIGHEST)]:
                expected = sorted(row for row in model.items() if first <= row[0] < end)
                assert list(harness.store.range(first, end)) == expected
                assert harness.store.last(first, end) == (expected[-1] if expected else None)
                assert harness.store.get(first) == model.get(first)
    finally:
        harness.end()


class Freezing(Store, Protocol):
    def freeze(self) -> FrozenRows: ...


@pytest.fixture(params=["memory", "part"])
def freezing(request: pytest.FixtureRequest) -> Iterator[Harness]:
    harness = HARNESSES[request.param]()
    yield harness
    harness.end()


def taken(rows: FrozenRows, row_count: int = 3, size_bytes: int = 1000) -> list[Row]:
    found: list[Row] = []
    while some := rows.take(row_count=row_count, size_bytes=size_bytes):
        assert len(some) <= row_count
        found += some
    return found


def frozen_of(store: Store) -> FrozenRows:
    return cast(Freezing, store).freeze()


def test_frozen_rows_are_those_of_their_moment(freezing: Harness) -> None:
    store = freezing.store
    write(store, {b"k%03d" % number: b"old" for number in range(100)})
    before = rows_of(store)
    frozen = frozen_of(store)
    first = frozen.take(row_count=10, size_bytes=1000)
    write(store, {b"k050": b"new", b"k055": None, b"z": b"new"}, (b"k060", b"k070"))

    assert first + taken(frozen) == before
    assert frozen.take(row_count=1, size_bytes=1) == []
    assert taken(frozen_of(store)) == rows_of(store)
    frozen.close()
    frozen.close()
    with pytest.raises(UnavailableError):
        frozen.take(row_count=1, size_bytes=1)


def test_frozen_rows_come_in_slices(freezing: Harness) -> None:
    write(freezing.store, {b"a": bytes(50), b"b": bytes(50), b"c": bytes(50)})
    frozen = frozen_of(freezing.store)

    assert len(frozen.take(row_count=1, size_bytes=1000)) == 1
    assert len(frozen.take(row_count=9, size_bytes=1)) == 1
    assert len(frozen.take(row_count=9, size_bytes=1000)) == 1


def test_frozen_rows_of_a_store_that_is_closed_dont_just_end(freezing: Harness) -> None:
    write(freezing.store, {b"a": b"1", b"b": b"2"})
    frozen = frozen_of(freezing.store)
    freezing.restart()

    with pytest.raises(UnavailableError):
        frozen.take(row_count=1, size_bytes=1)


def test_a_part_with_rows_and_no_mark_is_unfinished() -> None:
    harness = PartHarness()
    part = harness.store
    assert not part.is_unfinished
    part.write(Changes({b"a": b"1"}), 0)
    assert part.is_unfinished
    harness.restart()
    assert harness.store.is_unfinished
    harness.store.write(Changes({MARK_KEY: b"here"}), 5)
    assert not harness.store.is_unfinished
    harness.store.wipe()
    assert not harness.store.is_unfinished
    harness.end()
