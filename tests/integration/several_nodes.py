"""
Three nodes of a cluster in one process: real surfaces, logs in memory, and leaders that go
where a test wants them.

A partition's loop belongs to whoever leads it, and may be taken along to another node (`lead`);
or a new leader begins over the same log, and knows nothing of leases (`take_over`).
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from sandglass.adapters.memory_log import MemoryLog
from sandglass.adapters.memory_store import MemoryStore
from sandglass.adapters.system import SystemClock, SystemEntropy
from sandglass.broker.broker import Broker
from sandglass.broker.node_loop import NodeLoop
from sandglass.broker.shared_catalog import ClusterSeen, NodeSeen
from sandglass.core import limits
from sandglass.core.machine import encode_topic
from sandglass.core.record import PutTopic
from sandglass.core.topic import PartitionRef, Topic, TopicGroup, TopicKind, TopicSettings
from sandglass.errors import NotLeaderError
from sandglass.rpc import server as rpc
from sandglass.rpc.forwarding import Peers
from sandglass.rpc.sessions import Sessions
from sandglass.sandflake import Generator
from sandglass.surface.admin import Admin
from sandglass.surface.leaders import Leaders
from sandglass.telemetry import HttpCounts
from sandglass.web import server as web
from sandglass.wire.convert import slice_body

NODE_COUNT = 3
GRACE_MS = 20_000
"""Longer than a loaded machine takes to come back."""


@dataclass
class SharedDict:
    """A cluster's catalog of which all know at once."""

    topics: dict[str, Topic] = field(default_factory=dict)
    by_topic: dict[str, dict[str, TopicGroup]] = field(default_factory=dict)
    revision: int = 0

    @property
    def groups(self) -> Mapping[str, Mapping[str, TopicGroup]]:
        return self.by_topic

    async def reached(self, revision: int) -> None:
        assert revision <= self.revision

    async def claim(self, topic: Topic) -> None:
        raise AssertionError("these topics are replicated")

    async def let_go(self, name: str) -> None:
        pass

    def publish(self, name: str) -> None:
        raise AssertionError("these topics are replicated")

    async def create_topic(
        self,
        name: str,
        kind: TopicKind,
        partition_count: int,
        replication_factor: int,
        settings: TopicSettings,
    ) -> Topic:
        raise AssertionError("tests make topics by themselves")

    async def change_topic(
        self,
        topic: Topic,
        changes: Mapping[str, Any],
        partition_count: int = 0,
        replication_factor: int = 0,
    ) -> Topic:
        assert partition_count in {0, len(topic.partitions)}, "tests let topics grow"
        assert replication_factor in {0, topic.replication_factor}, "tests say who leads"
        topic = replace(topic, settings=replace(topic.settings, **changes))
        self.topics[topic.name] = topic
        return topic

    def is_home(self, name: str, node: str) -> bool:
        return False

    async def moved(self, name: str) -> None:
        pass

    async def move_out(self, topic: Topic, factor: int, *, heir: str = "") -> None:
        raise AssertionError("these topics stay replicated")

    async def move_in(self, topic: Topic, node: str) -> None:
        raise AssertionError("these topics stay replicated")

    async def delete_topic(self, topic: Topic) -> None:
        del self.topics[topic.name]

    async def put_group(self, group: TopicGroup) -> None:
        self.revision += 1
        self.by_topic.setdefault(group.topic, {})[group.name] = group

    async def delete_group(self, topic: str, name: str) -> None:
        self.revision += 1
        self.by_topic[topic].pop(name, None)


@dataclass
class OneNode:
    name: str
    broker: Broker
    peers: Peers
    leaders: Leaders
    sessions: Sessions
    grpc: rpc.Surface | None = None
    http: web.Surface | None = None
    is_alive: bool = True

    @property
    def address(self) -> str:
        assert self.grpc is not None
        return f"127.0.0.1:{self.grpc.port}"

    @property
    def url(self) -> str:
        assert self.http is not None
        return f"http://127.0.0.1:{self.http.port}"


class SeveralNodes:
    """`start` once, `stop` once."""

    def __init__(self) -> None:
        self.shared = SharedDict()
        self.nodes: list[OneNode] = []
        self.loops: dict[int, NodeLoop] = {}
        self.logs: dict[int, tuple[MemoryLog, MemoryStore]] = {}
        self.leader_of: dict[int, OneNode | None] = {}
        self._ids = Generator(
            wall_ms=SystemClock().wall_ms, entropy=SystemEntropy().token_bytes
        )

    async def start(self) -> None:
        for number in range(NODE_COUNT):
            await self._start_node(f"node{number}")

    async def _start_node(self, name: str) -> None:
        loop = NodeLoop(MemoryLog(), MemoryStore(), SystemClock(), slice_body)
        broker = Broker(loop, self._ids, node_name=name, session_grace_ms=GRACE_MS)
        peers = Peers()
        await loop.start()
        leaders = Leaders(broker.loops, peers)
        sessions = Sessions(broker, None, peers)
        node = OneNode(name, broker, peers, leaders, sessions)
        loops = broker.loops
        loops.shared = self.shared
        loops.whereabouts = self._whereabouts
        loops.node_at = self._node_at
        loops.look_around = self._look_around
        broker.groups.drop_elsewhere = Admin(broker, leaders).drop_elsewhere
        node.grpc = await rpc.serve(
            broker, "127.0.0.1:0", session=node.sessions.serve, leaders=leaders
        )

        async def scraped(_: HttpCounts) -> bytes:
            return b""

        node.http = await web.serve(
            broker, "127.0.0.1", 0, clock=SystemClock(), scraped=scraped, leaders=leaders
        )
        self.nodes.append(node)

    async def stop(self) -> None:
        for node in self.nodes:
            node.broker.pulls.let_go()
            if node.is_alive:
                await self.kill(node)
        for node in self.nodes:
            await node.broker.stop()
            await node.leaders.stop()
            await node.peers.close()
            await node.broker.loop.stop()
        for loop in self.loops.values():
            await loop.stop()

    async def kill(self, node: OneNode) -> None:
        """Nobody reaches it any more; what it led has no leader."""
        node.is_alive = False
        assert node.grpc is not None
        assert node.http is not None
        await asyncio.gather(node.grpc.stop(0), node.http.stop(0))
        for number, leader in self.leader_of.items():
            if leader is node:
                self.leader_of[number] = None
                node.broker.loops.remove(number, self._whereabouts(number))

    async def topic(
        self,
        name: str,
        *,
        kind: TopicKind = TopicKind.TIMER,
        partition_count: int = NODE_COUNT,
    ) -> Topic:
        """A replicated topic; its partitions are led by the nodes in turn."""
        first = limits.REPLICATED_NUMBER_MIN + len(self.loops)
        refs = tuple(
            PartitionRef(str(self._ids.next()), first + place)
            for place in range(partition_count)
        )
        topic = Topic(name, kind, refs, 3, 0, TopicSettings(max_deliveries=1))
        for place, ref in enumerate(refs):
            await self._begin(topic, ref, self.nodes[place % NODE_COUNT])
        self.shared.topics[name] = topic
        return topic

    async def grow(self, topic: Topic) -> Topic:
        """With one partition more, which the last node leads."""
        number = limits.REPLICATED_NUMBER_MIN + len(self.loops)
        ref = PartitionRef(str(self._ids.next()), number)
        topic = replace(topic, partitions=(*topic.partitions, ref))
        await self._begin(topic, ref, self.nodes[-1])
        self.shared.topics[topic.name] = topic
        for node in self.nodes:
            node.broker.loops.changed(topic)
        return topic

    async def _begin(self, topic: Topic, ref: PartitionRef, node: OneNode) -> None:
        log, store = self.logs[ref.number] = MemoryLog(), MemoryStore()
        loop = self._loop(log, store)
        await loop.start()
        operation = PutTopic(topic.name, encode_topic(replace(topic, partitions=(ref,))))
        await loop.commit(loop.machine.record([operation], loop.moment()))
        self.loops[ref.number] = loop
        self.lead(ref, node)

    def lead(self, ref: PartitionRef, node: OneNode | None) -> None:
        """From here on this node leads a partition."""
        before = self.leader_of.get(ref.number)
        self.leader_of[ref.number] = node
        if before is not None:
            before.broker.loops.remove(ref.number, self._whereabouts(ref.number))
        if node is not None:
            node.broker.loops.add(ref.number, self.loops[ref.number])
        for each in self.nodes:
            each.broker.loops.moved(ref.number)

    async def take_over(self, ref: PartitionRef, node: OneNode) -> None:
        """Another leader begins, from what is in the log."""
        self.lead(ref, None)
        await self.loops[ref.number].stop()
        log, store = self.logs[ref.number]
        log.close()
        store.close()
        log.reopen()
        store.reopen()
        self.loops[ref.number] = self._loop(log, store)
        await self.loops[ref.number].start()
        self.lead(ref, node)

    def _loop(self, log: MemoryLog, store: MemoryStore) -> NodeLoop:
        return NodeLoop(log, store, SystemClock(), slice_body, session_grace_ms=GRACE_MS)

    def _whereabouts(self, number: int) -> NotLeaderError:
        leader = self.leader_of[number]
        if leader is None:
            return NotLeaderError(f"partition {number} has no leader just now")
        return NotLeaderError("it is led elsewhere", leader=leader.address)

    def _node_at(self, address: str) -> NodeSeen | None:
        for node in self.nodes:
            if node.address == address:
                return NodeSeen(node.name, address, "", node.is_alive)
        return None

    def _look_around(self) -> ClusterSeen:
        return ClusterSeen()


@asynccontextmanager
async def several_nodes() -> AsyncIterator[SeveralNodes]:
    nodes = SeveralNodes()
    await nodes.start()
    try:
        yield nodes
    finally:
        await nodes.stop()
