"""
Clients of a cluster under faults, and what they saw: each value that was taken is handed out,
and none comes again to its group once its acknowledgement was taken.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Generic, Protocol, TypeVar

from sandglass import (
    AsyncClient,
    AsyncReceived,
    LeaseLostError,
    Message,
    SandglassError,
    UnavailableError,
)
from sandglass.testing.process import NodeProcess

TOPIC = "orders"
GROUP = "g"
DEADLINE_S = 90.0
CALL = timedelta(seconds=2)
PAUSE_S = 0.05
BATCH_COUNT = 20


class Cluster(Protocol):
    """Nodes that may be killed, paused and cut off meanwhile."""

    @property
    def nodes(self) -> Sequence[NodeProcess]: ...


ClusterT = TypeVar("ClusterT", bound=Cluster)


@dataclass
class Load(Generic[ClusterT]):
    """Producers and consumers that try each node in turn; values are numbers, each its own."""

    cluster: ClusterT
    sent: Counter[bytes] = field(default_factory=Counter[bytes])
    """How often a value was sent: without an answer it is sent again."""
    taken: list[bytes] = field(default_factory=list[bytes])
    """Those that a node has answered for, in order."""
    settled: Counter[bytes] = field(default_factory=Counter[bytes])
    """Those whose acknowledgement was taken."""
    unsure: set[bytes] = field(default_factory=set[bytes])
    """Those whose acknowledgement had no answer: it was taken, or they come again."""
    _next: int = 0

    async def create(self, partitions: int = 1, factor: int = 3) -> None:
        async with asyncio.timeout(DEADLINE_S), AsyncClient(self.nodes[0].address) as client:
            await client.create_topic(TOPIC, replication_factor=factor, partitions=partitions)
        await self.produce()

    @property
    def nodes(self) -> list[NodeProcess]:
        return [node for node in self.cluster.nodes if node.is_running]

    async def leader(self) -> NodeProcess:
        """The node that leads the topic's first partition, as those that live see it."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                for node in self.nodes:
                    if (name := await self._led_by(node)) is not None:
                        return next(each for each in self.cluster.nodes if each.name == name)
                await asyncio.sleep(PAUSE_S)

    async def _led_by(self, node: NodeProcess) -> str | None:
        try:
            async with AsyncClient(node.address, timeout=CALL) as client:
                seen = await client.admin.show_cluster()
        except SandglassError:
            return None
        names = [each.leader for each in seen.partitions if each.topic == TOPIC]
        return names[0] or None if names else None

    async def produce(
        self, *, via: list[NodeProcess] | None = None, width: int = 1
    ) -> NodeProcess:
        """A batch, through whichever node takes it; returns that. `width`: bytes of a value."""
        values = [b"%0*d" % (width, number) for number in self._numbers()]
        async with asyncio.timeout(DEADLINE_S):
            while True:
                for node in self.nodes if via is None else via:
                    if await self.takes(node, values):
                        return node
                await asyncio.sleep(PAUSE_S)

    def _numbers(self) -> range:
        first = self._next
        self._next += BATCH_COUNT
        return range(first, self._next)

    async def takes(self, node: NodeProcess, values: list[bytes]) -> bool:
        """Produces through a node; false if it doesn't take them, or doesn't answer."""
        self.sent.update(values)
        try:
            async with AsyncClient(node.address, timeout=CALL) as client:
                await client.produce_many(TOPIC, [Message(value) for value in values])
        except SandglassError:
            return False
        self.taken += values
        return True

    async def drain(self) -> None:
        """What was taken until now is handed out, by whichever nodes hand something out."""
        taken = [*self.taken]
        async with asyncio.timeout(DEADLINE_S):
            while self.missing(taken):
                for node in self.nodes:
                    await self._consume(node)
                await asyncio.sleep(PAUSE_S)

    async def _consume(self, node: NodeProcess) -> None:
        try:
            async with (
                asyncio.timeout(CALL.total_seconds() * 3),
                AsyncClient(node.address, timeout=CALL) as client,
                client.consume(TOPIC, group=GROUP, drain=True) as messages,
            ):
                async for message in messages:
                    self.unsure.add(message.value)
                    await message.ack()
                    self.settled[message.value] += 1
                    self.unsure.discard(message.value)
        except (SandglassError, TimeoutError):
            return

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Batches are produced all the while."""

        async def go_on() -> None:
            while True:
                await self.produce()
                await asyncio.sleep(PAUSE_S)

        task = asyncio.create_task(go_on())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    @asynccontextmanager
    async def being_read(self) -> AsyncIterator[None]:
        """A consumer takes what comes all the while, over whichever nodes serve it."""

        async def read() -> None:
            addresses = [node.address for node in self.cluster.nodes]
            async with (
                AsyncClient(*addresses) as client,
                client.consume(TOPIC, group=GROUP) as messages,
            ):
                async for message in messages:
                    await self._settle(message)

        task = asyncio.create_task(read())
        try:
            yield
        finally:
            assert not task.done(), task.exception()
            task.cancel()
            await asyncio.wait([task])

    async def _settle(self, message: AsyncReceived) -> None:
        self.unsure.add(message.value)
        try:
            await message.ack(wait=True)
        except (LeaseLostError, UnavailableError):
            return  # it comes again, or its acknowledgement was taken
        self.settled[message.value] += 1
        self.unsure.discard(message.value)

    def missing(self, taken: list[bytes]) -> set[bytes]:
        """What of this was not handed out."""
        return set(taken) - self.settled.keys() - self.unsure

    def check(self) -> None:
        """
        Nothing is lost, and what was sent once is settled once. What was sent again may stand
        in the log as often.
        """
        assert self.taken
        assert not self.missing(self.taken)
        assert self.settled.keys() <= self.sent.keys()
        assert not [value for value, count in self.settled.items() if count > self.sent[value]]


@asynccontextmanager
async def loaded(
    cluster: ClusterT, *, partitions: int = 1, factor: int = 3
) -> AsyncIterator[Load[ClusterT]]:
    """A topic, and its load; at the end all that was taken is there."""
    load = Load(cluster)
    await load.create(partitions, factor)
    yield load
    await load.drain()
    load.check()
