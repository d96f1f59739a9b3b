"""
Whose turn it is when credit comes: the partitions that wait for a subscription.

Credit belongs to a subscription, which may read a thousand partitions. A group that has
something to hand out in one of them, and finds no credit, is *starved*: its partition joins the
line of each subscription that could take it. New credit is offered to the first of the line,
who have a turn. A group that has handed something out goes to the end of every line; one that
found the credit gone stays at the head of the line from which it was offered. Credit that comes
while a turn's messages are handed out finds its partition in line at the end of that turn. So a
grant costs what it hands out, whatever waits, and no partition is passed over: whatever else
wakes one, a starved group takes nothing before it is its turn.
"""

from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Mapping
from itertools import islice
from typing import Final, Protocol

from sandglass.core.group import Group
from sandglass.core.lease import Consumer
from sandglass.core.partition import Partition

OFFER_COUNT_MAX: Final = 32
"""Partitions that have a turn together for one grant: large credit reaches many."""


class Reader(Protocol):
    """Who has credit for several partitions: a subscription."""

    consumer: Consumer
    groups: dict[int, Group]
    """By partition number."""
    waiting: OrderedDict[int, None]
    """Its line: partitions that have something for it and found no credit."""
    offer_count: int
    """Of those that have their turn just now."""
    is_closed: bool


class ReadyList:
    """
    The lines of all readers.

    `readers` is by consumer key, and the owner's; `ready` gives a partition its turn.

    Invariant: a group that is starved is in the line of each of its readers, or that reader
    has been offered to its partition.
    """

    def __init__(self, readers: Mapping[int, Reader], ready: Callable[[int], None]) -> None:
        self._readers = readers
        self._ready = ready
        self._offered: dict[int, list[Reader]] = {}

    def offer(self, reader: Reader) -> None:
        """If the reader has credit, the first partitions of its line have a turn."""
        if reader.is_closed or not reader.consumer.has_credit or reader.offer_count:
            return
        waiting = reader.waiting
        count = min(len(waiting), reader.consumer.credit_count, OFFER_COUNT_MAX)
        first = [*islice(waiting, count + OFFER_COUNT_MAX)]
        # Others are there already where a turn has been given: better go where none is.
        first.sort(key=self._offered.__contains__)
        for number in first[:count]:
            del waiting[number]
            reader.offer_count += 1
            reader.groups[number].is_starved = False
            self._offered.setdefault(number, []).append(reader)
            self._ready(number)

    def dispatched(self, partition: Partition, fed: Container[int]) -> None:
        """A partition has had its turn; the groups numbered `fed` have handed something out."""
        number = partition.number
        starved: list[Reader] = []
        for group in partition.starved:
            for consumer in group.consumers:
                reader = self._readers.get(consumer.key)
                if reader is not None:
                    starved.append(reader)
                    reader.waiting.setdefault(number)
                    if group.number in fed:
                        reader.waiting.move_to_end(number)
        for reader in self._offered.pop(number, ()):
            reader.offer_count -= 1
            group = reader.groups[number]
            if group.is_starved and group.number not in fed:
                reader.waiting[number] = None
                reader.waiting.move_to_end(number, last=False)
            self.offer(reader)
        for reader in starved:  # one may have been granted credit with what it was handed
            self.offer(reader)

    def stopped(self, number: int) -> None:
        """A partition has no more turns: its readers go on with what else they read."""
        offered = self._offered.pop(number, ())
        for reader in self._readers.values():
            reader.waiting.pop(number, None)
        for reader in offered:
            reader.offer_count -= 1
            self.offer(reader)

    def deleted(self, numbers: Iterable[int]) -> None:
        """Partitions are gone, and all that read them."""
        for number in numbers:
            self._offered.pop(number, None)
