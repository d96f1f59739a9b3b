"""Real nodes, trimmed logs: who lost its replica begins at a snapshot, and may lead."""

import asyncio
import shutil
from pathlib import Path

import pytest

from sandglass import AsyncClient
from sandglass.testing.cluster import ClusterProcesses
from sandglass.testing.process import NodeProcess
from tests.fault.test_cluster import TOPIC, consume, produce

pytestmark = pytest.mark.fault

DEADLINE_S = 90.0
AT_A_TIME = 10


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
    async with ClusterProcesses(tmp_path, flags=flags) as cluster:
        async with AsyncClient(cluster.nodes[0].address) as client:
            await client.create_topic(TOPIC, replication_factor=3)
        leader = await produce(cluster, b"first")
        sent = [b"first"]
        while leader.stderr.count("snapshot of partition") < 3:
            values = [b"%020000d" % (len(sent) + place) for place in range(AT_A_TIME)]
            assert await produce(cluster, *values) is leader
            sent += values
        wiped, other = (node for node in cluster.nodes if node is not leader)
        wiped.terminate()
        await wiped.wait()
        shutil.rmtree(wiped.data / "store-000" / "replicas")
        await wiped.start()
        await cluster.joined(wiped)
        await says(wiped, "of a snapshot")
        assert await produce(cluster, b"meanwhile") is leader
        other.terminate()
        await other.wait()
        leader.kill()  # its engine goes on: two of three
        await leader.wait()
        assert await produce(cluster, b"last") is wiped

        found = await consume(wiped)
        assert found[: len(sent)] == sent
        assert set(found[len(sent) :]) == {b"meanwhile", b"last"}
