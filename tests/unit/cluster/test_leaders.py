"""Who leads, takes over and hands over, on nodes whose replicas do what they are told."""

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from sandglass.adapters.memory_placement import MemoryPlacement
from sandglass.adapters.nats import Connection
from sandglass.adapters.system import SystemEntropy
from sandglass.cluster.catalog import DRAINED, ClusterCatalog, Leadership
from sandglass.cluster.leaders import GIVEN_MS, PATIENCE_MS, Leaders
from sandglass.cluster.members import PREFIX, Member, Members
from sandglass.cluster.placed import Placed, topic_key
from sandglass.cluster.replica import Replica, State
from sandglass.core import limits
from sandglass.core.topic import PartitionRef, Topic, TopicKind
from sandglass.errors import NotFoundError, PreconditionError
from sandglass.replication.reader import Mark
from sandglass.sandflake import Generator
from sandglass.testing.faults import ManualClock

DEADLINE_S = 10
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

    def lead(self, epoch: int) -> None:
        self.epoch, self.state, self.mark = epoch, State.LEADING, Mark(epoch=epoch)

    async def yield_(self) -> None:
        await asyncio.sleep(0)
        self.state, self.mark = State.FOLLOWING, Mark(epoch=self.epoch + 1)  # its heir's

    def drop(self) -> None:
        self.state = State.FOLLOWING


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

    async def come(self) -> None:
        """Its lease is valid, and stays so."""
        self.members.lease.renewed(self.members.clock.monotonic_ms() + 1_000_000)
        await self.placement.set(PREFIX + self.name, self.members.me.encode())

    async def go(self) -> None:
        """It says goodbye."""
        gone = Member.decode(self.placement.entries[PREFIX + self.name].value)
        fields = gone.encode().replace(b'"is_over": false', b'"is_over": true')
        await self.placement.set(PREFIX + self.name, fields)

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


@pytest.fixture
async def cluster() -> Cluster:
    found = Cluster()
    await found.begin()
    await found.turn()
    return found


async def until(check: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not check():
            await asyncio.sleep(0)


async def test_leaders_are_spread(cluster: Cluster) -> None:
    assert cluster.led == {"a": [0], "b": [1], "c": [2]}


async def test_a_node_that_stops_hands_over_to_those_that_are_next(cluster: Cluster) -> None:
    a, b, c = cluster.nodes

    await a.leaders.stop()
    await a.go()
    await cluster.turn(b, c)

    assert cluster.led == {"a": [], "b": [0, 1], "c": [2]}
    # Without waiting for anybody: no time has passed.
    assert b.catalog.leadership(FIRST).node == "b"


async def test_the_heir_is_whoever_has_read_its_replica(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    b.replicas[FIRST].is_current = False
    await cluster.turn()
    await b.placement.set(PREFIX + "b", b.members.me.encode())  # its next renewal

    await a.leaders.stop()

    assert a.catalog.leadership(FIRST).heir == "c"
    await cluster.turn(b, c)
    assert cluster.led["c"] == [0, 2]


async def test_who_comes_back_is_given_what_it_should_lead_once_it_has_settled(
    cluster: Cluster,
) -> None:
    a, b, c = cluster.nodes
    await a.leaders.stop()
    await a.go()
    await cluster.turn(b, c)
    a = cluster.nodes[0] = Node(cluster.placement, cluster.clock, "a")
    a.replicas.update({FIRST + place: FakeReplica(FIRST + place) for place in range(3)})
    await a.come()

    await cluster.turn()
    cluster.clock.advance(limits.LEADER_SETTLE_MS - 1)
    await cluster.turn()
    assert cluster.led == {"a": [], "b": [0, 1], "c": [2]}

    cluster.clock.advance(1)
    await cluster.turn()
    assert cluster.led == {"a": [0], "b": [1], "c": [2]}


async def test_who_could_not_lead_is_not_given_it_again_at_once(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    await a.leaders.stop()
    await cluster.turn(b, c)
    await cluster.settle()
    # It was handed back to `a`, which takes nothing any more: its patience over, `b` leads on.
    for _ in range(3):
        cluster.clock.advance(PATIENCE_MS)
        await cluster.turn()
    epoch = b.catalog.leadership(FIRST).epoch
    assert cluster.led == {"a": [], "b": [0, 1], "c": [2]}

    cluster.clock.advance(GIVEN_MS - 4 * PATIENCE_MS)
    await cluster.turn()
    assert b.catalog.leadership(FIRST).epoch == epoch


async def test_a_drained_node_leads_nothing_until_it_is_undrained(cluster: Cluster) -> None:
    _, b, _ = cluster.nodes

    await b.catalog.drain("a", is_drained=True)
    await cluster.turn()
    assert cluster.led == {"a": [], "b": [0, 1], "c": [2]}
    await cluster.settle()
    assert cluster.led["a"] == []

    await b.catalog.drain("a", is_drained=False)
    await cluster.settle()
    assert cluster.led == {"a": [0], "b": [1], "c": [2]}


async def test_a_drained_node_keeps_what_nobody_else_could_lead(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    for node in (b, c):
        node.replicas[FIRST].is_current = False
    await cluster.turn()
    for node in (b, c):
        await node.placement.set(PREFIX + node.name, node.members.me.encode())

    await b.catalog.drain("a", is_drained=True)
    await cluster.turn()

    assert a.led() == [0]


async def test_the_last_node_is_not_drained(cluster: Cluster) -> None:
    catalog = cluster.nodes[0].catalog
    await catalog.drain("a", is_drained=True)
    await catalog.drain("b", is_drained=True)

    with pytest.raises(PreconditionError, match="node c is the last one"):
        await catalog.drain("c", is_drained=True)
    with pytest.raises(NotFoundError):
        await catalog.drain("d", is_drained=True)
    assert DRAINED + "c" not in cluster.placement.entries


async def test_a_drained_node_gets_no_replicas(cluster: Cluster) -> None:
    catalog = cluster.nodes[0].catalog
    await catalog.drain("b", is_drained=True)

    assert catalog._able_members(2) == ["a", "c"]
    with pytest.raises(PreconditionError, match="3 are there, 1 of them drained: 1 missing"):
        catalog._able_members(3)


async def test_an_entry_of_before_there_were_heirs_is_read() -> None:
    found = Leadership.decode(b'{"epoch": 3, "incarnation": "i", "node": "a"}')

    assert found == Leadership("a", "i", 3)
