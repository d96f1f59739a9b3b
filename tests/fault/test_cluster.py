"""
A cluster of three whose nodes and engines are killed, stopped, wiped and starved of space:
nothing is lost, and what one half allows goes on.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandglass.testing.cluster import ClusterProcesses
from sandglass.testing.process import NodeProcess
from tests.fault.cluster_load import Load, loaded
from tests.fault.small_disk import small_disk

pytestmark = pytest.mark.fault

Processes = Load[ClusterProcesses]
DISK_MIB = 128


@pytest.fixture
async def load(tmp_path: Path) -> AsyncIterator[Processes]:
    async with ClusterProcesses(tmp_path) as cluster, loaded(cluster) as load:
        yield load


async def kill(load: Processes, *nodes: NodeProcess) -> None:
    """These nodes and their engines end without a word."""
    for node in nodes:
        node.kill()
        node.kill_engine()
    for node in nodes:
        await node.wait()


async def start(load: Processes, *nodes: NodeProcess) -> None:
    await asyncio.gather(*[node.start() for node in nodes])
    await load.cluster.joined(*nodes)


async def test_a_leader_that_was_stopped_comes_back_as_a_follower(load: Processes) -> None:
    first = await load.leader()
    others = [node for node in load.nodes if node is not first]
    async with load.going_on():
        first.pause()
        await load.produce(via=others)
        first.resume()
        await load.produce(via=others)


async def test_a_node_is_killed_again_and_again(load: Processes) -> None:
    async with load.going_on():
        for _ in range(3):
            leader = await load.leader()
            leader.kill()
            await leader.wait()
            await load.produce()
            await start(load, leader)


async def test_an_engine_is_killed(load: Processes) -> None:
    async with load.going_on():
        for node in load.cluster.nodes:
            node.kill_engine()
            for _ in range(5):
                await load.produce()


async def test_a_node_and_its_engine_are_killed(load: Processes) -> None:
    async with load.going_on():
        leader = await load.leader()
        await kill(load, leader)
        await load.produce()
        await load.drain()
        await start(load, leader)


async def test_two_are_killed_and_come_back(load: Processes) -> None:
    leader = await load.leader()
    other = next(node for node in load.nodes if node is not leader)
    await kill(load, leader, other)
    await start(load, leader, other)
    await load.produce()


async def test_all_are_killed_and_come_back(load: Processes) -> None:
    await load.produce()
    await kill(load, *load.cluster.nodes)
    await start(load, *load.cluster.nodes)
    await load.produce()


async def test_a_node_comes_back_with_nothing(load: Processes) -> None:
    """Its disk was lost: it has its name, and takes everything from the others."""
    async with load.going_on():
        leader = await load.leader()
        await kill(load, leader)
        await load.produce()
        shutil.rmtree(leader.data)
        await start(load, leader)
    other = next(node for node in load.nodes if node is not leader)
    await load.drain()
    await load.cluster.caught_up(other)
    await kill(load, other)
    await load.produce()


async def test_a_disk_fills_up_and_is_freed(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_mib=DISK_MIB) as disk:
        (disk.path / "data").mkdir()
        (tmp_path / "node1").symlink_to(disk.path / "data")
        async with ClusterProcesses(tmp_path) as cluster, loaded(cluster) as load:
            await load.produce()
            async with load.going_on():
                disk.fill()
                for _ in range(20):
                    await load.produce()
                await load.drain()
                disk.free()
                for _ in range(20):
                    await load.produce()
