"""When leases end: a heap that doesn't grow by those which ended before their time."""

from collections.abc import Collection
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from sandglass.core.group import Group

COUNT_MIN = 1000
"""So many deadlines, stale ones included, aren't worth looking through."""


@dataclass(slots=True)
class Deadlines:
    """
    (ends in lease time, group, token) of the leases of a partition. A deadline may be earlier
    than its lease's own end, which was put off since, or belong to one that has ended.
    """

    heap: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])
    _count_max: int = COUNT_MIN
    """With more of them, it is time to see how many are of leases that have ended."""

    def push(self, ends_ms: int, group: int, token: int) -> None:
        """A lease ends then, unless it is put off."""
        heappush(self.heap, (ends_ms, group, token))

    def pop_until(self, lease_ms: int) -> tuple[int, int] | None:
        """(group, token) of the earliest deadline that has come; None if none has."""
        if not self.heap or self.heap[0][0] > lease_ms:
            return None
        _, group, token = heappop(self.heap)
        return group, token

    def first_ms(self) -> int | None:
        """The earliest of them."""
        return self.heap[0][0] if self.heap else None

    def tidy(self, groups: Collection[Group]) -> None:
        """Those of leases that have ended go, once they are most of the heap."""
        if len(self.heap) <= self._count_max:
            return
        lease_count = sum(len(group.leases) for group in groups)
        if len(self.heap) >= 2 * lease_count:
            self.heap = [
                (lease.ends_ms, group.number, lease.token)
                for group in groups
                for lease in group.leases.values()
            ]
            heapify(self.heap)
        self._count_max = max(COUNT_MIN, 2 * lease_count)
