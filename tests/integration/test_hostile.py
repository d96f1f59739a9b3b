"""What broken clients send, and bad ones: the node says no, and serves the others."""

from collections.abc import AsyncIterator

import pytest

from sandglass.broker.consuming import OFFSET_COUNT
from sandglass.core import limits, outcome
from sandglass.testing import Broker
from sandglass.wire.compat import sandglass_pb2 as compat
from sandglass.wire.compat.sandglass_pb2_grpc import BrokerServiceStub
from tests.integration.raw import Wire, wire


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
    (partition,) = (await client.create("t")).partitions
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
