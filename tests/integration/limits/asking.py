"""What is asked of a node in tests of its limits, with fields that a test gives."""

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sandglass import AsyncClient, InvalidError
from sandglass.wire.compat import sandglass_pb2 as compat
from sandglass.wire.compat.sandglass_pb2_grpc import BrokerServiceStub
from sandglass.wire.v1 import admin_pb2
from sandglass.wire.v1 import broker_pb2 as pb
from tests.integration.limits.surfaces import SURFACES, Http, Place, Refused, code_name
from tests.integration.raw import RawSession, batch, values_of

NAMES = (f"t{number}" for number in itertools.count())


@dataclass
class Neighbour:
    """Somebody with a connection, a session and a topic of their own."""

    session: RawSession
    topic: str

    async def is_served(self) -> None:
        """Their next message goes in, comes out, and is settled."""
        request = pb.ProduceRequest(
            request_id=1, topic=self.topic, batch=batch(b"theirs"), count=1
        )
        await self.session.send(produces=[request])
        assert not (await self.session.take(pb.ProduceReply)).HasField("error")
        delivery = await self.session.delivery()
        assert [b"theirs"] == values_of(delivery)
        assert not (await self.session.ack(delivery)).HasField("error")


def assert_named(refused: Refused, field: str, *numbers: int) -> None:
    """Field, value and limit stand in the text, however the surface spells the field."""
    assert refused.code in {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
    assert plain(field) in plain(refused.text), refused.text
    for number in numbers:
        assert str(number) in refused.text
    assert len(refused.text) < 500


def plain(text: str) -> str:
    return text.replace("_", "").lower()


Ask = Callable[[Place, Any], Awaitable[object]]


async def make_topic(place: Place, **fields: Any) -> None:
    await place.wire.create(**{"name": next(NAMES), **fields})


async def make_group(place: Place, **fields: Any) -> None:
    request = {"topic": place.topic, "group": next(NAMES), **fields}
    await place.wire.admin.CreateGroup(admin_pb2.CreateGroupRequest(**request))


async def consume(place: Place, **fields: Any) -> list[pb.Delivery]:
    request = {"topic": place.topic, "group": "g", "consumer": "c", **fields}
    return list((await place.wire.broker.Consume(pb.ConsumeRequest(**request))).deliveries)


async def produce(place: Place, **fields: Any) -> None:
    await place.wire.produce(place.topic, b"x", **fields)


async def consume_compatibly(place: Place, **fields: Any) -> None:
    request = {"topic": place.topic, "partition": place.partition, **fields}
    request.setdefault("consumerGroupName", "g")
    stub: Any = BrokerServiceStub(place.wire.channel)
    async for _ in stub.ConsumeFromGroup(compat.ConsumeFromGroupRequest(**request)):
        pass


async def make_topic_compatibly(place: Place, **fields: Any) -> None:
    config = {"name": next(NAMES), "numPartitions": 1, "replicationFactor": 1, **fields}
    stub: Any = BrokerServiceStub(place.wire.channel)
    await stub.CreateTopic(compat.TopicConfig(**config))


async def post(place: Place, path: str, **fields: Any) -> None:
    async with SURFACES["http"](place) as http:
        assert isinstance(http, Http)
        await http.ask("POST", path, json=fields)


async def get(place: Place, path: str) -> None:
    async with SURFACES["http"](place) as http:
        assert isinstance(http, Http)
        await http.ask("GET", path)


async def subscribe(place: Place, **fields: Any) -> None:
    """On a session of its own, which ends."""
    session = await place.wire.session()
    await session.subscribe(place.topic, **fields)
    error = (await session.take(pb.Subscribed)).error
    await session.send(is_goodbye=True)
    await session.ended()
    if error.code:
        raise Refused(code_name(error.code), error.message)


async def make_topic_by_client(place: Place, **fields: Any) -> None:
    async with AsyncClient(place.address) as client:
        try:
            await client.create_topic(fields.pop("name", next(NAMES)), **fields)
        except InvalidError as error:
            raise Refused("INVALID_ARGUMENT", str(error)) from error


def config(**fields: Any) -> dict[str, Any]:
    return {"name": next(NAMES), "numPartitions": 1, "replicationFactor": 1, **fields}


def raise_error(error: pb.Error) -> None:
    if error.code:
        raise Refused(code_name(error.code), error.message)


def refused_by(item: Any) -> Refused:
    """The error of an item of a session."""
    return Refused(code_name(item.error.code), item.error.message)
