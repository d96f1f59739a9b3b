"""Topics, partitions and groups as tools see them: values."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sandglass.client.operating import (
    NO_BACKOFF,
    Backoff,
    BackoffLike,
    backoff_of,
    check_partitions,
    check_replication,
    put_retention,
    put_settings,
)
from sandglass.core import offset
from sandglass.errors import InvalidError
from sandglass.wire.v1 import admin_pb2

_KINDS: Final = {"timer": admin_pb2.TOPIC_KIND_TIMER, "kv": admin_pb2.TOPIC_KIND_KV}


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic and its settings. `partitions` are ids, in order; `kind` is `timer` or `kv`."""

    name: str
    kind: str
    partitions: tuple[str, ...]
    replication_factor: int
    retention: timedelta
    ack_timeout: timedelta
    max_deliveries: int
    created_at: datetime
    backoff: Backoff = NO_BACKOFF


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """How far a partition is. `message_count` counts all that were ever produced to it."""

    id: str
    message_count: int
    closed_offset: str
    channels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TopicStatus:
    """A topic with its partitions, in order."""

    topic: Topic
    partitions: tuple[PartitionStatus, ...]


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """
    One group in one partition and channel.

    Everything below `committed` is settled; `consumed` is the last offset handed out;
    `lag_count` messages are due and not settled, `leased_count` of them are in somebody's
    hands, and `retry_count` wait for their next attempt. `redriven_count` dead letters came
    back; `expired_count` messages were removed by retention before they were settled;
    `skipped_count` were due before the group's start.
    """

    topic: str
    partition: str
    channel: str
    group: str
    committed: str
    consumed: str
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


def create_request(
    name: str,
    *,
    partitions: int,
    replication_factor: int | None,
    kind: str,
    retention: timedelta | None,
    ack_timeout: timedelta | None,
    max_deliveries: int | None,
    backoff: BackoffLike | None,
) -> admin_pb2.CreateTopicRequest:
    """
    For a new topic; see `AsyncClient.create_topic`.

    Raises:
        InvalidError: a value outside its range.
    """
    if kind not in _KINDS:
        raise InvalidError(f"kind is {kind!r}; it must be timer or kv", field="kind")
    settings = admin_pb2.TopicSettings()
    put_retention(settings, retention)
    put_settings(settings, ack_timeout, max_deliveries, backoff)
    return admin_pb2.CreateTopicRequest(
        name=name,
        kind=_KINDS[kind],
        partition_count=check_partitions(partitions),
        replication_factor=check_replication(replication_factor),
        settings=settings,
    )


def topic_of(wire: admin_pb2.Topic) -> Topic:
    """The value of a topic on the wire."""
    settings = wire.settings
    return Topic(
        name=wire.name,
        kind="kv" if wire.kind == admin_pb2.TOPIC_KIND_KV else "timer",
        partitions=tuple(wire.partitions),
        replication_factor=wire.replication_factor,
        retention=timedelta(milliseconds=settings.retention_ms),
        ack_timeout=timedelta(milliseconds=settings.ack_timeout_ms),
        max_deliveries=settings.max_deliveries,
        created_at=offset.to_datetime(wire.created_ms),
        backoff=backoff_of(settings.backoff),
    )


def status_of(pages: Sequence[admin_pb2.ShowTopicReply]) -> TopicStatus:
    """As above, with its partitions, of which one may go on from page to page."""
    found: dict[str, PartitionStatus] = {}
    for each in (partition for page in pages for partition in page.partitions):
        before = found.get(each.id)
        found[each.id] = PartitionStatus(
            id=each.id,
            message_count=each.last_index,
            closed_offset=each.closed_offset.hex(),
            channels=(*(before.channels if before else ()), *each.channels),
        )
    return TopicStatus(topic_of(pages[-1].topic), (*found.values(),))


def group_of(wire: admin_pb2.GroupStatus) -> GroupStatus:
    """The value of a group's status on the wire."""
    return GroupStatus(
        topic=wire.topic,
        partition=wire.partition,
        channel=wire.channel,
        group=wire.group,
        committed=wire.committed.hex(),
        consumed=wire.consumed.hex(),
        lag_count=wire.lag_count,
        leased_count=wire.leased_count,
        retry_count=wire.retry_count,
        acked_count=wire.acked_count,
        dead_count=wire.dead_count,
        generation=wire.generation,
        consumer_count=wire.consumer_count,
        redriven_count=wire.redriven_count,
        expired_count=wire.expired_count,
        skipped_count=wire.skipped_count,
    )
