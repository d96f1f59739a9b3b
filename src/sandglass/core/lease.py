"""
A lease: messages handed out together, under one token, to one consumer.

A lease covers one *tile* of offset space, `[low, high)`: from the end of what was scanned
before to just above its last message, and never further. It names its messages by place, 0 to
`count - 1`, and each stretch of places by a part of the tile. Leases are volatile: never
logged, gone with the leader, and nothing is lost when they are, since what isn't done is
scanned again.

Invariants: `pieces` are contiguous (each begins where the one before ends); `open` has a bit
for each message that is neither settled nor moved, nor on its way to that.
"""

from bisect import bisect_right
from dataclasses import dataclass

from sandglass.core.record import Range
from sandglass.errors import InvalidError, LeaseLostError

Places = list[tuple[int, int]]
"""Stretches of places, as (first, count)."""


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
        return self.credit_count > 0 and self.credit_bytes > 0


Piece = tuple[int, int, int]
"""Messages of one row: where their part of the tile begins, first offset, count."""


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
    pieces: list[Piece]
    starts: list[int]
    """Place of each piece's first message."""
    count: int
    open: int
    begun: int = 0
    """Places below this have been begun, as far as the consumer has said."""

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
        number = bisect_right(self.pieces, offset, key=_first_offset) - 1
        if number < 0:
            return None
        _, first_offset, count = self.pieces[number]
        inside = offset - first_offset
        return self.starts[number] + inside if inside < count else None

    def _low(self, place: int) -> int:
        number = bisect_right(self.starts, place) - 1
        low, first_offset, _ = self.pieces[number]
        inside = place - self.starts[number]
        return first_offset + inside if inside else low

    def _high(self, end: int) -> int:
        """Just above the message before place `end`."""
        if end == self.count:
            return self.high
        number = bisect_right(self.starts, end - 1) - 1
        return self.pieces[number][1] + end - self.starts[number]


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


def _first_offset(piece: Piece) -> int:
    return piece[1]
