"""
The compatible BrokerService over the broker, and what `surface.internal` shares with it.

Rules:

1. An empty channel is `master`, everywhere.
2. Reading needs a partition; producing finds one by key, or spreads. A KV topic is read in the
   order of its keys, and what was put within the range of offsets is shown.
3. An outcome needs no token and is taken from anyone; offsets that hold no message, or were
   never handed out, are ignored.
4. Texts keep the names of the prototype's errors; codes are proper ones.
"""

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final, TypeVar

from sandglass.broker.broker import Broker
from sandglass.broker.loops import is_own
from sandglass.core import limits, offset
from sandglass.core.message import Slice, channel_to_read
from sandglass.core.topic import PartitionRef, Topic, TopicKind, TopicSettings
from sandglass.errors import InvalidError
from sandglass.surface.admin import kind_of
from sandglass.surface.consume import Consuming
from sandglass.surface.following import Draining, FollowingDrain
from sandglass.surface.keyvalue import compatible_entries
from sandglass.surface.leaders import ALONE, Leaders, call_of
from sandglass.surface.pacing import at_once, in_pieces
from sandglass.surface.producing import Producing
from sandglass.wire.compat import sandglass_pb2 as pb
from sandglass.wire.compatible import compatible_messages
from sandglass.wire.v1 import broker_pb2 as v1

CONSUMER_DEFAULT: Final = "anonymous"
"""The prototype ignored the consumer's name in most places, so clients may send none."""

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["BrokerService"]
ACKNOWLEDGE: Final = call_of(
    _SERVICE, "Acknowledge", pb.MarkResponse.FromString, is_change=True
)
NOT_ACKNOWLEDGE: Final = call_of(
    _SERVICE, "NotAcknowledge", pb.MarkResponse.FromString, is_change=True
)
FETCH_FROM: Final = call_of(_SERVICE, "FetchFrom", bytes)
FETCH_RANGE: Final = call_of(_SERVICE, "FetchRange", bytes)

Fetch = TypeVar("Fetch", pb.FetchFromRequest, pb.FetchRangeRequest)

MARK_KINDS: Final = (pb.Consumed, pb.NotAcknowledged, pb.Acknowledged, pb.Commited)

_log = logging.getLogger("sandglass.surface")


class BrokerService:
    """The calls of the service."""

    def __init__(self, broker: Broker, leaders: Leaders = ALONE) -> None:
        self._broker = broker
        self._leaders = leaders
        self._producing = Producing(broker, leaders)
        self._consuming = Consuming(broker, leaders)

    async def create_topic(self, request: pb.TopicConfig) -> pb.TopicReply:
        """Both numbers must be given. A Badger topic is stored as any other."""
        limits.check_range(
            request.numPartitions,
            field="numPartitions",
            low=1,
            high=limits.PARTITION_COUNT_MAX,
        )
        limits.check_range(
            request.replicationFactor,
            field="replicationFactor",
            low=1,
            high=limits.REPLICATION_FACTOR_MAX,
        )
        if request.storageDriver not in pb.StorageDriver.values():
            raise InvalidError(
                f"storageDriver {request.storageDriver} is not known; it is 0 (RocksDB) or"
                " 1 (Badger)",
                field="storageDriver",
            )
        await self._broker.catalog.create_topic(
            request.name,
            kind=kind_of(request.kind),
            partition_count=request.numPartitions,
            replication_factor=request.replicationFactor,
            settings=TopicSettings(),
        )
        await self._leaders.tell_all()
        if request.storageDriver == pb.Badger:
            _log.warning(
                "topic %r asks for Badger; it is stored as RocksDB, like all", request.name
            )
        return pb.TopicReply(success=True)

    async def get_topic(self, request: pb.GetTopicParams) -> pb.GetTopicReply:
        """The ids of its partitions, in order."""
        topic = self._broker.catalog.topic(request.name)
        ids = [partition.id for partition in topic.partitions]
        return pb.GetTopicReply(name=topic.name, partitions=ids)

    async def produce(self, request: bytes) -> pb.ProduceResponse:
        """Takes the request's bytes: its messages are stored as they came."""
        return await self._producing.produce_compatible(request)

    def consume(
        self, request: pb.ConsumeFromGroupRequest, connection: str = ""
    ) -> AsyncGenerator[bytes, None]:
        """What is ready when the call begins, leased to the consumer; then the end."""
        reader = self._reader(request)
        if self._is_own(reader[1]):
            found = self._broker.consumers.drain(*reader)
        else:
            found = self._drained(request)
        return _messages(at_once(self._broker.outgoing, connection, found), reader[2])

    async def open_drain(self, request: pb.ConsumeFromGroupRequest) -> tuple[Draining, str]:
        """As `consume`, not yet made into messages; and the channel's name."""
        reader = topic, partition, channel, group, consumer = self._reader(request)
        if self._is_own(partition):
            return await self._broker.consumers.open_drain(*reader), channel
        drain = FollowingDrain(
            self._leaders,
            partition,
            v1.ConsumeRequest(
                topic=topic.name, channel=channel, group=group, consumer=consumer
            ),
            take=self._consuming.consume,
            settle=self._consuming.settle,
            began_ms=self._broker.loop.clock.wall_ms(),
        )
        await drain.begin()
        return drain, channel

    async def _drained(
        self, request: pb.ConsumeFromGroupRequest
    ) -> AsyncGenerator[Sequence[Slice], None]:
        drain, _ = await self.open_drain(request)
        try:
            while (handed := await drain.next()) is not None:
                yield handed.slices
        finally:
            drain.close()

    def _is_own(self, partition: PartitionRef) -> bool:
        """It lives in this node's own log, and nowhere else; or this call goes no further."""
        return self._leaders.is_alone or is_own(partition.number)

    def fetch_from(
        self, request: pb.FetchFromRequest, connection: str = ""
    ) -> AsyncGenerator[bytes, None]:
        """From an offset on, up to what is readable now. No group, no lease."""
        _, partition = place_of(self._broker, request.topic, request.partition)

        def here(asked: pb.FetchFromRequest) -> AsyncGenerator[bytes, None]:
            low = offset_of(getattr(asked, "from"), field="from", unset=offset.NIL)
            return self._fetch(asked, low, offset.MAX, connection)

        return self._leaders.stream(FETCH_FROM, partition, request, here, self._go_on)

    def fetch_range(
        self, request: pb.FetchRangeRequest, connection: str = ""
    ) -> AsyncGenerator[bytes, None]:
        """As `fetch_from`, up to `to`, which is included; an unset one is no bound."""
        _, partition = place_of(self._broker, request.topic, request.partition)

        def here(asked: pb.FetchRangeRequest) -> AsyncGenerator[bytes, None]:
            low = offset_of(getattr(asked, "from"), field="from", unset=offset.NIL)
            high = offset_of(asked.to, field="to", unset=offset.MAX)
            return self._fetch(asked, low, high, connection)

        return self._leaders.stream(FETCH_RANGE, partition, request, here, self._go_on)

    def _go_on(self, request: Fetch, last: bytes) -> tuple[Fetch, Callable[[bytes], bool]]:
        """Behind the last message: by offset, or in a KV topic by key."""
        message = pb.Message.FromString(last)
        if self._broker.catalog.topic(request.topic).kind is TopicKind.KV:
            return request, partial(_is_behind, (message.key, message.clusteringKey))
        further = type(request)()
        further.CopyFrom(request)
        setattr(further, "from", offset.to_bytes(offset.from_bytes(message.offset) + 1))
        return further, _is_any

    async def acknowledge(self, request: pb.MarkRequest) -> pb.MarkResponse:
        """Settled, for the group; a state in the request is stronger."""
        return await self._leaders.ask(ACKNOWLEDGE, request, self._acknowledge)

    async def _acknowledge(self, request: pb.MarkRequest) -> pb.MarkResponse:
        return await mark(self._broker, request, request.state.kind or pb.Acknowledged)

    async def not_acknowledge(self, request: pb.MarkRequest) -> pb.MarkResponse:
        """A failed attempt, counted; a state in the request is stronger."""
        return await self._leaders.ask(NOT_ACKNOWLEDGE, request, self._not_acknowledge)

    async def _not_acknowledge(self, request: pb.MarkRequest) -> pb.MarkResponse:
        return await mark(self._broker, request, request.state.kind or pb.NotAcknowledged)

    def _reader(
        self, request: pb.ConsumeFromGroupRequest
    ) -> tuple[Topic, PartitionRef, str, str, str]:
        """Topic, partition, channel, group and consumer."""
        topic, partition = place_of(self._broker, request.topic, request.partition)
        channel = channel_to_read(request.channel)
        group = limits.check_name(request.consumerGroupName, field="consumerGroupName")
        consumer = CONSUMER_DEFAULT
        if request.consumerName:
            consumer = limits.check_name(request.consumerName, field="consumerName")
        return topic, partition, channel, group, consumer

    def _fetch(
        self,
        request: pb.FetchFromRequest | pb.FetchRangeRequest,
        low: int,
        high: int,
        connection: str,
    ) -> AsyncGenerator[bytes, None]:
        broker = self._broker
        topic, partition = place_of(broker, request.topic, request.partition)
        channel = channel_to_read(request.channel)
        if topic.kind is TopicKind.KV:
            return compatible_entries(broker, connection, partition, channel, low, high)
        found = broker.fetch(topic, partition, channel, low, high)
        return _messages(in_pieces(broker.outgoing, connection, found, _size_of), channel)


def _is_any(_: bytes) -> bool:
    return True


def _is_behind(key: tuple[bytes, bytes], raw: bytes) -> bool:
    message = pb.Message.FromString(raw)
    return (message.key, message.clusteringKey) > key


def place_of(broker: Broker, topic_name: str, partition_id: str) -> tuple[Topic, PartitionRef]:
    """
    The partition that a request names.

    Raises:
        InvalidError: it names none.
        NotFoundError: there is no such topic or partition.
    """
    topic = broker.catalog.topic(topic_name)
    if not partition_id:
        raise InvalidError(
            f"ErrNoPartitionSet: name one of the {len(topic.partitions)} partitions of"
            f" topic {topic.name!r}",
            field="partition",
        )
    return topic, broker.catalog.partition(topic, partition_id)


async def mark(broker: Broker, request: pb.MarkRequest, kind: int) -> pb.MarkResponse:
    """
    An outcome by offsets. `Consumed` says what the broker knows already: a message is consumed
    when it is handed out, so it changes nothing.

    Raises:
        InvalidError: a kind that is none, a name or offset that is none.
        NotFoundError: there is no such topic or partition.
    """
    topic, partition = place_of(broker, request.topic, request.partition)
    channel = channel_to_read(request.channel)
    group = limits.check_name(request.consumerGroup, field="consumerGroup")
    if kind not in MARK_KINDS:
        raise InvalidError(
            f"state.kind {kind} is no mark; give Consumed (10), NotAcknowledged (20),"
            " Acknowledged (30) or Commited (40)",
            field="state.kind",
        )
    limits.check_range(
        len(request.offsets),
        field="count of offsets",
        low=0,
        high=limits.ATOM_MESSAGE_COUNT_MAX,
    )
    offsets = [
        offset_of(raw, field=f"offsets[{place}]", unset=offset.NIL)
        for place, raw in enumerate(request.offsets)
    ]
    offsets = [each for each in offsets if each != offset.NIL]
    if offsets and kind != pb.Consumed:
        await broker.outcomes.settle_offsets(
            topic, partition, channel, group, offsets, is_ack=kind != pb.NotAcknowledged
        )
    return pb.MarkResponse(success=True)


def offset_of(raw: bytes, *, field: str, unset: int) -> int:
    """
    An offset; absent and all zeros are alike, and mean `unset`.

    Raises:
        InvalidError: another length.
    """
    if raw and len(raw) != offset.OFFSET_BYTES:
        raise InvalidError(
            f"{field}: length of offset should be {offset.OFFSET_BYTES} but got {len(raw)}",
            field=field,
        )
    return offset.from_bytes(raw) if any(raw) else unset


def _size_of(slices: list[Slice]) -> int:
    return sum(len(piece.body) for piece in slices)


async def _messages(
    found: AsyncGenerator[Sequence[Slice], None], channel: str
) -> AsyncGenerator[bytes, None]:
    """Closes `found` as soon as it is closed itself: what a drain holds is then let go."""
    async with aclosing(found) as batches:
        async for slices in batches:
            for piece in slices:
                for message in compatible_messages(piece, channel):
                    yield message
