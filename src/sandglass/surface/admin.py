"""
The v1 Admin service, over the broker: topics, groups, dead letters, what is pending; and the
node with its cluster and its clock.

What looks at all partitions of a topic is asked of all who lead some of them: `surface.leaders`
says how, `surface.joined` makes one reply of theirs. Requests name the partitions then, and a
method whose name begins with an underscore carries out what is led here.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from sandglass.broker.broker import Broker
from sandglass.broker.dead_letters import Taken
from sandglass.broker.shared_catalog import Steward
from sandglass.core import limits, offset
from sandglass.core.topic import PartitionRef, Topic, TopicGroup, TopicSettings
from sandglass.errors import InvalidError, PreconditionError
from sandglass.surface import admin_calls as calls
from sandglass.surface import admin_values as values
from sandglass.surface import cluster_view, joined, paging
from sandglass.surface.admin_values import kind_of as kind_of  # the compatible side's, too
from sandglass.surface.leaders import ALONE, Call, Leaders, ids_of, whole
from sandglass.surface.places import partitions_of
from sandglass.wire.v1 import admin_pb2

Take = Callable[..., Awaitable[Taken]]

OfParts = TypeVar(
    "OfParts",
    admin_pb2.ShowTopicRequest,
    admin_pb2.ListGroupsRequest,
    admin_pb2.CreateGroupRequest,
    admin_pb2.SeekGroupRequest,
    admin_pb2.DeleteGroupRequest,
    admin_pb2.ListDeadLettersRequest,
    admin_pb2.CountDeadLettersRequest,
    admin_pb2.TakeDeadLettersRequest,
    admin_pb2.CountPendingRequest,
    admin_pb2.ListPendingRequest,
)
"""Requests that name partitions, or mean all of a topic."""

Reply = TypeVar("Reply")


class Admin:
    """The calls of the service, each a request to a reply."""

    def __init__(self, broker: Broker, leaders: Leaders = ALONE) -> None:
        self._broker = broker
        self._leaders = leaders

    # --- topics -------------------------------------------------------------------------------

    async def create_topic(
        self, request: admin_pb2.CreateTopicRequest
    ) -> admin_pb2.CreateTopicReply:
        """0 partitions mean 1; what isn't set is the default."""
        settings = replace(TopicSettings(), **values.changes_of(request.settings))
        topic = await self._broker.catalog.create_topic(
            request.name,
            kind=kind_of(request.kind),
            partition_count=request.partition_count or 1,
            replication_factor=request.replication_factor
            or self._broker.catalog.replication_factor_default(),
            settings=settings,
        )
        await self._leaders.tell_all()
        return admin_pb2.CreateTopicReply(topic=values.topic_to_wire(topic))

    async def list_topics(
        self, request: admin_pb2.ListTopicsRequest
    ) -> admin_pb2.ListTopicsReply:
        """A page of them, by name."""
        topics = sorted(self._broker.catalog.topics(), key=lambda topic: topic.name)
        return paging.topics_page(topics, request)

    async def show_topic(self, request: admin_pb2.ShowTopicRequest) -> admin_pb2.ShowTopicReply:
        """A topic, and a page of how its partitions stand."""
        replies = await self._of_parts(
            calls.SHOW_TOPIC, request.name, request, self._show_topic
        )
        topic = self._broker.catalog.topic(request.name)
        return paging.joined_partitions(topic, request, replies)

    async def _show_topic(
        self, request: admin_pb2.ShowTopicRequest
    ) -> admin_pb2.ShowTopicReply:
        topic, refs = self._place(request.name, request.partitions)
        return await paging.partitions_page(topic, self._broker.status, request, refs)

    async def set_topic(self, request: admin_pb2.SetTopicRequest) -> admin_pb2.SetTopicReply:
        """What is set, and nothing else."""
        return await self._leaders.ask(calls.SET_TOPIC, request, self._set_topic)

    async def _set_topic(self, request: admin_pb2.SetTopicRequest) -> admin_pb2.SetTopicReply:
        changes = values.changes_of(request.settings)
        topic = await self._broker.catalog.change_topic(
            request.name,
            partition_count=request.partition_count,
            replication_factor=request.replication_factor,
            node=request.node,
            **changes,
        )
        await self._leaders.tell_all()
        return admin_pb2.SetTopicReply(topic=values.topic_to_wire(topic))

    async def delete_topic(
        self, request: admin_pb2.DeleteTopicRequest
    ) -> admin_pb2.DeleteTopicReply:
        """With its messages and groups."""
        return await self._leaders.ask(calls.DELETE_TOPIC, request, self._delete_topic)

    async def _delete_topic(
        self, request: admin_pb2.DeleteTopicRequest
    ) -> admin_pb2.DeleteTopicReply:
        await self._broker.catalog.delete_topic(request.name)
        await self._leaders.tell_all()
        return admin_pb2.DeleteTopicReply()

    # --- groups -------------------------------------------------------------------------------

    async def list_groups(
        self, request: admin_pb2.ListGroupsRequest
    ) -> admin_pb2.ListGroupsReply:
        """A page of them: of one topic, one group or all."""
        return await self._leaders.ask(calls.LIST_GROUPS, request, self._list_groups)

    async def _list_groups(
        self, request: admin_pb2.ListGroupsRequest
    ) -> admin_pb2.ListGroupsReply:
        topic = self._broker.catalog.topic(request.topic)
        known: Iterable[admin_pb2.Group] = ()
        if not request.partitions:
            groups = self._broker.groups.all(topic)
            known = (self._group(topic, group) for group in groups)
        return await paging.groups_page(topic, known, self._parts, request)

    async def _parts(
        self, request: admin_pb2.ListGroupsRequest
    ) -> list[admin_pb2.ListGroupsReply]:
        return await self._of_parts(calls.LIST_GROUPS, request.topic, request, self._parts_here)

    async def _parts_here(
        self, request: admin_pb2.ListGroupsRequest
    ) -> admin_pb2.ListGroupsReply:
        topic, refs = self._place(request.topic, request.partitions)
        return await paging.parts_page(topic, self._broker.status, request, refs)

    async def create_group(
        self, request: admin_pb2.CreateGroupRequest
    ) -> admin_pb2.CreateGroupReply:
        """At the beginning, unless it says otherwise."""
        return await self._leaders.ask(calls.CREATE_GROUP, request, self._create_group)

    async def _create_group(
        self, request: admin_pb2.CreateGroupRequest
    ) -> admin_pb2.CreateGroupReply:
        topic = self._broker.catalog.topic(request.topic)
        if request.partitions:
            return await self._begin_group(request)
        start = values.start_of(request.start)
        here = [ref for ref in topic.partitions if self._leaders.are_here([ref])]
        group = await self._broker.groups.create(
            topic,
            request.group,
            start,
            values.own_settings_of(request.settings),
            begins_in=here,
        )
        elsewhere = [ref for ref in topic.partitions if ref not in here]
        if start.is_now and elsewhere:
            await self._ask(calls.CREATE_GROUP, elsewhere, request, self._begin_group)
        await self._leaders.tell_all()
        return admin_pb2.CreateGroupReply(group=self._group(topic, group))

    async def _begin_group(
        self, request: admin_pb2.CreateGroupRequest
    ) -> admin_pb2.CreateGroupReply:
        topic, refs = self._place(request.topic, request.partitions)
        group = self._broker.groups.group(topic, request.group)
        await self._broker.groups.begin_now(group, refs)
        return admin_pb2.CreateGroupReply()

    async def set_group(self, request: admin_pb2.SetGroupRequest) -> admin_pb2.SetGroupReply:
        """What is set, and nothing else; what is unset is the topic's again."""
        return await self._leaders.ask(calls.SET_GROUP, request, self._set_group)

    async def _set_group(self, request: admin_pb2.SetGroupRequest) -> admin_pb2.SetGroupReply:
        topic = self._broker.catalog.topic(request.topic)
        change = values.own_settings_of(request.settings)
        unset = values.unset_of(request.unset)
        group = await self._broker.groups.change(topic, request.group, change, unset)
        await self._leaders.tell_all()
        return admin_pb2.SetGroupReply(group=self._group(topic, group))

    async def seek_group(self, request: admin_pb2.SeekGroupRequest) -> admin_pb2.SeekGroupReply:
        """To a place in all partitions, or to an offset in one."""
        return await self._leaders.ask(calls.SEEK_GROUP, request, self._seek_group)

    async def _seek_group(
        self, request: admin_pb2.SeekGroupRequest
    ) -> admin_pb2.SeekGroupReply:
        topic, refs = self._place(request.topic, request.partitions)
        self._broker.groups.group(topic, request.group)  # it is there, and ours to move
        if request.partition or request.offset:
            refs = [self._broker.catalog.partition(topic, request.partition)]
            offset.from_bytes(request.offset)
        elif not request.partitions:
            start = values.start_of(request.start)
            await self._broker.groups.start_at(topic, request.group, start)
        await self._ask(calls.SEEK_GROUP, refs, request, self._seek_here)
        group = self._broker.groups.group(topic, request.group)
        return admin_pb2.SeekGroupReply(group=self._group(topic, group))

    async def _seek_here(self, request: admin_pb2.SeekGroupRequest) -> admin_pb2.SeekGroupReply:
        topic, refs = self._place(request.topic, request.partitions)
        group = self._broker.groups.group(topic, request.group)
        at = None
        if request.partition or request.offset:
            refs = [self._broker.catalog.partition(topic, request.partition)]
            at = offset.from_bytes(request.offset)
        await self._broker.groups.move(group, values.start_of(request.start), refs, at)
        return admin_pb2.SeekGroupReply()

    async def delete_group(
        self, request: admin_pb2.DeleteGroupRequest
    ) -> admin_pb2.DeleteGroupReply:
        """With its state; its consumers end."""
        return await self._leaders.ask(calls.DELETE_GROUP, request, self._delete_group)

    async def _delete_group(
        self, request: admin_pb2.DeleteGroupRequest
    ) -> admin_pb2.DeleteGroupReply:
        topic, refs = self._place(request.topic, request.partitions)
        if request.partitions:
            await self._broker.groups.drop_going(topic, request.group, refs)
        else:
            await self._broker.groups.delete(topic, request.group)
            await self._leaders.tell_all()
        return admin_pb2.DeleteGroupReply()

    async def drop_elsewhere(self, topic: Topic, group: str) -> None:
        """
        Lets other nodes drop what a group that is going has in the partitions that they lead.

        Raises:
            SandglassError: one of them did not, or there is none.
        """
        elsewhere = [ref for ref in topic.partitions if not self._leaders.are_here([ref])]
        request = admin_pb2.DeleteGroupRequest(topic=topic.name, group=group)
        await self._ask(calls.DELETE_GROUP, elsewhere, request, self._delete_group)

    def _group(self, topic: Topic, group: TopicGroup) -> admin_pb2.Group:
        return values.group_to_wire(group, group.settings.over(topic.settings))

    # --- dead letters -------------------------------------------------------------------------

    async def list_dead_letters(
        self, request: admin_pb2.ListDeadLettersRequest
    ) -> admin_pb2.ListDeadLettersReply:
        """A page of them."""
        topic = self._broker.catalog.topic(request.topic)
        replies = await self._of_parts(
            calls.LIST_DEAD, request.topic, request, self._list_dead_letters
        )
        return joined.listed_dead(topic, request, replies)

    async def _list_dead_letters(
        self, request: admin_pb2.ListDeadLettersRequest
    ) -> admin_pb2.ListDeadLettersReply:
        topic, refs = self._place(request.topic, request.partitions)
        page = await self._broker.dead_letters.page(
            topic,
            values.selection_of(request.filter),
            after=values.place_of(request.page_token),
            count=request.page_size or limits.PAGE_COUNT_DEFAULT,
            is_newest_first=request.is_newest_first,
            refs=refs,
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
        replies = await self._of_parts(
            calls.COUNT_DEAD, request.topic, request, self._count_dead_letters
        )
        return joined.counted_dead(replies)

    async def _count_dead_letters(
        self, request: admin_pb2.CountDeadLettersRequest
    ) -> admin_pb2.CountDeadLettersReply:
        topic, refs = self._place(request.topic, request.partitions)
        count = await self._broker.dead_letters.count(
            topic, values.selection_of(request.filter), refs
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
        return await self._take_parts(calls.REDRIVE_DEAD, request, self._redrive)

    async def _redrive(
        self, request: admin_pb2.TakeDeadLettersRequest
    ) -> admin_pb2.TakeDeadLettersReply:
        return await self._take(self._broker.dead_letters.redrive, request)

    async def purge_dead_letters(
        self, request: admin_pb2.TakeDeadLettersRequest
    ) -> admin_pb2.TakeDeadLettersReply:
        """Away with them."""
        return await self._take_parts(calls.PURGE_DEAD, request, self._purge)

    async def _purge(
        self, request: admin_pb2.TakeDeadLettersRequest
    ) -> admin_pb2.TakeDeadLettersReply:
        return await self._take(self._broker.dead_letters.purge, request)

    async def _take_parts(
        self,
        call: Call[admin_pb2.TakeDeadLettersReply],
        request: admin_pb2.TakeDeadLettersRequest,
        here: Callable[
            [admin_pb2.TakeDeadLettersRequest], Awaitable[admin_pb2.TakeDeadLettersReply]
        ],
    ) -> admin_pb2.TakeDeadLettersReply:
        topic, refs = self._place(request.topic, request.partitions)
        if self._leaders.is_alone:
            return await here(request)
        if not request.limit or request.places:
            at = [self._broker.catalog.partition(topic, p.partition) for p in request.places]
            found = await self._ask(call, at or refs, request, here)
            return joined.taken(found)
        # One after the other: the oldest of the first partition come first.
        replies: list[admin_pb2.TakeDeadLettersReply] = []
        left = admin_pb2.TakeDeadLettersRequest()
        left.CopyFrom(request)
        for ref in refs:
            replies += await self._ask(call, [ref], left, here)
            left.limit = request.limit - sum(each.count for each in replies)
            if left.limit <= 0:
                break
        return joined.taken(replies)

    async def _take(
        self, take: Take, request: admin_pb2.TakeDeadLettersRequest
    ) -> admin_pb2.TakeDeadLettersReply:
        topic, refs = self._place(request.topic, request.partitions)
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
            refs=refs,
        )
        return admin_pb2.TakeDeadLettersReply(
            count=taken.count, skipped_count=taken.skipped_count, before_ms=taken.before_ms
        )

    # --- what is pending ----------------------------------------------------------------------

    async def count_pending(
        self, request: admin_pb2.CountPendingRequest
    ) -> admin_pb2.CountPendingReply:
        """A lower bound where there is too much to count."""
        replies = await self._of_parts(
            calls.COUNT_PENDING, request.topic, request, self._count_pending
        )
        return joined.counted_pending(replies)

    async def _count_pending(
        self, request: admin_pb2.CountPendingRequest
    ) -> admin_pb2.CountPendingReply:
        topic, refs = self._place(request.topic, request.partitions)
        pending = await self._broker.schedule.count(
            topic,
            request.channel,
            from_ms=request.from_ms,
            to_ms=request.to_ms,
            refs=refs,
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
        topic = self._broker.catalog.topic(request.topic)
        replies = await self._of_parts(
            calls.LIST_PENDING, request.topic, request, self._list_pending
        )
        return joined.listed_pending(topic, request, replies)

    async def _list_pending(
        self, request: admin_pb2.ListPendingRequest
    ) -> admin_pb2.ListPendingReply:
        topic, refs = self._place(request.topic, request.partitions)
        page = await self._broker.schedule.page(
            topic,
            request.channel,
            from_ms=request.from_ms,
            to_ms=request.to_ms,
            after=values.place_of(request.page_token),
            count=request.page_size or limits.PAGE_COUNT_DEFAULT,
            refs=refs,
        )
        messages = [
            values.stored_to_wire(ref, part, with_message=request.with_messages)
            for ref, part in page.entries
        ]
        return admin_pb2.ListPendingReply(
            messages=messages, next_page_token=values.token_of(page)
        )

    # --- the cluster --------------------------------------------------------------------------

    async def show_cluster(
        self, request: admin_pb2.ShowClusterRequest
    ) -> admin_pb2.ShowClusterReply:
        """As its nodes know it; a node that is asked by another says what it knows itself."""
        seen = self._broker.loops.look_around()
        if self._leaders.is_alone or not seen.nodes:
            return cluster_view.cluster_to_wire(seen)

        def ask(address: str) -> Awaitable[admin_pb2.ShowClusterReply]:
            return self._leaders.ask_at(address, calls.SHOW_CLUSTER, request)

        return await cluster_view.seen_by_all(seen, ask)

    async def drain_node(self, request: admin_pb2.DrainNodeRequest) -> admin_pb2.DrainNodeReply:
        """Entered when this returns; what the node leads is handed over then."""
        await self._steward().drain(request.node, is_drained=not request.is_undone)
        return admin_pb2.DrainNodeReply()

    async def remove_node(
        self, request: admin_pb2.RemoveNodeRequest
    ) -> admin_pb2.RemoveNodeReply:
        """As far as it goes just now."""
        waits_for = await self._steward().remove(
            request.node, is_abandoning=request.is_abandoning
        )
        return admin_pb2.RemoveNodeReply(waits_for=waits_for)

    def _steward(self) -> Steward:
        loops = self._broker.loops
        if loops.steward is None:
            raise PreconditionError(f"there is no cluster to change: {loops.why_alone()}")
        return loops.steward

    # --- the clock ----------------------------------------------------------------------------

    async def show_clock(self, _: admin_pb2.ShowClockRequest) -> admin_pb2.ShowClockReply:
        """How the clock of this node stands."""
        clock = values.clock_to_wire(self._broker.clocks.look())
        return admin_pb2.ShowClockReply(clock=clock)

    async def accept_clock(self, _: admin_pb2.AcceptClockRequest) -> admin_pb2.AcceptClockReply:
        """A forward step of this node's clock is believed at once."""
        accepted_ms = await self._broker.clocks.accept()
        clock = values.clock_to_wire(self._broker.clocks.look())
        return admin_pb2.AcceptClockReply(clock=clock, accepted_ms=accepted_ms)

    # --- partitions ---------------------------------------------------------------------------

    def _place(
        self, topic_name: str, names: Sequence[str]
    ) -> tuple[Topic, Sequence[PartitionRef]]:
        """A topic, and those of its partitions that a request means."""
        topic = self._broker.catalog.topic(topic_name)
        return topic, partitions_of(self._broker, topic, names)

    async def _of_parts(
        self,
        call: Call[Reply],
        topic: str,
        request: OfParts,
        here: Callable[[OfParts], Awaitable[Reply]],
    ) -> list[Reply]:
        """The replies of all who lead some of what the request means."""
        refs = self._place(topic, request.partitions)[1]
        return await self._ask(call, refs, request, here)

    async def _ask(
        self,
        call: Call[Reply],
        refs: Sequence[PartitionRef],
        request: OfParts,
        here: Callable[[OfParts], Awaitable[Reply]],
    ) -> list[Reply]:
        if self._leaders.is_alone:
            return [await here(request)]

        def named(some: list[PartitionRef]) -> OfParts:
            part = type(request)()
            part.CopyFrom(request)
            part.partitions[:] = ids_of(some)
            if isinstance(part, admin_pb2.TakeDeadLettersRequest) and part.places:
                meant = {*part.partitions}
                places = [each for each in part.places if each.partition in meant]
                del part.places[:]
                part.places.extend(places)
            return part

        return whole(await self._leaders.ask_parts(call, refs, named, here))
