"""
What the core sees of the store: a small read-only view, and the changes that it hands back.

`Overlay` lays changes that are not yet written over a view, so that several records can be
applied before one write.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Final, Protocol

Row = tuple[bytes, bytes]
"""Key and value."""

RESERVED_KEY: Final = b"\x00applied"
"""Where a store may keep its applied position: no row has this key, and no range shows it."""


class View(Protocol):
    """Ordered rows, for reading. Ranges are half-open, `[first, end)`, in byte order."""

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""
        ...

    def has(self, key: bytes) -> bool:
        """Is there a row of this key? Cheaper than `get` where values are large."""
        ...

    def range(self, first: bytes, end: bytes) -> Iterator[Row]:
        """
        Rows in `[first, end)`, ascending. Reads ahead little; drop it as soon as you can.

        It is over with the next change of the view: reading on after one is a defect of the
        caller, and fails an assert.

        Raises:
            CorruptError: a row cannot be read. Never a silent end.
        """
        ...

    def last(self, first: bytes, end: bytes) -> Row | None:
        """The greatest row in `[first, end)`, or None."""
        ...


@dataclass(slots=True)
class Changes:
    """
    What a record does to the view. `cuts` (half-open ranges that go) come before `rows`, in
    which None deletes.
    """

    rows: dict[bytes, bytes | None] = field(default_factory=dict[bytes, bytes | None])
    cuts: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])

    def cut(self, first: bytes, end: bytes) -> None:
        """Deletes a range, earlier changes of it included. An empty one changes nothing."""
        if first >= end:
            return
        for key in [key for key in self.rows if first <= key < end]:
            del self.rows[key]
        self.cuts.append((first, end))

    def merge(self, later: "Changes") -> None:
        """Adds what a later record does."""
        for first, end in later.cuts:
            self.cut(first, end)
        self.rows.update(later.rows)

    def __bool__(self) -> bool:
        return bool(self.rows or self.cuts)


class Overlay:
    """
    A `View` with `changes` laid over `below`.

    Rows may also be put into `changes.rows` directly, and are seen at once; cuts go by `lay` or
    `cut`.

    Invariant: `_sorted` holds the first keys of `changes.rows`, in byte order; those put since
    stand behind them, for a dict keeps the order in which its keys came.
    """

    __slots__ = ("_lay_count", "_sorted", "below", "changes")

    def __init__(self, below: View) -> None:
        self.below = below
        self.changes = Changes()
        self._sorted: list[bytes] = []
        self._lay_count = 0

    def lay(self, changes: Changes) -> None:
        """Puts changes on top."""
        if changes.cuts:
            self.changes.merge(changes)
            self._sorted = []
        else:
            self.changes.rows.update(changes.rows)
        self._lay_count += 1

    def cut(self, first: bytes, end: bytes) -> None:
        """Deletes a range, what was laid there included."""
        self.changes.cut(first, end)
        self._sorted = []
        self._lay_count += 1

    def take(self) -> Changes:
        """The changes so far, to be written; the overlay is clear afterwards."""
        taken, self.changes = self.changes, Changes()
        self._sorted = []
        self._lay_count += 1
        return taken

    def get(self, key: bytes) -> bytes | None:
        """See `View.get`."""
        if key in self.changes.rows:
            return self.changes.rows[key]
        if any(first <= key < end for first, end in self.changes.cuts):
            return None
        return self.below.get(key)

    def has(self, key: bytes) -> bool:
        """See `View.has`."""
        if key in self.changes.rows or self.changes.cuts:
            return self.get(key) is not None
        return self.below.has(key)

    def range(self, first: bytes, end: bytes) -> Iterator[Row]:
        """See `View.range`."""
        return self._range(first, end) if self.changes else self.below.range(first, end)

    def _range(self, first: bytes, end: bytes) -> Iterator[Row]:
        lay_count = self._lay_count
        for row in self._range_merged(first, end):
            yield row
            assert lay_count == self._lay_count, "a range is over with the next change"

    def _range_merged(self, first: bytes, end: bytes) -> Iterator[Row]:
        rows = self.changes.rows
        keys = self._keys()
        at, after = bisect_left(keys, first), bisect_left(keys, end)
        gaps = self._gaps(first, end)
        for row in chain.from_iterable(self.below.range(*gap) for gap in gaps):
            while at < after and keys[at] < row[0]:
                value = rows[keys[at]]
                if value is not None:
                    yield keys[at], value
                at += 1
            # A row that is laid over is left to the next turn of the loop above.
            if at == after or keys[at] != row[0]:
                yield row
        for key in keys[at:after]:
            value = rows[key]
            if value is not None:
                yield key, value

    def last(self, first: bytes, end: bytes) -> Row | None:
        """See `View.last`."""
        if not self.changes:
            return self.below.last(first, end)
        rows = self.changes.rows
        top = self._last_laid(first, end)
        for low, high in reversed(self._gaps(first if top is None else top[0], end)):
            row = self.below.last(low, high)
            # A laid row here is a deletion, or `top` itself.
            while row is not None and row[0] in rows:
                row = self.below.last(low, row[0])
            if row is not None:
                return row
        return top

    def _last_laid(self, first: bytes, end: bytes) -> Row | None:
        """The greatest row in `[first, end)` among the changes, deletions left out."""
        keys = self._keys()
        at = bisect_left(keys, end)
        while at and keys[at - 1] >= first:
            at -= 1
            value = self.changes.rows[keys[at]]
            if value is not None:
                return keys[at], value
        return None

    def _gaps(self, first: bytes, end: bytes) -> list[tuple[bytes, bytes]]:
        """What the cuts leave of `[first, end)`, ascending."""
        gaps: list[tuple[bytes, bytes]] = []
        for cut_first, cut_end in sorted(self.changes.cuts):
            if cut_first >= end:
                break
            if first < cut_first:
                gaps.append((first, cut_first))
            first = max(first, cut_end)
        if first < end:
            gaps.append((first, end))
        return gaps

    def _keys(self) -> list[bytes]:
        """
        The keys of the changes in order. Only the late ones are unsorted, and merging two runs
        is cheap: reads between two records of a large batch don't sort it anew each time.
        """
        late_count = len(self.changes.rows) - len(self._sorted)
        if late_count:
            self._sorted += sorted(islice(reversed(self.changes.rows), late_count))
            self._sorted.sort()
        return self._sorted
