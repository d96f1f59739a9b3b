"""A cluster whose nodes come and go on purpose: names, leaders, and what operators do."""

import asyncio
import json
import shutil
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from sandglass import (
    AsyncClient,
    ConflictError,
    NotFoundError,
    PreconditionError,
    SandglassError,
    UnavailableError,
)
from sandglass.cli.schema import schema_of
from sandglass.testing.cluster import ClusterProcesses
from sandglass.testing.process import NodeProcess

pytestmark = pytest.mark.slow

DEADLINE_S = 60.0


async def names(node: NodeProcess) -> set[str]:
    async with AsyncClient(node.address) as client:
        return {topic.name for topic in await client.list_topics()}


async def until_known(node: NodeProcess, *wanted: str) -> None:
    """Waits until a node lists just these topics."""
    async with asyncio.timeout(DEADLINE_S):
        while await names(node) != set(wanted):
            await asyncio.sleep(0.05)


async def alone(node: NodeProcess, *topics: str) -> None:
    """A node runs without the others, and is given topics of its own."""
    async with node, AsyncClient(node.address) as client:
        for topic in topics:
            await client.create_topic(topic, kind="kv")
            await client.put(topic, b"k", node.name.encode())


@pytest.mark.fault
async def test_names_belong_to_the_cluster_and_messages_to_one_node(tmp_path: Path) -> None:
    cluster = ClusterProcesses(tmp_path)
    one, two, three = cluster.nodes
    await alone(NodeProcess(one.data, name=one.name), "early", "same")  # and without an engine
    await alone(two, "same")

    async with cluster:
        await until_known(three, "early", "same")
        async with AsyncClient(three.address) as client:
            assert await client.get("early", b"k") is not None
        # Each of the two serves its own, and the second to come says so.
        for node in (one, two):
            async with AsyncClient(node.address) as client:
                found = await client.get("same", b"k")
                assert found is not None
                assert found.value == node.name.encode()
        async with asyncio.timeout(DEADLINE_S):
            while await clash_count(one, two) != 1:
                await asyncio.sleep(0.05)

        async with AsyncClient(two.address) as client:
            await client.create_topic("made", kind="kv", partitions=2)
        await until_known(three, "early", "same", "made")
        async with AsyncClient(three.address) as client:
            with pytest.raises(ConflictError):
                await client.create_topic("made")
            await client.put("made", b"k", b"v")
            await client.admin.set_topic("made", max_deliveries=3)
            places = (await client.admin.show_cluster()).partitions
        assert {each.leader for each in places if each.topic == "made"} == {"node1"}
        async with AsyncClient(one.address) as client:
            found = await client.get("made", b"k")
            assert found is not None
            assert found.value == b"v"

        two.kill()
        await two.wait()
        async with asyncio.timeout(DEADLINE_S):
            while "on node node1 alone, which is not there" not in await refusal(three):
                await asyncio.sleep(0.1)
        await two.start()
        await cluster.joined(two)
        async with AsyncClient(one.address) as client, asyncio.timeout(DEADLINE_S):
            await until_deleted(client, "made")
        await until_known(three, "early", "same")
        await serves_alone(one, others=(two, three))


async def serves_alone(node: NodeProcess, *, others: Sequence[NodeProcess]) -> None:
    """Without a quorum a node has what is in its own log, and names nothing new."""
    for each in (*others, node):
        each.terminate()
        await each.wait()
    await node.start()
    async with AsyncClient(node.address) as client:
        await client.put("early", b"k", b"alone")
        with pytest.raises(UnavailableError, match="name has to be unique in the cluster"):
            await client.create_topic("new")
        with pytest.raises(UnavailableError, match="whether the cluster has it can't be said"):
            await client.put("elsewhere", b"k", b"v")


async def clash_count(*nodes: NodeProcess) -> int:
    """Of how many their topic `same` is not the cluster's; each of them says so of all."""
    counts: set[int] = set()
    for node in nodes:
        async with AsyncClient(node.address) as client:
            warnings = (await client.admin.show_cluster()).warnings
        counts.add(sum("own log has the name of another topic" in each for each in warnings))
    return counts.pop() if len(counts) == 1 else -1


async def refusal(node: NodeProcess) -> str:
    """What a node says of a key whose home is away; empty if it answers."""
    try:
        async with AsyncClient(node.address, timeout=timedelta(seconds=1)) as client:
            await client.get("made", b"k")
    except SandglassError as error:
        return error.message
    return ""


async def until_deleted(client: AsyncClient, topic: str) -> None:
    """Deletes a topic once its home is heard of again."""
    while True:
        try:
            await client.delete_topic(topic)
        except NotFoundError:
            return
        except SandglassError:
            await asyncio.sleep(0.1)


async def leaders(node: NodeProcess, topic: str) -> list[str]:
    """Who leads the partitions of a topic, as a node knows it; empty for nobody."""
    async with AsyncClient(node.address) as client:
        found = (await client.admin.show_cluster()).partitions
    return [each.leader for each in found if each.topic == topic]


async def until_led(node: NodeProcess, topic: str, *wanted: str) -> None:
    """Waits until just these nodes lead a topic, a partition each or more."""
    async with asyncio.timeout(DEADLINE_S):
        while set(await leaders(node, topic)) != set(wanted):
            await asyncio.sleep(0.05)


async def test_leaders_go_and_come_back_with_their_nodes(tmp_path: Path) -> None:
    async with ClusterProcesses(tmp_path) as cluster:
        one, two, three = cluster.nodes
        async with AsyncClient(one.address) as client:
            await client.create_topic("t", kind="kv", partitions=3, replication_factor=3)
        await until_led(one, "t", "node0", "node1", "node2")

        drained = await sandctl(three, "cluster", "drain", "node1")
        assert drained == {"drained": "node1", "led_count": 0, "alone": []}
        await until_led(one, "t", "node0", "node2")
        two.terminate()
        assert await two.wait() == 0
        await two.start()
        await cluster.joined(two)
        async with AsyncClient(two.address) as client, asyncio.timeout(DEADLINE_S):
            await until_put(client, "t")
            nodes = (await client.admin.show_cluster()).nodes
        assert [node.is_drained for node in nodes] == [False, True, False]
        await until_led(one, "t", "node0", "node2")

        await sandctl(three, "cluster", "undrain", "node1")
        await until_led(one, "t", "node0", "node1", "node2")


async def until_put(client: AsyncClient, topic: str, key: bytes = b"k") -> None:
    """Puts an entry; a partition may have no leader for a moment."""
    while True:
        try:
            await client.put(topic, key, key)
            return
        except SandglassError:
            await asyncio.sleep(0.05)


async def sandctl(node: NodeProcess, *command: str) -> Any:
    """What a command says of a node, in JSON."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sandglass.cli.ctl.main", "--addrs", node.address, "--json"),
        *command,
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    found = json.loads(said)
    Draft202012Validator(schema_of(f"sandctl {command[0]} {command[1]}")).validate(found)
    return found


@pytest.mark.fault
async def test_a_removed_node_is_replaced_and_stays_away(tmp_path: Path) -> None:
    async with ClusterProcesses(tmp_path) as cluster:
        one, two, three = cluster.nodes
        async with AsyncClient(three.address) as client:
            await client.create_topic("own", kind="kv")
            await client.create_topic("t", kind="kv", partitions=3, replication_factor=2)
        await until_led(one, "t", "node0", "node1", "node2")
        async with AsyncClient(one.address) as client:
            keys = [b"%d" % number for number in range(20)]
            for key in keys:
                await until_put(client, "t", key)
            with pytest.raises(PreconditionError, match="live on node node2 alone: own"):
                await client.admin.remove_node("node2")
        await sandctl(one, "cluster", "remove", "node2", "--abandon", "--yes")

        async with AsyncClient(two.address) as client, asyncio.timeout(DEADLINE_S):
            while [each.name for each in (await client.admin.show_cluster()).nodes] != [
                "node0",
                "node1",
            ]:
                await asyncio.sleep(0.05)
            await until_put(client, "t")
            found = [await client.get("t", key) for key in keys]
            assert [entry and entry.value for entry in found] == keys
        await until_led(one, "t", "node0", "node1")
        async with asyncio.timeout(DEADLINE_S):
            while "were removed from the cluster" not in await trouble(three):
                await asyncio.sleep(0.05)
        assert await names(three) == {"own"}
        three.terminate()
        assert await three.wait() == 0
        await three.start()
        assert "were removed from the cluster" in await trouble(three)
        assert await names(three) == {"own"}

        three.terminate()
        await three.wait()
        shutil.rmtree(three.data)
        await three.start()
        await cluster.joined(three)
        assert await names(three) == {"t"}


async def trouble(node: NodeProcess) -> str:
    """Why a node is in no cluster."""
    async with AsyncClient(node.address) as client:
        return (await client.admin.show_cluster()).trouble
