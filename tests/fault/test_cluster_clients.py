"""Clients that know the addresses of all nodes: the one they are connected to is killed."""

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import grpc.aio
import pytest

from sandglass import AsyncClient, Client, LeaseLostError, Message, UnavailableError
from sandglass.testing.cluster import ClusterProcesses
from tests.integration.raw import RawSession

pytestmark = pytest.mark.fault

DEADLINE_S = 90.0
TIMEOUT = timedelta(seconds=30)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ClusterProcesses]:
    async with ClusterProcesses(tmp_path) as cluster:
        yield cluster


def addresses(cluster: ClusterProcesses) -> list[str]:
    """The victim's first: clients begin with it."""
    return [node.address for node in reversed(cluster.nodes)]


async def produce(client: AsyncClient, topic: str, numbers: range) -> set[bytes]:
    """Those that were answered; what was on its way when a node died may be there or not."""
    answered: set[bytes] = set()
    for number in numbers:
        try:
            await client.produce(topic, b"%d" % number)
            answered.add(b"%d" % number)
        except UnavailableError as error:
            if not error.is_result_unknown:
                raise
    return answered


async def test_whoever_consumes_goes_on_when_its_node_is_killed(
    cluster: ClusterProcesses,
) -> None:
    """`AsyncClient`, `Client` in a thread, and `sandctl consume -f`: each in its own group."""
    all_of_them, victim = addresses(cluster), cluster.nodes[-1]
    acked: list[bytes] = []
    synced: list[bytes] = []
    printed: list[bytes] = []

    async def consume(client: AsyncClient) -> None:
        async for message in client.consume("orders", group="async"):
            try:
                await message.ack(wait=True)
            except (LeaseLostError, UnavailableError):
                continue  # it comes again, or was taken
            acked.append(message.value)

    def consume_in_thread() -> None:
        with Client(*all_of_them, timeout=TIMEOUT) as client:
            for message in client.consume("orders", group="sync"):
                synced.append(message.value)
                message.ack()
                if message.value == b"last":
                    return

    async with AsyncClient(*all_of_them, timeout=TIMEOUT) as client:
        await client.create_topic("orders", partitions=3, replication_factor=3)
        sandctl = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sandglass.cli.ctl.main"),
            *(f"--addrs={address}" for address in all_of_them),
            *("consume", "-f", "orders", "--group=printed"),
            stdout=asyncio.subprocess.PIPE,
        )

        async def read() -> None:
            assert sandctl.stdout is not None
            async for line in sandctl.stdout:
                printed.append(line.strip())  # noqa: PERF401 - looked at while it grows

        async with asyncio.timeout(DEADLINE_S):
            reading = [asyncio.create_task(read()), asyncio.create_task(consume(client))]
            thread = asyncio.create_task(asyncio.to_thread(consume_in_thread))
            answered = await produce(client, "orders", range(30))
            while not answered <= set(acked) & set(synced) & set(printed):
                await asyncio.sleep(0.05)
            victim.kill()
            answered |= await produce(client, "orders", range(30, 60))
            while not answered <= set(acked) & set(synced) & set(printed):
                await asyncio.sleep(0.05)
            assert not [task for task in reading if task.done()]
            await client.produce("orders", b"last")
            await thread
        sandctl.terminate()
        await sandctl.wait()
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
    assert len(answered) >= 55
    assert len(acked) == len(set(acked)), "nothing comes again after an answered ack"


async def test_a_session_that_comes_back_goes_on_at_all_nodes(
    cluster: ClusterProcesses,
) -> None:
    """What it holds of three leaders is listed in its welcome, and settled after it."""
    node = cluster.nodes[0]
    async with AsyncClient(node.address) as client, asyncio.timeout(DEADLINE_S):
        await client.create_topic("orders", partitions=3, replication_factor=3)
        keyed = [Message(b"%d" % number, key=b"%d" % number) for number in range(60)]
        await client.produce_many("orders", keyed)
    async with (
        grpc.aio.insecure_channel(node.address) as channel,
        asyncio.timeout(DEADLINE_S),
    ):
        first = RawSession(channel)
        session_id = (await first.hello()).session_id
        await first.subscribe("orders", credit_count=600)
        held = [await first.delivery()]
        while sum(each.count for each in held) < len(keyed):
            held.append(await first.delivery())

        first.cut()
        second = RawSession(channel)
        welcome = await second.hello(session_id)
        replies = [await second.ack(each) for each in held]

        assert welcome.is_resumed
        assert {each.partition_number for each in held} == {0, 1, 2}
        assert {(each.partition_number, each.token) for each in welcome.open_leases} == {
            (each.partition_number, each.token) for each in held
        }
        assert not [reply for reply in replies if reply.HasField("error")]
        second.cut()


async def test_a_topic_of_one_node_is_waited_for(
    cluster: ClusterProcesses, caplog: pytest.LogCaptureFixture
) -> None:
    home = cluster.nodes[-1]
    async with (
        AsyncClient(home.address) as client,
        asyncio.timeout(DEADLINE_S),
    ):
        await client.create_topic("local")
        await client.produce("local", b"first")
    found: list[bytes] = []

    async def consume(client: AsyncClient) -> None:
        async for message in client.consume("local", group="g"):
            found.append(message.value)
            await message.ack()

    port = home.grpc_port
    async with AsyncClient(*addresses(cluster), timeout=TIMEOUT) as client:
        async with asyncio.timeout(DEADLINE_S):
            consuming = asyncio.create_task(consume(client))
            while found != [b"first"]:
                await asyncio.sleep(0.05)
            home.kill()
            await home.wait()
            while f"{home.name} alone, which is not there" not in caplog.text:
                await asyncio.sleep(0.05)
            await home.start(grpc_port=port)
            await client.produce("local", b"second")
            while b"second" not in found:
                await asyncio.sleep(0.05)
        assert not consuming.done()
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
