"""Real nodes, trimmed logs: who lost its replica begins at a snapshot, and may lead."""

import asyncio
import shutil
from pathlib import Path

import pytest

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
