"""
Dead letters of a topic: listed, counted, redriven, purged, over all its partitions.

Each step looks at a bounded part of a partition, and makes one record of what it takes: others
have the loop in between, and memory holds one step. What dies after a redrive or a purge began
is not touched by it, so that neither runs for ever.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from sandglass.broker.listing import Page, Place, Range, page_of
from sandglass.broker.loops import Loops
from sandglass.core import limits
from sandglass.core.browse import look
from sandglass.core.dead_letter import Selection, admit_purge, admit_redrive
from sandglass.core.dispatch import Moment
from sandglass.core.keys import rows_prefix
from sandglass.core.message import DEAD_LETTER_CHANNEL, Slice
from sandglass.core.offset import INDEX_BITS
from sandglass.core.partition import Partition
from sandglass.core.record import Record
from sandglass.core.rows import read_slices
from sandglass.core.topic import PartitionRef, Topic
from sandglass.core.view import View
from sandglass.errors import NotFoundError

Admit = Callable[[Partition, Sequence[Slice], Moment, View], tuple[Record | None, int]]
EVERY = Selection()
STEP_ROW_COUNT_MAX = 200
"""Rows that one record takes: some milliseconds to admit and to apply."""

GROUP_COUNT_MAX = 1000
"""Groups that a count tells apart; the rest are counted together, under an empty name."""


@dataclass(slots=True)
class Count:
    """Messages and bytes, and messages by (group, channel)."""

    count: int = 0
    size_bytes: int = 0
    groups: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])

    def add(self, part: Slice) -> None:
        """Counts a run of dead letters."""
        self.count += part.count
        self.size_bytes += len(part.body) * part.count // part.row_count
        origin = part.origin
        key = (origin.group, origin.channel) if origin is not None else ("", "")
        if key not in self.groups and len(self.groups) >= GROUP_COUNT_MAX:
            key = ("", "")
        self.groups[key] = self.groups.get(key, 0) + part.count


@dataclass(frozen=True, slots=True)
class Taken:
    """
    How many dead letters were redriven or purged, and how many were meant and are not.

    What died at or after `before_ms` was left alone; 0 where places were named.
    """

    count: int
    skipped_count: int = 0
    before_ms: int = 0


@dataclass(slots=True)
class _Tally:
    """What was taken of at most so many."""

    most: int
    count: int = 0
    skipped_count: int = 0

    def room(self) -> int:
        return self.most - self.count

    def add(self, slices: Sequence[Slice], count: int) -> None:
        self.count += count
        self.skipped_count += sum(part.count for part in slices) - count


class DeadLetters:
    """All calls run in the event loop's thread."""

    def __init__(self, loops: Loops) -> None:
        self.loops = loops

    async def page(
        self,
        topic: Topic,
        selection: Selection = EVERY,
        *,
        after: Place | None = None,
        count: int = limits.PAGE_COUNT_DEFAULT,
        is_newest_first: bool = False,
        refs: Sequence[PartitionRef] = (),
    ) -> Page:
        """
        A page of dead letters, of some partitions or all, in order of their death.

        Raises:
            InvalidError: more than a page may hold.
        """
        limits.check_range(count, field="page_size", low=1, high=limits.PAGE_COUNT_MAX)
        wanted = Range(
            DEAD_LETTER_CHANNEL, is_newest_first=is_newest_first, is_wanted=selection.takes
        )
        return await page_of(
            self.loops,
            topic,
            wanted,
            after=after,
            message_count=count,
            size_bytes=limits.PAGE_BYTES_MAX,
            refs=refs,
        )

    async def count(
        self, topic: Topic, selection: Selection = EVERY, refs: Sequence[PartitionRef] = ()
    ) -> Count:
        """Dead letters of a selection, in some partitions or all: exact, read in slices."""
        total = Count()
        for ref in refs or topic.partitions:
            end = self._end(ref)
            async for _, slices in self._steps(ref, selection, end, room=lambda: 1 << 62):
                for part in slices:
                    total.add(part)
        return total

    async def redrive(
        self,
        topic: Topic,
        selection: Selection = EVERY,
        *,
        limit: int = 0,
        offsets: Sequence[tuple[PartitionRef, int]] = (),
        before_ms: int = 0,
        refs: Sequence[PartitionRef] = (),
    ) -> Taken:
        """
        Gives dead letters back to their groups: all of a selection, up to `limit`, in some
        partitions or all, or those at these places; with `before_ms`, only what died before it.

        Raises:
            NotFoundError: no dead letter stands at one of the places; those before it are
                redriven.
            NoSpaceError: the disk is full.
        """
        among = refs or topic.partitions
        return await self._take(among, selection, admit_redrive, limit, offsets, before_ms)

    async def purge(
        self,
        topic: Topic,
        selection: Selection = EVERY,
        *,
        limit: int = 0,
        offsets: Sequence[tuple[PartitionRef, int]] = (),
        before_ms: int = 0,
        refs: Sequence[PartitionRef] = (),
    ) -> Taken:
        """Throws dead letters away; see `redrive`."""
        among = refs or topic.partitions
        return await self._take(among, selection, admit_purge, limit, offsets, before_ms)

    async def _take(
        self,
        refs: Sequence[PartitionRef],
        selection: Selection,
        admit: Admit,
        limit: int,
        offsets: Sequence[tuple[PartitionRef, int]],
        before_ms: int,
    ) -> Taken:
        if offsets:
            return await self._take_at(selection, admit, offsets)
        tally = _Tally(limit or 1 << 62)
        ends = {ref.number: self._end(ref) for ref in refs}
        before_ms = before_ms or max(end >> INDEX_BITS for end in ends.values()) + 1
        ends = {number: min(end, before_ms << INDEX_BITS) for number, end in ends.items()}
        for ref in refs:
            steps = self._steps(ref, selection, ends[ref.number], room=tally.room)
            async for partition, slices in steps:
                tally.add(slices, await self._commit(partition, slices, admit))
        return Taken(tally.count, tally.skipped_count, before_ms)

    async def _take_at(
        self,
        selection: Selection,
        admit: Admit,
        offsets: Sequence[tuple[PartitionRef, int]],
    ) -> Taken:
        tally = _Tally(len(offsets))
        for ref, offset in offsets:
            loop = self.loops.of(ref.number)
            partition = loop.partition(ref.number)
            prefix = rows_prefix(ref.number, DEAD_LETTER_CHANNEL)
            slices = list(read_slices(loop.view, prefix, offset, offset + 1))
            if not slices or not selection.takes(slices[0]):
                raise NotFoundError(
                    f"no such dead letter at {offset:028x} of partition {ref.id}",
                    field="offsets",
                )
            tally.add(slices, await self._commit(partition, slices, admit))
        return Taken(tally.count, tally.skipped_count)

    async def _commit(self, partition: Partition, slices: Sequence[Slice], admit: Admit) -> int:
        loop = self.loops.of(partition.number)
        loop.check_room(sum(len(part.body) for part in slices))
        record, count = admit(partition, slices, loop.moment(), loop.view)
        if record is not None:
            await loop.commit(record)
        return count

    def _end(self, ref: PartitionRef) -> int:
        """Above every dead letter that there is now."""
        loop = self.loops.of(ref.number)
        partition = loop.partition(ref.number)
        partition.see(loop.moment().wall_ms)
        return partition.read_bound() + 1

    async def _steps(
        self,
        ref: PartitionRef,
        selection: Selection,
        end: int,
        *,
        room: Callable[[], int],
    ) -> AsyncIterator[tuple[Partition, list[Slice]]]:
        """Those of a partition below `end`, a look at a time, while there is room."""
        prefix, low = rows_prefix(ref.number, DEAD_LETTER_CHANNEL), 0
        while room() > 0:
            loop = self.loops.of(ref.number)
            partition = loop.partition(ref.number)
            seen = look(
                loop.view,
                prefix,
                low,
                end,
                is_wanted=selection.takes,
                found_count_max=STEP_ROW_COUNT_MAX,
                message_count_max=min(room(), limits.ATOM_MESSAGE_COUNT_MAX),
            )
            if seen.found:
                yield partition, seen.found
            await asyncio.sleep(0)
            if seen.next_offset is None:
                return
            low = seen.next_offset
