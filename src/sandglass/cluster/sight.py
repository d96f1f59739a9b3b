"""The cluster as a node sees it: for operators, and for those who ask where a partition is."""

from collections.abc import Mapping
from typing import Final

from sandglass.broker.loops import is_own, is_replicated
from sandglass.broker.shared_catalog import ClusterSeen, NodeSeen, PartitionSeen
from sandglass.cluster.catalog import ClusterCatalog
from sandglass.cluster.engines import ClusterEngine
from sandglass.cluster.leaders import Leaders
from sandglass.cluster.members import Members
from sandglass.cluster.replica import Replica, State
from sandglass.core.topic import PartitionRef
from sandglass.errors import NotFoundError, NotLeaderError, SandglassError, UnavailableError

NOT_LED_RETRY_MS: Final = 100


class Sight:
    """Reads, and changes nothing."""

    def __init__(
        self,
        catalog: ClusterCatalog,
        members: Members,
        leaders: Leaders,
        replicas: Mapping[int, Replica],
        engine: ClusterEngine,
    ) -> None:
        self.engine = engine
        self.catalog = catalog
        self.members = members
        self.leaders = leaders
        self.replicas = replicas

    # --- where a partition is -----------------------------------------------------------------

    def whereabouts(self, number: int) -> SandglassError:
        """Why a partition isn't served here, and where it is."""
        if is_own(number) or self.catalog.homes.has_moved(number):
            return NotLeaderError(
                f"{self._shown(number)} is on its way to other logs",
                retry_after_ms=NOT_LED_RETRY_MS,
            )
        if not is_replicated(number):
            return self._at_home(*self.catalog.homes.place(number))
        if self.catalog.placed_of(number) is None:
            return NotFoundError("the topic was deleted", field="topic")
        members, leadership = self.members, self.catalog.leadership(number)
        name = self.leaders.heirs.get(number) or leadership.node or leadership.heir
        leader = members.named(name) if name else None
        if leader is None or leader.is_over or leader.name == members.me.name:
            last = f"; node {leadership.node} led it last" if leadership.node else ""
            return NotLeaderError(
                f"{self._shown(number)} has no leader just now{last}",
                retry_after_ms=NOT_LED_RETRY_MS,
            )
        return NotLeaderError(
            f"partition {number} is led by node {leader.name}, at {leader.grpc}",
            retry_after_ms=NOT_LED_RETRY_MS,
            leader=leader.grpc,
        )

    def _shown(self, number: int) -> str:
        for placed in self.catalog.placed.values():
            for ref in placed.topic.partitions:
                if ref.number == number:
                    return f"partition {ref.id} of topic '{placed.topic.name}'"
        return f"partition {number}"

    def _at_home(self, topic: str, node: str) -> SandglassError:
        home = self.members.named(node)
        if not topic:
            return NotFoundError("the topic was deleted", field="topic")
        if home is None or not self.members.is_alive(home):
            return UnavailableError(
                f"topic '{topic}' lives on node {node} alone, which is not there",
                retry_after_ms=NOT_LED_RETRY_MS,
            )
        return NotLeaderError(
            f"topic '{topic}' lives on node {node}, at {home.grpc}",
            retry_after_ms=NOT_LED_RETRY_MS,
            leader=home.grpc,
        )

    def node_at(self, address: str) -> NodeSeen | None:
        """The member that serves at an address, there or not."""
        found = [each for each in self._nodes() if each.grpc == address]
        return max(found, key=lambda each: each.is_alive, default=None)

    # --- for operators ------------------------------------------------------------------------

    def seen(self, cluster_id: str) -> ClusterSeen:
        """The cluster, as it is known here."""
        catalog, nodes = self.catalog, self._nodes()
        partitions = tuple(
            self._partition(placed.topic.name, ref, names)
            for _, placed in sorted((catalog.placed | catalog.homes.placed).items())
            for ref, names in zip(placed.topic.partitions, placed.replicas, strict=True)
        )
        return ClusterSeen(
            cluster_id,
            "",
            nodes,
            partitions,
            self._warnings(nodes),
            me=self.members.me.name,
            has_quorum=self.members.may_serve(),
        )

    def _nodes(self) -> tuple[NodeSeen, ...]:
        return tuple(
            NodeSeen(
                each.name,
                each.grpc,
                each.http,
                self.members.is_alive(each),
                each.name in self.catalog.drained,
                each.software,
                self.engine.durability if each.name == self.members.me.name else "",
            )
            for each in self.members.all
        )

    def _partition(
        self, topic: str, ref: PartitionRef, names: tuple[str, ...]
    ) -> PartitionSeen:
        members = self.members
        if not is_replicated(ref.number):
            home = members.named(names[0])
            is_there = home is not None and members.is_alive(home)
            return PartitionSeen(topic, ref.id, names[0] if is_there else "", 0, names, "", 0)
        leadership, replica = self.catalog.leadership(ref.number), self.replicas.get(ref.number)
        leader = members.named(leadership.node) if leadership.node else None
        is_led = (
            leader is not None
            and leader.incarnation == leadership.incarnation
            and members.is_alive(leader)
        )
        return PartitionSeen(
            topic,
            ref.id,
            leadership.node if is_led else "",
            leadership.epoch,
            names,
            replica.state.value if replica is not None else "",
            replica.mark.position if replica is not None else 0,
        )

    def _warnings(self, nodes: tuple[NodeSeen, ...]) -> tuple[str, ...]:
        alive_count = sum(each.is_alive for each in nodes)
        warnings = [f"node {each.name} is not there" for each in nodes if not each.is_alive]
        if alive_count == 2:
            warnings.append("2 members replicate, and survive the loss of none of them")
        elif alive_count < 2:
            warnings.append("only one member is there, and its loss stops everything")
        warnings += [
            f"node {each.name} is drained: it leads nothing, and gets no replicas"
            for each in nodes
            if each.is_drained
        ]
        versions = sorted({each.version for each in nodes if each.is_alive and each.version})
        if len(versions) > 1:
            warnings.append(f"members run different versions: {', '.join(versions)}")
        return (*warnings, *self._own_warnings())

    def _own_warnings(self) -> list[str]:
        """What no other node knows of this one."""
        me = self.members.me.name
        warnings = [
            f"{self._shown(number)} is frozen on node {me}: {each.trouble}"
            for number, each in self.replicas.items()
            if each.state is State.FROZEN
        ]
        if self.engine.is_behind:
            warnings.append(
                f"the engine of node {me} has not caught up: until it has, the loss of another"
                " node may stop replicated topics"
            )
        warnings += [
            f"node {me} does not know all of topic '{name}': {why}"
            for name, why in sorted(self.catalog.unreadable.items())
        ]
        warnings += [
            f"topic '{name}' is on its way to other logs, which node {switch.node} carries out"
            for name, switch in sorted(self.catalog.switches.items())
        ]
        homes = self.catalog.homes
        return warnings + [homes.clash_text(name) for name in sorted(homes.clashes)]
