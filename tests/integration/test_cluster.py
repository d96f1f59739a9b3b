"""Three nodes and their engines: topics of three replicas, and a node that is killed."""

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from sandglass import (
    AsyncClient,
    ClusterStatus,
    LeaseLostError,
    Message,
    SandglassError,
    UnavailableError,
)
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
            # None means three here: there are as many members.
            made = await client.create_topic(
                "settings", kind="kv", partitions=3, replication_factor=None
            )
        assert made.replication_factor == 3
        keys = [b"%d" % number for number in range(12)]
        for number, key in enumerate(keys):
            node = cluster.nodes[number % 3]
            async with AsyncClient(node.address) as client, asyncio.timeout(DEADLINE_S):
                await until_taken(client, key)
        for node in cluster.nodes:
            async with AsyncClient(node.address) as client:
                found = [await client.get("settings", key) for key in keys]
            assert [entry and entry.value for entry in found] == keys
        shown = await printed(cluster.nodes[0], "topics", "show", "settings")
        assert sum(each["message_count"] for each in shown["partitions"]) >= len(keys)
        await until_led_by_all(cluster)
        await until_all_see_the_same(cluster)
        for command, count in (("info", 1), ("nodes", 3), ("partitions", 3)):
            found = await printed(cluster.nodes[2], "cluster", command)
            Draft202012Validator(schema_of(f"sandctl cluster {command}")).validate(found)
            assert count == (len(found) if isinstance(found, list) else 1)
        await use_elsewhere(cluster)


async def use_elsewhere(cluster: ClusterProcesses) -> None:
    """A topic is made at one node, used at another at once, and deleted at a third."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(AsyncClient(node.address)) for node in cluster.nodes
        ]
        for turn in range(6):
            makes, uses, deletes = (clients[(turn + place) % 3] for place in range(3))
            await makes.create_topic("passing", replication_factor=1 if turn % 2 else 3)
            await uses.produce("passing", b"x")
            await deletes.delete_topic("passing")


async def test_sessions_reach_all_partitions_through_any_node(tmp_path: Path) -> None:
    """
    Three partitions, each led by another node. Through each node a client produces messages
    with keys and without, and drains a group; another takes a message at a time.
    """
    async with ClusterProcesses(tmp_path) as cluster:
        sent: set[bytes] = set()
        async with AsyncClient(cluster.nodes[0].address) as client:
            await client.create_topic("orders", partitions=3, replication_factor=3)
        for number, node in enumerate(cluster.nodes):
            values = [b"%d of %d" % (each, number) for each in range(100)]
            keyed = [Message(value, key=value) for value in values[:60]]
            async with AsyncClient(node.address) as client, asyncio.timeout(DEADLINE_S):
                summary = await client.produce_many("orders", keyed)
                await asyncio.gather(*[client.produce("orders", each) for each in values[60:]])
            assert (summary.count, len(summary.partitions)) == (60, 3)
            sent.update(values)
        await until_led_by_all(cluster)
        for node in cluster.nodes:
            async with AsyncClient(node.address) as client, asyncio.timeout(DEADLINE_S):
                found: list[bytes] = []
                async with client.consume("orders", group=node.name, drain=True) as messages:
                    async for message in messages:
                        found.append(message.value)
                        await message.ack()
            assert (len(found), set(found)) == (len(sent), sent)
        patience_s = 3 * DEADLINE_S  # for so many calls, one after the other
        async with AsyncClient(cluster.nodes[1].address) as client, asyncio.timeout(patience_s):
            found = []
            async for message in client.consume("orders", group="slow", credit=1):
                found.append(message.value)
                await message.ack(wait=True)
                if len(found) == len(sent):
                    break
        assert (len(found), set(found)) == (len(sent), sent)


async def test_a_killed_leader_is_not_noticed_by_those_who_work_through_another_node(
    tmp_path: Path,
) -> None:
    """
    Each message is acknowledged and the answer waited for, while the leader of a partition is
    killed. Only what was on its way to that leader just then has an unknown result.
    """
    async with ClusterProcesses(tmp_path) as cluster:
        near, _, victim = cluster.nodes
        acked: list[bytes] = []
        answered: set[bytes] = set()

        async def consume(client: AsyncClient) -> None:
            async for message in client.consume("orders", group="g"):
                try:
                    await message.ack(wait=True)
                except LeaseLostError:
                    continue  # it comes again
                acked.append(message.value)

        async def produce(client: AsyncClient, first: int, count: int) -> None:
            for number in range(first, first + count):
                try:
                    await client.produce("orders", b"%d" % number)
                    answered.add(b"%d" % number)
                except UnavailableError as error:
                    if not error.is_result_unknown:
                        raise
                while not answered <= set(acked):
                    await asyncio.sleep(0.01)

        patience = timedelta(seconds=2 * DEADLINE_S)
        async with AsyncClient(near.address, timeout=patience) as client:
            await client.create_topic("orders", partitions=3, replication_factor=3)
            async with asyncio.timeout(2 * DEADLINE_S):
                consuming = asyncio.create_task(consume(client))
                await produce(client, 0, 15)
                victim.kill()
                await produce(client, 15, 15)
                assert not consuming.done()
                consuming.cancel()
                await asyncio.gather(consuming, return_exceptions=True)
        assert len(acked) == len(set(acked)), "nothing comes again after an answered ack"
        assert len(answered) >= 25


async def until_led_by_all(cluster: ClusterProcesses) -> None:
    """All are there, each leads a partition of three, and nothing is to be warned of."""
    names = [node.name for node in cluster.nodes]
    async with AsyncClient(cluster.nodes[1].address) as client, asyncio.timeout(DEADLINE_S):
        while True:
            seen = await client.admin.show_cluster()
            led_by = sorted(each.leader for each in seen.partitions)
            alive = [node.name for node in seen.nodes if node.is_alive]
            if alive == led_by == names and not seen.warnings:
                return
            await asyncio.sleep(0.05)


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


async def until_all_see_the_same(cluster: ClusterProcesses) -> None:
    """Waits until each node says of the cluster what the others say, with nobody behind."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            seen: set[ClusterStatus] = set()
            for node in cluster.nodes:
                async with AsyncClient(node.address) as client:
                    seen.add(await client.admin.show_cluster())
            lags = {held.lag_count for each in seen for p in each.partitions for held in p.held}
            said = {(each.has_quorum, each.durability) for each in seen}
            if len(seen) == 1 and lags == {0} and said == {(True, "always")}:
                return
            await asyncio.sleep(0.1)


async def until_taken(client: AsyncClient, key: bytes) -> None:
    """Puts an entry; a partition has its leader a moment after the topic is made."""
    while True:
        try:
            await client.put("settings", key, key)
            return
        except SandglassError:
            await asyncio.sleep(0.1)


@pytest.mark.fault
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
