"""
Pages of a topic's messages, over all its partitions in order of offset, for operators.

A page is looked for partition by partition, and others have the loop in between; what is kept
meanwhile is no more than a page of places, and bytes are read for those that are shown. Where a
look was cut short, the page ends before what it may have missed.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sandglass.broker.loops import Loops
from sandglass.core.browse import look
from sandglass.core.keys import rows_prefix
from sandglass.core.message import Slice
from sandglass.core.offset import INDEX_BITS, MAX
from sandglass.core.rows import read_slices
from sandglass.core.topic import PartitionRef, Topic


class Place(NamedTuple):
    """Between two messages in the order of a topic: by offset, then by partition."""

    offset: int
    partition: int
    """In the order of the topic's partitions; -1 and beyond the last are bounds."""


@dataclass(frozen=True, slots=True)
class Range:
    """
    What to list of a channel: offsets in `[low, high)`, from either end, what `is_wanted`.
    """

    channel: str
    low: int = 0
    high: int = MAX
    is_newest_first: bool = False
    is_wanted: Callable[[Slice], bool] = lambda _: True


@dataclass(slots=True)
class Page:
    """Slices in order, each with its partition; where the next page begins, None at the end."""

    entries: list[tuple[PartitionRef, Slice]] = field(
        default_factory=list[tuple[PartitionRef, Slice]]
    )
    next_place: Place | None = None


async def page_of(
    loops: Loops,
    topic: Topic,
    wanted: Range,
    *,
    after: Place | None,
    message_count: int,
    size_bytes: int,
    refs: Sequence[PartitionRef] = (),
) -> Page:
    """
    The messages, of some partitions or all, after a place: as many as asked for, fewer where
    they are large or far between.

    `size_bytes` bounds the bytes of the page; one larger message comes alone.
    """
    best: list[Place] = []
    bound: Place | None = None
    for number, ref in enumerate(topic.partitions):
        if refs and ref not in refs:
            continue
        loop = loops.of(ref.number)
        loop.partition(ref.number)  # it is there, and works
        low, high = _rest(wanted, after, number)
        seen = look(
            loop.view,
            rows_prefix(ref.number, wanted.channel),
            low,
            high,
            is_wanted=wanted.is_wanted,
            is_newest_first=wanted.is_newest_first,
            message_count_max=message_count,
        )
        if seen.next_offset is not None:
            place = Place(seen.next_offset - wanted.is_newest_first, number)
            bound = place if bound is None else _first(wanted, bound, place)
        best += [place for part in seen.found for place in _places(part, number)]
        best.sort(reverse=wanted.is_newest_first)
        del best[message_count:]
        await asyncio.sleep(0)
    return _page(loops, topic, wanted, best, bound, message_count, size_bytes)


def _page(
    loops: Loops,
    topic: Topic,
    wanted: Range,
    best: list[Place],
    bound: Place | None,
    message_count: int,
    size_bytes: int,
) -> Page:
    page, read_bytes = Page(), 0
    for place in best:
        if bound is not None and _first(wanted, place, bound) == bound:
            break
        ref = topic.partitions[place.partition]
        prefix = rows_prefix(ref.number, wanted.channel)
        found = list(
            read_slices(loops.of(ref.number).view, prefix, place.offset, place.offset + 1)
        )
        width = sum(len(part.body) // part.row_count for part in found)
        if page.entries and read_bytes + width > size_bytes:
            return page
        # What has gone meanwhile is passed over.
        page.entries += [(ref, part) for part in found if wanted.is_wanted(part)]
        page.next_place = place
        read_bytes += width
    if len(best) == message_count and page.next_place == best[-1]:
        return page
    # All that was found is shown; the next page begins where a look was cut short.
    page.next_place = None
    if bound is not None:
        beside = 1 if wanted.is_newest_first else -1
        page.next_place = Place(bound.offset, bound.partition + beside)
    return page


def _first(wanted: Range, one: Place, other: Place) -> Place:
    """Which of the two is listed first."""
    return max(one, other) if wanted.is_newest_first else min(one, other)


def _rest(wanted: Range, after: Place | None, number: int) -> tuple[int, int]:
    """What of a partition lies after a place, as `[low, high)`."""
    if after is None:
        return wanted.low, wanted.high
    if wanted.is_newest_first:
        return wanted.low, min(wanted.high, after.offset + (number < after.partition))
    return max(wanted.low, after.offset + (number <= after.partition)), wanted.high


def _places(part: Slice, number: int) -> list[Place]:
    """The places of a slice's messages."""
    offset = part.due_ms << INDEX_BITS | part.first_index
    return [Place(offset + n, number) for n in range(part.count)]
