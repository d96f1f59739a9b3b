"""
What KV topics hold: reading by key and in key order, and deleting. Putting is producing.

Reads are linearizable: `sandglass.core.entry` says why. Nothing waits in them for anything, and
`NodeLoop.partition` refuses them where this node can't vouch for what it would show.
"""

import asyncio
from collections.abc import AsyncIterator

from sandglass.broker.inbox import Done, resolve
from sandglass.broker.loops import Loops
from sandglass.core import entry, limits
from sandglass.core.keyvalue import admit_delete
from sandglass.core.message import (
    Entry,
    EntryKey,
    Removed,
    channel_to_read,
    channel_to_write,
)
from sandglass.core.topic import PartitionRef

FIRST_KEY: EntryKey = (b"", b"")
"""At or below every key."""

PAGE_BYTES_MAX = limits.FRAME_BYTES_MAX


class KeyValue:
    """All calls run in the event loop's thread. Keys are taken as they are."""

    def __init__(self, loops: Loops) -> None:
        self.loops = loops

    def find(self, partition: PartitionRef, channel: str, key: EntryKey) -> Entry | None:
        """
        What stands under a key now; None if nothing does.

        Raises:
            NotFoundError: the topic was deleted.
        """
        loop = self.loops.of(partition.number)
        number = loop.partition(partition.number).number
        return entry.find(number, channel_to_read(channel), key, loop.view)

    def holds(self, partition: PartitionRef, channel: str, key: EntryKey) -> bool:
        """
        Does something stand under a key now?

        Raises:
            NotFoundError: the topic was deleted.
        """
        loop = self.loops.of(partition.number)
        number = loop.partition(partition.number).number
        return entry.holds(number, channel_to_read(channel), key, loop.view)

    def page(
        self,
        partition: PartitionRef,
        channel: str,
        first: EntryKey,
        end: EntryKey | None,
        *,
        count_max: int,
        bytes_max: int = PAGE_BYTES_MAX,
    ) -> tuple[list[Entry], EntryKey | None]:
        """
        Entries with keys in `[first, end)`, in order, as they stand now: so many at most, and
        no more bytes of messages and keys, one larger entry excepted.

        Returns:
            The entries, and where the next page begins; None if that was all.
        """
        loop = self.loops.of(partition.number)
        number = loop.partition(partition.number).number
        found: list[Entry] = []
        size_bytes = 0
        for each in entry.scan(number, channel_to_read(channel), first, end, loop.view):
            size_bytes += len(each.message) + sum(map(len, each.key))
            if len(found) == count_max or (found and size_bytes > bytes_max):
                return found, each.key
            found.append(each)
        return found, None

    async def entries(
        self, partition: PartitionRef, channel: str
    ) -> AsyncIterator[list[Entry]]:
        """All entries of a channel, in order, page by page: each page shows its own moment."""
        first: EntryKey | None = FIRST_KEY
        while first is not None:
            found, first = self.page(
                partition, channel, first, None, count_max=limits.SCAN_ENTRY_COUNT_MAX
            )
            yield found
            await asyncio.sleep(0)

    async def delete(
        self, partition: PartitionRef, channel: str, keys: list[EntryKey]
    ) -> Removed:
        """
        Empties keys of one partition, all or none; returns once that is durable. Cancelling
        doesn't undo it.

        Raises:
            BusyError: too much is waiting to be written; see `retry_after_ms`.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        removed = self.delete_nowait(
            partition, channel, keys, lambda error: resolve(future, error)
        )
        await asyncio.shield(future)
        return removed

    def delete_nowait(
        self, partition: PartitionRef, channel: str, keys: list[EntryKey], done: Done
    ) -> Removed:
        """As `delete`, but `done` is told; what is returned holds once it was told None."""
        loop = self.loops.of(partition.number)
        size_bytes = sum(len(key) + len(clustering_key) for key, clustering_key in keys)
        # Deleting makes room, so it goes on where putting has to wait.
        loop.check_room(size_bytes, may_use_reserve=True)
        record, removed = admit_delete(
            loop.partition(partition.number), channel_to_write(channel), keys, loop.moment()
        )
        loop.submit(record, done, size_bytes, may_use_reserve=True)
        return removed
