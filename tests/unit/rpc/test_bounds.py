"""What gRPC's clients may cost: at each limit, and one beyond."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sandglass.core import limits
from sandglass.rpc.bounds import Bounds
from sandglass.rpc.server import serve
from tests.unit.rpc.fake_broker import FakeBroker

HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
WAIT_S = 60


@asynccontextmanager
async def served(bounds: Bounds) -> AsyncIterator[int]:
    """The port of a server with these bounds."""
    broker = FakeBroker()
    broker.add("t")
    surface = await serve(broker, "127.0.0.1:0", bounds=bounds)  # pyright: ignore[reportArgumentType]  # as the other tests have it
    try:
        yield surface.port
    finally:
        await surface.stop()


async def connected(
    port: int, hello: bytes = HELLO
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(hello)
    return reader, writer


async def has_settings(reader: asyncio.StreamReader) -> bool:
    """Is it let in? Otherwise it is closed without a word."""
    async with asyncio.timeout(WAIT_S):
        with suppress(OSError, asyncio.IncompleteReadError):
            return 4 == (await reader.readexactly(9))[3]
    return False


async def ends(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(WAIT_S):
        with suppress(OSError):
            while await reader.read(1 << 16):
                pass


async def test_as_many_connections_as_the_limit_and_no_more() -> None:
    async with served(Bounds(connection_count_max=3)) as port:
        opened = [await connected(port) for _ in range(3)]
        assert all([await has_settings(reader) for reader, _ in opened])

        beyond, writer = await connected(port)
        assert not await has_settings(beyond)

        for each in (writer, *[writer for _, writer in opened]):
            each.close()


async def test_a_connection_that_has_no_call_is_let_go() -> None:
    async with served(Bounds(idle_ms_max=100)) as port:
        reader, writer = await connected(port)
        assert await has_settings(reader)

        await ends(reader)
        writer.close()


async def test_a_connection_that_says_nothing_is_let_go() -> None:
    async with served(Bounds(handshake_ms_max=100)) as port:
        reader, writer = await connected(port, b"")

        await ends(reader)
        writer.close()


async def test_as_many_calls_as_the_limit_and_no_more() -> None:
    async with (
        served(Bounds(call_count_max=3)) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        watching = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(3)]
        for each in watching:
            assert health_pb2.HealthCheckResponse.SERVING == (await each.read()).status

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest())
        watching.pop().cancel()
        await until_answered(stub)

    assert grpc.StatusCode.RESOURCE_EXHAUSTED is caught.value.code()


async def until_answered(stub: health_pb2_grpc.HealthStub) -> None:
    """There is room again, as soon as the server knows."""
    async with asyncio.timeout(WAIT_S):
        while True:
            with suppress(grpc.aio.AioRpcError):
                await stub.Check(health_pb2.HealthCheckRequest())
                return
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("file_count", "connection_count"), [(65_536, 10_000), (19_998, 9999), (2, 1), (0, 1)]
)
def test_connections_leave_half_of_the_files_to_others(
    file_count: int, connection_count: int
) -> None:
    options = dict(Bounds().options(file_count))

    assert connection_count == options["grpc.max_allowed_incoming_connections"]
    assert limits.GRPC_STREAM_COUNT_MAX == options["grpc.max_concurrent_streams"]
