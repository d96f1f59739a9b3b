"""
Whose turn it is, and when: partitions that may have something to hand out, now or later.

A partition is *ready* when something happened that it should look at. After its turn it is
*planned*: when its next message is due, a retry comes, or a lease ends. Wakes are planned in
steady time; when the wall clock was stepped or slewed, they are planned anew.
"""

from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import count

from sandglass.core.dispatch import Moment
from sandglass.core.partition import Partition

DRIFT_MS = 5
"""Wall and steady time may part by so much before every planned wake is planned anew."""

WAKE_COUNT_MIN = 1000
"""So many planned wakes, stale ones included, aren't worth looking through."""


@dataclass(slots=True)
class Agenda:
    """Partitions by number. Those in `blocked` have something due beyond the promise, or behind
    a record in flight."""

    ready: dict[int, None] = field(default_factory=dict[int, None])
    """In the order in which they became so."""
    blocked: set[int] = field(default_factory=set[int])
    wakes: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])
    """A heap of (steady ms, running number, partition); stale where `wake_of` differs."""
    wake_of: dict[int, int] = field(default_factory=dict[int, int])
    """Each partition that is read: its wake, or -1 for none."""
    _number: "count[int]" = field(default_factory=count)
    _drift_ms: int = 0
    """Wall less steady time, when wakes were planned."""

    @property
    def is_watching(self) -> bool:
        """Somebody reads, or a lease runs: there is time to be kept."""
        return bool(self.wake_of)

    @property
    def wake_ms(self) -> int | None:
        """The next wake, in steady time."""
        return self.wakes[0][0] if self.wakes else None

    def add(self, number: int) -> None:
        """A partition may have something to hand out."""
        self.ready[number] = None

    def add_all(self) -> None:
        """Every partition that is read may."""
        for number in self.wake_of:
            self.ready[number] = None

    def look(self, moment: Moment) -> None:
        """Adds those whose time has come, or all if the clocks have parted."""
        drift_ms = moment.wall_ms - moment.steady_ms
        if abs(drift_ms - self._drift_ms) >= DRIFT_MS:
            self._drift_ms = drift_ms
            self.add_all()
        while self.wakes and self.wakes[0][0] <= moment.steady_ms:
            at_ms, _, number = heappop(self.wakes)
            if self.wake_of.get(number) == at_ms:
                self.ready[number] = None

    def take(self) -> int:
        """Takes the one that has waited longest; there is one."""
        number = next(iter(self.ready))
        del self.ready[number]
        return number

    def forget(self, number: int) -> None:
        """A partition stands still, or is gone."""
        self.wake_of.pop(number, None)
        self.blocked.discard(number)

    def plan(self, partition: Partition, moment: Moment) -> None:
        """When this partition, which has had its turn, wants its next."""
        number = partition.number
        self.blocked.discard(number)
        if any(group.is_blocked and group.has_credit() for group in partition.reading):
            self.blocked.add(number)
        wake_ms = _wake_ms(partition, moment)
        if wake_ms is None:
            if partition.reading:
                self.wake_of[number] = -1
            else:
                self.wake_of.pop(number, None)
            return
        if wake_ms <= moment.steady_ms:
            self.ready[number] = None
        if self.wake_of.get(number) != wake_ms:
            self.wake_of[number] = wake_ms
            heappush(self.wakes, (wake_ms, next(self._number), number))
            if len(self.wakes) > WAKE_COUNT_MIN + 2 * len(self.wake_of):
                self._tidy()

    def _tidy(self) -> None:
        """Wakes that were planned anew go: they may lie a year ahead, and be many."""
        self.wakes = [
            (at_ms, next(self._number), number)
            for number, at_ms in self.wake_of.items()
            if at_ms >= 0
        ]
        heapify(self.wakes)


def _wake_ms(partition: Partition, moment: Moment) -> int | None:
    """When a partition wants a turn, in steady time; None for never."""
    wall_ms, steady_ms, lease_ms = partition.wake_at()
    at_ms: list[int] = []
    if wall_ms is not None:
        at_ms.append(moment.steady_ms + max(0, wall_ms - moment.wall_ms))
    if steady_ms is not None:
        at_ms.append(steady_ms)
    if lease_ms is not None:
        at_ms.append(moment.steady_ms + max(1, lease_ms - moment.lease_ms))
    return min(at_ms) if at_ms else None
