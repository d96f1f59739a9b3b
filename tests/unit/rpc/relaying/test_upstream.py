"""A stream to another node, as that node speaks."""

import asyncio
from typing import Any

import pytest

from sandglass.rpc.relaying.upstream import Upstream
from sandglass.wire.v1 import broker_pb2 as pb

DEADLINE_S = 60.0


class Stream:
    """Says what it is given, and then nothing."""

    def __init__(self, frames: list[pb.ServerFrame]) -> None:
        self.frames = frames

    async def write(self, frame: bytes) -> None:
        """Nobody looks at it."""

    async def read(self) -> pb.ServerFrame:
        if self.frames:
            return self.frames.pop(0)
        return await asyncio.Future[pb.ServerFrame]()

    def cancel(self) -> None:
        """It is over."""


class Owner:
    def __init__(self) -> None:
        self.welcomes: list[pb.Welcome] = []
        self.frames: list[pb.ServerFrame] = []

    def opened(self, upstream: Upstream, welcome: pb.Welcome) -> None:
        self.welcomes.append(welcome)

    def received(self, upstream: Upstream, frame: pb.ServerFrame) -> None:
        self.frames.append(frame)

    def broken(self, upstream: Upstream) -> None:
        pytest.fail("it broke")


def leases(first: int, end: int) -> list[pb.OpenLease]:
    return [pb.OpenLease(subscription_id=1, token=token) for token in range(first, end)]


async def test_a_long_welcome_is_read_to_its_end() -> None:
    """A lease that it lists late is none to be given up; what comes with it isn't lost."""
    welcome = pb.Welcome(session_id="s", is_resumed=True, open_leases=leases(0, 3))
    welcome.open_lease_count = 7
    last: Any = pb.ServerFrame(
        open_leases=leases(6, 7), deliveries=[pb.Delivery(subscription_id=1, token=9)]
    )
    stream = Stream(
        [pb.ServerFrame(welcome=welcome), pb.ServerFrame(open_leases=leases(3, 6)), last]
    )
    owner = Owner()
    upstream = Upstream("a", lambda: stream, "test", owner)
    upstream.open()
    async with asyncio.timeout(DEADLINE_S):
        await upstream.settled.wait()
    await asyncio.sleep(0)
    await upstream.leave()

    assert [each.token for each in owner.welcomes[0].open_leases] == [*range(7)]
    assert [each.token for frame in owner.frames for each in frame.deliveries] == [9]
