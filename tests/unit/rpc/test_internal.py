"""The compatible InternalService over a fake broker, called through gRPC."""

from typing import Any

import grpc
import grpc.aio
import pytest

from sandglass.core import offset
from sandglass.core.standing import Standing
from sandglass.errors import OutOfRangeError
from sandglass.wire.compat import sandglass_pb2 as pb
from sandglass.wire.compat.sandglass_pb2_grpc import BrokerServiceStub, InternalServiceStub
from tests.unit.rpc.fake_broker import NOW_MS

CODE = grpc.StatusCode
PLACE: dict[str, Any] = {"topic": "t", "partition": "t-0"}
AT = offset.to_bytes(offset.make(NOW_MS, 1))


@pytest.fixture
def service(channel):
    return InternalServiceStub(channel)


async def refusal(call) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if hasattr(call, "read") else call)
    return caught.value.code(), caught.value.details() or ""


def sync_request(key: bytes = b"") -> pb.FetchFromSyncRequest:
    fields: dict[str, Any] = {**PLACE, "from": key}
    return pb.FetchFromSyncRequest(**fields)


def marks_request(**fields: Any) -> pb.GetMarkRequest:
    return pb.GetMarkRequest(**{**PLACE, "consumerGroup": "g", "offset": AT, **fields})


def last_request(kind: int, **fields: Any) -> pb.LastOffsetRequest:
    return pb.LastOffsetRequest(**{**PLACE, "consumerGroup": "g", **fields}, kind=kind)  # pyright: ignore[reportArgumentType]


async def test_every_call_needs_a_topic_and_a_partition_that_exist(service):
    places: list[tuple[dict[str, Any], grpc.StatusCode, str]] = [
        ({"topic": "no", "partition": "p"}, CODE.NOT_FOUND, "ErrTopicNotFound"),
        ({"topic": "t"}, CODE.INVALID_ARGUMENT, "ErrNoPartitionSet"),
        ({"topic": "t", "partition": "no"}, CODE.NOT_FOUND, "ErrPartitionNotFound"),
    ]
    for place, code, text in places:
        for call in (
            service.EndOfLog(pb.EndOfLogRequest(**place)),
            service.FetchFromSync(pb.FetchFromSyncRequest(**place)),
            service.GetMarkStateMessage(pb.GetMarkRequest(**place, consumerGroup="g")),
            service.LastOffset(pb.LastOffsetRequest(**place, consumerGroup="g", kind=40)),  # pyright: ignore[reportArgumentType]
            service.Mark(pb.MarkRequest(**place, consumerGroup="g")),
        ):
            got_code, got_text = await refusal(call)
            assert (code, True) == (got_code, text in got_text)


async def test_names_and_offsets_are_checked(service):
    for call, field in (
        (service.LastOffset(last_request(40, consumerGroup="")), "consumerGroup"),
        (service.LastOffset(last_request(40, channel="a/b")), "channel"),
        (service.GetMarkStateMessage(marks_request(consumerGroup="")), "consumerGroup"),
        (service.GetMarkStateMessage(marks_request(offset=b"short")), "should be 14 but got 5"),
        (service.Mark(pb.MarkRequest(**PLACE)), "consumerGroup"),
    ):
        code, text = await refusal(call)
        assert (CODE.INVALID_ARGUMENT, True) == (code, field in text)


async def test_the_end_of_the_log_is_the_last_index(service):
    assert 7 == (await service.EndOfLog(pb.EndOfLogRequest(**PLACE))).index


@pytest.mark.parametrize(
    ("kind", "index"), [(pb.Commited, 1), (pb.Acknowledged, 2), (pb.Consumed, 3)]
)
async def test_each_mark_has_its_last_offset(service, kind, index):
    reply = await service.LastOffset(last_request(kind))

    assert offset.to_bytes(offset.make(NOW_MS, index)) == reply.offset


@pytest.mark.parametrize("kind", [pb.Unknown, pb.NotAcknowledged, 77])
async def test_other_kinds_have_no_last_offset(service, kind):
    code, text = await refusal(service.LastOffset(last_request(kind)))

    assert code is CODE.INVALID_ARGUMENT
    assert f"kind {kind}" in text


@pytest.mark.parametrize(
    ("kind", "is_ack"),
    [(pb.NotAcknowledged, False), (pb.Acknowledged, True), (pb.Commited, True)],
)
async def test_a_mark_is_an_outcome(service, broker, kind, is_ack):
    request = pb.MarkRequest(
        **PLACE, consumerGroup="g", offsets=[AT], state=pb.MarkState(kind=kind)
    )

    assert (await service.Mark(request)).success

    assert [("t-0", "master", "g", [offset.from_bytes(AT)], is_ack)] == broker.marks


async def test_a_mark_says_its_kind(service, broker):
    request = pb.MarkRequest(**PLACE, consumerGroup="g", offsets=[AT])

    code, text = await refusal(service.Mark(request))
    assert (CODE.INVALID_ARGUMENT, True) == (code, "state.kind 0" in text)

    request.state.kind = pb.Consumed
    assert (await service.Mark(request)).success
    assert [] == broker.marks


@pytest.mark.parametrize(
    ("standing", "kind"),
    [
        (Standing.HANDED_OUT, pb.Consumed),
        (Standing.WAITING, pb.NotAcknowledged),
        (Standing.SETTLED, pb.Acknowledged),
        (Standing.COMMITTED, pb.Commited),
    ],
)
async def test_a_mark_is_told_as_a_message(service, broker, standing, kind):
    broker.standings["t-0", "c", "g", offset.from_bytes(AT)] = (standing, 3)

    found = await service.GetMarkStateMessage(marks_request(channel="c"))

    state = pb.MarkState.FromString(found.value)
    assert (kind, 3) == (state.kind, state.deliveryCount)
    assert b"offsets/t/t-0/c/g" == found.key
    assert AT + b"/" + bytes((kind,)) == found.clusteringKey
    assert AT == found.offset


async def test_no_mark_is_not_found(service):
    code, text = await refusal(service.GetMarkStateMessage(marks_request()))

    assert code is CODE.NOT_FOUND
    assert AT.hex() in text


async def test_a_sync_begins_above_the_index_that_the_key_ends_with(service, channel, broker):
    for value in (b"a", b"b", b"c"):
        message = pb.Message(value=value)
        await BrokerServiceStub(channel).Produce(
            pb.ProduceMessageRequest(**PLACE, messages=[message])
        )

    for key, expected in (
        (b"", [b"a", b"b", b"c"]),
        (bytes(8), [b"a", b"b", b"c"]),
        (b"w/t/t-0/" + (2).to_bytes(8, "big"), [b"c"]),
        (b"\xff" * 8, []),
    ):
        got = [message.value async for message in service.FetchFromSync(sync_request(key))]
        assert expected == got


async def test_a_key_too_short_for_an_index_is_refused(service):
    code, text = await refusal(service.FetchFromSync(sync_request(b"1234567")))

    assert (CODE.INVALID_ARGUMENT, True) == (code, "from is 7 bytes" in text)


async def test_what_is_no_longer_kept_is_out_of_range(service, broker):
    broker.error = OutOfRangeError("index 1 is gone", field="from")

    assert (CODE.OUT_OF_RANGE, "index 1 is gone") == await refusal(
        service.FetchFromSync(sync_request())
    )
