"""Real nodes, trimmed logs: who lost its replica begins at a snapshot, and may lead."""

import asyncio
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from sandglass import AsyncClient, UnavailableError
from sandglass.testing.cluster import ClusterProcesses
from sandglass.testing.process import NodeProcess
from tests.fault.cluster_load import loaded

pytestmark = pytest.mark.fault

DEADLINE_S = 90.0


async def says(node: NodeProcess, text: str, times: int = 1) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while node.stderr.count(text) < times:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("is_in_folder", [False, True])
async def test_a_wiped_replica_leads_with_what_a_snapshot_gave_it(
    tmp_path: Path, is_in_folder: bool
) -> None:
    flags = ["--snapshot_bytes=65536"]
    if is_in_folder:
        flags.append(f"--snapshot_folder={tmp_path / 'snapshots'}")
    async with ClusterProcesses(tmp_path, flags=flags) as cluster, loaded(cluster) as load:
        leader = await load.leader()
        while leader.stderr.count("snapshot of partition") < 3:
            await load.produce(width=20_000)
        wiped, other = (node for node in cluster.nodes if node is not leader)
        wiped.terminate()
        await wiped.wait()
        shutil.rmtree(wiped.data / "store-000" / "replicas")
        await wiped.start()
        await cluster.joined(wiped)
        await says(wiped, "of a snapshot")
        await load.produce()
        other.terminate()
        await other.wait()
        leader.kill()  # its engine goes on: two of three
        await leader.wait()
        await load.produce()
        assert await load.leader() is wiped
        await load.drain()


async def test_a_dead_node_is_removed_and_its_heir_begins_at_a_snapshot(tmp_path: Path) -> None:
    flags = ["--snapshot_bytes=65536"]
    async with (
        ClusterProcesses(tmp_path, count=4, flags=flags) as cluster,
        loaded(cluster) as load,
    ):
        leader = await load.leader()
        while leader.stderr.count("snapshot of partition") < 3:
            await load.produce(width=20_000)
        held = await replicas(leader)
        (heir,) = (node for node in cluster.nodes if node.name not in held)
        dead, other = (
            node for node in cluster.nodes if node.name in held and node is not leader
        )
        dead.kill()
        dead.kill_engine()
        await dead.wait()
        async with load.going_on():
            await removed(leader, dead)
            await says(heir, "of a snapshot")
        assert await replicas(leader) == [
            heir.name if name == dead.name else name for name in held
        ]
        other.kill()
        other.kill_engine()
        await other.wait()
        await load.produce()


async def replicas(node: NodeProcess) -> list[str]:
    """Who holds the topic's only partition, in order."""
    async with AsyncClient(node.address) as client:
        (partition,) = (await client.admin.show_cluster()).partitions
    return [*partition.replicas]


async def removed(via: NodeProcess, node: NodeProcess) -> None:
    """Removes a node, step by step."""
    async with AsyncClient(via.address) as client, asyncio.timeout(DEADLINE_S):
        is_over = False
        while not is_over:
            # What is being handed over at that moment is asked for again.
            with suppress(UnavailableError):
                is_over = not await client.admin.remove_node(node.name)
            await asyncio.sleep(0.05)
