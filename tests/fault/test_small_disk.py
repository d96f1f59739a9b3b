"""A node on a real file system of a few megabytes that fills up, and has room again."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc.aio
import pytest

from sandglass.testing.process import NodeEndedError, NodeProcess
from sandglass.wire.v1 import broker_pb2 as pb
from tests.fault.small_disk import SmallDisk, small_disk
from tests.integration.raw import RawSession, Wire, values_of

SIZE_MIB: Final = 24
VALUE_BYTES: Final = 20_000
DEADLINE_S: Final = 90
FAULTY: Final = str(Path(__file__).with_name("faulty_server.py"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", size_mib=SIZE_MIB) as made:
        yield made


@pytest.fixture
async def node(disk: SmallDisk, tmp_path: Path) -> AsyncIterator[NodeProcess]:
    switches = tmp_path / "switches"
    switches.mkdir()
    process = NodeProcess(
        disk.path / "data", command=[FAULTY, str(switches)], stderr_path=tmp_path / "stderr"
    )
    async with process:
        yield process


@asynccontextmanager
async def connected(node: NodeProcess) -> AsyncIterator[Wire]:
    async with (
        asyncio.timeout(DEADLINE_S),
        grpc.aio.insecure_channel(node.address) as channel,
    ):
        yield Wire(channel)


class Producer:
    """Numbers as values; `answered` are those that a node said to have."""

    def __init__(self) -> None:
        self.next = 0
        self.answered: list[int] = []

    async def produce(self, wire: Wire) -> None:
        number, self.next = self.next, self.next + 1
        await wire.produce("t", b"%d " % number + b"x" * VALUE_BYTES)
        self.answered.append(number)

    async def until_refused(self, wire: Wire) -> grpc.aio.AioRpcError:
        for _ in range(1000):
            try:
                await self.produce(wire)
            except grpc.aio.AioRpcError as error:
                return error
        raise AssertionError("the disk is never full")

    async def until_taken(self, wire: Wire) -> None:
        """Within the deadline of the connection."""
        while True:
            try:
                return await self.produce(wire)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                await asyncio.sleep(0.1)


async def consumed(wire: Wire, *, is_acking: bool = True) -> list[int]:
    """All that there is for the group."""
    session = RawSession(wire.channel)
    await session.hello()
    await session.subscribe("t", is_drain=True, credit_count=10_000, credit_bytes=50 << 20)
    numbers: list[int] = []
    while True:
        item: Any = await session.take((pb.Delivery, pb.SubscriptionEnded))
        if isinstance(item, pb.SubscriptionEnded):
            assert not item.HasField("error"), item.error
            return numbers
        numbers += [int(value.split()[0]) for value in values_of(item)]
        if is_acking:
            reply = await session.ack(item)
            assert not reply.HasField("error"), reply.error


async def test_a_disk_that_fills_up_refuses_producers_and_nobody_else(
    disk: SmallDisk, node: NodeProcess
) -> None:
    producer = Producer()
    async with connected(node) as wire:
        await wire.create("t")
        for _ in range(50):
            await producer.produce(wire)
        disk.fill()

        refusal = await producer.until_refused(wire)
        found = await consumed(wire)
        refused_again = await producer.until_refused(wire)
        disk.free()
        await producer.until_taken(wire)
        found_later = await consumed(wire)

    assert refusal.code() is refused_again.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "full" in (refusal.details() or "")
    assert producer.answered == found + found_later
    assert len(found) >= 50
    node.terminate()
    assert await node.wait() == 0, node.stderr


@pytest.mark.parametrize("has_reserve", [True, pytest.param(False, marks=pytest.mark.fault)])
async def test_a_stop_on_a_full_disk_is_clean_and_loses_nothing(
    disk: SmallDisk, node: NodeProcess, has_reserve: bool
) -> None:
    producer = Producer()
    async with connected(node) as wire:
        await wire.create("t", settings={"max_deliveries": 1000})
        for _ in range(20):
            await producer.produce(wire)
        disk.fill()
        await producer.until_refused(wire)
        if not has_reserve:
            await use_up_reserve(wire, node)

    node.terminate()
    code = await node.wait()

    assert code == 0, node.stderr
    assert "Traceback" not in node.stderr
    disk.free()
    await node.start()
    async with connected(node) as wire:
        await producer.until_taken(wire)
        assert producer.answered == sorted(await consumed(wire))


async def use_up_reserve(wire: Wire, node: NodeProcess) -> None:
    """By nacks: the message comes again, and each time there is a record."""
    session = RawSession(wire.channel)
    await session.hello()
    await session.subscribe("t", credit_count=10_000, credit_bytes=50 << 20)
    while "not even in the reserve" not in node.stderr:
        delivery = await session.delivery()
        credit = pb.Credit(subscription_id=1, count=delivery.count, bytes=1 << 20)
        await session.send(credits=[credit])
        nack = asyncio.create_task(session.outcome(delivery, pb.OUTCOME_NACK))
        while not nack.done() and "not even in the reserve" not in node.stderr:
            await asyncio.sleep(0.005)
        nack.cancel()
        await asyncio.gather(nack, return_exceptions=True)
    session.cut()


@pytest.mark.parametrize("end", ["terminate", pytest.param("kill", marks=pytest.mark.fault)])
async def test_a_start_on_a_full_disk_serves_or_says_why_not(
    disk: SmallDisk, node: NodeProcess, end: str
) -> None:
    """Which of the two depends on some kilobytes that the start itself gives back."""
    producer = Producer()
    async with connected(node) as wire:
        await wire.create("t")
        for _ in range(20):
            await producer.produce(wire)
        disk.fill()
        await producer.until_refused(wire)
    getattr(node, end)()
    await node.wait()
    disk.fill()

    try:
        await node.start()
    except NodeEndedError as error:
        refusal = error
    else:
        refusal = None
        async with connected(node) as wire:
            found = await consumed(wire, is_acking=False)
        node.terminate()
        await node.wait()

    if refusal is None:
        assert producer.answered == found
    else:
        assert refusal.code == 1
        assert re.search(r"no space.*make room", refusal.text.splitlines()[-1])
    assert "Traceback" not in node.stderr
    disk.free()
    await node.start()
    async with connected(node) as wire:
        assert producer.answered == await consumed(wire)
