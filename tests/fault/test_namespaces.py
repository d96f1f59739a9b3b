"""The system's own network is cut between nodes: one side goes on, and nothing is lost."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fault.cluster_load import Load, loaded
from tests.fault.namespaces import DistantNode, Namespaces

pytestmark = pytest.mark.fault

PAUSE_S = 1.0


@pytest.fixture
async def load(tmp_path: Path) -> AsyncIterator[Load[Namespaces]]:
    async with Namespaces(tmp_path) as cluster, loaded(cluster) as load:
        yield load


async def test_a_leader_is_unplugged(load: Load[Namespaces]) -> None:
    cluster, leader = load.cluster, await load.leader()
    others = [node for node in load.nodes if node is not leader]
    async with load.going_on():
        cluster.unplug(leader)
        for _ in range(5):
            await load.produce(via=others)
        await load.takes(leader, [b"through the one that was unplugged"])
        await load.drain()
        cluster.plug_in(leader)
        await asyncio.sleep(PAUSE_S)
    await load.produce()


async def test_a_leader_is_not_heard_and_hears_the_others(load: Load[Namespaces]) -> None:
    cluster, leader = load.cluster, await load.leader()
    assert isinstance(leader, DistantNode)
    others = [node for node in load.nodes if node is not leader]
    async with load.going_on():
        cluster.mute(leader)
        for _ in range(5):
            await load.produce(via=others)
        await load.drain()
        cluster.mute(leader, is_mute=False)
        await asyncio.sleep(PAUSE_S)
    await load.produce()


async def test_two_do_not_reach_each_other_and_a_third_reaches_both(
    load: Load[Namespaces],
) -> None:
    cluster, leader = load.cluster, await load.leader()
    other = next(node for node in load.nodes if node is not leader)
    async with load.going_on():
        cluster.part(leader, other)
        for _ in range(10):
            await load.produce()
        await load.drain()
        cluster.part(leader, other, is_parted=False)
    await load.produce()
