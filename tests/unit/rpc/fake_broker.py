"""A broker for the tests of surfaces: everything in lists, and durable at once."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from sandglass.broker.intake import Told
from sandglass.broker.outgoing import Outgoing
from sandglass.broker.status import GroupOffsets, GroupStatus, PartitionStatus, PartPlace
from sandglass.core import offset
from sandglass.core.message import Batch, Placed, Slice
from sandglass.core.standing import Standing
from sandglass.core.topic import (
    GroupSettings,
    PartitionRef,
    Topic,
    TopicGroup,
    TopicKind,
    TopicSettings,
)
from sandglass.errors import (
    ConflictError,
    NotFoundError,
    PreconditionError,
    SandglassError,
)

NOW_MS = 1_700_000_000_000
Done = Callable[[SandglassError | None], None]


class FakeStatus:
    def __init__(self, broker: "FakeBroker") -> None:
        self.last_index = broker.last_index
        self.offsets = broker.offsets
        self.standing = broker.standing

    def partition(self, ref: PartitionRef) -> PartitionStatus:
        return PartitionStatus(ref.id, 7, offset.make(NOW_MS, 7), ["master"])

    async def parts(
        self,
        topic: Topic,
        group: str = "",
        *,
        after: PartPlace | None = None,
        refs: Sequence[PartitionRef] = (),
    ) -> AsyncGenerator[tuple[PartPlace, GroupStatus]]:
        name, partition = group or "g", topic.partitions[0].id
        committed, consumed = offset.make(NOW_MS, 1), offset.make(NOW_MS, 2)
        yield (
            PartPlace(0, "master", name),
            GroupStatus(
                topic.name, partition, "master", name, committed, consumed, *range(1, 8)
            ),
        )


class FakeGroups:
    def all(self, topic: Topic) -> list[TopicGroup]:
        return [TopicGroup(topic.name, "mine", 5, NOW_MS, GroupSettings(max_deliveries=9))]


@dataclass
class FakeBroker:
    known: dict[str, Topic] = field(default_factory=dict)
    batches: list[tuple[str, str, Batch]] = field(default_factory=list)
    """(partition id, channel, batch) in order of production."""
    rows: dict[tuple[str, str], list[Slice]] = field(default_factory=dict)
    marks: list[tuple[str, str, str, list[int], bool]] = field(default_factory=list)
    drained: list[tuple[str, str, str, str]] = field(default_factory=list)
    standings: dict[tuple[str, str, str, int], tuple[Standing, int]] = field(
        default_factory=dict
    )
    """By partition id, channel, group, offset."""
    closed_count: int = 0
    spread_count: int = 0
    refusals: dict[str, SandglassError] = field(default_factory=dict)
    """By partition id: raised by the admission of an atom."""
    failures: dict[str, SandglassError] = field(default_factory=dict)
    """By partition id: told when an admitted atom is answered."""
    waiting: list[Done] | None = None
    """If a list, answers wait in it instead of being given at once."""
    outgoing: Outgoing = field(default_factory=Outgoing)
    error: Exception | None = None
    """Raised by the next reads and outcomes."""

    @property
    def catalog(self) -> "FakeBroker":
        return self

    consumers = outcomes = catalog

    @property
    def status(self) -> "FakeStatus":
        return FakeStatus(self)

    @property
    def groups(self) -> "FakeGroups":
        return FakeGroups()

    def topics(self) -> list[Topic]:
        return list(self.known.values())

    def topic(self, name: str) -> Topic:
        if name not in self.known:
            raise NotFoundError(f"ErrTopicNotFound: topic '{name}' not found", field="topic")
        return self.known[name]

    def replication_factor_default(self) -> int:
        return 1

    async def create_topic(
        self,
        name: str,
        *,
        kind: TopicKind,
        partition_count: int,
        replication_factor: int,
        settings: TopicSettings,
    ) -> Topic:
        settings.check()
        if name in self.known:
            raise ConflictError(f"ErrTopicAlreadyExist: topic '{name}' already exists")
        if replication_factor > 1:
            raise PreconditionError(f"{replication_factor - 1} missing")
        return self.add(name, partition_count, settings, kind)

    def add(
        self,
        name: str,
        partition_count: int = 1,
        settings: TopicSettings | None = None,
        kind: TopicKind = TopicKind.TIMER,
    ) -> Topic:
        partitions = tuple(PartitionRef(f"{name}-{n}", n) for n in range(partition_count))
        topic = Topic(name, kind, partitions, 1, NOW_MS, settings or TopicSettings())
        self.known[name] = topic
        return topic

    async def delete_topic(self, name: str) -> None:
        self.topic(name)
        del self.known[name]

    def partition(self, topic: Topic, partition_id: str) -> PartitionRef:
        for partition in topic.partitions:
            if partition.id == partition_id:
                return partition
        raise NotFoundError(f"ErrPartitionNotFound: '{partition_id}'", field="partition")

    def spread(self, topic: Topic) -> PartitionRef:
        self.spread_count += 1
        return topic.partitions[(self.spread_count - 1) % len(topic.partitions)]

    def produce_nowait(
        self, partition: PartitionRef, channel: str, batch: Batch, told: Told
    ) -> None:
        if partition.id in self.refusals:
            raise self.refusals[partition.id]
        rows = self.rows.setdefault((partition.id, channel), [])
        first = sum(row.row_count for row in rows) + 1
        dues: list[int] = []
        index = first
        for count, due, body in zip(batch.counts, batch.dues, batch.bodies, strict=True):
            due_ms = NOW_MS + due if batch.is_delay else max(NOW_MS, due)
            dues.append(due_ms)
            rows.append(Slice(body, count, 0, count, due_ms, index, NOW_MS))
            index += count
        self.batches.append((partition.id, channel, batch))
        failure = self.failures.get(partition.id)
        placed = (
            None if failure is not None else Placed(partition.id, first, dues, batch.counts)
        )
        if self.waiting is None:
            told(placed, failure)
        else:
            self.waiting.append(lambda _: told(placed, failure))

    async def fetch(
        self, topic: Topic, partition: PartitionRef, channel: str, low: int, high: int
    ) -> AsyncIterator[list[Slice]]:
        if self.error is not None:
            raise self.error
        for row in self.rows.get((partition.id, channel), []):
            if low <= offset.make(row.due_ms, row.first_index) <= high:
                yield [row]

    async def fetch_by_index(
        self, topic: Topic, partition: PartitionRef, above: int
    ) -> AsyncIterator[list[tuple[str, Slice]]]:
        if self.error is not None:
            raise self.error
        for (name, channel), rows in self.rows.items():
            if name == partition.id:
                yield [(channel, row) for row in rows if row.first_index > above]

    def last_index(self, ref: PartitionRef) -> int:
        return 7

    def offsets(self, ref: PartitionRef, channel: str, group: str) -> GroupOffsets:
        return GroupOffsets(*(offset.make(NOW_MS, index) for index in (1, 3, 2)))

    def standing(
        self, ref: PartitionRef, channel: str, group: str, place: int
    ) -> tuple[Standing, int] | None:
        return self.standings.get((ref.id, channel, group, place))

    async def drain(
        self, topic: Topic, partition: PartitionRef, channel: str, group: str, consumer: str
    ) -> AsyncIterator[list[Slice]]:
        self.drained.append((partition.id, channel, group, consumer))
        try:
            if self.error is not None:
                raise self.error
            yield list(self.rows.get((partition.id, channel), []))
        finally:
            self.closed_count += 1

    async def settle_offsets(
        self,
        topic: Topic,
        partition: PartitionRef,
        channel: str,
        group: str,
        offsets: Sequence[int],
        *,
        is_ack: bool,
    ) -> None:
        if self.error is not None:
            raise self.error
        self.marks.append((partition.id, channel, group, list(offsets), is_ack))
