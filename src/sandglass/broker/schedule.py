"""What is pending: messages of a topic whose time is still to come, for operators."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from sandglass.broker.listing import Page, Place, Range, page_of
from sandglass.broker.loops import Loops
from sandglass.core import limits
from sandglass.core.browse import count_between, look
from sandglass.core.keys import rows_prefix
from sandglass.core.message import channel_to_write
from sandglass.core.offset import INDEX_BITS, MAX
from sandglass.core.topic import PartitionRef, Topic


@dataclass(frozen=True, slots=True)
class Pending:
    """
    Messages still to come; `count` is a lower bound where there are too many rows to count.
    `next_due_ms` is 0 if there are none.
    """

    count: int
    is_lower_bound: bool
    next_due_ms: int


class Schedule:
    """All calls run in the event loop's thread. Looking closes nothing."""

    def __init__(self, loops: Loops) -> None:
        self.loops = loops

    async def count(
        self,
        topic: Topic,
        channel: str = "",
        *,
        from_ms: int = 0,
        to_ms: int = 0,
        refs: Sequence[PartitionRef] = (),
    ) -> Pending:
        """
        Messages due in `[from_ms, to_ms)` and after now, of some partitions or all; 0 is no
        bound.

        Raises:
            InvalidError: a channel that is no name.
        """
        channel = channel_to_write(channel)
        low, high = self._bounds(from_ms, to_ms)
        count, next_due_ms, rows_left = 0, 0, limits.COUNT_ROW_COUNT_MAX
        for ref in refs or topic.partitions:
            loop = self.loops.of(ref.number)
            loop.partition(ref.number)  # it is there, and works
            prefix, at = rows_prefix(ref.number, channel), low
            first = look(loop.view, prefix, low, high, found_count_max=1).found
            if first and (not next_due_ms or first[0].due_ms < next_due_ms):
                next_due_ms = first[0].due_ms
            while at is not None:
                if rows_left <= 0:
                    return Pending(count, is_lower_bound=True, next_due_ms=next_due_ms)
                found, at = count_between(loop.view, prefix, at, high)
                count += found
                rows_left -= limits.LOOK_ROW_COUNT_MAX if at is not None else 1
                await asyncio.sleep(0)
        return Pending(count, is_lower_bound=False, next_due_ms=next_due_ms)

    async def page(
        self,
        topic: Topic,
        channel: str = "",
        *,
        from_ms: int = 0,
        to_ms: int = 0,
        after: Place | None = None,
        count: int = limits.PAGE_COUNT_DEFAULT,
        refs: Sequence[PartitionRef] = (),
    ) -> Page:
        """
        The next messages that come due, in order, of some partitions or all.

        Raises:
            InvalidError: a channel that is no name; more than a page may hold.
        """
        limits.check_range(count, field="page_size", low=1, high=limits.PAGE_COUNT_MAX)
        low, high = self._bounds(from_ms, to_ms)
        return await page_of(
            self.loops,
            topic,
            Range(channel_to_write(channel), low, high),
            after=after,
            message_count=count,
            size_bytes=limits.PAGE_BYTES_MAX,
            refs=refs,
        )

    def _bounds(self, from_ms: int, to_ms: int) -> tuple[int, int]:
        for field, value in (("from_ms", from_ms), ("to_ms", to_ms)):
            limits.check_range(value, field=field, low=0, high=limits.DUE_MS_MAX)
        now_ms = self.loops.own.moment().wall_ms
        low = max(from_ms, now_ms + 1) << INDEX_BITS
        return low, to_ms << INDEX_BITS if to_ms else MAX
