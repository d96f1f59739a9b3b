"""
The view in memory: for tests, simulation and trial runs.

It keeps the promises of the `Store` port as RocksDB does, the loss of unflushed writes in a
crash included: each write leaves behind how to undo it until it counts as flushed, and `crash`
undoes the newest ones. A flush takes from one `flushed_position` to the next, as one in the
background would.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

from sandglass.core.view import RESERVED_KEY, Changes, Row
from sandglass.errors import UnavailableError


@dataclass(frozen=True, slots=True)
class _Undo:
    """What a write replaced: rows with None were not there."""

    rows: dict[bytes, bytes | None]
    position_before: int


class MemoryStore:
    """
    The `Store` port over a sorted list of keys.

    Args:
        flush_write_count: so many unflushed writes make `flushed_position` start a flush.
    """

    def __init__(self, *, flush_write_count: int = 16) -> None:
        self._flush_write_count = flush_write_count
        self._rows: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []
        self._applied_position = 0
        self._flushed_position = 0
        self._undos: list[_Undo] = []
        self._flushing_count = 0
        self._change_count = 0
        self._is_open = True
        self._life = 0

    @property
    def applied_position(self) -> int:
        """The position that the last write carried; 0 in a new store."""
        return self._applied_position

    @property
    def life(self) -> int:
        """Counts how often it was closed."""
        return self._life

    @property
    def unflushed_write_count(self) -> int:
        """The writes that a crash may take."""
        return len(self._undos)

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""
        assert self._is_open
        return self._rows.get(key)

    def has(self, key: bytes) -> bool:
        """Is there a row of this key?"""
        return self.get(key) is not None

    def range(self, first: bytes, end: bytes) -> Iterator[Row]:
        """Rows in `[first, end)`, ascending; over with the next write."""
        assert self._is_open
        return self._range(first, end)

    def _range(self, first: bytes, end: bytes) -> Iterator[Row]:
        change_count = self._change_count
        at = bisect_left(self._keys, first)
        while at < len(self._keys) and self._keys[at] < end:
            key = self._keys[at]
            yield key, self._rows[key]
            assert change_count == self._change_count, "a range is over with the next write"
            at += 1

    def freeze(self) -> "MemoryRows":
        """All rows as they are now; see `FrozenRows`."""
        assert self._is_open
        return MemoryRows(self, [(key, self._rows[key]) for key in self._keys])

    def last(self, first: bytes, end: bytes) -> Row | None:
        """The greatest row in `[first, end)`, or None."""
        assert self._is_open
        at = bisect_left(self._keys, end) - 1
        if at < 0 or self._keys[at] < first:
            return None
        return self._keys[at], self._rows[self._keys[at]]

    def write(self, changes: Changes, applied_position: int) -> None:
        """Carries out `changes.cuts`, then `changes.rows`, with the position."""
        assert self._is_open
        assert RESERVED_KEY not in changes.rows, "a row has the reserved key"
        assert applied_position >= self._applied_position, "the applied position went back"
        replaced: dict[bytes, bytes | None] = {}
        for first, end in changes.cuts:
            for key in self._keys[
                bisect_left(self._keys, first) : bisect_left(self._keys, end)
            ]:
                replaced[key] = self._rows[key]
        for key in changes.rows:
            replaced[key] = self._rows.get(key)
        self._undos.append(_Undo(replaced, self._applied_position))
        self._put(dict.fromkeys(replaced) | changes.rows)
        self._applied_position = applied_position

    def flushed_position(self) -> int:
        """A position up to which the rows survive a crash; may start a flush."""
        assert self._is_open
        self._flush(self._flushing_count)
        if len(self._undos) >= self._flush_write_count:
            self._flushing_count = len(self._undos)
        return self._flushed_position

    def close(self) -> None:
        """Flushes; the store can be had back by `reopen`."""
        if self._is_open:
            self._flush(len(self._undos))
            self._is_open = False
            self._life += 1

    def reopen(self) -> None:
        """What a new process finds: the rows as the last `close` or `crash` left them."""
        self._is_open = True

    def crash(self, kept_write_count: int = 0) -> None:
        """
        The process ends. Of the unflushed writes the first `kept_write_count` stay, and the
        others are gone. `reopen` it afterwards.
        """
        for undo in reversed(self._undos[kept_write_count:]):
            self._put(undo.rows)
            self._applied_position = undo.position_before
        del self._undos[kept_write_count:]
        # What a new process finds is on the disk.
        self._flush(len(self._undos))
        self._is_open = False
        self._life += 1

    def _flush(self, write_count: int) -> None:
        """Makes the oldest `write_count` unflushed writes safe."""
        del self._undos[:write_count]
        self._flushing_count = 0
        self._flushed_position = (
            self._undos[0].position_before if self._undos else self._applied_position
        )

    def _put(self, rows: dict[bytes, bytes | None]) -> None:
        """Sets rows, or removes those with None."""
        gone = {key for key, value in rows.items() if value is None and key in self._rows}
        added = [
            key for key, value in rows.items() if value is not None and key not in self._rows
        ]
        for key, value in rows.items():
            if value is not None:
                self._rows[key] = value
        if gone:
            for key in gone:
                del self._rows[key]
            self._cut_keys(gone)
        if added:
            added.sort()
            self._keys += added
            # Two sorted runs: the sort merges them.
            self._keys.sort()
        self._change_count += 1

    def _cut_keys(self, gone: set[bytes]) -> None:
        """Takes keys out of the list: one by one when they are few, it is a copy otherwise."""
        if len(gone) > 8:
            self._keys = [key for key in self._keys if key not in gone]
            return
        for key in gone:
            del self._keys[bisect_left(self._keys, key)]


class MemoryRows:
    """`FrozenRows` of a store in memory."""

    def __init__(self, store: MemoryStore, rows: list[Row]) -> None:
        self._store = store
        self._life = store.life
        self._rows: list[Row] | None = rows
        self._at = 0

    def take(self, *, row_count: int, size_bytes: int) -> list[Row]:
        """See `FrozenRows.take`."""
        if self._rows is None or self._life != self._store.life:
            raise UnavailableError("the rows of the view were let go")
        first = self._at
        while self._at < len(self._rows) and self._at - first < row_count and size_bytes > 0:
            key, value = self._rows[self._at]
            size_bytes -= len(key) + len(value)
            self._at += 1
        return self._rows[first : self._at]

    def close(self) -> None:
        """See `FrozenRows.close`."""
        self._rows = None
