"""The compatible services over a fake broker, called through gRPC with the generated stubs."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from sandglass.core import limits, offset
from sandglass.errors import BusyError
from sandglass.wire.compat import sandglass_pb2 as pb
from sandglass.wire.compat.sandglass_pb2_grpc import BrokerServiceStub
from tests.unit.rpc.fake_broker import NOW_MS

CODE = grpc.StatusCode


@pytest.fixture
def service(channel):
    return BrokerServiceStub(channel)


async def refusal(call) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if hasattr(call, "read") else call)
    return caught.value.code(), caught.value.details() or ""


def from_(raw: bytes) -> dict[str, Any]:
    """The field's name is a word of Python."""
    return {"from": raw}


async def produced(service, *values: bytes, **fields: Any) -> list[bytes]:
    messages = [pb.Message(value=value, **fields) for value in values]
    reply = await service.Produce(
        pb.ProduceMessageRequest(topic="t", partition="t-0", messages=messages)
    )
    return list(reply.offsets)


# --- topics -----------------------------------------------------------------------------------


async def test_a_topic_is_created_and_shown(service, broker):
    reply = await service.CreateTopic(
        pb.TopicConfig(name="new", numPartitions=2, replicationFactor=1)
    )
    shown = await service.GetTopic(pb.GetTopicParams(name="new"))

    assert reply.success
    assert ("new", ["new-0", "new-1"]) == (shown.name, list(shown.partitions))


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ({"numPartitions": 0}, CODE.INVALID_ARGUMENT, "numPartitions is 0"),
        ({"numPartitions": -1}, CODE.INVALID_ARGUMENT, "numPartitions is -1"),
        ({"numPartitions": 1025}, CODE.INVALID_ARGUMENT, "1 to 1024"),
        ({"replicationFactor": 0}, CODE.INVALID_ARGUMENT, "replicationFactor is 0"),
        ({"replicationFactor": 3}, CODE.FAILED_PRECONDITION, "2 missing"),
        ({"name": "t"}, CODE.ALREADY_EXISTS, "ErrTopicAlreadyExist"),
        ({"kind": 9}, CODE.INVALID_ARGUMENT, "kind is 9"),
        ({"storageDriver": 7}, CODE.INVALID_ARGUMENT, "storageDriver 7"),
    ],
)
async def test_a_topic_that_cannot_be_is_refused(service, fields, code, text):
    config = {"name": "new", "numPartitions": 1, "replicationFactor": 1, **fields}

    got_code, got_text = await refusal(service.CreateTopic(pb.TopicConfig(**config)))

    assert code is got_code
    assert text in got_text


async def test_a_badger_topic_is_taken_with_a_word_in_the_log(service, caplog):
    config = pb.TopicConfig(
        name="b", numPartitions=1024, replicationFactor=1, storageDriver=pb.Badger
    )

    assert (await service.CreateTopic(config)).success
    assert "stored as RocksDB" in caplog.text


async def test_an_unknown_topic_is_not_found_by_any_call(service):
    mark = pb.MarkRequest(topic="no", partition="p", consumerGroup="g")
    calls = [
        service.GetTopic(pb.GetTopicParams(name="no")),
        service.Produce(pb.ProduceMessageRequest(topic="no", messages=[pb.Message()])),
        service.FetchFrom(pb.FetchFromRequest(topic="no", partition="p")),
        service.FetchRange(pb.FetchRangeRequest(topic="no", partition="p")),
        service.ConsumeFromGroup(
            pb.ConsumeFromGroupRequest(topic="no", partition="p", consumerGroupName="g")
        ),
        service.Acknowledge(mark),
        service.NotAcknowledge(mark),
    ]

    for call in calls:
        assert (CODE.NOT_FOUND, "ErrTopicNotFound: topic 'no' not found") == await refusal(call)


async def test_reading_and_marking_need_a_partition_that_exists(service):
    for partition, code, text in (
        ("", CODE.INVALID_ARGUMENT, "ErrNoPartitionSet"),
        ("no", CODE.NOT_FOUND, "ErrPartitionNotFound"),
    ):
        place: dict[str, Any] = {"topic": "t", "partition": partition}
        for call in (
            service.FetchFrom(pb.FetchFromRequest(**place)),
            service.FetchRange(pb.FetchRangeRequest(**place)),
            service.ConsumeFromGroup(
                pb.ConsumeFromGroupRequest(**place, consumerGroupName="g")
            ),
            service.Acknowledge(pb.MarkRequest(**place, consumerGroup="g")),
            service.NotAcknowledge(pb.MarkRequest(**place, consumerGroup="g")),
        ):
            got_code, got_text = await refusal(call)
            assert code is got_code
            assert text in got_text


# --- producing and reading --------------------------------------------------------------------


async def test_what_is_produced_can_be_fetched(service):
    offsets = await produced(service, b"a", b"b")

    got = [
        message
        async for message in service.FetchFrom(pb.FetchFromRequest(topic="t", partition="t-0"))
    ]

    assert [b"a", b"b"] == [message.value for message in got]
    assert offsets == [message.offset for message in got]
    assert [("master", 1, NOW_MS), ("master", 2, NOW_MS)] == [
        (message.channel, message.index, message.producedAt.ToMilliseconds()) for message in got
    ]


async def test_a_range_includes_both_ends(service):
    offsets = [(await produced(service, value))[0] for value in (b"a", b"b", b"c", b"d")]

    got = [
        message.value
        async for message in service.FetchRange(
            pb.FetchRangeRequest(topic="t", partition="t-0", to=offsets[2], **from_(offsets[1]))
        )
    ]

    assert [b"b", b"c"] == got


@pytest.mark.parametrize("unset", [b"", bytes(14)])
async def test_an_unset_end_of_a_range_is_no_bound(service, unset):
    await produced(service, b"a")
    request = pb.FetchRangeRequest(topic="t", partition="t-0", to=unset, **from_(unset))

    assert 1 == len([message async for message in service.FetchRange(request)])


@pytest.mark.parametrize("size", [1, 13, 15, 16])
@pytest.mark.parametrize("content", [b"\x00", b"\x01"])
async def test_an_offset_of_another_length_is_refused(service, size, content):
    raw = content * size
    place: dict[str, Any] = {"topic": "t", "partition": "t-0"}
    for call, field in (
        (service.FetchFrom(pb.FetchFromRequest(**place, **from_(raw))), "from"),
        (service.FetchRange(pb.FetchRangeRequest(**place, to=raw)), "to"),
        (
            service.Acknowledge(
                pb.MarkRequest(**place, consumerGroup="g", offsets=[bytes(14), raw])
            ),
            "offsets[1]",
        ),
    ):
        expected = f"{field}: length of offset should be 14 but got {size}"
        assert (CODE.INVALID_ARGUMENT, expected) == await refusal(call)


async def test_an_empty_channel_is_master_for_producer_and_reader(service):
    await produced(service, b"a")
    await produced(service, b"b", channel="other")

    for channel, values in (("", [b"a"]), ("master", [b"a"]), ("other", [b"b"])):
        request = pb.FetchFromRequest(topic="t", partition="t-0", channel=channel)
        assert values == [message.value async for message in service.FetchFrom(request)]


async def test_no_message_to_produce_is_said_so(service):
    code, text = await refusal(service.Produce(pb.ProduceMessageRequest(topic="t")))

    assert code is CODE.INVALID_ARGUMENT
    assert "ErrNoMessageToProduce" in text


# --- groups -----------------------------------------------------------------------------------


def consume_request(**fields: Any) -> pb.ConsumeFromGroupRequest:
    return pb.ConsumeFromGroupRequest(
        **{"topic": "t", "partition": "t-0", "consumerGroupName": "g", **fields}
    )


async def test_a_group_is_drained_and_the_stream_ends(service, broker):
    await produced(service, b"a", b"b")

    got = [
        message.value
        async for message in service.ConsumeFromGroup(consume_request(consumerName="c"))
    ]

    assert [b"a", b"b"] == got
    assert [("t-0", "master", "g", "c")] == broker.drained
    assert 1 == broker.closed_count


async def test_a_consumer_without_a_name_is_anonymous(service, broker):
    assert [] == [message async for message in service.ConsumeFromGroup(consume_request())]
    assert [("t-0", "master", "g", "anonymous")] == broker.drained


async def test_a_consumer_that_goes_away_closes_its_drain(service, broker):
    await produced(service, *(b"x" * 1000 for _ in range(1000)))

    call = service.ConsumeFromGroup(consume_request())
    await call.read()
    call.cancel()

    await eventually(lambda: broker.closed_count == 1)


async def eventually(holds) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


async def test_dead_letters_are_read_through_their_channel(service, broker):
    request = consume_request(channel="__death_letter")

    assert [] == [message async for message in service.ConsumeFromGroup(request)]
    assert "__death_letter" == broker.drained[0][1]


@pytest.mark.parametrize(
    "fields",
    [
        {"consumerGroupName": ""},
        {"consumerGroupName": "a/b"},
        {"consumerGroupName": "g" * 201},
        {"consumerName": "a b"},
        {"channel": "_internal"},
    ],
)
async def test_names_are_checked(service, fields):
    [field] = fields

    code, text = await refusal(service.ConsumeFromGroup(consume_request(**fields)))

    assert code is CODE.INVALID_ARGUMENT
    assert field in text


def mark_request(*offsets: bytes, kind: int = 0, **fields: Any) -> pb.MarkRequest:
    state = pb.MarkState(kind=kind) if kind else None  # pyright: ignore[reportArgumentType]
    place: dict[str, Any] = {"topic": "t", "partition": "t-0", "consumerGroup": "g"}
    return pb.MarkRequest(**place | fields, offsets=offsets, state=state)


async def test_outcomes_reach_the_broker(service, broker):
    first, second = await produced(service, b"a", b"b")

    acked = await service.Acknowledge(mark_request(first, second, channel="c"))
    nacked = await service.NotAcknowledge(mark_request(first))

    assert acked.success
    assert nacked.success
    numbers = [offset.from_bytes(first), offset.from_bytes(second)]
    assert [
        ("t-0", "c", "g", numbers, True),
        ("t-0", "master", "g", numbers[:1], False),
    ] == broker.marks


@pytest.mark.parametrize(
    ("kind", "is_ack"),
    [(pb.NotAcknowledged, False), (pb.Acknowledged, True), (pb.Commited, True)],
)
async def test_a_state_is_stronger_than_the_method(service, broker, kind, is_ack):
    [one] = await produced(service, b"a")

    await service.Acknowledge(mark_request(one, kind=kind))
    await service.NotAcknowledge(mark_request(one, kind=kind))

    assert [is_ack, is_ack] == [outcome[4] for outcome in broker.marks]


async def test_a_state_that_is_none_is_refused(service):
    [one] = await produced(service, b"a")

    code, text = await refusal(service.Acknowledge(mark_request(one, kind=77)))

    assert code is CODE.INVALID_ARGUMENT
    assert "state.kind 77" in text


async def test_consumed_says_nothing_that_the_broker_does_not_know(service, broker):
    [one] = await produced(service, b"a")

    assert (await service.Acknowledge(mark_request(one, kind=pb.Consumed))).success
    assert [] == broker.marks


async def test_a_call_takes_as_many_offsets_as_an_atom_has_messages(service, broker):
    most = mark_request(*[bytes(14)] * limits.ATOM_MESSAGE_COUNT_MAX)
    more = mark_request(*[bytes(14)] * (limits.ATOM_MESSAGE_COUNT_MAX + 1))

    assert (await service.Acknowledge(most)).success
    assert (
        CODE.INVALID_ARGUMENT,
        "count of offsets is 65537; it must be 0 to 65536",
    ) == await refusal(service.Acknowledge(more))


async def test_unset_offsets_are_nothing_to_settle(service, broker):
    assert (await service.Acknowledge(mark_request())).success
    assert (await service.Acknowledge(mark_request(bytes(14), b""))).success
    assert [] == broker.marks


# --- failures ---------------------------------------------------------------------------------


async def test_an_error_in_a_stream_has_its_code(service, broker):
    broker.error = BusyError("wait a little")

    for call in (
        service.ConsumeFromGroup(consume_request()),
        service.FetchFrom(pb.FetchFromRequest(topic="t", partition="t-0")),
    ):
        assert (CODE.RESOURCE_EXHAUSTED, "wait a little") == await refusal(call)
