"""The v1 Admin service: topics and groups, over the broker's catalog and status."""

from sandglass.broker.broker import Broker
from sandglass.broker.status import GroupStatus, PartitionStatus
from sandglass.core import limits, offset
from sandglass.core.topic import Topic, TopicKind, TopicSettings
from sandglass.wire.v1 import admin_pb2


class Admin:
    """The calls of the service, each a request to a reply."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def create_topic(
        self, request: admin_pb2.CreateTopicRequest
    ) -> admin_pb2.CreateTopicReply:
        """0 partitions mean 1, and so do 0 replicas."""
        topic = await self._broker.catalog.create_topic(
            request.name,
            kind=kind_of(request.kind),
            partition_count=request.partition_count or 1,
            replication_factor=request.replication_factor or 1,
            settings=_settings(request.settings),
        )
        return admin_pb2.CreateTopicReply(topic=_topic(topic))

    async def list_topics(
        self, request: admin_pb2.ListTopicsRequest
    ) -> admin_pb2.ListTopicsReply:
        """By name."""
        topics = sorted(self._broker.catalog.topics(), key=lambda topic: topic.name)
        return admin_pb2.ListTopicsReply(topics=[_topic(topic) for topic in topics])

    async def show_topic(self, request: admin_pb2.ShowTopicRequest) -> admin_pb2.ShowTopicReply:
        """A topic and how its partitions stand."""
        topic = self._broker.catalog.topic(request.name)
        return admin_pb2.ShowTopicReply(
            topic=_topic(topic),
            partitions=[_partition(each) for each in self._broker.status.partitions(topic)],
        )

    async def delete_topic(
        self, request: admin_pb2.DeleteTopicRequest
    ) -> admin_pb2.DeleteTopicReply:
        """With its messages and groups."""
        await self._broker.catalog.delete_topic(request.name)
        return admin_pb2.DeleteTopicReply()

    async def list_groups(
        self, request: admin_pb2.ListGroupsRequest
    ) -> admin_pb2.ListGroupsReply:
        """Of one topic; one group or all."""
        topic = self._broker.catalog.topic(request.topic)
        groups = self._broker.status.groups(topic, request.group)
        return admin_pb2.ListGroupsReply(groups=[_group(each) for each in groups])


def kind_of(number: int) -> TopicKind:
    """
    The kind of a topic, of either protocol: they number them alike.

    Raises:
        InvalidError: there is no such kind.
    """
    return TopicKind(
        limits.check_range(number, field="kind", low=min(TopicKind), high=max(TopicKind))
    )


def _settings(wire: admin_pb2.TopicSettings) -> TopicSettings:
    """0 means the default."""
    default = TopicSettings()
    return TopicSettings(
        retention_ms=wire.retention_ms or default.retention_ms,
        ack_timeout_ms=wire.ack_timeout_ms or default.ack_timeout_ms,
        max_deliveries=wire.max_deliveries or default.max_deliveries,
    )


def _topic(topic: Topic) -> admin_pb2.Topic:
    return admin_pb2.Topic(
        name=topic.name,
        kind=admin_pb2.TopicKind.Name(topic.kind),
        partitions=[partition.id for partition in topic.partitions],
        replication_factor=topic.replication_factor,
        settings=admin_pb2.TopicSettings(
            retention_ms=topic.settings.retention_ms,
            ack_timeout_ms=topic.settings.ack_timeout_ms,
            max_deliveries=topic.settings.max_deliveries,
        ),
        created_ms=topic.created_ms,
    )


def _partition(status: PartitionStatus) -> admin_pb2.PartitionStatus:
    return admin_pb2.PartitionStatus(
        id=status.id,
        last_index=status.last_index,
        closed_offset=offset.to_bytes(status.closed_offset),
        channels=status.channels,
    )


def _group(status: GroupStatus) -> admin_pb2.GroupStatus:
    return admin_pb2.GroupStatus(
        topic=status.topic,
        partition=status.partition,
        channel=status.channel,
        group=status.group,
        committed=offset.to_bytes(status.committed),
        consumed=offset.to_bytes(status.consumed),
        lag_count=status.lag_count,
        leased_count=status.leased_count,
        retry_count=status.retry_count,
        acked_count=status.acked_count,
        dead_count=status.dead_count,
        generation=status.generation,
        consumer_count=status.consumer_count,
    )
