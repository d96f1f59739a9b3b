"""What broken clients send, and bad ones: the node says no, and serves the others."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from sandglass.broker.broker import FETCH_BYTES
from sandglass.broker.outcomes import OFFSET_COUNT
from sandglass.core import limits, offset, outcome
from sandglass.rpc import session as session_stream
from sandglass.testing import Broker
from sandglass.wire.compat import sandglass_pb2 as compat
from sandglass.wire.compat.sandglass_pb2_grpc import BrokerServiceStub
from sandglass.wire.v1 import admin_pb2
from sandglass.wire.v1 import broker_pb2 as pb
from tests.integration.raw import RawSession, Wire, values_of, wire

WAIT_S = 60


@pytest.fixture
async def client() -> AsyncIterator[Wire]:
    async with Broker(session_grace_ms=300) as broker, wire(broker) as connected:
        yield connected


# --- the compatible protocol ------------------------------------------------------------------


async def test_outcomes_for_many_offsets_let_others_have_their_turn(
    client: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as a call may name, after some that are really there: in slices."""
    slices: list[int] = []
    admit = outcome.admit_offsets

    def counting(partition, group, offsets, *rest):
        slices.append(len(offsets))
        return admit(partition, group, offsets, *rest)

    monkeypatch.setattr(outcome, "admit_offsets", counting)
    # Otherwise the leases may be over before the call comes to them.
    topic = await client.create("t", settings={"ack_timeout_ms": 3_600_000})
    (partition,) = topic.partitions
    await client.produce("t", *[b"x"] * 10)
    stub = BrokerServiceStub(client.channel)
    request = compat.ConsumeFromGroupRequest(
        topic="t", partition=partition, consumerGroupName="g"
    )
    offsets = [message.offset async for message in stub.ConsumeFromGroup(request)]

    unknown = [
        number.to_bytes(14, "big") for number in range(1, limits.ATOM_MESSAGE_COUNT_MAX - 9)
    ]
    mark = compat.MarkRequest(
        topic="t", partition=partition, consumerGroup="g", offsets=[*unknown, *offsets]
    )
    reply = await stub.Acknowledge(mark)

    assert reply.success
    assert 10 == (await client.group("t")).acked_count
    assert max(slices) <= OFFSET_COUNT


async def test_a_range_is_read_in_pieces_of_few_bytes() -> None:
    """A reader who doesn't read holds one of them."""
    async with Broker() as broker, wire(broker) as client:
        await client.create("t")
        for _ in range(20):
            await client.produce("t", bytes(200_000))
        assert broker.node is not None
        door = broker.node.broker
        topic = door.catalog.topic("t")

        pieces = door.fetch(topic, topic.partitions[0], "", 0, offset.MAX)
        sizes = [sum(len(part.body) for part in piece) async for piece in pieces]

    assert sum(sizes) > 20 * 200_000
    assert max(sizes) < FETCH_BYTES + 200_100


async def test_a_name_comes_back_without_its_control_characters(client: Wire) -> None:
    """It may end on somebody's terminal."""
    request = admin_pb2.ShowTopicRequest(name="a\x1b[31m\n")

    with pytest.raises(grpc.aio.AioRpcError, match="not found") as caught:
        await client.admin.ShowTopic(request)

    assert (caught.value.details() or "").isprintable()


# --- sessions ---------------------------------------------------------------------------------


async def test_a_second_hello_ends_the_session(client: Wire) -> None:
    session = await client.session()

    await session.send(hello=pb.Hello())
    await session.ended()

    assert isinstance(session.error, grpc.aio.AioRpcError)
    assert grpc.StatusCode.INVALID_ARGUMENT is session.error.code()
    assert "a session has one hello, in its first frame" == session.error.details()


async def test_a_goodbye_with_the_hello_is_answered(client: Wire) -> None:
    """The welcome is under way when the session ends."""
    session = RawSession(client.channel)
    await session.send(hello=pb.Hello(), is_goodbye=True)

    async with asyncio.timeout(WAIT_S):
        frames = [frame async for frame in session.call]

    assert [True] == [frame.HasField("welcome") for frame in frames]
    assert grpc.StatusCode.OK is await session.call.code()


async def test_a_subscription_that_comes_with_the_goodbye_takes_nothing(client: Wire) -> None:
    await client.create("t")
    await client.produce("t", b"1")
    before = await client.session()
    await before.subscribe("t")
    await before.ack(await before.delivery())
    await before.send(is_goodbye=True)
    await before.ended()
    await client.produce("t", b"2")
    session = await client.session()

    await session.subscribe("t", is_goodbye=True)
    await session.ended()

    status = await client.group("t")
    assert (0, 0, 1) == (status.consumer_count, status.leased_count, status.lag_count)


async def test_a_partition_that_is_named_twice_is_read_once(client: Wire) -> None:
    (partition,) = (await client.create("t")).partitions
    await client.produce("t", b"1")
    session = await client.session()

    await session.subscribe("t", partitions=[partition] * 3)
    delivery = await session.delivery()
    await session.ack(delivery)
    await session.send(is_goodbye=True)
    await session.ended()

    status = await client.group("t")
    assert (1, 0) == (status.acked_count, status.consumer_count)


async def test_a_session_goes_on_over_its_last_connection_alone(client: Wire) -> None:
    await client.create("t")
    first = await client.session()
    await first.subscribe("t")
    await first.take(pb.Subscribed)

    second = await client.session(first.welcome.session_id)
    await first.ended()
    await client.produce("t", b"x")
    delivery = await second.delivery()

    assert second.welcome.is_resumed
    assert isinstance(first.error, grpc.aio.AioRpcError)
    assert "the session goes on over another connection" == first.error.details()
    assert not (await second.ack(delivery)).HasField("error")


@pytest.mark.parametrize(
    ("item", "reply"),
    [
        ({"produces": [pb.ProduceRequest()]}, pb.ProduceReply),
        ({"outcomes": [pb.Outcome()]}, pb.OutcomeReply),
        ({"extends": [pb.Extend()]}, pb.ExtendReply),
        ({"subscribes": [pb.Subscribe()]}, pb.Subscribed),
    ],
)
async def test_a_frame_of_many_items_is_answered_in_frames_within_the_limit(
    client: Wire, item: dict[str, Any], reply: type[Any]
) -> None:
    count = 30_000
    session = await client.session()

    await session.send(**{name: items * count for name, items in item.items()})
    answers = [await session.take(reply) for _ in range(count)]

    assert all(answer.HasField("error") for answer in answers)
    assert max(frame.ByteSize() for frame in session.frames) <= limits.FRAME_BYTES_MAX


async def test_a_client_that_does_not_read_its_answers_is_not_read_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And when nothing has been read from it for a while, its session ends."""
    monkeypatch.setattr(session_stream, "HEARTBEAT_MS", 200)
    monkeypatch.setattr(session_stream, "END_S", 0.2)
    async with Broker(session_grace_ms=0) as broker, wire(broker) as client:
        assert broker.node is not None
        sessions = broker.node.broker.consumers.sessions
        session = RawSession(client.channel)
        await session.send(hello=pb.Hello())
        await until(lambda: bool(sessions), "the session")

        flood = asyncio.create_task(send_for_ever(session, [pb.ProduceRequest()] * 5000))
        await until(lambda: not sessions, "its end")
        flood.cancel()
        await asyncio.gather(flood, return_exceptions=True)

        assert await client.create("t")


async def test_a_client_that_does_not_read_its_messages_is_handed_out_no_more() -> None:
    """Whatever credit it gives; and all come when it reads."""
    async with Broker() as broker, wire(broker) as client:
        await client.create("t")
        for _ in range(40):
            await client.produce("t", bytes(1_000_000))
        session = RawSession(client.channel)
        await session.send(hello=pb.Hello())

        await session.subscribe(
            "t", credit_count=1_000_000, credit_bytes=256 << 20, ack_timeout_ms=3_600_000
        )
        held_count = await until_still(broker, session)
        session.listen()
        sizes: list[int] = []
        while len(sizes) < 40:
            sizes += [len(value) for value in values_of(await session.delivery())]

    assert 0 < held_count < 40
    assert [1_000_000] * 40 == sizes


async def test_deliveries_of_many_rows_fit_into_their_frames(client: Wire) -> None:
    """Of a row a message, of many partitions at once: without columns, eight would just fit."""
    count, partition_count = 500, 12
    partitions = (await client.create("t", partition_count=partition_count)).partitions
    raw = pb.MessageBatch(messages=[pb.Message(value=bytes(250))] * count).SerializeToString()
    for partition in partitions:
        times = range(1, count + 1)
        await client.broker.Produce(
            pb.ProduceRequest(
                topic="t", partition=partition, batch=raw, count=count, due_ms=times
            )
        )
    session = await client.session()

    await session.subscribe("t", credit_count=100_000, credit_bytes=64 << 20)
    left = partition_count * count
    while left:
        left -= (await session.delivery()).count

    assert max(frame.ByteSize() for frame in session.frames) <= limits.FRAME_BYTES_MAX


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.01)


async def until_still(broker: Broker, session: RawSession) -> int:
    """How many messages were handed out, once that has been the same for a while."""
    assert broker.node is not None
    delivered = broker.node.broker.loops.own.stats.delivered
    seen: list[int] = []
    async with asyncio.timeout(WAIT_S):
        while len(seen) < 30 or len({*seen[-30:]}) > 1 or not seen[-1]:
            seen.append(sum(delivered.values()))
            await session.send()  # a session may not be silent for long
            await asyncio.sleep(0.01)
    return seen[-1]


async def send_for_ever(session: RawSession, produces: list[pb.ProduceRequest]) -> None:
    while True:
        await session.send(produces=produces)
