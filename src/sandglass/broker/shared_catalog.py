"""What the broker needs of a cluster's catalog: topics and groups that all members share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from sandglass.core.topic import Topic, TopicGroup, TopicKind, TopicSettings


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """A member, as this node knows it."""

    name: str
    grpc: str
    http: str
    is_alive: bool


@dataclass(frozen=True, slots=True)
class PartitionSeen:
    """
    A replicated partition, as this node knows it; `state` and `position` are those of its
    replica here, empty and 0 if there is none.
    """

    topic: str
    partition: str
    leader: str
    epoch: int
    replicas: tuple[str, ...]
    state: str
    position: int


@dataclass(frozen=True, slots=True)
class ClusterSeen:
    """The cluster, as this node knows it; all empty where it has none."""

    cluster_id: str = ""
    trouble: str = ""
    nodes: tuple[NodeSeen, ...] = ()
    partitions: tuple[PartitionSeen, ...] = ()
    warnings: tuple[str, ...] = ()


class SharedCatalog(Protocol):
    """
    Topics and groups of a cluster, as far as this node has heard of them.

    All calls run in the event loop's thread. What they change is known here when they return.
    """

    @property
    def topics(self) -> Mapping[str, Topic]:
        """By name."""
        ...

    @property
    def groups(self) -> Mapping[str, Mapping[str, TopicGroup]]:
        """By topic and name."""
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

    async def change_topic(self, topic: Topic) -> None:
        """
        Puts a topic's settings in place of those it had.

        Raises:
            NotFoundError: it was deleted.
            UnavailableError: no quorum.
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
