"""Bytes as they stand on the wire: the vectors, a Go client's ways, compression."""

import grpc
import pytest

from tests.conformance.wire.conftest import CALL_TIMEOUT_S, PROTO, offsets_of, values

GO_MESSAGE = bytes.fromhex(
    "5a0e" + "00" * 14 + "620b088092b8c398feffffff01" + "6a00" + "f2010178"
)
"""What a Go client sends for a message of the value "x" alone: three fields can't be null."""

WHOLE = (
    "2a066d61737465725007"
    "5a0e01636b9e40c00000000000000007"
    "620c088ba9f3d705108084b8d901"
    "6a02085a"
    "a201016b"
    "f2010176"
)
"""channel master, index 7, due and produced 2018-05-17T01:02:03.456Z, 90 s, key k, value v."""

OFFSET = "01636b9e40c00000000000000007"


def request_of(topic: str, *messages: bytes, partition: str = "") -> bytes:
    """A serialized `ProduceMessageRequest` of messages that are serialized already."""
    head = b"\x0a%c%b" % (len(topic), topic.encode())
    if partition:
        head += b"\x12%c%b" % (len(partition), partition.encode())
    return head + b"".join(b"\x1a%c%b" % (len(each), each) for each in messages)


def test_the_vector_of_a_whole_message(generated):
    pb, _ = generated
    message = pb.Message.FromString(bytes.fromhex(WHOLE))

    assert ("master", 7, b"k", b"v") == (
        *(message.channel, message.index),
        *(message.key, message.value),
    )
    assert OFFSET == message.offset.hex()
    assert 1526518923456 == message.producedAt.ToMilliseconds()
    assert 1526518923456 == int.from_bytes(message.offset[:6], "big")
    assert 90 == message.consumeIn.seconds
    assert WHOLE == message.SerializeToString(deterministic=True).hex()


def test_a_go_client_s_message_is_one_for_now(client, topic):
    """Zeros for an offset, the year 1 for a time, an empty duration: all count as unset."""
    [partition] = client.create(topic)

    raw = client.raw("BrokerService/Produce", request_of(topic, GO_MESSAGE))

    assert (b"\x0a\x0e", 16) == (raw[:2], len(raw))
    [got] = client.consume(topic, partition)
    assert (b"x", 1, "master") == (got.value, got.index, got.channel)
    assert raw[2:] == got.offset
    assert got.producedAt.ToMilliseconds() == int.from_bytes(got.offset[:6], "big")


def test_a_go_client_s_zero_bounds_are_none(client, topic):
    [partition] = client.create(topic)
    client.raw("BrokerService/Produce", request_of(topic, GO_MESSAGE, GO_MESSAGE))

    assert 2 == len(client.fetch_from(topic, partition, bytes(14)))
    assert 2 == len(client.fetch(topic, partition, bytes(14), bytes(14)))


def test_the_vector_s_message_is_due_in_its_offset_s_past_so_now(client, topic):
    [partition] = client.create(topic)

    client.raw("BrokerService/Produce", request_of(topic, bytes.fromhex(WHOLE)))

    [got] = client.consume(topic, partition)
    assert (b"k", b"v", 1, "master") == (got.key, got.value, got.index, got.channel)
    assert OFFSET != got.offset.hex()


def test_a_field_that_this_version_does_not_know_is_kept(client, topic):
    """A client of a later contract may talk to its peers through us."""
    [partition] = client.create(topic)
    unknown = b"\xfa\x07\x03new"

    client.raw("BrokerService/Produce", request_of(topic, GO_MESSAGE + unknown))

    request = client.pb.FetchFromRequest(topic=topic, partition=partition)
    call = client.channel.unary_stream("/sandglass.BrokerService/FetchFrom")
    [raw] = call(request.SerializeToString(), timeout=CALL_TIMEOUT_S)
    assert unknown in raw


def test_offsets_of_messages_are_fourteen_bytes_in_every_answer(client, topic):
    [partition] = client.create(topic)
    request = client.pb.ProduceMessageRequest(topic=topic, partition=partition)
    for n in range(1000):
        request.messages.add(value=b"%d" % n)

    offsets = client.broker.Produce(request, timeout=CALL_TIMEOUT_S).offsets

    assert {14} == set(map(len, offsets))
    assert offsets_of(client.consume(topic, partition)) == list(offsets)


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_every_call_may_be_compressed(client, topic, algorithm):
    [partition] = client.create(topic)
    pb, kind = client.pb, {"compression": algorithm, "timeout": CALL_TIMEOUT_S}
    message = pb.Message(value=b"x" * 100_000)
    place = {"topic": topic, "partition": partition}

    client.broker.Produce(pb.ProduceMessageRequest(**place, messages=[message]), **kind)

    consuming = pb.ConsumeFromGroupRequest(**place, consumerGroupName="g")
    [got] = client.broker.ConsumeFromGroup(consuming, **kind)
    marking = pb.MarkRequest(**place, consumerGroup="g", offsets=[got.offset])
    assert client.broker.Acknowledge(marking, **kind).success
    assert [message.value] == values(
        client.broker.FetchRange(pb.FetchRangeRequest(**place), **kind)
    )
    last = pb.LastOffsetRequest(**place, consumerGroup="g", kind=pb.Commited)
    assert got.offset == client.internal.LastOffset(last, **kind).offset


def test_the_limit_is_measured_after_decompression(client, topic):
    client.create(topic)
    request = client.pb.ProduceMessageRequest(topic=topic)
    for _ in range(6):
        request.messages.add(value=bytes(1_000_000))

    with pytest.raises(grpc.RpcError) as caught:
        client.broker.Produce(request, compression=grpc.Compression.Gzip)

    assert grpc.StatusCode.RESOURCE_EXHAUSTED is caught.value.code()


def test_the_contract_is_the_file_that_the_tests_are_made_from(generated):
    """Names, numbers and streaming kinds of both services, from the descriptor."""
    pb, _ = generated
    kinds = {
        f"{service.name}/{method.name}": method.server_streaming
        for service in pb.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }

    assert (PROTO / "sandglass.proto").exists()
    assert {
        "BrokerService/CreateTopic": False,
        "BrokerService/GetTopic": False,
        "BrokerService/Produce": False,
        "BrokerService/FetchFrom": True,
        "BrokerService/FetchRange": True,
        "BrokerService/ConsumeFromGroup": True,
        "BrokerService/Acknowledge": False,
        "BrokerService/NotAcknowledge": False,
        "InternalService/GetByKey": False,
        "InternalService/HasKey": False,
        "InternalService/FetchFromSync": True,
        "InternalService/LastOffset": False,
        "InternalService/Mark": False,
        "InternalService/GetMarkStateMessage": False,
        "InternalService/EndOfLog": False,
    } == kinds
    fields = {
        field.name: field.number
        for message in ("Message", "MarkRequest", "GetMarkRequest", "ConsumeFromGroupRequest")
        for field in pb.DESCRIPTOR.message_types_by_name[message].fields
        if field.name not in ("topic", "partition", "channel", "offset", "consumerName")
    }
    assert {
        "index": 10,
        "producedAt": 12,
        "consumeIn": 13,
        "key": 20,
        "clusteringKey": 21,
        "value": 30,
        "consumerGroup": 3,
        "consumerGroupName": 3,
        "offsets": 5,
        "state": 6,
    } == fields
