"""
The messages of a partition in the order of their production, read from a view that is sorted
by time. The log is trimmed, and nothing else knows that order, so it is made while reading:

1. A message is due no earlier than it was produced, and production times never go back. So
   whatever has a higher index than a message stands, in any channel, at or after the time at
   which that one was produced: a pass over the view begins there.
2. Rows that come in their turn are given out as they are seen. One that is ahead of it (others
   are due later, or stand in another channel) is kept, as a key. When there are too many, those
   farthest ahead are forgotten, and the next pass finds them again.
3. Nothing is skipped. Where an index is missing, retention has taken its message: reading ends
   there, with an error that says what is held next.

Messages for now, in one channel, are one pass and nothing is kept. Memory is bounded; work is
not, beyond rule 1: each pass gives out half of `ahead_row_count_max` rows at least. Decision:
docs/decisions/0007-index-order-from-the-view.md.

It is a reader of what exists, due or not: it tells nothing of what is absent, and closes
nothing.
"""

from dataclasses import dataclass, field

from sandglass.core import keys
from sandglass.core.message import Slice
from sandglass.core.offset import INDEX_BITS, INDEX_MAX
from sandglass.core.partition import Partition
from sandglass.core.rows import read_row
from sandglass.core.view import View
from sandglass.errors import OutOfRangeError

AHEAD_ROW_COUNT_MAX = 65_536
"""Keys of rows that wait for their turn: some 10 MB."""

STEP_ROW_COUNT = 1000
STEP_READ_BYTES = 4 * 1024 * 1024
"""What one step looks at, before others have the loop."""

STEP_BYTES = 1024 * 1024
"""What one step gives out, and one row more."""

_DUE_BITS = 48

Found = tuple[str, Slice]
"""The channel, and a slice of one of its rows."""


@dataclass(slots=True)
class IndexOrder:
    """
    A reading of the indexes `[next_index, end)`, in steps. Between steps the view may change.

    Invariant: everything below `next_index` was given out; `ahead` holds rows above it.
    """

    partition: Partition
    next_index: int
    end: int
    ahead_row_count_max: int = AHEAD_ROW_COUNT_MAX
    ahead: dict[int, bytes] = field(default_factory=dict[int, bytes])
    """First index to key."""
    forgotten: int | None = None
    """The lowest index that this pass has forgotten."""
    produced_ms: int = 0
    """Of what was given out last."""
    _channels: list[str] = field(default_factory=list[str])
    """Still to be looked at by this pass; the last one first."""
    _place: bytes = b""
    """Where the next step goes on in it; empty at its start."""
    _is_begun: bool = False
    _found: list[Found] = field(default_factory=list[Found])
    """What this step gives out."""
    _found_bytes: int = 0

    @property
    def is_over(self) -> bool:
        """There is nothing left to give out."""
        return self.next_index >= self.end

    def step(self, view: View) -> list[Found]:
        """
        What comes next; nothing, if this step has only looked.

        Raises:
            OutOfRangeError: the next index is no longer kept.
        """
        self._found, self._found_bytes = [], 0
        self._take_ahead(view)
        if not self._found and not self.is_over:
            if not self._channels:
                self._begin_pass(view)
            if self._channels:
                self._look(view)
        return self._found

    def _begin_pass(self, view: View) -> None:
        is_lacking = self.forgotten is not None and (
            not self.ahead or self.next_index >= self.forgotten
        )
        if self._is_begun and not is_lacking:
            held = min((*self.ahead, self.forgotten or self.end))
            raise OutOfRangeError(
                f"index {self.next_index} of partition {self.partition.id} is no longer kept;"
                f" the first index still held above it is {held}",
                field="from",
            )
        self._is_begun = True
        self.ahead.clear()
        self.forgotten = None
        self._channels = self.partition.channels.names(view)

    def _look(self, view: View) -> None:
        """Goes on in the channel that it is at."""
        channel = self._channels[-1]
        prefix = keys.rows_prefix(self.partition.number, channel)
        first = self._place or keys.at(prefix, self._start_ms(view, prefix) << INDEX_BITS)
        read_bytes = 0
        rows = view.range(first, keys.after_prefix(prefix))
        for count, (key, value) in enumerate(rows, 1):
            self._see(key, value)
            self._take_ahead(view)
            if self.is_over:
                return
            read_bytes += len(value)
            if count == STEP_ROW_COUNT or read_bytes >= STEP_READ_BYTES or self._is_full:
                self._place = key + b"\0"
                return
        self._channels.pop()
        self._place = b""

    def _see(self, key: bytes, value: bytes) -> None:
        offset, count = keys.row_place(key)
        first_index = offset & INDEX_MAX
        if first_index + count <= self.next_index or first_index >= self.end:
            return
        if first_index <= self.next_index:
            self._give_out(key, value)
            return
        self.ahead[first_index] = key
        if len(self.ahead) > self.ahead_row_count_max:
            self._forget()

    def _forget(self) -> None:
        far = sorted(self.ahead)[-(self.ahead_row_count_max // 2) :]
        for first_index in far:
            del self.ahead[first_index]
        self.forgotten = far[0] if self.forgotten is None else min(self.forgotten, far[0])

    @property
    def _is_full(self) -> bool:
        return self._found_bytes >= STEP_BYTES or len(self._found) >= STEP_ROW_COUNT

    def _take_ahead(self, view: View) -> None:
        """Gives out what was kept, as far as it is its turn."""
        while self.next_index in self.ahead and not self._is_full:
            key = self.ahead.pop(self.next_index)
            value = view.get(key)
            if value is None:
                return  # retention has taken it meanwhile
            self._give_out(key, value)

    def _give_out(self, key: bytes, value: bytes) -> None:
        row, _, _ = read_row(key, value)
        first = self.next_index - row.first_index
        count = min(row.count, self.end - row.first_index) - first
        part = row._replace(first=first, count=count, first_index=self.next_index)
        self._found.append((keys.channel_of_row(key), part))
        self._found_bytes += len(row.body)
        self.next_index += count
        self.produced_ms = max(self.produced_ms, row.produced_ms)

    def _start_ms(self, view: View, prefix: bytes) -> int:
        """
        A time before which nothing in this channel can be wanted: see rule 1.

        Any row below the next index gives one; the search is for a late one, and a channel in
        which due times are far out of order makes it no worse than early.
        """
        start_ms = self.produced_ms
        low_ms, high_ms = 0, 1 << _DUE_BITS
        while high_ms - low_ms > 1:
            middle_ms = (low_ms + high_ms) // 2
            before = view.last(prefix, keys.at(prefix, middle_ms << INDEX_BITS))
            if before is None:
                low_ms = middle_ms
                continue
            row, _, _ = read_row(*before)
            if row.first_index < self.next_index:
                low_ms = middle_ms
                start_ms = max(start_ms, row.produced_ms)
            else:
                high_ms = middle_ms
        return start_ms
