"""How partitions and groups stand, for operators: values, read when asked for."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from sandglass.broker.loops import Loops
from sandglass.core import limits
from sandglass.core.browse import count_between, look
from sandglass.core.group import Group
from sandglass.core.message import REDRIVE_CHANNEL
from sandglass.core.offset import INDEX_BITS
from sandglass.core.partition import Partition
from sandglass.core.standing import Standing, standing_of
from sandglass.core.topic import PartitionRef, Topic
from sandglass.errors import NotFoundError

LAG_ROW_COUNT_MAX = 10_000
"""Rows that a group's lag is counted over; beyond that it is a lower bound."""


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """A partition, for operators; `closed_offset` as an int."""

    id: str
    last_index: int
    closed_offset: int
    channels: list[str]


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """One group in one partition and channel, for operators; offsets as ints."""

    topic: str
    partition: str
    channel: str
    group: str
    committed: int
    consumed: int
    lag_count: int
    leased_count: int
    retry_count: int
    acked_count: int
    dead_count: int
    generation: int
    consumer_count: int
    redriven_count: int = 0
    expired_count: int = 0
    skipped_count: int = 0


class PartPlace(NamedTuple):
    """Where a part of a group stands among those of its topic; `partition` is a place in it."""

    partition: int
    channel: str
    group: str


@dataclass(frozen=True, slots=True)
class GroupOffsets:
    """How far a group is: the last offset of each kind, as an int; 0 for none."""

    settled: int = 0
    """Of the prefix in which everything is settled."""
    consumed: int = 0
    acked: int = 0


class Status:
    """Reads, and changes nothing."""

    def __init__(self, loops: Loops) -> None:
        self.loops = loops

    def partition(self, ref: PartitionRef) -> PartitionStatus | None:
        """How a partition stands; None if its topic is gone."""
        loop = self.loops.of(ref.number)
        if ref.number not in loop.machine.refs:
            return None
        partition = loop.partition(ref.number)
        channels = partition.channels.names(loop.view)
        if REDRIVE_CHANNEL in channels:
            channels.remove(REDRIVE_CHANNEL)  # nobody can read it
        return PartitionStatus(ref.id, partition.last_index, partition.closed, channels)

    async def parts(
        self,
        topic: Topic,
        group: str = "",
        *,
        after: PartPlace | None = None,
        refs: Sequence[PartitionRef] = (),
    ) -> AsyncGenerator[tuple[PartPlace, GroupStatus]]:
        """
        The parts of the groups of a topic, or of one, by partition (some, or all), channel and
        name, behind `after`. Others have the loop after each.
        """
        first = 0 if after is None else after.partition
        for place, ref in enumerate(topic.partitions[first:], first):
            if refs and ref not in refs:
                continue
            loop = self.loops.of(ref.number)
            if ref.number not in loop.machine.refs:
                break  # the topic was deleted meanwhile
            partition = loop.partition(ref.number)
            for channel, name in partition.groups.names(loop.view):
                at = PartPlace(place, channel, name)
                if (group and name != group) or (after is not None and at <= after):
                    continue
                with suppress(NotFoundError):  # it was deleted meanwhile
                    found = partition.group(channel, name, loop.view)
                    yield at, await self._group_status(topic, ref, partition, found)
            await asyncio.sleep(0)

    def last_index(self, ref: PartitionRef) -> int:
        """Of the last message produced to a partition; 0 if there is none."""
        return self.loops.partition(ref.number).last_index

    def offsets(self, ref: PartitionRef, channel: str, group: str) -> GroupOffsets:
        """How far a group is; one that doesn't exist has done nothing."""
        loop = self.loops.of(ref.number)
        partition = loop.partition(ref.number)
        try:
            found = partition.group(channel, group, loop.view)
        except NotFoundError:
            return GroupOffsets()
        committed = found.committed(partition.closed, loop.view)
        return GroupOffsets(
            committed - 1 if committed > found.start else 0, found.consumed, found.acked
        )

    def standing(
        self, ref: PartitionRef, channel: str, group: str, offset: int
    ) -> tuple[Standing, int] | None:
        """As `standing_of`; None also if there is no such group."""
        loop = self.loops.of(ref.number)
        partition = loop.partition(ref.number)
        try:
            found = partition.group(channel, group, loop.view)
        except NotFoundError:
            return None
        return standing_of(partition, found, offset, loop.view)

    async def _group_status(
        self, topic: Topic, ref: PartitionRef, partition: Partition, group: Group
    ) -> GroupStatus:
        loop = self.loops.of(ref.number)
        unread = await self._count_unread(partition, group)
        leased = sum(lease.open.bit_count() for lease in group.leases.values())
        return GroupStatus(
            topic.name,
            ref.id,
            group.channel,
            group.name,
            group.committed(partition.closed, loop.view),
            group.consumed,
            unread + leased + group.retry_count,
            leased,
            group.retry_count,
            group.acked_count,
            group.dead_count,
            group.generation,
            len(group.consumers),
            group.redriven_count,
            group.expired_count,
            await self._count_skipped(partition, group),
        )

    async def _count_skipped(self, partition: Partition, group: Group) -> int:
        """Due messages before the group's start; of so many rows at most."""
        loop = self.loops.of(partition.number)
        end = min(group.start, (max(partition.now_ms, loop.moment().wall_ms) + 1) << INDEX_BITS)
        count, row_count, low = 0, 0, partition.cut
        while low < end and row_count < LAG_ROW_COUNT_MAX:
            some, next_low = count_between(loop.view, group.rows_prefix(), low, end)
            count, row_count = count + some, row_count + limits.LOOK_ROW_COUNT_MAX
            low = end if next_low is None else next_low
            await asyncio.sleep(0)
        return count

    async def _count_unread(self, partition: Partition, group: Group) -> int:
        """Due messages that the group has not been given; of so many rows at most."""
        loop = self.loops.of(partition.number)
        moment, row_count, count = loop.moment(), 0, 0
        end = (max(partition.now_ms, moment.wall_ms) + 1) << INDEX_BITS
        low: int | None = group.cursor
        while low is not None and row_count < LAG_ROW_COUNT_MAX:
            seen = look(loop.view, group.rows_prefix(), low, end, found_bytes_max=1 << 62)
            count += sum(
                part.count
                for part in seen.found
                if not group.done.holds(part.due_ms << INDEX_BITS | part.first_index)
            )
            low, row_count = seen.next_offset, row_count + seen.row_count
            await asyncio.sleep(0)
        return count
