"""The guard at the gRPC port."""

import asyncio

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sandglass.errors import UnauthenticatedError
from sandglass.rpc.server import serve
from sandglass.security.access import Access
from sandglass.security.guard import MISSING, REVOKED, UNKNOWN
from sandglass.security.tokens import add_token
from sandglass.wire import status
from sandglass.wire.compat import sandglass_pb2 as pb
from sandglass.wire.compat.sandglass_pb2_grpc import BrokerServiceStub
from sandglass.wire.v1 import broker_pb2
from sandglass.wire.v1.broker_pb2_grpc import BrokerStub

TOKEN = "sg_right"
GOOD = (("authorization", f"Bearer {TOKEN}"),)
BAD = (("authorization", "Bearer sg_wrong"),)

EVERY_KIND = [
    "/sandglass.BrokerService/CreateTopic",
    "/sandglass.BrokerService/ConsumeFromGroup",
    "/sandglass.BrokerService/FetchFrom",
    "/sandglass.v1.Broker/Produce",
    "/sandglass.v1.Broker/Session",
    "/sandglass.v1.Admin/DeleteTopic",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/grpc.health.v1.Healthy/Check",
    "/no.Such/Call",
]


@pytest.fixture
def access(tmp_path):
    add_token(tmp_path / "tokens", "right", TOKEN)
    return Access(token_file=tmp_path / "tokens")


@pytest.fixture
async def channel(broker, access):
    async def session(frames, context) -> None:
        await context.write(broker_pb2.ServerFrame(is_draining=True).SerializeToString())
        async for _ in frames:
            pass

    surface = await serve(broker, "127.0.0.1:0", session=session, access=access)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{surface.port}") as opened:
        yield opened
    await surface.stop()


async def refusal(call) -> UnauthenticatedError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert grpc.StatusCode.UNAUTHENTICATED is caught.value.code()
    error = status.from_rpc_error(caught.value)
    assert isinstance(error, UnauthenticatedError)
    return error


async def unfinished():
    """Requests of a client that has more to say."""
    await asyncio.Event().wait()
    yield reflection_pb2.ServerReflectionRequest()


@pytest.mark.parametrize("method", EVERY_KIND)
async def test_every_call_without_a_token_is_refused(channel, broker, method):
    assert MISSING == (await refusal(channel.unary_unary(method)(b"\xff"))).message
    refused = await refusal(channel.unary_unary(method)(b"\xff", metadata=BAD))

    assert UNKNOWN == refused.message
    assert {"t"} == set(broker.known)


async def test_a_stream_without_a_token_is_refused_before_it_sends(channel):
    call = BrokerStub(channel).Session(unfinished())

    assert MISSING == (await refusal(call.read())).message


async def test_a_known_token_is_let_in(channel):
    shown = await BrokerServiceStub(channel).GetTopic(
        pb.GetTopicParams(name="t"), metadata=GOOD
    )
    call = channel.unary_unary("/no.Such/Call")(b"", metadata=GOOD)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call

    assert "t" == shown.name
    assert grpc.StatusCode.UNIMPLEMENTED is caught.value.code()


async def test_health_is_open(channel):
    reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())

    assert health_pb2.HealthCheckResponse.SERVING == reply.status


async def test_open_streams_end_when_their_token_is_revoked(channel, access):
    reflecting = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
        metadata=GOOD
    )
    await reflecting.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    session = BrokerStub(channel).Session(unfinished(), metadata=GOOD)
    assert (await reflecting.read()).list_services_response.service
    assert isinstance(await session.read(), broker_pb2.ServerFrame)

    access.guard.replace({})

    assert REVOKED == (await refusal(reflecting.read())).message
    assert REVOKED == (await refusal(session.read())).message


async def test_a_call_under_way_ends_when_its_token_is_revoked_with_its_result_unknown(
    channel, broker, access
):
    broker.waiting = []
    batch = broker_pb2.MessageBatch(messages=[broker_pb2.Message(value=b"a")])
    request = broker_pb2.ProduceRequest(topic="t", batch=batch.SerializeToString(), count=1)
    call = BrokerStub(channel).Produce(request, metadata=GOOD)
    async with asyncio.timeout(60):
        while not broker.batches:
            await asyncio.sleep(0.01)

    access.guard.replace({})

    error = await refusal(call)
    assert (REVOKED, True) == (error.message, error.is_result_unknown)


async def test_a_stream_that_nobody_reads_ends_for_the_node_all_the_same(broker, access):
    ended = asyncio.Event()

    async def session(frames, context) -> None:
        try:
            while True:
                await context.write(b"x" * 100_000)
        finally:
            ended.set()

    surface = await serve(broker, "127.0.0.1:0", session=session, access=access)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{surface.port}") as channel:
        call = channel.stream_stream("/sandglass.v1.Broker/Session", None, None)(
            unfinished(), metadata=GOOD
        )
        await call.read()
        access.guard.replace({})

        async with asyncio.timeout(60):
            await ended.wait()
    await surface.stop()
