"""Sessions, frames and calls as large as they may be."""

from typing import Any

import grpc
import grpc.aio
import pytest

from sandglass.core import limits
from sandglass.wire.compat import sandglass_pb2 as compat
from sandglass.wire.v1 import admin_pb2
from sandglass.wire.v1 import broker_pb2 as pb
from tests.integration.limits.asking import Neighbour, assert_named, refused_by
from tests.integration.limits.surfaces import Calls, Place, Refused, refusal_of


async def test_a_session_has_as_many_subscriptions_as_the_limit_and_no_more(
    place: Place, neighbour: Neighbour
) -> None:
    most = limits.SUBSCRIPTION_COUNT_MAX
    session = await place.wire.session()
    fields: dict[str, Any] = {"topic": place.topic, "group": "g", "consumer": "c"}
    asked = [pb.Subscribe(subscription_id=number, **fields) for number in range(1, most + 2)]

    await session.send(subscribes=asked)
    replies = [await session.take(pb.Subscribed) for _ in asked]

    refused = [reply for reply in replies if reply.error.code]
    assert [most + 1] == [reply.subscription_id for reply in refused]
    assert_named(refused_by(refused[0]), "subscriptions", most)
    await neighbour.is_served()
    await session.send(unsubscribes=[pb.Unsubscribe(subscription_id=1)], subscribes=asked[-1:])
    assert not (await session.take(pb.Subscribed)).error.code


@pytest.mark.parametrize(
    ("field", "given", "limit"),
    [
        ("credit_count", "count", limits.CREDIT_COUNT_MAX),
        ("credit_bytes", "bytes", limits.CREDIT_BYTES_MAX),
    ],
)
async def test_credit_adds_up_to_its_limit_and_one_more_ends_the_subscription(
    place: Place, neighbour: Neighbour, field: str, given: str, limit: int
) -> None:
    session = await place.wire.session()
    fields: dict[str, Any] = {"credit_count": 10, "credit_bytes": 100, field: 1}
    await session.subscribe(place.topic, **fields)
    await session.take(pb.Subscribed)

    await session.send(credits=[pb.Credit(subscription_id=1, **{given: limit - 1})])
    await place.wire.produce(place.topic, b"x")
    await session.ack(await session.delivery())
    await session.send(credits=[pb.Credit(subscription_id=1, **{given: limit})])
    ended = await session.take(pb.SubscriptionEnded)

    assert_named(refused_by(ended), field, limit)
    await neighbour.is_served()


async def test_a_frame_is_as_large_as_the_limit_and_a_larger_one_ends_its_session_alone(
    place: Place, neighbour: Neighbour
) -> None:
    most = limits.FRAME_BYTES_MAX
    first = pb.ProduceRequest(request_id=1, topic=place.topic, batch=b"\x0a\x00", count=1)
    for size_bytes in (most, most + 1):
        session = await place.wire.session()
        frame = frame_of(first, size_bytes)

        await session.call.write(frame)

        if size_bytes == most:
            replies = [await session.take(pb.ProduceReply) for _ in frame.produces]
            assert [False, False] == [reply.HasField("error") for reply in replies]
            continue
        await session.ended()
        assert isinstance(session.error, grpc.aio.AioRpcError)
        refused = Refused(session.error.code().name, session.error.details() or "")
        assert_named(refused, "frame", most + 1, most)
        await neighbour.is_served()
    assert 2 == len(await Calls(place).take())


def frame_of(first: pb.ProduceRequest, size_bytes: int) -> pb.ClientFrame:
    """Two produces, in so many bytes."""

    def filled(value_bytes: int) -> pb.ClientFrame:
        message = pb.Message(value=bytes(value_bytes))
        raw = pb.MessageBatch(messages=[message]).SerializeToString()
        second = pb.ProduceRequest(request_id=2, topic=first.topic, batch=raw, count=1)
        return pb.ClientFrame(produces=[first, second])

    around = filled(size_bytes - 200).ByteSize() - (size_bytes - 200)
    frame = filled(size_bytes - around)
    assert size_bytes == frame.ByteSize()
    return frame


CALLS = [
    ("sandglass.v1.Admin/ListTopics", admin_pb2.ListTopicsRequest),
    ("sandglass.v1.Broker/Consume", pb.ConsumeRequest),
    ("sandglass.v1.Broker/Settle", pb.SettleRequest),
    ("sandglass.BrokerService/GetTopic", compat.GetTopicParams),
    ("sandglass.BrokerService/Acknowledge", compat.MarkRequest),
    ("sandglass.BrokerService/FetchFrom", compat.FetchFromRequest),
]
FIELDS_OF_CALLS = {
    "ListTopicsRequest": (),
    "GetTopicParams": ("name",),
    "ConsumeRequest": ("topic", "group", "consumer"),
    "SettleRequest": ("topic", "group"),
    "MarkRequest": ("topic", "partition", "consumerGroup"),
    "FetchFromRequest": ("topic", "partition"),
}


@pytest.mark.parametrize(("path", "kind"), CALLS, ids=[path for path, _ in CALLS])
async def test_a_call_without_messages_is_as_large_as_the_limit_and_no_larger(
    place: Place, neighbour: Neighbour, path: str, kind: type[Any]
) -> None:
    most = limits.CALL_BYTES_MAX
    known = {"name": place.topic, "topic": place.topic, "partition": place.partition}
    fields = {name: known.get(name, "g") for name in FIELDS_OF_CALLS[kind.DESCRIPTOR.name]}
    raw = kind(**fields).SerializeToString()
    channel: Any = place.wire.channel

    async def call(size_bytes: int) -> None:
        """With an unknown field that fills it: a tag of two bytes, a length of four."""
        left = size_bytes - len(raw) - 6
        length = bytes((left >> 7 * at & 0x7F) | (at < 3) << 7 for at in range(4))
        filled = raw + b"\xc2\x3e" + length + bytes(left)
        assert size_bytes == len(filled)
        if path.endswith("FetchFrom"):
            async for _ in channel.unary_stream("/" + path)(filled):
                pass
        else:
            await channel.unary_unary("/" + path)(filled)

    await call(most)
    assert_named(await refusal_of(call(most + 1)), "request", most + 1, most)
    await neighbour.is_served()
