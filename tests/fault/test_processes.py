"""Real processes, killed, stopped, paused, starved: what clients saw must be possible."""

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from sandglass.testing.history import History, number_of, offset_of, value_of
from sandglass.testing.process import NodeEndedError, NodeProcess
from sandglass.wire.v1 import broker_pb2 as pb
from tests.integration.raw import RawSession, Wire, batch

CALL_ENDED = grpc.aio.AioRpcError | EOFError | asyncio.InvalidStateError
"""How a call shows that its node is gone: the last is that of a write just after."""

STOP_S_MAX = 60
ROUND_S_MAX = 90
ROUND_COUNT = 101
"""So many messages are answered in a round, before its end comes at some moment."""

PAUSE_S = 60
FAULTY = [str(Path(__file__).with_name("faulty_server.py"))]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[NodeProcess]:
    async with NodeProcess(tmp_path / "data") as process:
        yield process


class Load:
    """Producers and a consumer at full tilt, until the connection breaks."""

    def __init__(self, history: History, partition: str, seed: int) -> None:
        self.history = history
        self.partition = partition
        self.chance = random.Random(seed)
        self.next = 0
        self.lost_count = 0
        """Outcomes that were refused."""

    async def run(self, address: str, *, for_s: float) -> None:
        """Loads a node for so long, or until it is gone."""
        async with grpc.aio.insecure_channel(address) as channel:
            async with asyncio.timeout(for_s):
                await asyncio.gather(
                    self._produce(Wire(channel)),
                    self._produce(Wire(channel)),
                    self.consume(channel),
                )

    async def _produce(self, wire: Wire) -> None:
        while True:
            numbers = range(self.next, self.next + self.chance.randint(1, 20))
            self.next = numbers.stop
            delay_ms = self.chance.choice((0, 0, 30, 200))
            due_ms = int(time.time() * 1000) + delay_ms if delay_ms else 0
            for number in numbers:
                self.history.sent(number, self.partition, due_ms=due_ms)
            values = [value_of(number) for number in numbers]
            placed = (await wire.produce("t", *values, due_ms=[due_ms])).placed[0]
            for place, number in enumerate(numbers):
                offset = offset_of(placed.run_due_ms[0], placed.first_index + place)
                self.history.answered(number, offset)

    async def consume(self, channel: grpc.aio.Channel) -> None:
        """Takes what comes, and acks nearly all of it."""
        session = RawSession(channel, deadline_s=2 * PAUSE_S)
        await session.hello()
        await session.subscribe("t", credit_count=100_000, credit_bytes=100 << 20)
        while True:
            delivery: Any = await session.delivery()
            numbers = self._take(delivery)
            if self.chance.random() < 0.1:
                await session.outcome(delivery, pb.OUTCOME_NACK)
                continue
            self.history.acking("g", numbers)
            reply = await session.ack(delivery)
            if reply.HasField("error"):
                self.lost_count += 1
            else:
                self.history.acked("g", numbers)

    def _take(self, delivery: Any) -> list[int]:
        wall_ms = int(time.time() * 1000)
        numbers: list[int] = []
        messages = iter(pb.MessageBatch.FromString(delivery.batch).messages)
        for due_ms, first, count in zip(
            delivery.run_due_ms, delivery.run_first_index, delivery.run_count, strict=True
        ):
            for index in range(first, first + count):
                number = number_of(next(messages).value)
                self.history.delivered(
                    "g", "c", self.partition, number, offset_of(due_ms, index), wall_ms=wall_ms
                )
                numbers.append(number)
        return numbers


async def _until_quiet(load: Load, address: str) -> None:
    """Consumes until everything answered is acked."""
    async with grpc.aio.insecure_channel(address) as channel:
        task = asyncio.create_task(load.consume(channel))
        try:
            async with asyncio.timeout(90):
                while True:
                    assert not task.done(), task.exception()
                    status = await Wire(channel).group("t")
                    if status.lag_count == 0:
                        return
                    await asyncio.sleep(0.05)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _rounds(node: NodeProcess, *, count: int, end: str, seed: int) -> None:
    async with grpc.aio.insecure_channel(node.address) as channel:
        topic = await Wire(channel).create("t", settings={"max_deliveries": 1000})
    history = History()
    load = Load(history, topic.partitions[0], seed)
    for _ in range(count):
        running = asyncio.create_task(load.run(node.address, for_s=2 * ROUND_S_MAX))
        await _until_answered(history, history.count()[1] + ROUND_COUNT)
        await asyncio.sleep(load.chance.uniform(0, 0.7))
        if end == "kill":
            node.kill()
            await node.wait()
        else:
            node.terminate()
            assert await node.wait(STOP_S_MAX) == 0, node.stderr
        result = (await asyncio.gather(running, return_exceptions=True))[0]
        assert isinstance(result, CALL_ENDED), repr(result)
        await node.start()
        history.restarted()
    await _until_quiet(load, node.address)
    history.check_complete("g")


async def _until_answered(history: History, count: int) -> None:
    async with asyncio.timeout(ROUND_S_MAX):
        while history.count()[1] < count:
            await asyncio.sleep(0.01)


async def test_kill_in_full_flight_loses_nothing_and_brings_nothing_back(
    node: NodeProcess,
) -> None:
    await _rounds(node, count=3, end="kill", seed=1)


async def test_terminate_under_load_drains_exits_0_and_loses_nothing(node: NodeProcess) -> None:
    await _rounds(node, count=1, end="terminate", seed=2)


@pytest.mark.fault
@pytest.mark.parametrize("seed", range(10, 16))
async def test_kill_in_full_flight_again_and_again(node: NodeProcess, seed: int) -> None:
    await _rounds(node, count=8, end="kill", seed=seed)


async def test_a_port_in_use_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]

        with pytest.raises(NodeEndedError) as caught:
            await NodeProcess(tmp_path / "data").start(grpc_port=port)

    assert caught.value.code == 1
    assert f"port {port} on 127.0.0.1 is in use" in caught.value.text
    assert "Traceback" not in caught.value.text


async def test_data_in_use_are_refused_and_unharmed(node: NodeProcess) -> None:
    with pytest.raises(NodeEndedError) as caught:
        await NodeProcess(node.data).start()

    assert caught.value.code == 1
    assert "in use" in caught.value.text
    assert node.is_running


async def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "holiday.jpg").write_bytes(b"not ours")

    with pytest.raises(NodeEndedError) as caught:
        await NodeProcess(tmp_path / "data").start()

    assert caught.value.code == 1
    assert "holiday.jpg" in caught.value.text


async def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"")

    with pytest.raises(NodeEndedError) as caught:
        await NodeProcess(tmp_path / "data").start()

    assert caught.value.code == 1
    assert "Traceback" not in caught.value.text


@pytest.mark.parametrize("part", ["log", "view"])
async def test_a_missing_half_of_the_data_is_noticed_or_made_anew(
    node: NodeProcess, part: str
) -> None:
    """The view can be made from a log that is whole; the log can't be made from anything."""
    async with grpc.aio.insecure_channel(node.address) as channel:
        await Wire(channel).create("t")
        await Wire(channel).produce("t", b"x")
    node.terminate()
    await node.wait()
    (node.data / "store-000" / part).rename(node.data.with_name("away"))

    if part == "log":
        with pytest.raises(NodeEndedError) as caught:
            await node.start()
        assert caught.value.code == 1
        assert "log" in caught.value.text
        return
    await node.start()
    async with grpc.aio.insecure_channel(node.address) as channel:
        session = RawSession(channel)
        await session.hello()
        await session.subscribe("t")
        assert (await session.delivery()).count == 1


async def test_damage_below_the_durable_mark_is_refused_with_its_place(
    node: NodeProcess,
) -> None:
    async with grpc.aio.insecure_channel(node.address) as channel:
        await Wire(channel).create("t")
        for _ in range(20):
            await Wire(channel).produce("t", b"x" * 1000)
    node.kill()
    await node.wait()
    log = next(
        path
        for path in sorted((node.data / "store-000" / "log").iterdir())
        if path.read_bytes().find(b"x" * 100) > 0
    )
    raw = bytearray(log.read_bytes())
    raw[raw.find(b"x" * 100)] ^= 1
    log.write_bytes(raw)

    with pytest.raises(NodeEndedError) as caught:
        await node.start()

    assert caught.value.code == 1
    assert log.name in caught.value.text


async def test_a_pause_longer_than_a_lease_is_no_consumers_fault(node: NodeProcess) -> None:
    async with grpc.aio.insecure_channel(node.address) as channel:
        wire = Wire(channel)
        await wire.create("t")
        await wire.produce("t", b"x")
        session = RawSession(channel)
        await session.hello()
        await session.subscribe("t", ack_timeout_ms=4000)
        delivery = await session.delivery()

        node.pause()
        await asyncio.sleep(5)
        node.resume()
        reply = await session.ack(delivery)

        assert not reply.HasField("error")


@pytest.mark.fault
async def test_a_minute_without_a_process_under_load_costs_nobody_anything(
    node: NodeProcess,
) -> None:
    """Longer than leases and sessions last: no lease is lost, and nothing comes twice."""
    async with grpc.aio.insecure_channel(node.address) as channel:
        # What waits in the client of a busy machine may be seconds old: the pause is longer.
        settings = {"max_deliveries": 1000, "ack_timeout_ms": 15_000}
        topic = await Wire(channel).create("t", settings=settings)
    history = History()
    load = Load(history, topic.partitions[0], seed=3)
    running = asyncio.create_task(load.run(node.address, for_s=PAUSE_S + 6))
    await asyncio.sleep(2)

    node.pause()
    before = history.count()[1]
    await asyncio.sleep(PAUSE_S)
    node.resume()
    assert not running.done()
    result = (await asyncio.gather(running, return_exceptions=True))[0]

    if isinstance(result, grpc.aio.AioRpcError):  # that is how gRPC may say it
        assert result.code() is grpc.StatusCode.CANCELLED
    else:
        assert isinstance(result, TimeoutError), repr(result)
    assert load.lost_count == 0
    assert history.count()[1] > before + 100
    history.restarted()  # the session broke: what it was sent and didn't read comes late
    await _until_quiet(load, node.address)
    history.check_complete("g")
    assert "paused for" in node.stderr


async def test_a_consumer_that_never_reads_holds_up_nobody_else(node: NodeProcess) -> None:
    async with grpc.aio.insecure_channel(node.address) as channel:
        wire = Wire(channel)
        await wire.create("t")
        stub: Any = wire.broker
        deaf = stub.Session()
        await deaf.write(pb.ClientFrame(hello=pb.Hello()))
        greedy = pb.Subscribe(
            subscription_id=1,
            topic="t",
            group="deaf",
            consumer="c",
            credit_count=1_000_000,
            credit_bytes=200 << 20,
        )
        await deaf.write(pb.ClientFrame(subscribes=[greedy]))
        before = node.memory_bytes
        session = RawSession(channel)
        await session.hello()
        await session.subscribe("t", credit_count=1_000_000, credit_bytes=200 << 20)
        count = 0
        for _ in range(40):
            await wire.produce("t", *([b"x" * 10_000] * 100))
        while count < 4000:
            delivery = await session.delivery()
            count += delivery.count
            await session.ack(delivery)

        assert node.memory_bytes - before < 300 << 20


async def test_a_failed_sync_stops_the_node_and_nothing_answered_is_lost(
    tmp_path: Path,
) -> None:
    switches = tmp_path / "switches"
    switches.mkdir()
    faulty = NodeProcess(tmp_path / "data", command=[*FAULTY, str(switches)])
    answered = 0
    async with faulty:
        async with grpc.aio.insecure_channel(faulty.address) as channel:
            wire = Wire(channel)
            await wire.create("t")
            for _ in range(5):
                await wire.produce("t", b"x")
                answered += 1
            (switches / "sync").touch()
            with suppress(grpc.aio.AioRpcError):
                await wire.produce("t", b"unknown")
                answered += 1
        assert await faulty.wait() == 1
        assert "Traceback" not in faulty.stderr.splitlines()[-1]
        (switches / "sync").unlink()
        await faulty.start()
        async with grpc.aio.insecure_channel(faulty.address) as channel:
            session = RawSession(channel)
            await session.hello()
            await session.subscribe("t", is_drain=True)
            await session.take(pb.SubscriptionEnded)
            count = 0
            while session.has(pb.Delivery):
                count += (await session.delivery()).count

    assert count >= answered


async def test_a_full_disk_refuses_producers_serves_consumers_and_recovers(
    tmp_path: Path,
) -> None:
    switches = tmp_path / "switches"
    switches.mkdir()
    faulty = NodeProcess(tmp_path / "data", command=[*FAULTY, str(switches)])
    await faulty.start()
    async with faulty_channel(faulty) as channel:
        wire = Wire(channel)
        await wire.create("t")
        session = RawSession(channel)
        await session.hello()
        await session.subscribe(
            "t", credit_count=10_000, credit_bytes=50 << 20, ack_timeout_ms=600_000
        )
        await wire.produce("t", b"x")
        held = await session.delivery()
        (switches / "full").touch()

        refusal = await _fill(wire)
        acked = await session.ack(held)
        (switches / "full").unlink()
        async with asyncio.timeout(60):
            while True:
                with suppress(grpc.aio.AioRpcError):
                    await wire.produce("t", batch(b"again"))
                    break
                await asyncio.sleep(0.1)

    assert refusal.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "full" in (refusal.details() or "")
    assert not acked.HasField("error")


@asynccontextmanager
async def faulty_channel(faulty: NodeProcess) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a node that is running, and is stopped with it."""
    try:
        async with grpc.aio.insecure_channel(faulty.address) as channel:
            yield channel
    finally:
        faulty.terminate()
        await faulty.wait()


async def _fill(wire: Wire) -> grpc.aio.AioRpcError:
    """Produces until the disk is full."""
    for _ in range(200):
        try:
            await wire.produce("t", b"x" * 50_000)
        except grpc.aio.AioRpcError as error:
            return error
    raise AssertionError("the disk is never full")
