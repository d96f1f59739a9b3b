"""What the broker needs of a cluster's catalog: topics and groups that all members share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sandglass.core.topic import Topic, TopicGroup, TopicKind, TopicSettings


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """A member, as this node knows it."""

    name: str
    grpc: str
    http: str
    is_alive: bool
    is_drained: bool = False
    version: str = ""
    """Of Sandglass; empty where it isn't known."""

    durability: str = ""
    """`always` if its engine syncs what it acknowledges, `unknown`, or empty: not asked yet."""


@dataclass(frozen=True, slots=True)
class PartitionSeen:
    """
    A partition, as this node knows it. `state` and `position` are those of its replica here,
    empty and 0 if there is none. One that lives in the log of a single node is led by that
    node, in epoch 0.
    """

    topic: str
    partition: str
    leader: str
    epoch: int
    replicas: tuple[str, ...]
    state: str
    position: int


@dataclass(frozen=True, slots=True)
class LogSeen:
    """A replicated log that is led here: its stream and the newest snapshot of it."""

    topic: str
    trimmed_count: int
    """Entries that the stream no longer holds."""

    snapshot_age_ms: int | None
    """None: there is no snapshot yet."""


@dataclass(frozen=True, slots=True)
class SnapshotsSeen:
    """What this node did with snapshots since it began, and the logs that it leads."""

    made_count: int = 0
    failed_count: int = 0
    sent_bytes: int = 0
    restored_count: int = 0
    logs: tuple[LogSeen, ...] = ()


@dataclass(frozen=True, slots=True)
class ClusterSeen:
    """The cluster, as this node knows it; all empty where it has none."""

    cluster_id: str = ""
    trouble: str = ""
    nodes: tuple[NodeSeen, ...] = ()
    partitions: tuple[PartitionSeen, ...] = ()
    warnings: tuple[str, ...] = ()
    snapshots: SnapshotsSeen = SnapshotsSeen()
    me: str = ""
    """The node that sees it."""

    has_quorum: bool = False
    """What members agree on can be changed: this node's lease is renewed."""


class SharedCatalog(Protocol):
    """
    Topics and groups of a cluster, as far as this node has heard of them.

    All calls run in the event loop's thread. What they change is known here when they return.
    """

    @property
    def topics(self) -> Mapping[str, Topic]:
        """By name: the replicated ones, and those with one replica that live elsewhere."""
        ...

    @property
    def groups(self) -> Mapping[str, Mapping[str, TopicGroup]]:
        """By topic and name."""
        ...

    @property
    def revision(self) -> int:
        """The highest of all changes that are known here."""
        ...

    async def reached(self, revision: int) -> None:
        """Returns once what had changed at a revision is known here."""
        ...

    async def create_topic(
        self,
        name: str,
        kind: TopicKind,
        partition_count: int,
        replication_factor: int,
        settings: TopicSettings,
    ) -> Topic:
        """
        Makes a replicated topic; its partitions have leaders, or soon will.

        Raises:
            ConflictError: there is one of this name.
            PreconditionError: fewer members are there than replicas are wanted.
            UnavailableError: no quorum.
        """
        ...

    async def claim(self, topic: Topic) -> None:
        """
        Takes the name of a topic that is about to live in this node's own log. Whatever then
        becomes of it, `publish` is told.

        Raises:
            ConflictError: there is one of this name.
            PreconditionError: this node is drained.
            UnavailableError: no quorum.
        """
        ...

    def publish(self, name: str) -> None:
        """A topic of this node's own log has come, changed, or gone: others will hear of it."""
        ...

    async def let_go(self, name: str) -> None:
        """Waits, for a moment, until the name of a topic that has gone from it is free."""
        ...

    async def change_topic(
        self,
        topic: Topic,
        changes: Mapping[str, Any],
        partition_count: int = 0,
        replication_factor: int = 0,
    ) -> Topic:
        """
        Changes settings of a replicated topic, by their names, as they stand when it is done;
        and lets it have at least so many partitions, and so many replicas of each, 2 or more,
        where these are not 0.

        Raises:
            InvalidError: a setting outside its limits.
            NotFoundError: it was deleted.
            PreconditionError: there are fewer members than replicas.
            UnavailableError: no quorum.
        """
        ...

    async def move_out(self, topic: Topic, factor: int, *, heir: str = "") -> None:
        """
        Moves a topic of this node's own log to replicated ones; returns when that is done.

        Args:
            heir: where it is to live alone in the end, by way of logs that this node and the
                heir hold; empty for whoever can hold them, and to stay there.

        Raises:
            NotFoundError: there is no such node.
            PreconditionError: there are fewer members than replicas.
            ConflictError: it came to nothing.
            UnavailableError: no quorum.
        """
        ...

    def is_home(self, name: str, node: str) -> bool:
        """Does a topic live on this node alone?"""
        ...

    async def moved(self, name: str) -> None:
        """Waits until a topic is on its way to other logs no longer."""
        ...

    async def move_in(self, topic: Topic, node: str) -> None:
        """
        Moves a replicated topic to the own log of a node; empty for one that holds it.

        Raises:
            NotFoundError, PreconditionError: there is no such node, or it gets no topics.
            ConflictError, UnavailableError: as above.
        """
        ...

    async def delete_topic(self, topic: Topic) -> None:
        """
        Takes a topic away, with its logs.

        Raises:
            UnavailableError: no quorum.
        """
        ...

    async def put_group(self, group: TopicGroup) -> None:
        """
        Puts a group's row.

        Raises:
            UnavailableError: no quorum.
        """
        ...

    async def delete_group(self, topic: str, name: str) -> None:
        """
        Takes a group's row away: its parts are gone.

        Raises:
            UnavailableError: no quorum.
        """
        ...


class Steward(Protocol):
    """What operators do with a cluster. All calls run in the event loop's thread."""

    async def drain(self, node: str, *, is_drained: bool) -> None:
        """
        Lets a member lead nothing and get no replicas, until that is taken back.

        Raises:
            NotFoundError: there is no such member.
            PreconditionError: nobody would be left.
            UnavailableError: no quorum.
        """
        ...

    async def remove(self, node: str, *, is_abandoning: bool) -> str:
        """
        Removes a member for good, as far as that goes just now: to be repeated while it says
        what it waits for.

        Args:
            is_abandoning: topics that live on that node alone are given up.

        Raises:
            NotFoundError: there is no such member.
            PreconditionError: something would be lost; there is no node for a replica; or it is
                this node, which another removes.
            ConflictError: a topic has changed meanwhile; repeat.
            UnavailableError: no quorum.
        """
        ...
