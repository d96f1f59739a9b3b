"""
What of a group's offset space is done: a floor, and the ranges above it.

Done means settled, or moved to a retry row. Ranges are half-open and merge by plain arithmetic,
so what is kept is one boundary for each message that is stuck, and nothing for the rest.

Invariant: ranges are sorted, disjoint, not adjacent, and all above the floor.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class DoneRanges:
    """`floor`: everything below it is done. `lows[n]` to `highs[n]`: so is this."""

    floor: int = 0
    lows: list[int] = field(default_factory=list[int])
    highs: list[int] = field(default_factory=list[int])

    def add(self, low: int, high: int) -> tuple[list[int], tuple[int, int] | None]:
        """
        Marks `[low, high)` done.

        Returns:
            The lows of ranges that are gone, and the range that stands instead: None where the
            floor took it in.
        """
        first = bisect_left(self.highs, low)
        end = bisect_right(self.lows, high)
        if first < end:
            low = min(low, self.lows[first])
            high = max(high, self.highs[end - 1])
        gone = self.lows[first:end]
        if low <= self.floor:
            self.floor = max(self.floor, high)
            del self.lows[first:end], self.highs[first:end]
            return gone + self._absorb(), None
        self.lows[first:end] = [low]
        self.highs[first:end] = [high]
        return gone, (low, high)

    def raise_floor(self, floor: int) -> list[int]:
        """Everything below `floor` is done; returns the lows of ranges that are gone."""
        self.floor = max(self.floor, floor)
        return self._absorb()

    def skip(self, offset: int) -> tuple[int, int | None]:
        """
        The first place at or above `offset` that isn't done, and where the next done range
        begins above it, if one does.
        """
        offset = max(offset, self.floor)
        place = bisect_right(self.lows, offset)
        if place and self.highs[place - 1] > offset:
            offset = self.highs[place - 1]
        return offset, self.lows[place] if place < len(self.lows) else None

    def gaps(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        """What of `[low, high)` isn't done, in parts."""
        at, next_done = self.skip(low)
        while at < high:
            end = high if next_done is None else min(next_done, high)
            yield at, end
            at, next_done = self.skip(end)

    def drop(self, low: int, high: int) -> None:
        """Nothing of `[low, high)` is done, of what lies above the floor."""
        first, end = bisect_right(self.highs, low), bisect_left(self.lows, high)
        parts = [
            (left, right)
            for one, other in zip(self.lows[first:end], self.highs[first:end], strict=True)
            for left, right in ((one, min(other, low)), (max(one, high), other))
            if left < right
        ]
        self.lows[first:end] = [left for left, _ in parts]
        self.highs[first:end] = [right for _, right in parts]

    def holds(self, offset: int) -> bool:
        """Is this offset done?"""
        if offset < self.floor:
            return True
        place = bisect_right(self.lows, offset)
        return bool(place) and self.highs[place - 1] > offset

    def _absorb(self) -> list[int]:
        count = 0
        while count < len(self.lows) and self.lows[count] <= self.floor:
            self.floor = max(self.floor, self.highs[count])
            count += 1
        gone = self.lows[:count]
        del self.lows[:count], self.highs[:count]
        return gone
