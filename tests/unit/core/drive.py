"""A machine with one topic, driven by plain calls: what tests of the core have in common."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sandglass.adapters.memory_store import MemoryStore
from sandglass.core import codec, keys, outcome
from sandglass.core.browse import look
from sandglass.core.dead_letter import Selection, admit_purge, admit_redrive
from sandglass.core.dispatch import Delivery, Moment
from sandglass.core.group import Group
from sandglass.core.lease import Consumer, Places
from sandglass.core.machine import Machine, encode_group, encode_topic
from sandglass.core.membership import admit_drop, admit_group, admit_seek
from sandglass.core.message import DEAD_LETTER_CHANNEL, Batch, Placed, Slice
from sandglass.core.offset import INDEX_BITS, MAX
from sandglass.core.partition import Partition
from sandglass.core.record import Ending, PutGroup, PutTopic, Record
from sandglass.core.topic import (
    GroupSettings,
    PartitionRef,
    Topic,
    TopicGroup,
    TopicKind,
    TopicSettings,
)
from sandglass.testing.seen import message_bytes, take_messages

START_MS = 1000
WIDTH_BYTES = 8


def offset(due_ms: int, index: int) -> int:
    return due_ms << INDEX_BITS | index


def numbers_of(slices: Sequence[Slice]) -> list[int]:
    """The numbers that the messages of these slices carry."""
    found: list[int] = []
    for part in slices:
        width = len(part.body) // part.row_count
        raw = take_messages(part.body, part.row_count, part.first, part.count)
        found += [int.from_bytes(raw[at : at + 8], "big") for at in range(0, len(raw), width)]
    return found


@dataclass
class Drive:
    """`moment` is what the clocks show; `wall_ms` may be set back, `steady_ms` only goes on."""

    max_deliveries: int = 3
    wall_ms: int = START_MS
    steady_ms: int = 0
    position: int = 0
    number: int = 0
    """Of the last message produced."""
    store: MemoryStore = field(default_factory=MemoryStore)

    def __post_init__(self) -> None:
        self.machine = Machine.load(take_messages, self.store)
        self.apply(self.machine.lead(self.moment))
        settings = TopicSettings(ack_timeout_ms=500, max_deliveries=self.max_deliveries)
        topic = Topic("a", TopicKind.TIMER, (PartitionRef("P", 1),), settings=settings)
        put = PutTopic("a", encode_topic(topic))
        self.apply(self.machine.record([put], self.moment))

    @property
    def moment(self) -> Moment:
        return Moment(self.wall_ms, self.steady_ms, self.steady_ms)

    @property
    def partition(self) -> Partition:
        return self.machine.partition(1, self.store)

    def go(self, passed_ms: int) -> None:
        self.wall_ms += passed_ms
        self.steady_ms += passed_ms

    def apply(self, record: Record | None) -> Record:
        """Makes it durable, and carries it out."""
        assert record is not None
        assert codec.decode(codec.encode(record)) == record
        self.position += 1
        self.store.write(self.machine.apply(record, self.store), self.position)
        return record

    def restart(self, promised: int = 0) -> None:
        """A new leader, from the view alone."""
        self.machine = Machine.load(take_messages, self.store)
        self.machine.promised_ms = promised or self.machine.promised_ms
        self.apply(self.machine.lead(self.moment))

    # --- requests -----------------------------------------------------------------------------

    def batch(
        self, dues: list[int], counts: list[int], *, width: int = WIDTH_BYTES, is_delay: bool
    ) -> Batch:
        bodies: list[bytes] = []
        for count in counts:
            first = self.number + 1
            self.number += count
            bodies.append(b"".join(message_bytes(first + n, width) for n in range(count)))
        return Batch(counts, dues, bodies, sum(counts), sum(map(len, bodies)), is_delay)

    def admit(
        self,
        *dues: int,
        counts: list[int] | None = None,
        channel: str = "master",
        width: int = WIDTH_BYTES,
        is_delay: bool = False,
    ) -> tuple[Record, Placed]:
        """An append on its way; without due times, one message for now."""
        due_list = list(dues) or [0]
        batch = self.batch(
            due_list, counts or [1] * len(due_list), width=width, is_delay=is_delay
        )
        return self.partition.admit_append(channel, batch, self.moment, self.store)

    def produce(
        self,
        *dues: int,
        counts: list[int] | None = None,
        channel: str = "master",
        width: int = WIDTH_BYTES,
        is_delay: bool = False,
    ) -> Placed:
        record, placed = self.admit(
            *dues, counts=counts, channel=channel, width=width, is_delay=is_delay
        )
        self.apply(record)
        return placed

    def group(
        self, name: str = "g", *, channel: str = "master", is_from_now: bool = False
    ) -> Group:
        """The group, created if it is new."""
        record = admit_group(
            self.partition,
            channel,
            name,
            start=None if is_from_now else 0,
            moment=self.moment,
            view=self.store,
        )
        if record is not None:
            self.apply(record)
        return self.partition.group(channel, name, self.store)

    def committed(self, group: Group) -> int:
        return group.committed(self.partition.closed, self.store)

    def read(
        self, group: Group, credit_count: int = 1000, credit_bytes: int = 1_000_000
    ) -> Consumer:
        """A consumer comes."""
        consumer = Consumer(len(group.consumers) + 1, credit_count, credit_bytes)
        self.partition.add_consumer(group, consumer)
        return consumer

    def grant(
        self, consumer: Consumer, credit_count: int = 1000, credit_bytes: int = 1_000_000
    ) -> None:
        """Its credit is this from now on, and is offered to whoever waits for it."""
        consumer.credit_count, consumer.credit_bytes = credit_count, credit_bytes
        for group in self.partition.reading:
            if consumer in group.consumers:
                group.is_starved = False

    def dispatch(self, promised: int = MAX) -> list[Delivery]:
        """Moves are carried out at once."""
        deliveries, records = self.partition.dispatch(self.moment, promised, self.store)
        for record in records:
            self.apply(record)
        return deliveries

    def take(self) -> list[int]:
        """The numbers of the messages that one dispatch hands out."""
        return [number for each in self.dispatch() for number in numbers_of(each.slices)]

    def end(
        self,
        delivery: Delivery,
        ending: Ending,
        places: Places | None = None,
        *,
        delay_ms: int | None = None,
        reason: str = "",
    ) -> Record:
        return self.apply(
            self.admit_end(delivery, ending, places, delay_ms=delay_ms, reason=reason)
        )

    def admit_end(
        self,
        delivery: Delivery,
        ending: Ending,
        places: Places | None = None,
        *,
        delay_ms: int | None = None,
        reason: str = "",
    ) -> Record:
        """An outcome on its way."""
        return outcome.admit_outcome(
            self.partition,
            delivery.group,
            delivery.lease.token,
            places or [],
            ending,
            moment=self.moment,
            view=self.store,
            delay_ms=delay_ms,
            reason=reason,
        )

    def expire(self) -> None:
        """Leases whose time is over end."""
        for record in outcome.admit_expired(self.partition, self.moment, self.store):
            self.apply(record)

    def end_offsets(self, group: Group, offsets: list[int], ending: Ending) -> int:
        """Returns how many were ignored."""
        records, ignored_count = outcome.admit_offsets(
            self.partition, group, offsets, ending, self.moment, self.store
        )
        for record in records:
            self.apply(record)
        return ignored_count

    # --- an operator --------------------------------------------------------------------------

    def set_group(self, name: str, settings: GroupSettings, *, is_going: bool = False) -> None:
        group = TopicGroup("a", name, settings=settings, is_going=is_going)
        put = PutGroup("a", name, encode_group(group))
        self.apply(self.machine.record([put], self.moment))

    def seek(self, group: Group, start: int | None = 0) -> None:
        self.apply(admit_seek(self.partition, group, start=start, moment=self.moment))

    def drop(self, group: Group) -> None:
        self.apply(admit_drop(self.partition, group, self.moment))

    def letters(self, selection: Selection = Selection()) -> list[Slice]:  # noqa: B008  # frozen
        prefix = keys.rows_prefix(1, DEAD_LETTER_CHANNEL)
        found = look(self.store, prefix, 0, MAX, is_wanted=selection.takes)
        assert found.next_offset is None
        return found.found

    def redrive(self, letters: Sequence[Slice]) -> int:
        record, count = admit_redrive(self.partition, letters, self.moment, self.store)
        if record is not None:
            self.apply(record)
        return count

    def purge(self, letters: Sequence[Slice]) -> int:
        record, count = admit_purge(self.partition, letters, self.moment, self.store)
        if record is not None:
            self.apply(record)
        return count

    def fetch(self, channel: str = "master") -> list[Slice]:
        self.partition.see(self.wall_ms)
        found: Iterator[Slice] = self.partition.fetch(channel, 0, MAX, MAX, self.store)
        return list(found)
