"""What docs/operate/cluster.md says of an upgrade and of a backup, done to three nodes."""

import asyncio
import shlex
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sandglass import AsyncClient, SandglassError
from sandglass.testing.cluster import ClusterProcesses
from sandglass.testing.process import NodeProcess

pytestmark = [pytest.mark.slow, pytest.mark.fault]

DEADLINE_S = 60.0
PAGE = Path(__file__).parents[2] / "docs" / "operate" / "cluster.md"


def commands(section: str, node: str) -> list[str]:
    """Those of a section of the page, for a node."""
    text = PAGE.read_text().partition(f"## {section}\n")[2].partition("\n## ")[0]
    lines = [line[4:] for line in text.splitlines() if line.startswith("    sandctl ")]
    return [line.replace("node2", node) for line in lines]


async def does(line: str, at: NodeProcess) -> None:
    """Types a command, asking one node."""
    _, *words = shlex.split(line)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sandglass.cli.ctl.main", "--addrs", at.address, *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b""), f"{line}: {out!r} {err!r}"


async def until_caught_up(at: NodeProcess, node: NodeProcess) -> None:
    """Waits until a node is there, with nothing left to read."""
    async with AsyncClient(at.address) as client, asyncio.timeout(DEADLINE_S):
        while True:
            seen = await client.admin.show_cluster()
            held = [h for p in seen.partitions for h in p.held if h.node == node.name]
            is_there = any(n.name == node.name and n.is_alive and n.version for n in seen.nodes)
            if is_there and held and all(h.lag_count == 0 for h in held):
                return
            await asyncio.sleep(0.1)


async def until_put(node: NodeProcess, key: str) -> None:
    async with AsyncClient(node.address) as client, asyncio.timeout(DEADLINE_S):
        while True:
            try:
                await client.put("t", key, key)
                return
            except SandglassError:
                await asyncio.sleep(0.1)


async def keys_of(node: NodeProcess, *keys: str) -> list[bool]:
    """Which of these a node finds."""
    async with AsyncClient(node.address) as client, asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return [await client.has("t", key) for key in keys]
            except SandglassError:
                await asyncio.sleep(0.1)


@asynccontextmanager
async def working(cluster: ClusterProcesses) -> AsyncIterator[list[str]]:
    """Puts keys meanwhile, as fast as each is answered; yields those that were."""
    answered: list[str] = []

    async def work() -> None:
        addresses = [node.address for node in cluster.nodes]
        async with AsyncClient(*addresses) as client:
            while True:
                key = f"k{len(answered)}"
                try:
                    await client.put("t", key, key)
                except SandglassError:
                    await asyncio.sleep(0.05)  # the same key again
                else:
                    answered.append(key)

    task = asyncio.create_task(work())
    try:
        yield answered
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_cluster_is_upgraded_a_node_at_a_time(tmp_path: Path) -> None:
    async with ClusterProcesses(tmp_path) as cluster:
        async with AsyncClient(cluster.nodes[0].address) as client:
            await client.create_topic("t", kind="kv", partitions=3, replication_factor=3)
        await until_put(cluster.nodes[0], "before")
        async with working(cluster) as answered:
            for place, node in enumerate(cluster.nodes):
                other = cluster.nodes[place - 1]
                drain, undrain = commands("Upgrade, one node at a time", node.name)
                await does(drain, other)
                node.terminate()
                assert await node.wait() == 0
                port = node.grpc_port
                await node.start(grpc_port=port)
                await cluster.joined(node)
                await until_caught_up(other, node)
                await does(undrain, other)
                count = len(answered)
                async with asyncio.timeout(DEADLINE_S):
                    while len(answered) <= count:
                        await asyncio.sleep(0.05)
        for node in cluster.nodes:
            assert all(await keys_of(node, "before", *answered))


async def test_a_backup_of_all_nodes_is_restored(tmp_path: Path) -> None:
    async with ClusterProcesses(tmp_path) as cluster:
        async with AsyncClient(cluster.nodes[0].address) as client:
            await client.create_topic("t", kind="kv", replication_factor=3)
            await client.create_topic("alone", kind="kv", replication_factor=1)
            await client.put("alone", "k", "before")
        await until_put(cluster.nodes[1], "before")
        await stop(cluster)
        for node in cluster.nodes:
            shutil.copytree(node.data, tmp_path / "backup" / node.name)

        await start(cluster)
        await until_put(cluster.nodes[1], "after")
        async with AsyncClient(cluster.nodes[0].address) as client:
            await client.put("alone", "k", "after")
        await stop(cluster)
        for node in cluster.nodes:
            shutil.rmtree(node.data)
        for node in cluster.nodes[:2]:  # the third copy is lost
            shutil.copytree(tmp_path / "backup" / node.name, node.data)

        await start(cluster)
        for node in cluster.nodes:
            assert await keys_of(node, "before", "after") == [True, False]
            await until_put(node, f"by {node.name}")
        async with AsyncClient(cluster.nodes[2].address) as client:
            entry = await client.get("alone", "k")
            assert entry is not None
            assert entry.value == b"before"
        await until_caught_up(cluster.nodes[0], cluster.nodes[2])


async def stop(cluster: ClusterProcesses) -> None:
    for node in cluster.nodes:
        node.terminate()
    for node in cluster.nodes:
        assert await node.wait() == 0


async def start(cluster: ClusterProcesses) -> None:
    await asyncio.gather(*[node.start() for node in cluster.nodes])
    await cluster.joined(*cluster.nodes)
