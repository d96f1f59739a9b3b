import asyncio
import socket

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sandglass.core import limits
from sandglass.errors import BusyError, InvalidError, PreconditionError
from sandglass.rpc import server
from sandglass.rpc.server import serve
from sandglass.wire import status
from sandglass.wire.compat import sandglass_pb2 as pb
from sandglass.wire.compat.sandglass_pb2_grpc import BrokerServiceStub
from sandglass.wire.v1 import admin_pb2, broker_pb2
from sandglass.wire.v1.broker_pb2_grpc import BrokerStub

SERVICES = [
    "sandglass.BrokerService",
    "sandglass.InternalService",
    "sandglass.v1.Admin",
    "sandglass.v1.Broker",
]


async def refusal(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def answer(channel, method: str, raw: bytes):
    """A call with bytes as they are."""
    return await channel.unary_unary(method)(raw)


def produce_request(*values: bytes) -> broker_pb2.ProduceRequest:
    batch = broker_pb2.MessageBatch(messages=[broker_pb2.Message(value=v) for v in values])
    return broker_pb2.ProduceRequest(
        topic="t", batch=batch.SerializeToString(), count=len(values)
    )


async def test_both_packages_answer_on_one_port(channel):
    shown = await BrokerServiceStub(channel).GetTopic(pb.GetTopicParams(name="t"))
    reply = await BrokerStub(channel).Produce(produce_request(b"a"))

    assert "t" == shown.name
    assert 1 == reply.placed[0].first_index


async def test_an_error_carries_its_details(channel, broker):
    broker.refusals["t-0"] = BusyError("wait", field="batch", retry_after_ms=25)

    failed = await refusal(BrokerStub(channel).Produce(produce_request(b"a")))

    error = status.from_rpc_error(failed)
    assert grpc.StatusCode.RESOURCE_EXHAUSTED is failed.code()
    assert (BusyError, "wait", "batch", 25) == (
        type(error),
        error.message,
        error.field,
        error.retry_after_ms,
    )


@pytest.mark.parametrize(
    "method",
    [
        "/sandglass.BrokerService/CreateTopic",
        "/sandglass.BrokerService/Produce",
        "/sandglass.v1.Broker/Produce",
        "/sandglass.v1.Admin/ShowTopic",
    ],
)
async def test_garbage_is_an_invalid_argument(channel, method):
    failed = await refusal(answer(channel, method, b"\xff\xff\xff"))

    assert grpc.StatusCode.INVALID_ARGUMENT is failed.code()
    assert "request is not a" in (failed.details() or "")


async def test_an_unknown_call_is_unimplemented(channel):
    failed = await refusal(answer(channel, "/sandglass.BrokerService/Nope", b""))

    assert grpc.StatusCode.UNIMPLEMENTED is failed.code()


async def test_a_reply_that_is_too_large_is_told_by_its_size(channel, broker, caplog):
    name = "t" * 200
    broker.add(name, 30_000)
    request = admin_pb2.ShowTopicRequest(name=name).SerializeToString()

    failed = await refusal(answer(channel, "/sandglass.v1.Admin/ShowTopic", request))

    assert grpc.StatusCode.RESOURCE_EXHAUSTED is failed.code()
    assert "the limit is 5242880: ask for less at a time" in (failed.details() or "")
    # Not a node's that other tests have in this process: a busy machine lets it pause.
    assert not [each for each in caplog.records if each.name.startswith("sandglass.rpc")]


async def test_a_defect_is_logged_and_the_server_goes_on(channel, broker, caplog):
    broker.error = ZeroDivisionError("secret")
    service = BrokerServiceStub(channel)
    offsets = (
        await service.Produce(pb.ProduceMessageRequest(topic="t", messages=[pb.Message()]))
    ).offsets
    request = pb.MarkRequest(topic="t", partition="t-0", consumerGroup="g", offsets=offsets)

    failed = await refusal(service.Acknowledge(request))

    assert grpc.StatusCode.INTERNAL is failed.code()
    assert "secret" not in (failed.details() or "")
    assert "ZeroDivisionError" in caplog.text
    broker.error = None
    assert (await service.Acknowledge(request)).success


async def test_a_cancelled_call_is_no_defect(channel, broker, caplog):
    broker.waiting = []
    call = BrokerStub(channel).Produce(produce_request(b"a"))
    async with asyncio.timeout(60):
        while not broker.batches:
            await asyncio.sleep(0.01)

    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    broker.waiting[0](None)
    broker.waiting = None

    assert (await BrokerStub(channel).Produce(produce_request(b"b"))).placed
    assert "defect" not in caplog.text


async def test_gzip_is_taken(channel):
    reply = await BrokerStub(channel).Produce(
        produce_request(b"x" * 100_000), compression=grpc.Compression.Gzip
    )

    assert 1 == len(reply.placed)


async def test_a_request_is_read_up_to_5_mib(channel):
    def padded(size: int) -> bytes:
        head = produce_request(b"a").SerializeToString()
        unknown = size - len(head) - 6
        length = [unknown >> 7 * place & 0x7F | (place < 3) << 7 for place in range(4)]
        raw = head + b"\xa2\x06" + bytes(length) + bytes(unknown)
        assert size == len(raw)
        return raw

    method = "/sandglass.v1.Broker/Produce"
    assert await answer(channel, method, padded(limits.REQUEST_BYTES_MAX))

    failed = await refusal(answer(channel, method, padded(limits.REQUEST_BYTES_MAX + 1)))
    assert grpc.StatusCode.RESOURCE_EXHAUSTED is failed.code()
    assert InvalidError is type(status.from_rpc_error(failed))


async def test_more_calls_at_once_than_a_connection_takes_wait_and_are_answered(channel):
    stub = BrokerServiceStub(channel)

    replies = await asyncio.gather(
        *(
            stub.GetTopic(pb.GetTopicParams(name="t"))
            for _ in range(3 * limits.GRPC_STREAM_COUNT_MAX)
        )
    )

    assert {3} == {len(reply.partitions) for reply in replies}


async def test_without_sessions_the_call_says_so(channel):
    async def none():
        return
        yield

    call = BrokerStub(channel).Session(none())

    failed = await refusal(call.read())
    assert grpc.StatusCode.UNIMPLEMENTED is failed.code()


async def test_a_session_gets_frames_and_answers_frames(broker):
    async def echo(frames, context) -> None:
        async for raw in frames:
            frame = broker_pb2.ClientFrame.FromString(raw)
            if frame.is_goodbye:
                raise InvalidError("enough", field="is_goodbye")
            await context.write(broker_pb2.ServerFrame(is_draining=True).SerializeToString())

    async def sent():
        yield broker_pb2.ClientFrame()
        yield broker_pb2.ClientFrame(is_goodbye=True)

    surface = await serve(broker, "127.0.0.1:0", session=echo)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{surface.port}") as channel:
        call = BrokerStub(channel).Session(sent())
        answered = await call.read()
        failed = await refusal(call.read())
    await surface.stop()

    assert broker_pb2.ServerFrame(is_draining=True) == answered
    assert grpc.StatusCode.INVALID_ARGUMENT is failed.code()
    assert "is_goodbye" == status.from_rpc_error(failed).field


async def test_health_is_told_for_the_node_and_each_service(channel):
    stub = health_pb2_grpc.HealthStub(channel)

    for name in ["", *SERVICES]:
        reply = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert health_pb2.HealthCheckResponse.SERVING == reply.status


async def test_a_draining_node_is_not_serving(broker):
    surface = await serve(broker, "127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{surface.port}") as channel:
        await surface.drain()
        reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    await surface.stop()

    assert health_pb2.HealthCheckResponse.NOT_SERVING == reply.status


async def test_reflection_lists_the_services(channel):
    async def asked():
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    reply = await stub.ServerReflectionInfo(asked()).read()

    listed = {service.name for service in reply.list_services_response.service}
    assert {*SERVICES, "grpc.health.v1.Health"} <= listed


# --- listening --------------------------------------------------------------------------------


async def test_a_port_in_use_is_named(broker):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(PreconditionError) as caught:
            await serve(broker, f"127.0.0.1:{port}")

    assert f"port {port} on 127.0.0.1 is in use" == caught.value.message


async def test_two_servers_do_not_share_a_port(broker):
    first = await serve(broker, "127.0.0.1:0")

    with pytest.raises(PreconditionError, match="is in use"):
        await serve(broker, f"127.0.0.1:{first.port}")

    await first.stop()


async def test_a_port_taken_in_the_last_moment_is_not_shared_either(broker, monkeypatch):
    first = await serve(broker, "127.0.0.1:0")
    monkeypatch.setattr(server, "_check_free", lambda *_: None)

    with pytest.raises(PreconditionError, match="cannot listen on 127"):
        await serve(broker, f"127.0.0.1:{first.port}")

    await first.stop()


async def test_a_port_can_be_taken_again_after_a_stop(broker):
    first = await serve(broker, "127.0.0.1:0")
    await first.stop()

    second = await serve(broker, f"127.0.0.1:{first.port}")
    await second.stop()

    assert first.port == second.port


@pytest.mark.parametrize("address", ["", "127.0.0.1", "127.0.0.1:", "h:x", "h:65536", "h:-1"])
async def test_what_is_no_address_is_refused(broker, address):
    with pytest.raises(InvalidError, match="give host:port"):
        await serve(broker, address)


async def test_a_host_that_is_not_ours_is_named(broker):
    with pytest.raises(PreconditionError, match=r"cannot listen on port 0 of 192\.0\.2\.1"):
        await serve(broker, "192.0.2.1:0")
