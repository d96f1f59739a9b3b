"""
Lives of a node in this process, over files and data of a test's own: what its clients do, and
what must hold on its next start.
"""

import asyncio
import copy
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc.aio

from sandglass.adapters.files import Files
from sandglass.client.failure import from_rpc, from_wire
from sandglass.errors import (
    BusyError,
    ConflictError,
    CorruptError,
    DeniedError,
    NotFoundError,
    PreconditionError,
    SandglassError,
    UnavailableError,
)
from sandglass.node import Node, NodeConfig
from sandglass.testing.history import History, number_of, offset_of, value_of
from sandglass.wire.v1 import broker_pb2 as pb
from tests.integration.raw import RawSession, Wire

SEGMENT_BYTES: Final = 4096
BATCH_COUNT: Final = 8
BATCH_MESSAGES: Final = 8
DEADLINE_S: Final = 60

CLEAR: Final = (BusyError, CorruptError, DeniedError, PreconditionError, UnavailableError)
"""What a node may say that cannot start, or go on: full, damaged, no right, no disk."""

CALL_ENDED: Final = (grpc.aio.AioRpcError, EOFError, asyncio.InvalidStateError)
"""How a session shows that its node is gone."""


@dataclass(slots=True)
class Data:
    """A directory as some node left it, and what its clients saw."""

    directory: Path
    history: History
    next: int = 0
    """The first message that nobody has produced yet."""

    def copied(self, directory: Path) -> "Data":
        if self.directory.exists():
            shutil.copytree(self.directory, directory)
        return Data(directory, copy.deepcopy(self.history), self.next)


def node_on(data: Data, files: Files | None = None) -> Node:
    config = NodeConfig(
        data.directory,
        name="test",
        grpc_port=0,
        stop_grace_ms=200,
        session_grace_ms=0,  # nobody comes back: the next life need not wait for it
        segment_bytes=SEGMENT_BYTES,
        reserve_bytes=SEGMENT_BYTES,
    )
    return Node(config, files=files)


@asynccontextmanager
async def connected(node: Node) -> AsyncIterator[Wire]:
    async with (
        asyncio.timeout(DEADLINE_S),
        grpc.aio.insecure_channel(f"127.0.0.1:{node.grpc_port}") as channel,
    ):
        yield Wire(channel)


# --- clients ----------------------------------------------------------------------------------


async def create(wire: Wire) -> None:
    try:
        await wire.create("t", settings={"max_deliveries": 1000})
    except grpc.aio.AioRpcError as failure:
        error = from_rpc(failure)
        if not isinstance(error, BusyError | ConflictError | UnavailableError):
            raise


def is_from_node(failure: grpc.aio.AioRpcError) -> bool:
    """Has a node said this? What gRPC says by itself leaves open what the node did."""
    metadata: Any = failure.trailing_metadata()
    return any(key == "grpc-status-details-bin" for key, _ in metadata or ())


async def produce(wire: Wire, data: Data, *, count: int = BATCH_MESSAGES) -> bool:
    """One batch; whether it was answered. It may be refused, or be left unknown."""
    numbers = range(data.next, data.next + count)
    data.next = numbers.stop
    for number in numbers:
        data.history.sent(number, "t")
    try:
        reply = await wire.produce("t", *map(value_of, numbers))
    except grpc.aio.AioRpcError as failure:
        error = from_rpc(failure)
        assert isinstance(error, BusyError | UnavailableError | NotFoundError), error
        if is_from_node(failure) and not error.is_result_unknown:
            for number in numbers:
                data.history.refused(number)
        return False
    placed = reply.placed[0]
    for place, number in enumerate(numbers):
        data.history.answered(
            number, offset_of(placed.run_due_ms[0], placed.first_index + place)
        )
    return True


async def consume(wire: Wire, data: Data, *, delivery_count: int = 1 << 30) -> None:
    """Takes what there is, or so many deliveries, and acks them."""
    session = RawSession(wire.channel)
    await session.hello()
    await session.subscribe("t", is_drain=True, credit_count=10_000)
    while delivery_count:
        item = await session.take((pb.Delivery, pb.SubscriptionEnded))
        if isinstance(item, pb.SubscriptionEnded):
            if item.HasField("error"):
                raise from_wire(item.error)
            break
        delivery_count -= 1
        numbers = taken(item, data.history)
        data.history.acking("g", numbers)
        reply = await session.ack(item)
        if not reply.HasField("error"):
            data.history.acked("g", numbers)
    session.cut()


def taken(delivery: Any, history: History) -> list[int]:
    wall_ms = int(time.time() * 1000)
    messages = iter(pb.MessageBatch.FromString(delivery.batch).messages)
    numbers: list[int] = []
    for due_ms, first, count in zip(
        delivery.run_due_ms, delivery.run_first_index, delivery.run_count, strict=True
    ):
        for index in range(first, first + count):
            numbers.append(number_of(next(messages).value))
            history.delivered(
                "g", "c", "t", numbers[-1], offset_of(due_ms, index), wall_ms=wall_ms
            )
    return numbers


async def work(node: Node, data: Data) -> None:
    """Produces over several segments, and consumes; what fails must fail clearly."""
    async with connected(node) as wire:
        await create(wire)
        for place in range(BATCH_COUNT):
            await produce(wire, data)
            if place == BATCH_COUNT // 2:
                try:
                    await consume(wire, data, delivery_count=2)
                except CALL_ENDED:
                    assert node.failure is not None or not data.history.count()[1]


# --- what must hold ---------------------------------------------------------------------------


async def refusal_of(node: Node) -> SandglassError | None:
    """Starts it, or says why it didn't start."""
    try:
        await node.start()
    except CLEAR as error:
        return error
    return None


async def stop_when_failed(node: Node) -> None:
    """As the command does."""
    await node.failed.wait()
    with suppress(*CLEAR):
        await node.stop()


async def everything_is_there(data: Data) -> None:
    """On the next start, on a disk that is well."""
    data.history.restarted()
    node = node_on(data)
    await node.start()
    try:
        async with connected(node) as wire:
            await create(wire)
            assert await produce(wire, data)
            await consume(wire, data)
    finally:
        await node.stop()
    data.history.check_complete("g")


# --- which data -------------------------------------------------------------------------------


def new(home: Path) -> Data:
    return Data(home / "new", History())


async def stopped(home: Path) -> Data:
    """Of a node that was stopped: several segments, which the next start may trim."""
    data = Data(home / "stopped", History())
    node = node_on(data)
    await node.start()
    await work(node, data)
    await node.stop()
    data.history.restarted()
    return data


async def killed(home: Path) -> Data:
    """Of a node that was killed: the end of the log is copied by the next start."""
    data = Data(home / "running", History())
    node = node_on(data)
    await node.start()
    await work(node, data)
    found = data.copied(home / "killed")
    await node.stop()
    found.history.restarted()
    return found


async def data_of(kind: str, home: Path) -> Data:
    if kind == "new":
        return new(home)
    return await (stopped(home) if kind == "stopped" else killed(home))
