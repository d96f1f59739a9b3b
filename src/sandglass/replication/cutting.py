"""
Where the parts of a snapshot begin and end: so that what hasn't changed keeps its bounds.

A part begins at a row for what that row is: a hash of its key is small enough for the weight
of the row. So a change in one place moves bounds there and nowhere else, and the parts of an
unchanged range are the same bytes in the next snapshot, under the same name. For messages the
order of keys is that of due times: what is due next year stands in parts of its own, which
nobody touches until then.

Parts have about the same size, whatever the rows weigh. No bound is looked for in the first
quarter of it, and at twice of it one is made. Messages, which are most of it and seldom change,
share no part with other rows, which are few and often do.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from crc32c import crc32c

from sandglass.core import limits
from sandglass.core.view import Row
from sandglass.replication.snapshot import encode_part

_MESSAGES: Final = ord("m")
"""The kind of message rows."""


@dataclass(frozen=True, slots=True)
class CutPart:
    """A part that is whole, and has no name yet."""

    low: bytes
    row_count: int
    raw: bytes


@dataclass(slots=True)
class Cutter:
    """Takes rows in order, gives parts. `end` once."""

    _rows: list[Row] = field(default_factory=list[Row])
    _size_bytes: int = 0

    def take(self, rows: Iterable[Row]) -> list[CutPart]:
        """The parts that these rows complete."""
        done: list[CutPart] = []
        for row in rows:
            if self._rows and self._is_bound(row):
                done += self.end()
            self._rows.append(row)
            self._size_bytes += _weight_bytes(row)
        return done

    def end(self) -> list[CutPart]:
        """What is left, if anything is."""
        if not self._rows:
            return []
        rows, self._rows, self._size_bytes = self._rows, [], 0
        return [CutPart(rows[0][0], len(rows), encode_part(rows))]

    def _is_bound(self, row: Row) -> bool:
        target = limits.SNAPSHOT_PART_BYTES_TARGET
        weight_bytes = _weight_bytes(row)
        if self._size_bytes + weight_bytes > 2 * target:
            return True
        key = row[0]
        if (key[0] == _MESSAGES) != (self._rows[-1][0][0] == _MESSAGES):
            return True
        is_likely = crc32c(key) * target < weight_bytes << 32
        return is_likely and self._size_bytes >= target // 4


def _weight_bytes(row: Row) -> int:
    return len(row[0]) + len(row[1]) + 8
