"""Nodes that share a bucket in memory, and whose replicas do what they are told."""

import asyncio
from typing import cast

from sandglass.adapters.memory_placement import MemoryPlacement
from sandglass.adapters.nats import Connection
from sandglass.adapters.system import SystemEntropy
from sandglass.cluster.catalog import ClusterCatalog
from sandglass.cluster.engines import ClusterEngine
from sandglass.cluster.leaders import Leaders
from sandglass.cluster.members import PREFIX, Member, Members
from sandglass.cluster.placed import Placed, topic_key
from sandglass.cluster.replica import Replica, State
from sandglass.cluster.sight import Sight
from sandglass.core import limits
from sandglass.core.topic import PartitionRef, Topic, TopicKind
from sandglass.replication.reader import Mark
from sandglass.sandflake import Generator
from sandglass.testing.faults import ManualClock

FIRST = limits.REPLICATED_NUMBER_MIN


class FakeReplica:
    """It leads at once when it is told to, and ends that at once."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.state = State.FOLLOWING
        self.epoch = 0
        self.mark = Mark()
        self.is_current = True
        self.is_called = False
        self.opens = True
        """Its engine lets it open epochs."""

    def lead(self, epoch: int) -> None:
        self.epoch, self.mark = epoch, Mark(epoch=epoch)
        self.state = State.LEADING if self.opens else State.OPENING

    async def yield_(self) -> None:
        await asyncio.sleep(0)
        self.state, self.mark = State.FOLLOWING, Mark(epoch=self.epoch + 1)  # its heir's

    def drop(self) -> None:
        self.state = State.FOLLOWING


class FakeEngine:
    """It says what it is told to."""

    durability = "always"
    is_behind = False


class Node:
    """One node's say in who leads `t`, a partition each with all nodes as its replicas."""

    def __init__(self, placement: MemoryPlacement, clock: ManualClock, name: str) -> None:
        self.placement, self.name = placement, name
        entropy = SystemEntropy()
        me = Member(name, name, "", f"{name}:7170", "", "", behind=())
        self.members = Members(placement, clock, entropy, me)
        ids = Generator(wall_ms=clock.wall_ms, entropy=entropy.token_bytes)
        self.catalog = ClusterCatalog(
            placement, self.members, cast(Connection, None), ids, clock, dict
        )
        self.replicas: dict[int, FakeReplica] = {}
        self.leaders = Leaders(
            self.catalog, self.members, cast("dict[int, Replica]", self.replicas), clock
        )
        self.engine = FakeEngine()

    async def come(self) -> None:
        """Its lease is valid, and stays so."""
        self.members.lease.renewed(self.members.clock.monotonic_ms() + 1_000_000)
        await self.placement.set(PREFIX + self.name, self.members.me.encode())

    async def go(self) -> None:
        """It says goodbye."""
        gone = Member.decode(self.placement.entries[PREFIX + self.name].value)
        fields = gone.encode().replace(b'"is_over": false', b'"is_over": true')
        await self.placement.set(PREFIX + self.name, fields)

    def sight(self) -> Sight:
        """The cluster as it sees it."""
        engine = cast(ClusterEngine, self.engine)
        return Sight(self.catalog, self.members, self.leaders, self.leaders.replicas, engine)

    def led(self) -> list[int]:
        """Places of the partitions that it leads."""
        found = self.replicas.values()
        return [each.number - FIRST for each in found if each.state is State.LEADING]


class Cluster:
    """Nodes `a`, `b` and `c`, and a topic of three partitions whose orders begin with each."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.placement = MemoryPlacement()
        self.nodes = [Node(self.placement, self.clock, name) for name in "abc"]

    async def begin(self) -> None:
        names = [node.name for node in self.nodes]
        refs = tuple(PartitionRef(f"p{place}", FIRST + place) for place in range(3))
        replicas = tuple(tuple(names[place:] + names[:place]) for place in range(3))
        topic = Topic("t", TopicKind.TIMER, refs, 3)
        for node in self.nodes:
            node.replicas.update({ref.number: FakeReplica(ref.number) for ref in refs})
            await node.come()
        await self.placement.set(topic_key("t"), Placed(topic, replicas).encode())

    async def turn(self, *nodes: Node) -> None:
        """Each has its turn, and what is handed over is handed over."""
        for _ in range(3):
            for node in nodes or self.nodes:
                await node.leaders.consider()
            for _ in range(10):
                await asyncio.sleep(0)

    async def settle(self) -> None:
        """So long that all who are there count as settled."""
        await self.turn()
        self.clock.advance(limits.LEADER_SETTLE_MS)
        await self.turn()

    @property
    def led(self) -> dict[str, list[int]]:
        return {node.name: node.led() for node in self.nodes}
