"""
One database for many logs: what a node holds of replicated partitions.

Each log has a part: its keys begin with the log's number, and its applied position and mark
stand among them, so that they change with its rows in one write. The database holds nothing
that a stream and its snapshots don't, so that a part may be wiped when in doubt.
"""

from collections import deque
from collections.abc import Iterator
from struct import Struct
from typing import Final

from sandglass.adapters.rocksdb import RocksRows, RocksStore
from sandglass.core.keys import MARK_KEY, after_prefix
from sandglass.core.view import RESERVED_KEY, Changes, Row

MARK_COUNT_MAX: Final = 64
"""How finely a part remembers which of its writes may not be flushed."""

ALL_ROWS: Final = (b"", b"\xff" * 8)
"""Kinds of rows are letters."""

_PREFIX: Final = Struct(">I")


class StorePart:
    """
    The `Store` of one log, in a database that it shares with others; `number` is the log's.

    Its rows are flushed when those of the others are; the truth is in the log's stream.
    """

    def __init__(self, store: RocksStore, number: int) -> None:
        self._store = store
        self._prefix = _PREFIX.pack(number)
        self._width = len(self._prefix)
        self._end = after_prefix(self._prefix)
        self._applied_key = self._prefix + RESERVED_KEY
        value = store.get(self._applied_key)
        self._applied_position = self._flushed_position = int.from_bytes(value or b"", "big")
        self._marks: deque[tuple[int, int]] = deque()
        """(position of the database, our own) of writes that may not be flushed."""

    @property
    def applied_position(self) -> int:
        """The position that the last write carried; 0 in a new part."""
        return self._applied_position

    @property
    def mark(self) -> bytes | None:
        """Where the log's reader stood at that write; None in a new part."""
        return self.get(MARK_KEY)

    def get(self, key: bytes) -> bytes | None:
        """See `View.get`."""
        return self._store.get(self._prefix + key)

    def has(self, key: bytes) -> bool:
        """See `View.has`."""
        return self._store.has(self._prefix + key)

    def range(self, first: bytes, end: bytes) -> Iterator[Row]:
        """See `View.range`."""
        width = self._width
        low, high = self._prefix + first, self._prefix + end
        for key, value in self._store.range(low, high):
            if key != self._applied_key:
                yield key[width:], value

    def freeze(self) -> "PartRows":
        """All rows as they are now, and with them the mark; see `FrozenRows`."""
        return PartRows(self._store.freeze(self._prefix, self._end), self._applied_key)

    @property
    def is_unfinished(self) -> bool:
        """It has rows and no mark: a snapshot was being taken when the process ended."""
        return self.mark is None and next(self.range(*ALL_ROWS), None) is not None

    def last(self, first: bytes, end: bytes) -> Row | None:
        """See `View.last`."""
        low, high = self._prefix + first, self._prefix + end
        found = self._store.last(low, high)
        if found is not None and found[0] == self._applied_key:
            found = self._store.last(low, self._applied_key)
        return None if found is None else (found[0][self._width :], found[1])

    def write(self, changes: Changes, applied_position: int) -> None:
        """See `Store.write`."""
        assert RESERVED_KEY not in changes.rows, "a row has the reserved key"
        assert applied_position >= self._applied_position, "the applied position went back"
        prefix = self._prefix
        rows = {prefix + key: value for key, value in changes.rows.items()}
        rows[self._applied_key] = applied_position.to_bytes(8, "big")
        cuts = [(prefix + first, prefix + end) for first, end in changes.cuts]
        position = self._store.applied_position + 1
        self._store.write(Changes(rows, cuts), position)
        self._applied_position = applied_position
        self._marks.append((position, applied_position))
        if len(self._marks) > MARK_COUNT_MAX:
            self.flushed_position()

    def flushed_position(self) -> int:
        """See `Store.flushed_position`."""
        flushed = self._store.flushed_position()
        while self._marks and self._marks[0][0] <= flushed:
            self._flushed_position = self._marks.popleft()[1]
        while len(self._marks) > MARK_COUNT_MAX:
            del self._marks[len(self._marks) // 2]  # known less finely, never too high
        return self._flushed_position

    def wipe(self) -> None:
        """Takes all rows away, and the position and the mark with them."""
        changes = Changes({}, [(self._prefix, self._end)])
        self._store.write(changes, self._store.applied_position + 1)
        self._applied_position = self._flushed_position = 0
        self._marks.clear()

    def close(self) -> None:
        """The database is closed by whoever opened it."""


class PartRows:
    """`FrozenRows` of a part: the rows without what the part adds to them."""

    def __init__(self, rows: RocksRows, applied_key: bytes) -> None:
        self._rows = rows
        self._applied_key = applied_key

    def take(self, *, row_count: int, size_bytes: int) -> list[Row]:
        """See `FrozenRows.take`."""
        width = _PREFIX.size
        while found := self._rows.take(row_count=row_count, size_bytes=size_bytes):
            rows = [(key[width:], value) for key, value in found if key != self._applied_key]
            if rows:
                return rows
        return []

    def close(self) -> None:
        """See `FrozenRows.close`."""
        self._rows.close()
