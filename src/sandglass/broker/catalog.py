"""
The catalog: topics and their partitions, by name.

A topic is a record of the node like everything durable; what this file adds is names, limits,
and what is on its way.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from sandglass.broker.loops import Loops, is_near, is_replicated
from sandglass.core import limits
from sandglass.core.machine import encode_topic
from sandglass.core.record import DeleteTopic, PutTopic
from sandglass.core.topic import PartitionRef, Topic, TopicKind, TopicSettings
from sandglass.errors import (
    BusyError,
    ConflictError,
    InvalidError,
    NotFoundError,
    PreconditionError,
    SandglassError,
    UnavailableError,
)
from sandglass.sandflake import Generator

CHANGE_S_MAX: Final = 8.0
"""How long a call waits for a topic that moves; then it says so, before clients give up."""


class Catalog:
    """
    All calls run in the event loop's thread. `on_deleted` is told a topic that goes: before,
    and once it is gone.
    """

    def __init__(self, loops: Loops, ids: Generator) -> None:
        self.loops = loops
        self.loop = loops.own
        self.ids = ids
        self.on_deleted: Callable[[Topic], None] = lambda _: None
        self._spread: dict[str, int] = {}
        self._creating: set[str] = set()
        self._changing: dict[str, Topic] = {}
        """As they will be, once their records are applied."""

    def topics(self) -> list[Topic]:
        """All topics, by name."""
        return self.loops.topics()

    def topic(self, name: str) -> Topic:
        """
        A topic by its name.

        Raises:
            NotFoundError: there is none.
            UnavailableError: it may be in the cluster's catalog, which can't be read.
        """
        topic = self.loops.topic(name)
        if topic is None:
            if self.loops.shared is None and self.loops.is_member():
                raise UnavailableError(
                    f"topic {name[:200]!r} is not in this node's own log, and whether the"
                    f" cluster has it can't be said: {self.loops.why_alone()}",
                    field="topic",
                )
            raise NotFoundError(
                f"ErrTopicNotFound: topic {name[:200]!r} not found", field="topic"
            )
        return topic

    def partition(self, topic: Topic, partition_id: str) -> PartitionRef:
        """
        A partition of a topic by its id.

        Raises:
            NotFoundError: there is none.
        """
        for ref in topic.partitions:
            if ref.id == partition_id:
                return ref
        raise NotFoundError(
            f"ErrPartitionNotFound: topic '{topic.name}' has no partition"
            f" {partition_id[:64]!r}",
            field="partition",
        )

    def spread(self, topic: Topic) -> PartitionRef:
        """The next partition in turn, for messages without a key."""
        place = self._spread.get(topic.name, 0)
        self._spread[topic.name] = place + 1
        refs = topic.partitions
        if is_near.get():
            refs = [ref for ref in refs if self.loops.is_here(ref.number)] or refs
        return refs[place % len(refs)]

    def replication_factor_default(self) -> int:
        """
        For a topic of which nobody says it: 1 on a node alone, and in a cluster one for each
        member, up to `limits.REPLICATION_FACTOR_DEFAULT_MAX`.

        Members that are away or drained count, although the topic can't be made then: the same
        command gives the same durability on a good day and on a bad one, or says that it can't.
        """
        if self.loops.shared is None:
            return 1
        member_count = len(self.loops.look_around().nodes)
        return max(1, min(limits.REPLICATION_FACTOR_DEFAULT_MAX, member_count))

    async def create_topic(
        self,
        name: str,
        *,
        kind: TopicKind = TopicKind.TIMER,
        partition_count: int = 1,
        replication_factor: int = 1,
        settings: TopicSettings | None = None,
    ) -> Topic:
        """
        Creates a topic, durably.

        Raises:
            InvalidError: a name or number outside its limits.
            ConflictError: there is one of this name.
            PreconditionError: more replicas than members; or this node is drained.
            UnavailableError: names are the cluster's, which has no quorum.
        """
        settings = settings or TopicSettings()
        _check_new(name, partition_count, replication_factor, settings)
        if self.loops.topic(name) is not None or name in self._creating:
            raise ConflictError(
                f"ErrTopicAlreadyExist: topic '{name}' already exists", field="topic"
            )
        if replication_factor > 1:
            return await self._create_replicated(
                name, kind, partition_count, replication_factor, settings
            )
        return await self._create_own(name, kind, partition_count, settings)

    async def _create_own(
        self, name: str, kind: TopicKind, partition_count: int, settings: TopicSettings
    ) -> Topic:
        """In the log of this node."""
        machine = self.loop.machine
        if len(machine.topics) + len(self._creating) >= limits.TOPIC_COUNT_MAX:
            raise BusyError(f"there are {limits.TOPIC_COUNT_MAX} topics, the most there may be")
        moment = self.loop.moment()
        first = machine.assigned_partition
        machine.assigned_partition += partition_count
        refs = tuple(
            PartitionRef(str(self.ids.next()), first + place)
            for place in range(partition_count)
        )
        topic = Topic(name, kind, refs, 1, moment.wall_ms, settings)
        # Until the record has landed, whoever waits for it: a second topic of this name would
        # take the first one's place, and leave its messages where nobody finds them.
        self._creating.add(name)
        try:
            await self._claim(topic)
        except BaseException:
            self._landed(name)
            raise
        operation = PutTopic(name, encode_topic(topic))
        record = machine.record([operation], self.loop.moment())
        await self.loop.commit(record, lambda _: self._landed(name))
        return topic

    async def _claim(self, topic: Topic) -> None:
        """In a cluster, names belong to all of it."""
        if self.loops.shared is not None:
            await self.loops.shared.claim(topic)
        elif self.loops.is_member():
            raise UnavailableError(
                f"topic '{topic.name}' is not created: its name has to be unique in the"
                f" cluster, and {self.loops.why_alone()}",
                field="topic",
            )

    def _landed(self, name: str) -> None:
        """A change of a topic in the node's own log was carried out, or won't be."""
        self._creating.discard(name)
        if self.loops.shared is not None:
            self.loops.shared.publish(name)

    async def _create_replicated(
        self,
        name: str,
        kind: TopicKind,
        partition_count: int,
        replication_factor: int,
        settings: TopicSettings,
    ) -> Topic:
        shared = self.loops.shared
        if shared is None:
            raise PreconditionError(
                f"ErrUnableToSelectReplicas: replication_factor {replication_factor} needs"
                f" {replication_factor} members, {replication_factor - 1} missing:"
                f" {self.loops.why_alone()}",
                field="replication_factor",
            )
        self._creating.add(name)
        try:
            return await shared.create_topic(
                name, kind, partition_count, replication_factor, settings
            )
        finally:
            self._creating.discard(name)

    async def change_topic(
        self,
        name: str,
        *,
        partition_count: int = 0,
        replication_factor: int = 0,
        node: str = "",
        **changes: Any,
    ) -> Topic:
        """
        Changes settings of a topic: those of `TopicSettings` that are given; and lets it have
        more partitions, and another number of replicas, where these are not 0; or live on
        another node, where one is named.

        Raises:
            NotFoundError: there is no such topic, or no such node.
            InvalidError: a setting or number outside its limits.
            PreconditionError: fewer partitions; or more, of a KV topic; more replicas than
                members; a node that gets no topics.
            UnavailableError: no quorum; or the topic is on its way, and goes on.
        """
        is_shape = partition_count or replication_factor or node
        may_move = is_shape and self.loops.shared is not None
        try:
            async with asyncio.timeout(CHANGE_S_MAX if may_move else None):
                return await self._change_topic(
                    name, partition_count, replication_factor, node, changes
                )
        except TimeoutError:
            raise UnavailableError(
                f"topic '{name}' is on its way to other nodes, and goes on: repeat, to wait",
                retry_after_ms=limits.BUSY_RETRY_MS,
            ) from None

    async def _change_topic(
        self,
        name: str,
        partition_count: int,
        replication_factor: int,
        node: str,
        changes: dict[str, Any],
    ) -> Topic:
        if self.loops.shared is not None and (partition_count or replication_factor or node):
            await self.loops.shared.moved(name)  # where it was to go before
        topic = self._changing.get(name) or self.topic(name)
        if partition_count:
            check_growth(topic, partition_count)
        if replication_factor or node:
            check_factor(topic, replication_factor, node)
        self.loops.check_home(name)
        if is_replicated(topic.partitions[0].number):
            assert self.loops.shared is not None
            wanted = replication_factor if replication_factor > 1 else 0
            topic = await self.loops.shared.change_topic(
                topic, changes, partition_count, wanted
            )
        else:
            topic = await self._change_settings(topic, partition_count, changes)
        if replication_factor or node:
            await self._move(topic, replication_factor, node)
        return self.topic(name) if replication_factor or node else topic

    async def _change_settings(
        self, topic: Topic, partition_count: int, changes: dict[str, Any]
    ) -> Topic:
        if not changes and partition_count in {0, len(topic.partitions)}:
            return topic
        settings = replace(topic.settings, **changes)
        settings.check()
        return await self._change_own(
            self._grown(replace(topic, settings=settings), partition_count)
        )

    async def _move(self, topic: Topic, factor: int, node: str) -> None:
        """To other logs, where one replica becomes several, or several one, or one another."""
        shared = self.loops.shared
        is_alone = topic.replication_factor == 1
        if shared is None:
            if factor <= 1 and not node:
                return
            raise PreconditionError(
                f"topic '{topic.name}' can't move: {self.loops.why_alone()}",
                field="replication_factor",
            )
        if is_alone and factor > 1:
            await shared.move_out(topic, factor)
        elif is_alone and node and not shared.is_home(topic.name, node):
            # By way of both: it has two replicas in between.
            await shared.move_out(topic, 2, heir=node)
        elif not is_alone and factor == 1:
            await shared.move_in(topic, node)

    async def _change_own(self, topic: Topic) -> Topic:
        name = topic.name
        self._changing[name] = topic
        operation = PutTopic(name, encode_topic(topic))
        record = self.loop.machine.record([operation], self.loop.moment())

        def landed(error: SandglassError | None) -> None:
            self._landed(name)
            if error is None:
                self.loops.changed(topic)

        try:
            await self.loop.commit(record, landed)
        finally:
            if self._changing.get(name) is topic:
                del self._changing[name]
        return topic

    def _grown(self, topic: Topic, partition_count: int) -> Topic:
        """With as many partitions: those that it has, and new ones behind them."""
        machine = self.loop.machine
        first = machine.assigned_partition
        more = max(0, partition_count - len(topic.partitions))
        machine.assigned_partition += more
        refs = (PartitionRef(str(self.ids.next()), first + place) for place in range(more))
        return replace(topic, partitions=(*topic.partitions, *refs))

    async def delete_topic(self, name: str) -> None:
        """
        Deletes a topic with all its messages; its consumers end.

        Raises:
            NotFoundError: there is none.
        """
        topic = self.topic(name)
        self.loops.check_home(name)
        numbers = [ref.number for ref in topic.partitions]
        self.on_deleted(topic)
        if is_replicated(topic.partitions[0].number):
            assert self.loops.shared is not None
            await self.loops.shared.delete_topic(topic)
            self._spread.pop(name, None)
            self.on_deleted(topic)
            return
        machine = self.loop.machine
        operation = DeleteTopic(name, numbers)

        def deleted(error: SandglassError | None) -> None:
            if error is None:
                self._spread.pop(name, None)
                self.on_deleted(topic)  # those too who have come meanwhile
            self._landed(name)

        await self.loop.commit(machine.record([operation], self.loop.moment()), deleted)
        if self.loops.shared is not None:
            await self.loops.shared.let_go(name)


def check_growth(topic: Topic, partition_count: int) -> None:
    """
    May a topic have so many partitions from here on?

    Raises:
        InvalidError: more than any may.
        PreconditionError: fewer than it has; or it is a KV topic.
    """
    limits.check_range(
        partition_count, field="partition_count", low=1, high=limits.PARTITION_COUNT_MAX
    )
    before_count = len(topic.partitions)
    if partition_count < before_count:
        raise PreconditionError(
            f"topic '{topic.name}' has {before_count} partitions, and none can be taken away:"
            " make another topic, and produce to that one",
            field="partition_count",
        )
    if topic.kind is TopicKind.KV and partition_count > before_count:
        raise PreconditionError(
            f"topic '{topic.name}' is a KV topic: with more than its {before_count} partitions"
            " keys would be looked for where they were not put. Make another topic, and put"
            " its entries there",
            field="partition_count",
        )


def check_factor(topic: Topic, replication_factor: int, node: str) -> None:
    """
    May a topic have so many replicas from here on, or live on this node?

    Raises:
        InvalidError: more than any may; or a node, and more than one replica.
    """
    limits.check_range(
        replication_factor or topic.replication_factor,
        field="replication_factor",
        low=1,
        high=limits.REPLICATION_FACTOR_MAX,
    )
    if node and (replication_factor or topic.replication_factor) > 1:
        raise InvalidError(
            f"a node is named for topic '{topic.name}', and it has, or is to have, several"
            " replicas: say replication_factor 1, too, for it to live on that node alone",
            field="node",
        )


def _check_new(
    name: str, partition_count: int, replication_factor: int, settings: TopicSettings
) -> None:
    limits.check_name(name, field="topic")
    high = limits.PARTITION_COUNT_MAX
    limits.check_range(partition_count, field="partition_count", low=1, high=high)
    high = limits.REPLICATION_FACTOR_MAX
    limits.check_range(replication_factor, field="replication_factor", low=1, high=high)
    settings.check()
