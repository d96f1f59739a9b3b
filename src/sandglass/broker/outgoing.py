"""
What waits for clients to take it, of the whole node: readers that don't read must not fill the
memory, nor keep others from reading.

1. A reader asks for room before it reads, and gives it back when its client has taken what was
   read. Where there is none it waits, and is refused when that lasts.
2. The readers of one connection have a share of the room, and no more: a client that takes
   nothing harms its own calls, and not those of others.
3. A connection that holds nothing finds room also when others have all of it, up to `HARD`
   times as much: those who do read go on.

A call of a client that takes nothing can't be ended: gRPC holds what was written for as long as
the connection lasts. So it is counted for as long.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from typing import Final

from sandglass.core import limits
from sandglass.errors import BusyError

SHARE: Final = 8
"""Connections that have to hold all they may before the room is full."""

HARD: Final = 4
"""Times the room, beyond which nobody is given any."""


class Outgoing:
    """The room, and who has it. All calls run in the event loop's thread."""

    def __init__(
        self,
        *,
        bytes_max: int = limits.OUTGOING_BYTES_MAX,
        wait_ms: int = limits.OUTGOING_WAIT_MS,
    ) -> None:
        self.size_bytes = 0
        self._bytes_max = bytes_max
        self._wait_s = wait_ms / 1000
        self._held: Counter[str] = Counter()
        """By connection; what comes without one is under ""."""
        self._lines: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        """Who waits, by connection; in front, the one whose turn it is."""

    @property
    def is_scarce(self) -> bool:
        """Somebody's share may be used up."""
        return self.size_bytes > self._bytes_max // SHARE

    def has_room(self, connection: str, size_bytes: int = 0) -> bool:
        """May a reader of this connection hold so much more?"""
        held_bytes, all_bytes = self._held[connection], self.size_bytes + size_bytes
        if not held_bytes:
            return all_bytes <= HARD * self._bytes_max
        if connection and held_bytes + size_bytes > self._bytes_max // SHARE:
            return False
        return all_bytes <= self._bytes_max

    def flow(self, connection: str = "") -> "Flow":
        """For one reader; without a connection it has no share to keep to."""
        return Flow(self, connection)

    async def wait_for(self, connection: str, size_bytes: int = 0) -> None:
        """
        Until there is room for so much.

        Raises:
            BusyError: there was none for too long.
        """
        if self.has_room(connection, size_bytes):
            return
        try:
            async with asyncio.timeout(self._wait_s):
                while not self.has_room(connection, size_bytes):
                    await self._stand_in_line(connection)
        except TimeoutError:
            raise BusyError(
                f"{self.size_bytes} bytes wait for clients to take them,"
                f" {self._held[connection]} of them for this one: read, or ask for less at a"
                " time",
                retry_after_ms=limits.OUTGOING_WAIT_MS,
            ) from None

    def add(self, connection: str, size_bytes: int) -> None:
        """A reader holds so much more, or less."""
        self.size_bytes += size_bytes
        self._held[connection] += size_bytes
        if not self._held[connection]:
            del self._held[connection]
        if size_bytes < 0 and self._lines:
            self._let_in(connection)
            if self._lines:
                self._let_in(next(iter(self._lines)))

    async def _stand_in_line(self, connection: str) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(connection, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._let_in(connection)  # it had its turn, and makes no use of it
            raise

    def _let_in(self, connection: str) -> None:
        """The first who waits there looks again; then it is another connection's turn."""
        line = self._lines.pop(connection, None)
        while line:
            place = line.popleft()
            if line:
                self._lines[connection] = line
            if not place.done():
                place.set_result(None)
                return


class Flow:
    """What one reader holds."""

    def __init__(self, outgoing: Outgoing, connection: str) -> None:
        self._outgoing = outgoing
        self._connection = connection
        self._size_bytes = 0

    async def room(self, size_bytes: int) -> None:
        """
        Waits until it may hold so much, in place of what it held before.

        Raises:
            BusyError: there was no room for too long.
        """
        self.close()
        await self._outgoing.wait_for(self._connection, size_bytes)
        self.fit(size_bytes)

    def fit(self, size_bytes: int) -> None:
        """It holds so much now: without waiting, also where that is more."""
        more, self._size_bytes = size_bytes - self._size_bytes, size_bytes
        if more:
            self._outgoing.add(self._connection, more)

    def close(self) -> None:
        """It holds nothing more."""
        self.fit(0)
