"""
Records on their way to the log: admitted, and not yet given to it.

A turn takes the first of them, as many as one append and one write of the view should hold. On
a full disk what was produced is taken back, and all else waits.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from sandglass.core import codec, limits
from sandglass.core.partition import Partition
from sandglass.core.record import NODE, Record, row_count
from sandglass.core.retract import retract
from sandglass.errors import SandglassError

Done = Callable[[SandglassError | None], None]
"""Told when a record is applied, or why it isn't."""

RECORD_BYTES = 100
"""What a record counts for that waits, beside what was produced with it."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A record, and who waits for it."""

    record: Record
    done: Done | None
    size_bytes: int = 0
    """What of it counts towards what may be in flight."""
    is_append: bool = False
    """Produced: it can be taken back while the log hasn't got it."""
    answer_count: int = 1
    """How many requests `done` answers."""

    @property
    def weight_bytes(self) -> int:
        """Some measure of its size, before it is encoded."""
        return RECORD_BYTES + self.size_bytes


@dataclass(slots=True)
class Inbox:
    """The records of one log that wait, in the order in which they go there."""

    waiting: list[Waiting] = field(default_factory=list[Waiting])
    size_bytes: int = 0
    """By the weight of each."""

    def __bool__(self) -> bool:
        return bool(self.waiting)

    def add(self, each: Waiting) -> None:
        """Behind all others."""
        self.waiting.append(each)
        self.size_bytes += each.weight_bytes

    def add_promise(self, promise: Record) -> None:
        """
        Before what partitions have queued: behind what several turns take, a promise would be
        over before it is durable. Behind the node's own records: one of this epoch must not be
        taken for one of the epoch before.
        """
        waiting = self.waiting
        places = reversed(range(len(waiting)))
        place = next((n + 1 for n in places if waiting[n].record.partition == NODE), 0)
        each = Waiting(promise, None)
        waiting.insert(place, each)
        self.size_bytes += each.weight_bytes

    def encoded(self, bytes_max: int) -> list[bytes]:
        """The first records, as many as a turn takes, and the one that goes beyond so much."""
        raws: list[bytes] = []
        size_bytes = rows = answers = 0
        for each in self.waiting[: limits.TURN_APPEND_COUNT_MAX]:
            raws.append(codec.encode(each.record))
            size_bytes += len(raws[-1])
            rows += sum([row_count(operation) for operation in each.record.operations])
            answers += each.answer_count
            if (
                size_bytes >= min(bytes_max, limits.TURN_APPEND_BYTES_MAX)
                or rows >= limits.TURN_APPEND_ROW_COUNT_MAX
                or answers >= limits.TURN_ANSWER_COUNT_MAX
            ):
                break
        return raws

    def take(self, count: int) -> list[Waiting]:
        """Takes the first so many: the log has them."""
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        self.size_bytes -= sum([each.weight_bytes for each in taken])
        return taken

    def take_appends(self) -> list[Waiting]:
        """Takes what was produced."""
        taken = [each for each in self.waiting if each.is_append]
        self.waiting = [each for each in self.waiting if not each.is_append]
        self.size_bytes -= sum([each.weight_bytes for each in taken])
        return taken

    def retract(self, refused: list[Waiting], partitions: dict[int, Partition]) -> None:
        """Undoes the admission of what was taken: what waits behind it moves up."""
        records: dict[int, list[Record]] = {}
        for each in refused:
            records.setdefault(each.record.partition, []).append(each.record)
        moved: dict[int, Record] = {}
        for number, partition in partitions.items():
            moved |= retract(partition, records[number])
        for each in self.waiting:
            each.record = moved.get(id(each.record), each.record)


def resolve(future: asyncio.Future[None], error: SandglassError | None) -> None:
    """Tells whoever waits how it ended; nobody, if the wait was cancelled."""
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
