"""
Objects of a snapshot, fetched before they are asked for.

A replica that begins at a snapshot writes one part after the other. While it writes one, those
that come next are on their way, or are there and are checked.

1. An object comes to whoever asks as it would have come to him alone: whole by its hash, or as
   None. What goes wrong with one that was fetched ahead is told when it is asked for.
2. Bytes fetched ahead are counted for all replicas of a node together, in its `Room`. Who asks
   for an object that had no room waits for it as if there were none fetched ahead, and so gets
   on however many begin at once.
3. Who asks for another object than the one that was expected begins at another snapshot: what
   was fetched ahead goes.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from sandglass.core import limits
from sandglass.ports import SnapshotStore
from sandglass.replication.snapshot import Part, is_whole

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Room:
    """How much a node may still fetch ahead, for all its replicas."""

    left_bytes: int = limits.SNAPSHOT_AHEAD_BYTES


async def whole(store: SnapshotStore, number: int, name: str) -> bytes | None:
    """
    An object of a log; None if it isn't there, or not what it was when it was named.

    Raises:
        UnavailableError: no answer.
    """
    raw = await store.get(number, name)
    if raw is None or not await asyncio.to_thread(is_whole, name, raw):
        logger.warning("object %s of partition %d is gone or damaged", name, number)
        return None
    return raw


class Fetching:
    """
    The objects that one replica asks for. `close` once.

    Invariant: what is on its way or waits here has been taken from the room.
    """

    def __init__(self, store: SnapshotStore, number: int, room: Room) -> None:
        self._store = store
        self._number = number
        self._room = room
        self._ahead: deque[tuple[Part, asyncio.Task[bytes | None]]] = deque()
        self._expected: deque[Part] = deque()
        """What comes behind those."""

    def expect(self, parts: Sequence[Part]) -> None:
        """These are asked for next, in this order."""
        assert not self._ahead, "something else was expected"
        self._expected = deque(parts)
        self._fetch_ahead()

    async def get(self, name: str) -> bytes | None:
        """
        See `whole`.

        Raises:
            UnavailableError: no answer.
        """
        if self._ahead and self._ahead[0][0].name == name:
            part, fetch = self._ahead.popleft()
            try:
                raw = await fetch
            finally:
                self._room.left_bytes += part.size_bytes
        else:
            if not self._ahead and self._expected and self._expected[0].name == name:
                self._expected.popleft()
            else:
                await self.close()
            raw = await whole(self._store, self._number, name)
        self._fetch_ahead()
        return raw

    async def close(self) -> None:
        """Lets go of what was fetched ahead."""
        ahead, self._ahead = self._ahead, deque()
        self._expected.clear()
        for part, fetch in ahead:
            fetch.cancel()
            self._room.left_bytes += part.size_bytes
        await asyncio.gather(*(fetch for _, fetch in ahead), return_exceptions=True)

    def _fetch_ahead(self) -> None:
        while self._expected and self._expected[0].size_bytes <= self._room.left_bytes:
            part = self._expected.popleft()
            self._room.left_bytes -= part.size_bytes
            fetch = asyncio.create_task(whole(self._store, self._number, part.name))
            self._ahead.append((part, fetch))
