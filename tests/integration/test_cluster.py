"""Three nodes and their engines: topics of three replicas, and a node that is killed."""

import asyncio
import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from sandglass import AsyncClient, Message, SandglassError
from sandglass.cli.schema import schema_of
from sandglass.testing.cluster import ClusterProcesses
from sandglass.testing.process import NodeProcess

pytestmark = pytest.mark.slow

DEADLINE_S = 60.0


async def leader_of(cluster: ClusterProcesses, topic: str) -> NodeProcess:
    """The node that leads the one partition of a topic."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            for node in cluster.nodes:
                if node.is_running and await can_produce(node, topic):
                    return node
            await asyncio.sleep(0.1)


async def can_produce(node: NodeProcess, topic: str) -> bool:
    try:
        async with AsyncClient(node.address, timeout=timedelta(seconds=1)) as client:
            await client.produce(topic, b"probe")
    except SandglassError:
        return False
    return True


async def test_any_node_takes_calls_for_what_others_lead(tmp_path: Path) -> None:
    async with ClusterProcesses(tmp_path) as cluster:
        async with AsyncClient(cluster.nodes[0].address) as client:
            await client.create_topic("settings", kind="kv", partitions=3, replication_factor=3)
        keys = [b"%d" % number for number in range(12)]
        for number, key in enumerate(keys):
            node = cluster.nodes[number % 3]
            async with AsyncClient(node.address) as client, asyncio.timeout(DEADLINE_S):
                await until_taken(client, key)
        for node in cluster.nodes:
            async with AsyncClient(node.address) as client:
                found = [await client.get("settings", key) for key in keys]
            assert [entry and entry.value for entry in found] == keys
        async with AsyncClient(cluster.nodes[1].address) as client:
            seen = await client.admin.show_cluster()
        assert [(node.name, node.is_alive) for node in seen.nodes] == [
            ("node0", True),
            ("node1", True),
            ("node2", True),
        ]
        assert {each.leader for each in seen.partitions} == {"node0", "node1", "node2"}
        assert seen.warnings == ()
        for command, count in (("info", 1), ("nodes", 3), ("partitions", 3)):
            found = await printed(cluster.nodes[2], "cluster", command)
            Draft202012Validator(schema_of(f"sandctl cluster {command}")).validate(found)
            assert count == (len(found) if isinstance(found, list) else 1)


async def printed(node: NodeProcess, *command: str) -> Any:
    """What sandctl says of a node, in JSON."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sandglass.cli.ctl.main", "--addrs", node.address, "--json"),
        *command,
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(said)


async def until_taken(client: AsyncClient, key: bytes) -> None:
    """Puts an entry; a partition has its leader a moment after the topic is made."""
    while True:
        try:
            await client.put("settings", key, key)
            return
        except SandglassError:
            await asyncio.sleep(0.1)


async def test_a_killed_leader_loses_nothing(tmp_path: Path) -> None:
    async with ClusterProcesses(tmp_path) as cluster:
        async with AsyncClient(cluster.nodes[0].address) as client:
            await client.create_topic("orders", replication_factor=3)
        first = await leader_of(cluster, "orders")
        sent = [b"%d" % number for number in range(2000)]
        async with AsyncClient(first.address) as client:
            await client.produce_many("orders", [Message(value) for value in sent])
        first.kill()
        await first.wait()
        second = await leader_of(cluster, "orders")
        assert second is not first
        found: list[bytes] = []
        async with (
            asyncio.timeout(DEADLINE_S),
            AsyncClient(second.address) as client,
            client.consume("orders", group="g", drain=True) as messages,
        ):
            async for message in messages:
                if message.value != b"probe":
                    found.append(message.value)
                await message.ack()
        assert found == sent
        await first.start()
        await cluster.joined(first)
