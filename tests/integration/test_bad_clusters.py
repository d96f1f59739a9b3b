"""
Issue 5, "Bad input, bad luck": a clear message each, and no data at risk. Here is what one node
shows; the rest is

| what | where |
| --- | --- |
| settings: peers, ports, secret, an engine too old | tests/unit/cli/test_joining.py |
| more replicas than members; a newer version's topic | tests/unit/cluster/test_catalog.py |
| a factor of 0 | tests/unit/rpc/test_compat.py; elsewhere it means the default |
| another cluster's data, a newer cluster, two founders | tests/unit/cluster/test_founding.py |
| an engine's directory of somebody else | tests/unit/adapters/test_engine_store.py |
| peers that don't answer, or are others | tests/unit/adapters/test_engine_peers.py |
| a name that another node has | tests/unit/cluster/test_members.py |
| two secrets, names, founders, clusters; a deleted stream | tests/fault/test_bad_luck.py |
| a node that was removed, and comes back | tests/integration/test_growing_cluster.py |
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from sandglass import AsyncClient, ClusterStatus, PreconditionError
from sandglass.testing.engines import free_ports
from sandglass.testing.process import NodeEndedError, NodeProcess

DEADLINE_S = 60.0


class Lonely(NodeProcess):
    """A node whose peer is never there."""

    def __init__(self, data: Path, *, name: str = "one", is_founder: bool = True) -> None:
        raft, gossip, peer = free_ports(3)
        self.peer = f"127.0.0.1:{peer}"
        super().__init__(
            data,
            name=name,
            flags=[
                f"--raft_port={raft}",
                f"--gossip_port={gossip}",
                f"--initial_peers={self.peer}",
                f"--bootstrap_raft={'true' if is_founder else 'false'}",
            ],
        )

    async def seen(self, is_so: Callable[[ClusterStatus], bool]) -> ClusterStatus:
        """The cluster as the node sees it, once it sees it so."""
        async with AsyncClient(self.address) as client, asyncio.timeout(DEADLINE_S):
            while not is_so(seen := await client.admin.show_cluster()):
                await asyncio.sleep(0.05)
        return seen


async def test_without_its_peers_a_founder_serves_and_says_who_is_missing(
    tmp_path: Path,
) -> None:
    node = Lonely(tmp_path / "one")
    async with node:
        seen = await node.seen(lambda seen: f"nobody answers at {node.peer}" in seen.trouble)
        assert seen.cluster_id == ""
        async with AsyncClient(node.address) as client:
            await client.create_topic("alone", kind="kv")
            await client.put("alone", b"k", b"v")
            with pytest.raises(PreconditionError, match="replication_factor 2 needs 2 members"):
                await client.create_topic("two", replication_factor=2)


async def test_a_node_that_does_not_found_waits_for_one_that_does(tmp_path: Path) -> None:
    node = Lonely(tmp_path / "one", is_founder=False)
    async with node:
        seen = await node.seen(lambda seen: f"nobody answers at {node.peer}" in seen.trouble)
        assert seen.trouble.startswith("nobody has founded the cluster yet")
        assert not (node.data / "engine" / "js").exists(), "it belongs to nobody yet"


async def test_streams_that_are_nobodys_and_data_that_were_removed_start_no_engine(
    tmp_path: Path,
) -> None:
    """A server that stood alone, and then its data in the place of a member's."""
    async with NodeProcess(tmp_path / "one") as node, AsyncClient(node.address) as client:
        await client.create_topic("alone", kind="kv")
        await client.put("alone", b"k", b"v")
    block = tmp_path / "one" / "engine" / "js" / "jetstream" / "$G" / "streams" / "1.blk"
    block.parent.mkdir(parents=True)
    block.write_bytes(b"orders")

    with pytest.raises(NodeEndedError) as caught:
        await Lonely(tmp_path / "one").start()
    assert caught.value.code == 1
    said = caught.value.text.splitlines()[-1]
    assert said.startswith(f"sandglass: {tmp_path}/one/engine/js holds streams, and no owner")
    assert block.read_bytes() == b"orders"

    (tmp_path / "one" / "removed").touch()
    node = Lonely(tmp_path / "one")
    async with node, AsyncClient(node.address) as client:
        seen = await node.seen(lambda seen: bool(seen.trouble))
        assert "these data were removed from the cluster" in seen.trouble
        assert await client.get("alone", b"k") is not None
        assert not (node.data / "engine" / "engine.pid").exists()
