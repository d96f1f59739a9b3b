from collections.abc import AsyncIterator

import grpc.aio
import pytest

from sandglass.rpc.server import serve
from tests.unit.rpc.fake_broker import FakeBroker


@pytest.fixture
def broker() -> FakeBroker:
    """A topic `t` of three partitions."""
    fake = FakeBroker()
    fake.add("t", 3)
    return fake


@pytest.fixture
async def channel(broker: FakeBroker) -> AsyncIterator[grpc.aio.Channel]:
    """A connection to a server over the fake broker."""
    surface = await serve(broker, "127.0.0.1:0")  # pyright: ignore[reportArgumentType]  # a fake
    async with grpc.aio.insecure_channel(f"127.0.0.1:{surface.port}") as opened:
        yield opened
    await surface.stop()
