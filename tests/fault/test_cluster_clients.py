"""Clients that know the addresses of all nodes: the one they are connected to is killed."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from threading import Thread

import grpc.aio
import pytest

from sandglass import AsyncClient, Client, Message, UnavailableError
from sandglass.testing.cluster import ClusterProcesses
from tests.integration.raw import RawSession

pytestmark = pytest.mark.fault

DEADLINE_S = 90.0
TIMEOUT = timedelta(seconds=80)
GRACE_S = 10
"""Longer than a loaded machine takes to come back."""


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ClusterProcesses]:
    async with ClusterProcesses(tmp_path, flags=[f"--session_grace={GRACE_S}s"]) as cluster:
        yield cluster


def addresses(cluster: ClusterProcesses) -> list[str]:
    """The victim's first: clients begin with it."""
    return [node.address for node in reversed(cluster.nodes)]


class Follower:
    """`sandctl consume -f` with all addresses: what it prints, and what it says."""

    def __init__(self, cluster: ClusterProcesses, topic: str) -> None:
        self.printed: list[bytes] = []
        self.said = ""
        self._command = (
            *(sys.executable, "-m", "sandglass.cli.ctl.main"),
            *(f"--addrs={address}" for address in addresses(cluster)),
            *("consume", "-f", topic, "--group=printed"),
        )

    async def __aenter__(self) -> "Follower":
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdout=pipe, stderr=pipe
        )
        self._reading = [asyncio.create_task(each) for each in (self._read(), self._listen())]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.is_running:
            self._process.terminate()
        await self._process.wait()
        await asyncio.gather(*self._reading)

    @property
    def is_running(self) -> bool:
        return self._process.returncode is None

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.printed.append(line.strip())

    async def _listen(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self.said += line.decode()


def in_thread(work: Callable[[], None]) -> asyncio.Future[None]:
    """Runs it in a thread that a test which fails doesn't wait for."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def tell(error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - told to whoever waits
            loop.call_soon_threadsafe(tell, error)
        else:
            loop.call_soon_threadsafe(tell, None)

    Thread(target=run, daemon=True).start()
    return done


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

    async def consume(client: AsyncClient) -> None:
        async for message in client.consume("orders", group="async"):
            acked.append(message.value)
            await message.ack(wait=True)

    def consume_in_thread() -> None:
        with Client(*all_of_them, timeout=TIMEOUT) as client:
            for message in client.consume("orders", group="sync"):
                synced.append(message.value)
                message.ack()
                if message.value == b"last":
                    return

    async with AsyncClient(*all_of_them, timeout=TIMEOUT) as client:
        await client.create_topic("orders", partitions=3, replication_factor=3)
        async with Follower(cluster, "orders") as follower, asyncio.timeout(DEADLINE_S):
            printed = follower.printed
            consuming = asyncio.create_task(consume(client))
            thread = in_thread(consume_in_thread)
            answered = await produce(client, "orders", range(30))
            while not answered <= set(acked) & set(synced) & set(printed):
                await asyncio.sleep(0.05)
            victim.kill()
            answered |= await produce(client, "orders", range(30, 60))
            while not answered <= set(acked) & set(synced) & set(printed):
                await asyncio.sleep(0.05)
            assert not consuming.done()
            assert follower.is_running
            await client.produce("orders", b"last")
            await thread
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
    assert len(answered) >= 55
    assert len(acked) == len(set(acked)), "nothing comes twice to who holds it"
    assert len(synced) == len(set(synced))


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
    """Each says which node is missing: `AsyncClient`, `Client`, and `sandctl consume -f`."""
    home = cluster.nodes[-1]
    async with (
        AsyncClient(home.address) as client,
        asyncio.timeout(DEADLINE_S),
    ):
        await client.create_topic("local")
        await client.produce("local", b"first")
    found: list[bytes] = []
    synced: list[bytes] = []
    missing = f"{home.name} alone, which is not there"

    async def consume(client: AsyncClient) -> None:
        async for message in client.consume("local", group="g"):
            found.append(message.value)
            await message.ack()

    def consume_in_thread() -> None:
        with Client(*addresses(cluster), timeout=TIMEOUT) as client:
            for message in client.consume("local", group="sync"):
                synced.append(message.value)
                message.ack()
                if message.value == b"second":
                    return

    port = home.grpc_port
    async with (
        AsyncClient(*addresses(cluster), timeout=TIMEOUT) as client,
        Follower(cluster, "local") as follower,
    ):
        async with asyncio.timeout(DEADLINE_S):
            consuming = asyncio.create_task(consume(client))
            thread = in_thread(consume_in_thread)
            while not found == synced == follower.printed == [b"first"]:
                await asyncio.sleep(0.05)
            home.kill()
            await home.wait()
            while caplog.text.count(missing) < 2 or missing not in follower.said:
                await asyncio.sleep(0.05)
            await home.start(grpc_port=port)
            await client.produce("local", b"second")
            while b"second" not in found or b"second" not in follower.printed:
                await asyncio.sleep(0.05)
            await thread
        assert not consuming.done()
        assert follower.is_running
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)


async def test_a_node_that_is_stopped_is_left_by_those_that_relay_to_it(
    cluster: ClusterProcesses,
) -> None:
    """It doesn't have to break their streams when its grace is over."""
    here, *_, stopped = cluster.nodes
    found: set[bytes] = set()

    async def consume(client: AsyncClient) -> None:
        async for message in client.consume("orders", group="g"):
            found.add(message.value)
            await message.ack()

    async with AsyncClient(here.address, timeout=TIMEOUT) as client:
        await client.create_topic("orders", partitions=3, replication_factor=3)
        async with asyncio.timeout(DEADLINE_S):
            consuming = asyncio.create_task(consume(client))
            produced = await produce(client, "orders", range(30))
            while found != produced:
                await asyncio.sleep(0.05)
            stopped.terminate()
            assert await stopped.wait() == 0
            produced |= await produce(client, "orders", range(30, 60))
            while not produced <= found:
                await asyncio.sleep(0.05)
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
    assert len(produced) == 60
    assert "a session's way to" not in here.stderr
