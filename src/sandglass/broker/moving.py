"""
A partition moves from one log to another: its rows are copied, and its log is sealed.

This node leads both logs while it does. What is copied goes the one way into the other log, as
records: so its replicas have it, and a replay makes the same rows.

1. `copy` compares the rows of both sides in slices, and sends what differs. It may be cut short
   anywhere, and repeated: then less differs. While the partition is served, it copies most of
   it; what is `Written` meanwhile is known by its keys, and those alone are compared then. Once
   the log is sealed nothing changes there, and the next copy is whole.
2. `seal` lets everything be carried out that was admitted, and nothing more: after it the
   partition's row has its closed offset and its clocks as they are.
3. Rows hold steady time, which is each log's own: it is counted on by as much as the one log is
   ahead of the other.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

from sandglass.broker.node_loop import NodeLoop
from sandglass.core import keys, limits
from sandglass.core.machine import encode_topic
from sandglass.core.moving import moved_row
from sandglass.core.record import Operation, PutRows, PutTopic
from sandglass.core.topic import Topic
from sandglass.core.view import Changes, Row
from sandglass.errors import BusyError, NotFoundError, PreconditionError

Changed = list[tuple[bytes, bytes | None]]

WHOLE: Final = b"rx"
"""Kinds that are compared as a whole: their order may be another in the other log."""

SINGLE: Final = bytes(kind for kind in keys.MOVED_KINDS if kind not in WHOLE)
"""The others, of which a row or a range may be compared alone."""

Range = tuple[bytes, bytes]
"""Of keys of one kind, half-open."""


@dataclass(slots=True)
class Written:
    """
    Which rows of a partition were written since `take` was called: what was compared before is
    the same still, but for them.
    """

    number: int
    is_known: bool = False
    """False in the beginning, and when there were too many: any row may have been."""
    singles: set[bytes] = field(default_factory=set[bytes])
    """Keys."""
    ranges: list[Range] = field(default_factory=list[Range])
    """In which rows went."""

    def note(self, changes: Changes) -> None:
        """A record was carried out."""
        if not self.is_known:
            return
        number = self.number
        self.singles.update(
            key for key in changes.rows if key[0] in SINGLE and keys.is_of(key, number)
        )
        for first, end in changes.cuts:
            for low, high in _ranges(number, SINGLE):
                if first < high and low < end:
                    self.ranges.append((max(first, low), min(end, high)))
        if len(self.singles) + len(self.ranges) > limits.MOVED_KEY_COUNT_MAX:
            self.is_known = False
            self._clear()

    def take(self) -> "tuple[list[Range], list[bytes]]":
        """Ranges and single keys that are to be compared; it begins anew."""
        whole = _ranges(self.number, WHOLE if self.is_known else keys.MOVED_KINDS)
        taken = [*whole, *self.ranges], sorted(self.singles)
        self.is_known = True
        self._clear()
        return taken

    def _clear(self) -> None:
        self.singles, self.ranges = set(), []


@contextmanager
def watched(loop: NodeLoop, number: int) -> Iterator[Written]:
    """What is written of a partition while this is open."""
    written = Written(number)
    loop.applier.watchers.append(written.note)
    try:
        yield written
    finally:
        loop.applier.watchers.remove(written.note)


async def copy(
    source: NodeLoop,
    number: int,
    target: NodeLoop,
    to: int,
    *,
    ahead_ms: int,
    written: Written | None = None,
) -> int:
    """
    Makes the rows of a partition in one log those that it has in another, as number `to`.

    Args:
        ahead_ms: how far the other log's steady time is ahead.
        written: what may differ, of whoever watches the partition since it was copied last.

    Returns:
        How many rows differed.

    Raises:
        SandglassError: a row can't be read, or the other log takes nothing.
    """
    ranges, singles = (written or Written(number)).take()
    changed_count = 0
    for low, end in ranges:
        kind_end = keys.after_prefix(keys.partition_prefix(low[:1], number))
        while low < end:
            rows, high = _slice(source, low, end, is_whole=low[:1] in WHOLE)
            there = _there(target, to, low, high if high < kind_end else b"")
            wanted = dict(moved_row(row, to, ahead_ms=ahead_ms) for row in rows)
            changed: Changed = [
                (key, value) for key, value in wanted.items() if there.get(key) != value
            ]
            changed += [(key, None) for key in there if key not in wanted]
            changed_count += len(changed)
            await _send(target, to, changed)
            low = high
            await asyncio.sleep(0)
    return changed_count + await _copy_singles(source, target, to, singles, ahead_ms=ahead_ms)


async def _copy_singles(
    source: NodeLoop, target: NodeLoop, to: int, singles: Sequence[bytes], *, ahead_ms: int
) -> int:
    changed_count, first = 0, 0
    while first < len(singles):
        changed: Changed = []
        size_bytes = 0
        for key in singles[first : first + limits.SNAPSHOT_SLICE_ROW_COUNT]:
            first += 1
            value = source.view.get(key)
            wanted = None if value is None else moved_row((key, value), to, ahead_ms=ahead_ms)
            there, found = wanted or (keys.renumbered(key, to), None)
            if target.view.get(there) != found:
                changed.append((there, found))
            size_bytes += len(value or b"")
            if size_bytes >= limits.SNAPSHOT_SLICE_BYTES:
                break
        changed_count += len(changed)
        await _send(target, to, changed)
        await asyncio.sleep(0)
    return changed_count


async def seal(loop: NodeLoop, name: str, revision: int) -> None:
    """
    Seals a topic's partitions in a log, for an entry of this revision.

    Raises:
        NotFoundError: there is no such topic any more.
        PreconditionError: one of them is stopped.
        UnavailableError: the node is stopping, or another leads.
    """
    numbers = [ref.number for ref in _topic(loop, name).partitions]
    for number in numbers:
        if number in loop.stopped:
            raise PreconditionError(
                f"topic '{name}' can't move: {loop.stopped[number]}", field="topic"
            )
    loop.sealing.update(numbers)
    try:
        await commit(loop)  # what was on its way, its settings too, is carried out
        topic = _topic(loop, name)
        for ref in topic.partitions:
            # It carries the closed offset and the clocks, as they are.
            partition = loop.machine.partition(ref.number, loop.view)
            loop.submit(partition.record([], loop.moment()))
        await commit(loop, PutTopic(name, encode_topic(replace(topic, seal=revision))))
    finally:
        loop.sealing.difference_update(numbers)


def wait_for_claims(loop: NodeLoop, number: int) -> None:
    """
    A partition is served from a log from now on: sessions that read it have their grace to come
    back, as when a leader begins.
    """
    partition = loop.machine.partition(number, loop.view)
    partition.claims_until_ms = loop.moment().lease_ms + loop.session_grace_ms
    loop.ready(number)


async def commit(loop: NodeLoop, *operations: Operation) -> None:
    """A record of the log's own, carried out when this returns."""
    await loop.commit(loop.machine.record([*operations], loop.moment()))


def _topic(loop: NodeLoop, name: str) -> Topic:
    topic = loop.machine.topics.get(name)
    if topic is None:
        raise NotFoundError(f"ErrTopicNotFound: topic {name!r} not found", field="topic")
    return topic


def _ranges(number: int, kinds: bytes) -> list[Range]:
    """All rows of these kinds of a partition."""
    prefixes = [keys.partition_prefix(bytes((kind,)), number) for kind in kinds]
    return [(prefix, keys.after_prefix(prefix)) for prefix in prefixes]


def _slice(
    source: NodeLoop, low: bytes, end: bytes, *, is_whole: bool
) -> tuple[list[Row], bytes]:
    """The next rows, and where those after them begin."""
    found = source.view.range(low, end)
    if is_whole:
        return [*found], end
    rows: list[Row] = []
    size_bytes = 0
    for row in islice(found, limits.SNAPSHOT_SLICE_ROW_COUNT):
        rows.append(row)
        size_bytes += len(row[0]) + len(row[1])
        if size_bytes >= limits.SNAPSHOT_SLICE_BYTES:
            break
    is_full = size_bytes >= limits.SNAPSHOT_SLICE_BYTES
    if is_full or len(rows) == limits.SNAPSHOT_SLICE_ROW_COUNT:
        return rows, rows[-1][0] + b"\0"
    return rows, end


def _there(target: NodeLoop, to: int, low: bytes, high: bytes) -> dict[bytes, bytes]:
    """What the other log has in `[low, high)`; without a `high` to the end of the kind."""
    first = keys.renumbered(low, to)
    if high:
        end = keys.renumbered(high, to)
    else:
        end = keys.after_prefix(keys.partition_prefix(low[:1], to))
    return dict(target.view.range(first, end))


async def _send(target: NodeLoop, to: int, changed: Changed) -> None:
    first, size_bytes = 0, 0
    for place, (key, value) in enumerate(changed, 1):
        size_bytes += len(key) + len(value or b"")
        is_last = place == len(changed)
        if is_last or size_bytes >= limits.SNAPSHOT_SLICE_BYTES:
            await _put(target, PutRows(to, changed[first:place]), size_bytes)
            first, size_bytes = place, 0


async def _put(target: NodeLoop, operation: PutRows, size_bytes: int) -> None:
    """Waits for room, as a producer does: what is served goes first."""
    while True:
        try:
            target.check_room(size_bytes)
            break
        except BusyError as error:
            await asyncio.sleep(max(1, error.retry_after_ms) / 1000)
    await commit(target, operation)
