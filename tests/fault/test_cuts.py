"""A cluster whose network is cut, one way and fully: one side goes on, and nothing is lost."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from sandglass.testing.cluster import ClusterProcesses
from sandglass.testing.process import NodeProcess
from tests.fault.cluster_load import loaded

pytestmark = pytest.mark.fault

Cut = Callable[[ClusterProcesses, NodeProcess], None]
PAUSE_S = 1.0


def isolate(cluster: ClusterProcesses, node: NodeProcess) -> None:
    cluster.wires.isolate(node.name)


def deafen(cluster: ClusterProcesses, node: NodeProcess) -> None:
    """It hears nobody, and is heard."""
    for other in cluster.nodes:
        cluster.wires.cut(other.name, node.name)


def silence(cluster: ClusterProcesses, node: NodeProcess) -> None:
    """It is not heard, and hears the others."""
    for other in cluster.nodes:
        cluster.wires.cut(node.name, other.name)


@pytest.mark.parametrize("cut", [isolate, deafen, silence])
async def test_a_leader_is_cut_off(tmp_path: Path, cut: Cut) -> None:
    async with ClusterProcesses(tmp_path, is_wired=True) as cluster, loaded(cluster) as load:
        leader = await load.leader()
        others = [node for node in cluster.nodes if node is not leader]
        async with load.going_on():
            cut(cluster, leader)
            for _ in range(5):
                await load.produce(via=others)
            await load.takes(leader, [b"through the one that was cut off"])
            await load.drain()
            cluster.wires.heal()
            await asyncio.sleep(PAUSE_S)
        await load.produce()


async def test_two_nodes_do_not_hear_each_other_and_a_third_hears_both(tmp_path: Path) -> None:
    async with ClusterProcesses(tmp_path, is_wired=True) as cluster, loaded(cluster) as load:
        leader = await load.leader()
        other = next(node for node in cluster.nodes if node is not leader)
        cluster.wires.cut(leader.name, other.name)
        cluster.wires.cut(other.name, leader.name)
        async with load.going_on():
            for _ in range(10):
                await load.produce()
            await load.drain()
            cluster.wires.heal()
        await load.produce()


async def test_nobody_hears_anybody_for_a_while(tmp_path: Path) -> None:
    async with ClusterProcesses(tmp_path, is_wired=True) as cluster, loaded(cluster) as load:
        for node in cluster.nodes:
            cluster.wires.isolate(node.name)
        for node in cluster.nodes:
            while await load.takes(node, [b"before the lease is over"]):
                await asyncio.sleep(PAUSE_S)
        cluster.wires.heal()
        await load.produce()
