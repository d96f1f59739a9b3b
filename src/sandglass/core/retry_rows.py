"""
Retry rows: where a group's messages wait to come again.

Each is a part `[low, high)` of offset space, keyed by when it is due (steady time), then by
its low offset, with the attempts and releases counted so far. An index by offset stands beside
them.

Invariant: no two rows of a group overlap.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from struct import Struct
from typing import Final

from sandglass.core import keys
from sandglass.core.offset import OFFSET_BYTES
from sandglass.core.view import Changes, Overlay, View

NEVER_MS: Final = 1 << 64

_RETRY = Struct(">14sIIB")


@dataclass(frozen=True, slots=True)
class RetryPart:
    """A retry row, or what is left of it to hand out."""

    until_ms: int
    low: int
    high: int
    attempts: int
    releases: int
    is_redriven: bool = False


@dataclass(slots=True)
class RetryRows:
    """The retry rows of one group in a partition, as a view holds them."""

    partition: int
    group: int
    due_ms: int = 0
    """None of those that the group's scan has still before it is due before this: the scan says
    so, and a look at the view costs a turn as much as some messages do."""

    def at(self, offset: int, view: View) -> RetryPart | None:
        """The row that covers `offset`, or None."""
        index = self._index()
        found = view.last(index, keys.at(index, offset + 1))
        if found is None:
            return None
        low, until_ms = keys.offset_at_end(found[0]), int.from_bytes(found[1], "big")
        value = view.get(keys.retry_key(self._prefix(), until_ms, low))
        assert value is not None, f"retry row {low:x} of group {self.group} is missing"
        part = _read(until_ms, low, value)
        return part if offset < part.high else None

    def lowest(self, view: View) -> int | None:
        """The lowest offset that waits, or None."""
        index = self._index()
        for key, _ in view.range(index, keys.after_prefix(index)):
            return keys.offset_at_end(key)
        return None

    def within(self, low: int, high: int, view: View) -> list[RetryPart]:
        """Rows that hold something of `[low, high)`."""
        first = self.at(low, view)
        index = self._index()
        lows = [
            keys.offset_at_end(key)
            for key, _ in view.range(keys.at(index, low + 1), keys.at(index, high))
        ]
        parts = [self.at(each, view) for each in lows]
        return [part for part in (first, *parts) if part is not None]

    def after(self, until_ms: int, low: int, view: View) -> Iterator[RetryPart]:
        """Rows in the order in which they are due, from just behind this place on."""
        prefix = self._prefix()
        first = keys.retry_key(prefix, until_ms, low + 1)
        for key, value in view.range(first, keys.after_prefix(prefix)):
            yield _read(*keys.retry_place(key), value)

    def put(self, part: RetryPart, changes: Changes) -> None:
        """A row begins."""
        self.due_ms = min(self.due_ms, part.until_ms)
        high = part.high.to_bytes(OFFSET_BYTES, "big")
        columns = _RETRY.pack(high, part.attempts, part.releases, part.is_redriven)
        changes.rows[keys.retry_key(self._prefix(), part.until_ms, part.low)] = columns
        changes.rows[keys.at(self._index(), part.low)] = part.until_ms.to_bytes(8, "big")

    def leave(self, low: int, high: int, scratch: Overlay) -> RetryPart:
        """
        Takes `[low, high)` out of its row, and returns the row as it was; the rest of it stays
        due.
        """
        part = self.at(low, scratch)
        assert part is not None, f"no retry row holds {low:x} of group {self.group}"
        assert part.low <= low < high <= part.high, "a retry row is left only from inside"
        rows = scratch.changes.rows
        rows[keys.retry_key(self._prefix(), part.until_ms, part.low)] = None
        rows[keys.at(self._index(), part.low)] = None
        for left, right in ((part.low, low), (high, part.high)):
            if left < right:
                self.put(replace(part, low=left, high=right), scratch.changes)
        return part

    def _prefix(self) -> bytes:
        return keys.group_prefix(b"r", self.partition, self.group)

    def _index(self) -> bytes:
        return keys.group_prefix(b"x", self.partition, self.group)


def _read(until_ms: int, low: int, value: bytes) -> RetryPart:
    high, attempts, releases, is_redriven = _RETRY.unpack(value)
    return RetryPart(
        until_ms, low, int.from_bytes(high, "big"), attempts, releases, bool(is_redriven)
    )
