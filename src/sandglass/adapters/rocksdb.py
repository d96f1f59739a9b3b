"""
The view in RocksDB: what the node reads, rebuilt from the log after a crash.

1. RocksDB's own log is off. What is in memory dies with the process; the applied position is
   written in one batch with the rows, so what is found afterwards is an exact prefix.
2. No write and no flush waits, `close` apart: `rocksdict` holds the interpreter's lock. Where
   RocksDB would delay a write it is refused (`BusyError`), and a flush is only started where
   it can begin at once.
3. Rows are read through `_range` and `last` alone. An iterator of RocksDB just ends at a
   damaged block; only its `status` tells the difference.
4. An iterator keeps the database, and its lock, alive: those still open are closed before it.
5. `rocksdict` raises nothing narrower than `Exception`, with RocksDB's status as its text;
   `sandglass.adapters.rocksdb_errors` makes an error of ours of it.

How RocksDB is set up: `sandglass.adapters.rocksdb_options`; the reasons for that are in
docs/internals/view-storage.md.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from weakref import WeakSet

from rocksdict import Cache, Rdict, RdictIter, ReadOptions, WriteBatch

from sandglass.adapters.files import Files
from sandglass.adapters.rocksdb_errors import damaged, translated
from sandglass.adapters.rocksdb_options import (
    CACHE_BYTES,
    FLUSH_BYTES,
    LEVEL0_SLOWDOWN_COUNT,
    WRITE_BUFFER_BYTES,
    database_options,
    write_options,
)
from sandglass.core.view import RESERVED_KEY, Changes, Row
from sandglass.errors import BusyError, CorruptError, SandglassError, UnavailableError

CUT_ROW_COUNT_MAX: Final = 32
"""A cut of up to so many rows deletes them one by one: range tombstones slow down seeks."""

MARK_COUNT: Final = 32
"""How finely positions are remembered for `flushed_position`: so many per `flush_bytes`."""

ADVICE: Final = "stop the node and restore its data directory from a backup"


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """How far the store is behind with its work."""

    level0_file_count: int
    immutable_memtable_count: int
    is_stalled: bool
    """Writes are refused just now."""


class RocksStore:
    """
    The `Store` port over RocksDB, one directory and one process each.

    Args:
        directory: made where missing; its parent must be there.
        is_new: nothing was ever kept here (the superblock says so). RocksDB opens an *empty*
            database where files are missing, so it must not be asked to when there was one.
        write_buffer_bytes: size of a memtable; `MEMTABLE_COUNT_MAX` of them at most.
        flush_bytes: in memory, before `flushed_position` starts a flush.
        cache_bytes: for blocks that were read.
        files: for what isn't RocksDB's: the directory.
        advice: what to do about damage, in an imperative; asked when there is some.

    Raises:
        PreconditionError: another process, or another store of this one, has the directory, or
            it cannot be made; the message says why.
        CorruptError: files are missing or damaged.
        NoSpaceError: the disk is full.
        UnavailableError: the disk takes nothing.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        is_new: bool,
        write_buffer_bytes: int = WRITE_BUFFER_BYTES,
        flush_bytes: int = FLUSH_BYTES,
        cache_bytes: int = CACHE_BYTES,
        files: Files | None = None,
        advice: Callable[[], str] = lambda: ADVICE,
    ) -> None:
        self._directory = Path(directory)
        self._advice = advice
        self._files = files or Files()
        self._write_buffer_bytes = write_buffer_bytes
        self._flush_bytes = flush_bytes
        self._mark_bytes = flush_bytes // MARK_COUNT
        self._cache = Cache(cache_bytes)
        self._write_options = write_options()
        self._ranges: WeakSet[Iterator[Row]] = WeakSet()
        self._frozen: WeakSet[RocksRows] = WeakSet()
        self._write_count = 0
        self._is_open = False
        if is_new:
            self._make_directory()
        self._open(is_new=is_new)

    def _make_directory(self) -> None:
        """The directory, and its name made durable: the log is trimmed trusting in it."""
        try:
            self._files.make_directory(self._directory)
            self._files.sync_directory(self._directory.parent)
        except OSError as exc:
            raise self._translated(exc) from exc

    def _open(self, *, is_new: bool) -> None:
        # Asked for a database that isn't there, RocksDB leaves files behind.
        if not is_new and not (self._directory / "CURRENT").exists():
            raise self._corrupt("there is no database")
        options = database_options(self._write_buffer_bytes, self._cache)
        options.create_if_missing(is_new)
        try:
            self._database = Rdict(str(self._directory), options)
        except Exception as exc:
            raise self._translated(exc) from exc
        self._is_open = True
        try:
            self._applied_position = self._read_position()
        except SandglassError:
            self._release()
            raise
        # Memtables are empty now: what was found is in files, and those are synced.
        self._flushed_position = self._applied_position
        self._entry_count = 0
        self._marks: deque[tuple[int, int]] = deque()  # (entry count, position)
        self._unmarked_bytes = 0

    def _read_position(self) -> int:
        value = self.get(RESERVED_KEY)
        if value is not None and len(value) != 8:
            raise self._corrupt(f"the applied position has {len(value)} bytes, not 8")
        return int.from_bytes(value or b"", "big")

    # --- reading ------------------------------------------------------------------------------

    @property
    def applied_position(self) -> int:
        """The position that the last write carried; 0 in a new store."""
        return self._applied_position

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""
        try:
            return self._database.get(key)
        except Exception as exc:
            raise self._translated(exc) from exc

    def has(self, key: bytes) -> bool:
        """
        Is there a row of this key? A large value is read on the way, for RocksDB knows no other
        one, but no checksum is: that is six sevenths of the cost. So on a damaged disk this may
        err; what it has read stays in no cache.

        Raises:
            CorruptError: the key cannot be looked for.
        """
        options = ReadOptions()
        options.set_verify_checksums(False)
        # Its stub calls it a property; it is a method.
        options.fill_cache(False)  # pyright: ignore[reportCallIssue]
        cursor = self._cursor(key + b"\0", options)
        cursor.seek(key)
        if cursor.valid():
            return True
        error = self._trouble(cursor)
        if error is not None:
            del cursor
            raise error
        return False

    def range(self, first: bytes, end: bytes) -> Iterator[Row]:
        """
        Rows in `[first, end)`, ascending; over with the next write. It holds a snapshot of the
        database in place while it is open.

        Raises:
            CorruptError: a row cannot be read.
        """
        rows = self._range(first, end)
        self._ranges.add(rows)
        return rows

    def _range(self, first: bytes, end: bytes) -> Iterator[Row]:
        write_count = self._write_count
        for low, high in _around_reserved(first, end):
            cursor = self._cursor(high)
            cursor.seek(low)
            while cursor.valid():
                yield cursor.key(), cursor.value()
                assert write_count == self._write_count, "a range is over with the next write"
                cursor.next()
            error = self._trouble(cursor)
            if error is not None:
                del cursor  # the traceback would keep it, and with it the database's lock
                raise error

    def freeze(self, first: bytes, end: bytes) -> "RocksRows":
        """
        Rows in `[first, end)` as they are now, whatever is written from here on; see
        `FrozenRows`.

        Raises:
            CorruptError: they cannot be read.
        """
        cursor = self._cursor(end)
        cursor.seek(first)
        rows = RocksRows(cursor, self._trouble)
        self._frozen.add(rows)
        return rows

    def last(self, first: bytes, end: bytes) -> Row | None:
        """
        The greatest row in `[first, end)`, or None.

        Raises:
            CorruptError: a row cannot be read.
        """
        for low, high in reversed(_around_reserved(first, end)):
            cursor = self._cursor(high)
            cursor.seek_to_last()
            if cursor.valid():
                if cursor.key() >= low:
                    return cursor.key(), cursor.value()
                continue
            error = self._trouble(cursor)
            if error is not None:
                del cursor
                raise error
        return None

    def _cursor(self, end: bytes, options: ReadOptions | None = None) -> RdictIter:
        """
        An iterator for rows below `end`. Told of it, RocksDB doesn't look for the next live row
        beyond, behind what may be a hundred thousand deleted ones. There is no lower bound:
        rocksdict 0.3.29 takes `set_iterate_lower_bound` for the upper one.
        """
        options = options or ReadOptions()
        options.set_iterate_upper_bound(end)
        try:
            return self._database.iter(options)
        except Exception as exc:
            raise self._translated(exc) from exc

    def _trouble(self, cursor: RdictIter) -> SandglassError | None:
        """Tells the end of the rows from the end of what can be read."""
        try:
            cursor.status()
        except Exception as exc:  # noqa: BLE001 - rule 5; it is raised by the caller
            error = self._translated(exc)
            error.__cause__ = exc.with_traceback(None)
            return error
        return None

    # --- writing ------------------------------------------------------------------------------

    def write(self, changes: Changes, applied_position: int) -> None:
        """
        Carries out `changes.cuts`, then `changes.rows`, with the position: all in one write.

        Raises:
            BusyError: RocksDB is behind; nothing was written, repeat after `retry_after_ms`.
            NoSpaceError: no room; nothing was written. Keep the changes and repeat: RocksDB
                goes on by itself within seconds of room returning. If it doesn't, `reopen`.
            UnavailableError: the disk takes nothing. Nothing was written, and what is missing
                in the files is in the log: open the store anew.
            CorruptError: the store is damaged.
        """
        rows = changes.rows
        assert RESERVED_KEY not in rows, "a row has the reserved key"
        assert applied_position >= self._applied_position, "the applied position went back"
        batch = WriteBatch(raw_mode=True)
        for first, end in changes.cuts:
            self._write_cut(batch, first, end)
        put, delete = batch.put, batch.delete
        # In key order: a memtable remembers where it put the last row, which halves its work.
        for key in sorted(rows):
            value = rows[key]
            if value is None:
                delete(key)
            else:
                put(key, value)
        # Last, lest a cut takes it.
        put(RESERVED_KEY, applied_position.to_bytes(8, "big"))
        batch_count, batch_bytes = batch.len(), batch.size_in_bytes()
        try:
            self._database.write(batch, self._write_options)
        except Exception as exc:
            raise self._translated(exc) from exc
        self._write_count += 1
        self._applied_position = applied_position
        self._entry_count += batch_count
        self._unmarked_bytes += batch_bytes
        if self._unmarked_bytes >= self._mark_bytes:
            self._marks.append((self._entry_count, applied_position))
            self._unmarked_bytes = 0

    def _write_cut(self, batch: WriteBatch, first: bytes, end: bytes) -> None:
        keys: list[bytes] = []
        for key, _ in self._range(first, end):
            if len(keys) == CUT_ROW_COUNT_MAX:
                batch.delete_range(first, end)
                return
            keys.append(key)
        for key in keys:
            batch.delete(key)

    # --- flushing -----------------------------------------------------------------------------

    def flushed_position(self) -> int:
        """
        A position up to which the rows survive a power cut, so that the log can be trimmed.

        Memtables are flushed in the order they were written, and hold an entry for each row and
        deletion of a batch. So of all entries since the store was opened they hold the newest,
        and everything older is in synced files.

        Starts a flush when `flush_bytes` are in memory and nothing is in its way; never blocks.

        Raises:
            CorruptError: the store is damaged.
        """
        # In this order: a memtable that is switched between the two counts double, never not.
        unflushed_count = self._number("num-entries-active-mem-table")
        unflushed_count += self._number("num-entries-imm-mem-tables")
        if not unflushed_count:
            self._flushed_position = self._applied_position
            self._marks.clear()
            return self._flushed_position
        flushed_count = self._entry_count - unflushed_count
        assert flushed_count >= 0, "a memtable holds more than was written"
        while self._marks and self._marks[0][0] <= flushed_count:
            self._flushed_position = self._marks.popleft()[1]
        if self._number("cur-size-active-mem-table") >= self._flush_bytes:
            self._flush_start()
        return self._flushed_position

    def _flush_start(self) -> None:
        """Starts a flush, unless RocksDB would first wait, in this call, for older work."""
        health = self.health()
        if (
            health.immutable_memtable_count
            or health.level0_file_count >= LEVEL0_SLOWDOWN_COUNT - 1
            or health.is_stalled
            or self._number("num-running-flushes")
        ):
            return
        try:
            self._database.flush(wait=False)
        except Exception as exc:
            error = self._translated(exc)
            # The next write says that there is no room, and keeps saying it.
            if not isinstance(error, BusyError):
                raise error from exc

    def health(self) -> StoreHealth:
        """How far the store is behind; costs microseconds."""
        return StoreHealth(
            level0_file_count=self._number("num-files-at-level0"),
            immutable_memtable_count=self._number("num-immutable-mem-table"),
            is_stalled=bool(
                self._number("is-write-stopped") or self._number("actual-delayed-write-rate")
            ),
        )

    def _number(self, name: str) -> int:
        value = self._database.property_int_value(f"rocksdb.{name}")
        assert value is not None, name
        return value

    # --- opening again, closing ---------------------------------------------------------------

    def reopen(self) -> None:
        """
        Closes without regard to what is in memory, and opens anew: the way out of a background
        error that RocksDB does not overcome by itself.

        `applied_position` may be lower afterwards, never below `flushed_position`: apply the
        records after it once more, as after a crash.

        Raises:
            PreconditionError, CorruptError, NoSpaceError: as when a store is made; this one is
                closed then.
        """
        if self._is_open:
            # The flush it tries on the way fails for the reason why it is opened anew.
            with suppress(SandglassError):
                self._release()
        self._open(is_new=False)

    def close(self) -> None:
        """
        Flushes what is in memory, and releases files and locks; a second time does nothing.

        Raises:
            NoSpaceError, CorruptError: it could not be flushed, the log still has it. The files
                and locks are released all the same.
        """
        if not self._is_open:
            return
        try:
            self._database.flush(wait=True)
        except Exception as exc:
            with suppress(SandglassError):
                self._release()
            raise self._translated(exc) from exc
        self._release()

    def _release(self) -> None:
        """Closes the database, after the ranges that hold it open."""
        self._is_open = False
        for rows in list(self._ranges):
            rows.close()  # pyright: ignore[reportAttributeAccessIssue] - they are generators
        for frozen in list(self._frozen):
            frozen.close()
        try:
            self._database.close()
        except Exception as exc:
            raise self._translated(exc) from exc

    # --- errors -------------------------------------------------------------------------------

    def _translated(self, error: Exception) -> SandglassError:
        return translated(error, self._directory, self._advice)

    def _corrupt(self, what: str) -> CorruptError:
        return damaged(what, self._directory, self._advice)


class RocksRows:
    """Rows of one moment: an iterator of RocksDB keeps to that when it was made."""

    def __init__(
        self, cursor: RdictIter, trouble: Callable[[RdictIter], SandglassError | None]
    ) -> None:
        self._cursor: RdictIter | None = cursor
        self._trouble = trouble

    def take(self, *, row_count: int, size_bytes: int) -> list[Row]:
        """See `FrozenRows.take`."""
        cursor = self._cursor
        if cursor is None:
            raise UnavailableError("the rows of the view were let go")
        rows: list[Row] = []
        while cursor.valid():
            key, value = cursor.key(), cursor.value()
            cursor.next()
            if key == RESERVED_KEY:
                continue
            rows.append((key, value))
            size_bytes -= len(key) + len(value)
            if len(rows) == row_count or size_bytes <= 0:
                return rows
        error = self._trouble(cursor)
        if error is not None:
            del cursor
            self.close()
            raise error
        return rows

    def close(self) -> None:
        """Lets go."""
        self._cursor = None


def _around_reserved(first: bytes, end: bytes) -> list[tuple[bytes, bytes]]:
    """`[first, end)` without the reserved key; no empty ranges."""
    if first >= end:
        return []
    if not first <= RESERVED_KEY < end:
        return [(first, end)]
    parts = [(first, RESERVED_KEY), (RESERVED_KEY + b"\x00", end)]
    return [(low, high) for low, high in parts if low < high]
