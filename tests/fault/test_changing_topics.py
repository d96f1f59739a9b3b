"""Topics that change their shape while clients produce to them and consume."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sandglass import AsyncClient, ClusterPartition, SandglassError
from sandglass.testing.cluster import ClusterProcesses
from tests.fault.cluster_load import DEADLINE_S, PAUSE_S, TOPIC, Load, loaded
from tests.integration.test_growing_cluster import sandctl

pytestmark = pytest.mark.fault


async def change(load: Load, **wanted: Any) -> None:
    """Asks one node after the other until one has done it."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            for node in load.nodes:
                try:
                    async with AsyncClient(node.address) as client:
                        await client.admin.set_topic(TOPIC, **wanted)
                    return
                except SandglassError:
                    await asyncio.sleep(PAUSE_S)


async def partitions(load: Load) -> list[ClusterPartition]:
    async with AsyncClient(load.nodes[0].address) as client:
        seen = await client.admin.show_cluster()
    return [each for each in seen.partitions if each.topic == TOPIC]


async def engines_of(load: Load) -> set[int]:
    """How many engines hold each of the streams."""
    async with load.cluster.engine(load.nodes[0]) as connection:
        names = (await connection.call("STREAM.NAMES"))["streams"]
        infos = [
            await connection.call(f"STREAM.INFO.{name}")
            for name in names
            if name.removeprefix("SANDGLASS_").isdigit()
        ]
    return {info["config"]["num_replicas"] for info in infos}


async def test_replicas_and_partitions_become_more_and_replicas_fewer(tmp_path: Path) -> None:
    async with (
        ClusterProcesses(tmp_path) as cluster,
        loaded(cluster, partitions=2, factor=2) as load,
        load.being_read(),
        load.going_on(),
    ):
        await change(load, replication_factor=3)
        assert [3, 3] == [len(set(each.replicas)) for each in await partitions(load)]
        assert {3} == await engines_of(load)
        await change(load, partitions=3)
        await load.produce()
        leader = await load.leader()
        leader.kill()
        leader.kill_engine()
        await leader.wait()
        await load.produce()
        await leader.start()
        await cluster.joined(leader)

        await change(load, replication_factor=2)
        assert [2, 2, 2] == [len(set(each.replicas)) for each in await partitions(load)]
        async with asyncio.timeout(DEADLINE_S):
            while not all(each.leader in each.replicas for each in await partitions(load)):
                await asyncio.sleep(PAUSE_S)
        assert {2} == await engines_of(load)
        await load.produce()


async def until_at(load: Load[ClusterProcesses], *, factor: int, node: str = "") -> None:
    """As `change`, for a topic that moves to other logs: until it is there."""
    await change(load, replication_factor=factor, **({"node": node} if node else {}))
    for each in await partitions(load):
        assert factor == len(set(each.replicas))
        assert node in {"", each.leader}


async def test_a_topic_moves_to_replicated_logs_and_back_and_to_another_node(
    tmp_path: Path,
) -> None:
    async with (
        ClusterProcesses(tmp_path) as cluster,
        loaded(cluster, partitions=2, factor=1) as load,
        load.being_read(),
        load.going_on(),
    ):
        await until_at(load, factor=3)
        await load.produce()
        await until_at(load, factor=1, node="node2")
        await load.produce()
        moved = await sandctl(cluster.nodes[2], "topics", "move", TOPIC, "--to", "node1")
        assert (TOPIC, 1) == (moved["name"], moved["replication_factor"])
        assert {"node1"} == {each.leader for each in await partitions(load)}
        await load.produce()


async def test_the_node_that_moves_a_topic_is_killed(tmp_path: Path) -> None:
    async with (
        ClusterProcesses(tmp_path) as cluster,
        loaded(cluster, partitions=2, factor=1) as load,
        load.going_on(),
    ):
        home = cluster.nodes[0]
        for factor in (3, 1, 3):
            moving = asyncio.create_task(
                change(
                    load,
                    replication_factor=factor,
                    **({"node": home.name} if factor == 1 else {}),
                )
            )
            await asyncio.sleep(0.3)
            home.kill()
            await home.wait()
            await home.start()
            await cluster.joined(home)
            await moving
            assert {factor} == {len(set(each.replicas)) for each in await partitions(load)}
        await load.produce()

        await until_at(load, factor=1, node=home.name)
        moving = asyncio.create_task(change(load, node="node2"))
        await asyncio.sleep(0.3)
        home.kill()
        await home.wait()
        await home.start()
        await cluster.joined(home)
        await moving
        assert {("node2",)} == {each.replicas for each in await partitions(load)}
        await load.produce()
