"""Consumers hold messages when a leader dies or goes: their outcomes are taken after it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from threading import Event

import pytest

from sandglass import AsyncClient, Client, Message, UnavailableError
from sandglass.testing.cluster import ClusterProcesses
from sandglass.testing.process import NodeProcess
from tests.fault.test_cluster_clients import in_thread

pytestmark = pytest.mark.fault

DEADLINE_S = 90.0
TIMEOUT = timedelta(seconds=80)
COUNT = 60
GRACE_S = 10
"""Longer than a loaded machine takes to come back."""


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ClusterProcesses]:
    async with ClusterProcesses(tmp_path, flags=[f"--session_grace={GRACE_S}s"]) as cluster:
        yield cluster


class Holder:
    """Holds the first `COUNT` messages until it is told; then settles all that it is given."""

    def __init__(self) -> None:
        self.values: list[bytes] = []
        self.is_done = Event()
        self.may_settle = Event()

    @property
    def is_holding(self) -> bool:
        return len(self.values) >= COUNT

    def came(self, value: bytes) -> bool:
        """Whether all have come, and the end of each partition."""
        self.values.append(value)
        return sum(value.startswith(b"end") for value in self.values) == 3


class AsyncHolder(Holder):
    async def run(self, *addresses: str, group: str) -> None:
        async with AsyncClient(*addresses, timeout=TIMEOUT) as client:
            held = []
            async for message in client.consume("orders", group=group):
                is_all = self.came(message.value)
                held.append(message)
                if not self.is_holding:
                    continue
                while not self.may_settle.is_set():
                    await asyncio.sleep(0.02)
                for each in held:
                    await each.ack(wait=True)
                held.clear()
                if is_all:
                    break
        self.is_done.set()


class SyncHolder(Holder):
    async def run(self, *addresses: str, group: str) -> None:
        await in_thread(lambda: self._run(addresses, group))

    def _run(self, addresses: tuple[str, ...], group: str) -> None:
        with Client(*addresses, timeout=TIMEOUT) as client:
            held = []
            for message in client.consume("orders", group=group):
                is_all = self.came(message.value)
                held.append(message)
                if not self.is_holding:
                    continue
                assert self.may_settle.wait(DEADLINE_S)
                for each in held:
                    each.ack(wait=True)
                held.clear()
                if is_all:
                    break
        self.is_done.set()


async def produce_ends(client: AsyncClient) -> None:
    """A last message into each partition, once and no more."""
    for partition in (await client.show_topic("orders")).topic.partitions:
        while True:
            with suppress(UnavailableError):
                await client.produce("orders", b"end" + partition.encode(), partition=partition)
                break


@pytest.mark.parametrize("is_killed", [True, False])
async def test_what_is_held_when_a_node_goes_is_settled_after_it_and_comes_once(
    cluster: ClusterProcesses, *, is_killed: bool
) -> None:
    """
    Three partitions, each led by another node. Two consumers are connected to the one that is
    killed, or stopped, and two to another, which relays for them what that one led.
    """
    first, _, victim = cluster.nodes
    others = [node.address for node in cluster.nodes[:2]]
    holders = [AsyncHolder(), AsyncHolder(), SyncHolder(), SyncHolder()]
    async with (
        AsyncClient(first.address, timeout=TIMEOUT) as client,
        asyncio.timeout(DEADLINE_S),
        asyncio.TaskGroup() as tasks,
    ):
        await client.create_topic("orders", partitions=3, replication_factor=3)
        keyed = [Message(b"%d" % number, key=b"%d" % number) for number in range(COUNT)]
        await client.produce_many("orders", keyed)
        for number, holder in enumerate(holders):
            start = [victim.address, *others] if number % 2 else others
            tasks.create_task(holder.run(*start, group=f"g{number}"))
        while not all(holder.is_holding for holder in holders):
            await asyncio.sleep(0.02)

        await end(victim, is_killed=is_killed)
        for holder in holders:
            holder.may_settle.set()
        await produce_ends(client)
        while not all(holder.is_done.is_set() for holder in holders):
            await asyncio.sleep(0.05)

    for holder in holders:
        twice = {value for value in holder.values if holder.values.count(value) > 1}
        assert not {value for value in twice if not value.startswith(b"end")}
        assert {b"%d" % number for number in range(COUNT)} <= set(holder.values)


async def end(node: NodeProcess, *, is_killed: bool) -> None:
    if is_killed:
        node.kill()
    else:
        node.terminate()
        await node.wait()
