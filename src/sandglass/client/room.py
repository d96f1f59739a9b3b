"""
Room: how much of a client may be unanswered, in messages and in bytes.

Who finds none stands in line, and is given room in the order of coming. Threads and the event
loop may share one: it is handed over under a lock, and who stood in line is woken after it.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

UNANSWERED_BYTES_MAX: Final = 16 * 1024 * 1024
UNANSWERED_COUNT_MAX: Final = 100_000
"""Messages; a million small ones would cost more in objects than in bytes."""


@dataclass(slots=True, eq=False)
class Waiter:
    """One who stands in line. `wake` is called once, when `has_room` has become true."""

    count: int
    size_bytes: int
    wake: Callable[[], object]
    has_room: bool = False


@dataclass(slots=True)
class Room:
    """
    See the head of the file.

    Invariants: `count` and `size_bytes` are what was taken and not given back, at most the two
    limits, or one larger thing alone; the first in line doesn't fit.
    """

    count: int = 0
    size_bytes: int = 0
    _line: deque[Waiter] = field(default_factory=deque[Waiter])
    _lock: Lock = field(default_factory=Lock)

    def take(self, count: int, size_bytes: int) -> bool:
        """Takes room if there is some and nobody stands in line."""
        with self._lock:
            if self._line or not self._fits(size_bytes):
                return False
            self._take(count, size_bytes)
            return True

    def stand(self, waiter: Waiter) -> bool:
        """Takes room, or stands in line for it; true if it is taken already."""
        with self._lock:
            if not self._line and self._fits(waiter.size_bytes):
                self._take(waiter.count, waiter.size_bytes)
                waiter.has_room = True
            else:
                self._line.append(waiter)
            return waiter.has_room

    def leave(self, waiter: Waiter) -> None:
        """The waiter goes away: gives back what it was given, or its place in line."""
        with self._lock:
            if not waiter.has_room:
                self._line.remove(waiter)
        count, size_bytes = (waiter.count, waiter.size_bytes) if waiter.has_room else (0, 0)
        self.give_back(count, size_bytes)

    def give_back(self, count: int, size_bytes: int) -> None:
        """Gives room back, and on to the first in line who fit."""
        woken: list[Waiter] = []
        with self._lock:
            self.count -= count
            self.size_bytes -= size_bytes
            assert self.count >= 0, "more room was given back than taken"
            while self._line and self._fits(self._line[0].size_bytes):
                waiter = self._line.popleft()
                self._take(waiter.count, waiter.size_bytes)
                waiter.has_room = True
                woken.append(waiter)
        for waiter in woken:
            waiter.wake()

    def _fits(self, size_bytes: int) -> bool:
        return not self.count or (
            self.size_bytes + size_bytes <= UNANSWERED_BYTES_MAX
            and self.count < UNANSWERED_COUNT_MAX
        )

    def _take(self, count: int, size_bytes: int) -> None:
        self.count += count
        self.size_bytes += size_bytes
