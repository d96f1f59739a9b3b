"""One node serves all tests of limits; each has a topic of its own, and a neighbour."""

from collections.abc import AsyncIterator, Iterator

import grpc
import grpc.aio
import pytest

from sandglass.testing import Broker
from sandglass.testing.broker import BlockingBroker
from sandglass.wire.v1 import broker_pb2 as pb
from tests.integration.limits.asking import NAMES, Neighbour
from tests.integration.limits.surfaces import Place
from tests.integration.raw import RawSession, Wire, wire


@pytest.fixture(scope="package")
def node() -> Iterator[BlockingBroker]:
    with Broker() as broker:
        yield broker


@pytest.fixture
async def client(node: BlockingBroker) -> AsyncIterator[Wire]:
    async with wire(node) as connected:  # pyright: ignore[reportArgumentType] - it has an address
        yield connected


@pytest.fixture
async def neighbour(node: BlockingBroker, client: Wire) -> AsyncIterator[Neighbour]:
    topic = next(NAMES)
    await client.create(topic)
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(node.address, options=options) as channel:
        session = RawSession(channel)
        await session.hello()
        await session.subscribe(topic)
        assert not (await session.take(pb.Subscribed)).HasField("error")
        yield Neighbour(session, topic)


@pytest.fixture
async def place(node: BlockingBroker, client: Wire) -> Place:
    topic = await client.create(next(NAMES))
    (partition,) = topic.partitions
    return Place(client, node.address, node.http_address, topic.name, partition)
