"""Three nodes and their engines on loopback, and who leads what on them."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.load import Session
from bench.process import Server, memory_mb_of
from sandglass import AsyncClient
from sandglass.adapters.nats import Connection
from sandglass.client.operating import ClusterPartition
from sandglass.testing.cluster import ClusterProcesses
from sandglass.testing.process import NodeProcess

LED_S_MAX = 120.0
SETTLED_S_MAX = 180.0
LOOK_S = 0.02
LOG_NAME = re.compile(r"SANDGLASS_\d+")


@dataclass(frozen=True, slots=True)
class Processes:
    """Some processes whose time and memory are taken together."""

    pids: tuple[int, ...]

    def cpu_s(self) -> float:
        """CPU time of all their threads so far."""
        return sum(map(Server.cpu_s_of, self.pids))

    def memory_mb(self) -> int:
        """What they have in memory now."""
        return sum(map(memory_mb_of, self.pids))


@dataclass(frozen=True, slots=True)
class Led:
    """A partition, and the node that leads it."""

    partition: str
    node: NodeProcess


@dataclass(frozen=True, slots=True)
class Stored:
    """What the streams of the logs hold, all together."""

    entry_count: int
    size_bytes: int


class Nodes:
    """A cluster of three."""

    def __init__(self, cluster: ClusterProcesses) -> None:
        self.cluster = cluster

    @classmethod
    @asynccontextmanager
    async def open(
        cls, directory: Path, *, flags: Sequence[str] = ()
    ) -> "AsyncIterator[Nodes]":
        """Starts three nodes on a new directory, and ends them."""
        directory.mkdir()
        async with ClusterProcesses(directory, flags=flags) as cluster:
            yield cls(cluster)

    @property
    def processes(self) -> Processes:
        """The nodes, without their engines."""
        return Processes(tuple(node.pid for node in self.cluster.nodes))

    @property
    def engines(self) -> Processes:
        return Processes(tuple(node.engine_pid for node in self.cluster.nodes))

    async def create_topic(
        self, name: str, *, partition_count: int = 1, replication_factor: int = 3
    ) -> list[Led]:
        """A topic, once all of its partitions are led; in their order."""
        first = self.cluster.nodes[0]
        async with Session(first.address) as session:
            ids = await session.create_topic(
                name, partition_count=partition_count, replication_factor=replication_factor
            )
        if replication_factor == 1:
            return [Led(each, first) for each in ids]
        return [await self.leader_of(each) for each in ids]

    async def delete_topic(self, name: str) -> None:
        async with AsyncClient(self.cluster.nodes[0].address) as client:
            await client.delete_topic(name)

    async def leader_of(self, partition: str, *, but: NodeProcess | None = None) -> Led:
        """
        Who leads a partition, once somebody does.

        Raises:
            TimeoutError: nobody does.
        """
        async with asyncio.timeout(LED_S_MAX):
            while True:
                for node in self.cluster.nodes:
                    if node is but or not node.is_running:
                        continue
                    seen = (await seen_by(node)).get(partition)
                    held = None if seen is None else seen.held_by(node.name)
                    if held is not None and held.state == "leading":
                        return Led(partition, node)
                await asyncio.sleep(LOOK_S)

    async def settled(self, led: list[Led]) -> None:
        """
        Waits until all replicas have what the leaders have.

        Raises:
            TimeoutError: they haven't.
        """
        async with asyncio.timeout(SETTLED_S_MAX):
            while True:
                seen = await seen_by(self.cluster.nodes[0])
                lags = {held.lag_count for of in led for held in seen[of.partition].held}
                if lags == {0}:
                    return
                await asyncio.sleep(LOOK_S)


async def stored(connection: Connection) -> Stored:
    """What the logs' streams hold now, as far as one page of the engine names them."""
    states = await states_of_logs(connection)
    return Stored(
        sum(each["messages"] for each in states), sum(each["bytes"] for each in states)
    )


async def states_of_logs(connection: Connection) -> list[dict[str, int]]:
    """Of each log's stream what the engine says; snapshots lie in others."""
    found = await connection.call("STREAM.LIST", {})
    return [
        each["state"] for each in found["streams"] if LOG_NAME.fullmatch(each["config"]["name"])
    ]


async def seen_by(node: NodeProcess) -> dict[str, ClusterPartition]:
    """The partitions as a node knows them, by id."""
    async with AsyncClient(node.address) as client:
        status = await client.admin.show_cluster()
    return {each.partition: each for each in status.partitions}
