"""A cluster of three whose nodes and engines are killed and stopped: nothing is lost."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from sandglass import AsyncClient, Message, SandglassError
from sandglass.testing.cluster import ClusterProcesses
from sandglass.testing.process import NodeProcess

pytestmark = pytest.mark.fault

DEADLINE_S = 90.0
TOPIC = "orders"


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ClusterProcesses]:
    async with ClusterProcesses(tmp_path) as cluster:
        async with AsyncClient(cluster.nodes[0].address) as client:
            await client.create_topic(TOPIC, replication_factor=3)
        yield cluster


async def takes(node: NodeProcess, *values: bytes) -> bool:
    """Produces through a node; false if it doesn't lead, or doesn't answer."""
    messages = [Message(value) for value in values]
    try:
        async with AsyncClient(node.address, timeout=timedelta(seconds=2)) as client:
            await client.produce_many(TOPIC, messages)
    except SandglassError:
        return False
    return True


async def produce(cluster: ClusterProcesses, *values: bytes) -> NodeProcess:
    """Produces through whichever node leads, and returns that; repeats until one does."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            for node in cluster.nodes:
                if node.is_running and await takes(node, *values):
                    return node
            await asyncio.sleep(0.1)


async def consume(node: NodeProcess) -> list[bytes]:
    """All that the group is given, each acknowledged."""
    found: list[bytes] = []
    async with (
        asyncio.timeout(DEADLINE_S),
        AsyncClient(node.address) as client,
        client.consume(TOPIC, group="g", drain=True) as messages,
    ):
        async for message in messages:
            found.append(message.value)
            await message.ack()
    return found


async def test_a_leader_that_was_stopped_comes_back_as_a_follower(
    cluster: ClusterProcesses,
) -> None:
    first = await produce(cluster, b"before")
    first.pause()
    others = [node for node in cluster.nodes if node is not first]
    async with asyncio.timeout(DEADLINE_S):
        while not [node for node in others if await takes(node, b"meanwhile")]:
            await asyncio.sleep(0.1)
    first.resume()
    second = await produce(cluster, b"after")
    assert second is not first
    assert not await takes(first, b"never")

    found = await consume(second)
    assert found[0] == b"before"
    assert found[-1] == b"after"
    assert set(found) == {b"before", b"meanwhile", b"after"}


async def test_a_node_and_its_engine_are_killed(cluster: ClusterProcesses) -> None:
    first = await produce(cluster, *(b"%d" % number for number in range(1000)))
    first.kill()
    cluster.kill_engine(first)
    await first.wait()
    second = await produce(cluster, b"last")

    found = await consume(second)
    assert found[:1000] == [b"%d" % number for number in range(1000)]
    assert set(found[1000:]) == {b"last"}  # without an answer it was produced again
    await first.start()
    await cluster.joined(first)


async def test_all_are_killed_and_come_back(cluster: ClusterProcesses) -> None:
    values = [b"%d" % number for number in range(1000)]
    await produce(cluster, *values)
    for node in cluster.nodes:
        node.kill()
        cluster.kill_engine(node)
    for node in cluster.nodes:
        await node.wait()
    await asyncio.gather(*[node.start() for node in cluster.nodes])
    await cluster.joined(*cluster.nodes)
    leader = await produce(cluster, b"last")

    found = await consume(leader)
    assert found[:1000] == values
    assert set(found[1000:]) == {b"last"}
