"""
The v1 Admin service, over the broker: topics, groups, dead letters, what is pending; and the
node with its cluster and its clock.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from sandglass.broker.broker import Broker
from sandglass.broker.dead_letters import Taken
from sandglass.broker.shared_catalog import Steward
from sandglass.core import limits, offset
from sandglass.core.topic import Topic, TopicGroup, TopicSettings
from sandglass.errors import InvalidError, PreconditionError
from sandglass.surface import admin_values as values
from sandglass.surface import paging
from sandglass.surface.admin_values import kind_of as kind_of  # the compatible side's, too
from sandglass.wire.v1 import admin_pb2

Take = Callable[..., Awaitable[Taken]]


class Admin:
    """The calls of the service, each a request to a reply."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    # --- topics -------------------------------------------------------------------------------

    async def create_topic(
        self, request: admin_pb2.CreateTopicRequest
    ) -> admin_pb2.CreateTopicReply:
        """0 partitions mean 1, and so do 0 replicas; what isn't set is the default."""
        settings = replace(TopicSettings(), **values.changes_of(request.settings))
        topic = await self._broker.catalog.create_topic(
            request.name,
            kind=kind_of(request.kind),
            partition_count=request.partition_count or 1,
            replication_factor=request.replication_factor or 1,
            settings=settings,
        )
        return admin_pb2.CreateTopicReply(topic=values.topic_to_wire(topic))

    async def list_topics(
        self, request: admin_pb2.ListTopicsRequest
    ) -> admin_pb2.ListTopicsReply:
        """A page of them, by name."""
        topics = sorted(self._broker.catalog.topics(), key=lambda topic: topic.name)
        return paging.topics_page(topics, request)

    async def show_topic(self, request: admin_pb2.ShowTopicRequest) -> admin_pb2.ShowTopicReply:
        """A topic, and a page of how its partitions stand."""
        topic = self._broker.catalog.topic(request.name)
        return await paging.partitions_page(topic, self._broker.status, request)

    async def set_topic(self, request: admin_pb2.SetTopicRequest) -> admin_pb2.SetTopicReply:
        """What is set, and nothing else."""
        changes = values.changes_of(request.settings)
        topic = await self._broker.catalog.change_topic(request.name, **changes)
        return admin_pb2.SetTopicReply(topic=values.topic_to_wire(topic))

    async def delete_topic(
        self, request: admin_pb2.DeleteTopicRequest
    ) -> admin_pb2.DeleteTopicReply:
        """With its messages and groups."""
        await self._broker.catalog.delete_topic(request.name)
        return admin_pb2.DeleteTopicReply()

    # --- groups -------------------------------------------------------------------------------

    async def list_groups(
        self, request: admin_pb2.ListGroupsRequest
    ) -> admin_pb2.ListGroupsReply:
        """A page of them: of one topic, one group or all."""
        topic = self._broker.catalog.topic(request.topic)
        known = (self._group(topic, group) for group in self._broker.groups.all(topic))
        return await paging.groups_page(topic, known, self._broker.status, request)

    async def create_group(
        self, request: admin_pb2.CreateGroupRequest
    ) -> admin_pb2.CreateGroupReply:
        """At the beginning, unless it says otherwise."""
        topic = self._broker.catalog.topic(request.topic)
        group = await self._broker.groups.create(
            topic,
            request.group,
            values.start_of(request.start),
            values.own_settings_of(request.settings),
        )
        return admin_pb2.CreateGroupReply(group=self._group(topic, group))

    async def set_group(self, request: admin_pb2.SetGroupRequest) -> admin_pb2.SetGroupReply:
        """What is set, and nothing else; what is unset is the topic's again."""
        topic = self._broker.catalog.topic(request.topic)
        change = values.own_settings_of(request.settings)
        unset = values.unset_of(request.unset)
        group = await self._broker.groups.change(topic, request.group, change, unset)
        return admin_pb2.SetGroupReply(group=self._group(topic, group))

    async def seek_group(self, request: admin_pb2.SeekGroupRequest) -> admin_pb2.SeekGroupReply:
        """To a place in all partitions, or to an offset in one."""
        topic = self._broker.catalog.topic(request.topic)
        partition = at = None
        if request.partition or request.offset:
            partition = self._broker.catalog.partition(topic, request.partition)
            at = offset.from_bytes(request.offset)
        group = await self._broker.groups.seek(
            topic,
            request.group,
            values.start_of(request.start),
            partition=partition,
            offset=at,
        )
        return admin_pb2.SeekGroupReply(group=self._group(topic, group))

    async def delete_group(
        self, request: admin_pb2.DeleteGroupRequest
    ) -> admin_pb2.DeleteGroupReply:
        """With its state; its consumers end."""
        topic = self._broker.catalog.topic(request.topic)
        await self._broker.groups.delete(topic, request.group)
        return admin_pb2.DeleteGroupReply()

    def _group(self, topic: Topic, group: TopicGroup) -> admin_pb2.Group:
        return values.group_to_wire(group, group.settings.over(topic.settings))

    # --- dead letters -------------------------------------------------------------------------

    async def list_dead_letters(
        self, request: admin_pb2.ListDeadLettersRequest
    ) -> admin_pb2.ListDeadLettersReply:
        """A page of them."""
        page = await self._broker.dead_letters.page(
            self._broker.catalog.topic(request.topic),
            values.selection_of(request.filter),
            after=values.place_of(request.page_token),
            count=request.page_size or limits.PAGE_COUNT_DEFAULT,
            is_newest_first=request.is_newest_first,
        )
        letters = [
            values.letter_to_wire(ref, part, with_message=request.with_messages)
            for ref, part in page.entries
        ]
        return admin_pb2.ListDeadLettersReply(
            letters=letters, next_page_token=values.token_of(page)
        )

    async def count_dead_letters(
        self, request: admin_pb2.CountDeadLettersRequest
    ) -> admin_pb2.CountDeadLettersReply:
        """All of them, and by group."""
        count = await self._broker.dead_letters.count(
            self._broker.catalog.topic(request.topic), values.selection_of(request.filter)
        )
        groups = sorted(count.groups.items(), key=lambda entry: (-entry[1], entry[0]))
        return admin_pb2.CountDeadLettersReply(
            count=count.count,
            size_bytes=count.size_bytes,
            groups=[
                admin_pb2.DeadLetterGroupCount(group=group, channel=channel, count=each)
                for (group, channel), each in groups
            ],
        )

    async def redrive_dead_letters(
        self, request: admin_pb2.TakeDeadLettersRequest
    ) -> admin_pb2.TakeDeadLettersReply:
        """Back to their groups."""
        return await self._take(self._broker.dead_letters.redrive, request)

    async def purge_dead_letters(
        self, request: admin_pb2.TakeDeadLettersRequest
    ) -> admin_pb2.TakeDeadLettersReply:
        """Away with them."""
        return await self._take(self._broker.dead_letters.purge, request)

    async def _take(
        self, take: Take, request: admin_pb2.TakeDeadLettersRequest
    ) -> admin_pb2.TakeDeadLettersReply:
        topic = self._broker.catalog.topic(request.topic)
        if len(request.places) > limits.PAGE_COUNT_MAX:
            raise InvalidError(
                f"{len(request.places)} places; the limit is {limits.PAGE_COUNT_MAX}",
                field="places",
            )
        limits.check_range(request.before_ms, field="before_ms", low=0, high=limits.DUE_MS_MAX)
        places = [
            (
                self._broker.catalog.partition(topic, place.partition),
                offset.from_bytes(place.offset),
            )
            for place in request.places
        ]
        taken = await take(
            topic,
            values.selection_of(request.filter),
            limit=request.limit,
            offsets=places,
            before_ms=request.before_ms,
        )
        return admin_pb2.TakeDeadLettersReply(
            count=taken.count, skipped_count=taken.skipped_count, before_ms=taken.before_ms
        )

    # --- what is pending ----------------------------------------------------------------------

    async def count_pending(
        self, request: admin_pb2.CountPendingRequest
    ) -> admin_pb2.CountPendingReply:
        """A lower bound where there is too much to count."""
        pending = await self._broker.schedule.count(
            self._broker.catalog.topic(request.topic),
            request.channel,
            from_ms=request.from_ms,
            to_ms=request.to_ms,
        )
        return admin_pb2.CountPendingReply(
            count=pending.count,
            is_lower_bound=pending.is_lower_bound,
            next_due_ms=pending.next_due_ms,
        )

    async def list_pending(
        self, request: admin_pb2.ListPendingRequest
    ) -> admin_pb2.ListPendingReply:
        """A page of what comes next."""
        page = await self._broker.schedule.page(
            self._broker.catalog.topic(request.topic),
            request.channel,
            from_ms=request.from_ms,
            to_ms=request.to_ms,
            after=values.place_of(request.page_token),
            count=request.page_size or limits.PAGE_COUNT_DEFAULT,
        )
        messages = [
            values.stored_to_wire(ref, part, with_message=request.with_messages)
            for ref, part in page.entries
        ]
        return admin_pb2.ListPendingReply(
            messages=messages, next_page_token=values.token_of(page)
        )

    # --- the cluster --------------------------------------------------------------------------

    async def show_cluster(self, _: admin_pb2.ShowClusterRequest) -> admin_pb2.ShowClusterReply:
        """As this node knows it."""
        seen = self._broker.loops.look_around()
        nodes = [
            admin_pb2.ClusterNode(
                name=each.name,
                grpc_address=each.grpc,
                http_address=each.http,
                is_alive=each.is_alive,
                is_drained=each.is_drained,
            )
            for each in seen.nodes
        ]
        partitions = [
            admin_pb2.ClusterPartition(
                topic=each.topic,
                partition=each.partition,
                leader=each.leader,
                epoch=each.epoch,
                replicas=each.replicas,
                state=each.state,
                position=each.position,
            )
            for each in seen.partitions
        ]
        return admin_pb2.ShowClusterReply(
            cluster_id=seen.cluster_id,
            trouble=seen.trouble,
            nodes=nodes,
            partitions=partitions,
            warnings=seen.warnings,
        )

    async def drain_node(self, request: admin_pb2.DrainNodeRequest) -> admin_pb2.DrainNodeReply:
        """Entered when this returns; what the node leads is handed over then."""
        await self._steward().drain(request.node, is_drained=not request.is_undone)
        return admin_pb2.DrainNodeReply()

    def _steward(self) -> Steward:
        loops = self._broker.loops
        if loops.steward is None:
            raise PreconditionError(f"there is no cluster to change: {loops.why_alone()}")
        return loops.steward

    # --- the clock ----------------------------------------------------------------------------

    async def show_clock(self, _: admin_pb2.ShowClockRequest) -> admin_pb2.ShowClockReply:
        """This node's."""
        clock = values.clock_to_wire(self._broker.clocks.look())
        return admin_pb2.ShowClockReply(clock=clock)

    async def accept_clock(self, _: admin_pb2.AcceptClockRequest) -> admin_pb2.AcceptClockReply:
        """A step of it, before it is believed by itself."""
        accepted_ms = await self._broker.clocks.accept()
        clock = values.clock_to_wire(self._broker.clocks.look())
        return admin_pb2.AcceptClockReply(clock=clock, accepted_ms=accepted_ms)
