"""
A lease: messages handed out together, under one token, to one consumer.

A lease covers one *tile* of offset space, `[low, high)`: from the end of what was scanned
before to just above its last message, and never further. It names its messages by place, 0 to
`count - 1`, and each stretch of places by a part of the tile. Leases are volatile: never
logged, gone with the leader, and nothing is lost when they are, since what isn't done is
scanned again.

Invariants: the tile has no gap, so each run's part of it begins where the one before ends;
`open` has a bit for each message that is neither settled nor moved, nor on its way to that.
"""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import Final
from zlib import crc32

from sandglass.core.offset import INDEX_BITS
from sandglass.core.record import Range
from sandglass.errors import InvalidError, LeaseLostError

Places = list[tuple[int, int]]
"""Stretches of places, as (first, count)."""

TOKEN_BITS: Final = 40
"""Leases of one partition in one epoch."""

TOKEN_START_BITS: Final = 7
"""With the 32 of a checksum one less than `TOKEN_BITS`: half of the tokens are left."""


@dataclass(slots=True)
class Consumer:
    """
    Who receives, with the credit that is left. One object for all partitions it reads.

    `ack_timeout_ms` of 0 means the topic's. `key` is the broker's, unique on the node.
    """

    key: int
    credit_count: int
    credit_bytes: int
    ack_timeout_ms: int = 0

    @property
    def has_credit(self) -> bool:
        """May it be given another message?"""
        return self.credit_count > 0 and self.credit_bytes > 0


@dataclass(slots=True)
class Lease:
    """Messages handed out under one token; see the head of this file."""

    token: int
    group: int
    consumer: int
    attempts: int
    """Counted before this lease."""
    releases: int
    is_retry: bool
    low: int
    high: int
    lease_ms: int
    ends_ms: int
    """In lease time: steady, less the pauses of the process."""
    dues: tuple[int, ...]
    """Of each run, messages of one row: due ms; beside it the first index, and how many. As
    tuples: the collector of cycles lets go of those that hold numbers alone."""
    indexes: tuple[int, ...]
    counts: tuple[int, ...]
    count: int
    open: int
    begun: int = 0
    """Places below this have been begun, as far as the consumer has said."""
    _starts: tuple[int, ...] = ()
    """Place of each run's first message; most leases end whole, and never need it."""

    def take(self, places: Places) -> Places:
        """
        Takes places out of the lease: an outcome is on its way for them, so that they can't
        expire. No places means all that are open.

        Raises:
            InvalidError: a place outside the lease.
            LeaseLostError: one of them is settled or moved already; nothing was taken.
        """
        if not places:
            taken = self.open_places()
            self.open = 0
            return taken
        mask = 0
        for first, count in places:
            if count < 1 or first + count > self.count:
                raise InvalidError(
                    f"places {first} to {first + count - 1} are not in a delivery of"
                    f" {self.count} messages",
                    field="places",
                )
            part = ((1 << count) - 1) << first
            if mask & part:
                raise InvalidError(f"place {first} stands twice in one outcome", field="places")
            mask |= part
        if self.open & mask != mask:
            raise LeaseLostError(
                "a message of this outcome is settled or was given back already"
            )
        self.open &= ~mask
        return merged(places)

    def give(self, low: int, high: int) -> None:
        """Messages at offsets in `[low, high)` are open."""
        self.open |= self._mask(low, high)

    def close(self, low: int, high: int) -> None:
        """Messages at offsets in `[low, high)` are open no more."""
        self.open &= ~self._mask(low, high)

    def _mask(self, low: int, high: int) -> int:
        mask = 0
        for run, start in enumerate(self._run_starts()):
            first_offset = self._first_offset(run)
            first = max(0, low - first_offset)
            end = min(self.counts[run], high - first_offset)
            if first < end:
                mask |= ((1 << end - first) - 1) << start + first
        return mask

    def open_places(self) -> Places:
        """The stretches of places that are open."""
        bits, first, places = self.open, 0, Places()
        while bits:
            zeros = (bits & -bits).bit_length() - 1
            bits >>= zeros
            first += zeros
            ones = (~bits & (bits + 1)).bit_length() - 1
            places.append((first, ones))
            bits >>= ones
            first += ones
        return places

    def ranges(self, places: Places) -> list[Range]:
        """The parts of the tile that these places cover, merged where they touch."""
        ranges: list[Range] = []
        for first, count in places:
            low, high = self._low(first), self._high(first + count)
            if ranges and ranges[-1][1] == low:
                low, _, before = ranges.pop()
                count += before
            ranges.append((low, high, count))
        return ranges

    def place_of(self, offset: int) -> int | None:
        """The place of the message at `offset`, or None if it isn't in the lease."""
        run = bisect_right(range(len(self.counts)), offset, key=self._first_offset) - 1
        if run < 0:
            return None
        inside = offset - self._first_offset(run)
        return self._run_starts()[run] + inside if inside < self.counts[run] else None

    def _low(self, place: int) -> int:
        run, inside = self._run_at(place)
        if inside:
            return self._first_offset(run) + inside
        return self._first_offset(run - 1) + self.counts[run - 1] if run else self.low

    def _high(self, end: int) -> int:
        """Just above the message before place `end`."""
        if end == self.count:
            return self.high
        run, inside = self._run_at(end - 1)
        return self._first_offset(run) + inside + 1

    def _run_at(self, place: int) -> tuple[int, int]:
        """The run that a place is in, and how far inside."""
        starts = self._run_starts()
        run = bisect_right(starts, place) - 1
        return run, place - starts[run]

    def _run_starts(self) -> tuple[int, ...]:
        if not self._starts:
            self._starts = tuple(accumulate(self.counts[:-1], initial=0))
        return self._starts

    def _first_offset(self, run: int) -> int:
        return self.dues[run] << INDEX_BITS | self.indexes[run]


def merged(places: Places) -> Places:
    """Stretches in order, joined where they touch."""
    if len(places) < 2:
        return places
    result: Places = []
    for first, count in sorted(places):
        if result and sum(result[-1]) == first:
            first, before = result.pop()
            count += before
        result.append((first, count))
    return result


def first_token(epoch: int, partition_id: str) -> int:
    """
    The first one of a partition in an epoch, above all of earlier epochs.

    Where in the epoch they begin follows from the partition's id: a topic that is deleted and
    made again may be in the same epoch, and whoever has a lease of the one before must not
    settle by its token what was handed out since.
    """
    start = crc32(partition_id.encode()) << TOKEN_START_BITS
    return (epoch << TOKEN_BITS) + start + 1
