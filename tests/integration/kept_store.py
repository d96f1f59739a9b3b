"""
A store as this version writes it, to be kept for later ones:

    python -m tests.integration.kept_store tests/data/store-v2.tar.gz

Run it at the release that has the version, before the next one begins; what it did is told in
`CONTENT` below, and never changes. It uses the protocol alone: it runs with any version.
"""

import asyncio
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import grpc.aio

from sandglass.testing import Broker
from sandglass.wire.v1 import broker_pb2 as pb
from sandglass.wire.v1 import keyvalue_pb2, keyvalue_pb2_grpc
from tests.integration.raw import RawSession, Wire

MADE_MS: Final = 1_700_000_000_000
"""When it was, to the node. Long ago: later ones take it to be later, and keep all of it."""

LATER_MS: Final = 4_102_444_800_000
"""The first of January 2100."""

CONTENT: Final = """
    topic t: m0 to m7, and `later`, due at LATER_MS
    group g: m0 to m2 acked, m3 nacked once, m4 dead ("ill"), the others given back
    topic kv: k is `second`; gone was put and deleted
"""

_LEFT_OUT: Final = ("LOG", "OPTIONS", "LOCK", "lock", "reserve", "spare")


class LongAgo:
    """A clock that goes as any other, and stands so long after `MADE_MS` to begin with."""

    def __init__(self, *, after_ms: int = 0) -> None:
        self._base_ms = MADE_MS + after_ms - self.monotonic_ms()

    def wall_ms(self) -> int:
        return self._base_ms + self.monotonic_ms()

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000


async def make(data: Path) -> None:
    """Makes `CONTENT` in a new directory, and stops the node."""
    async with (
        Broker(data=data, clock=LongAgo()) as broker,
        grpc.aio.insecure_channel(broker.address) as channel,
    ):
        wire = Wire(channel)
        await wire.create("t")
        await wire.create("kv", kind=1)
        await wire.produce("t", *(b"m%d" % number for number in range(8)))
        await wire.produce("t", b"later", due_ms=[LATER_MS])
        await _consume(wire)
        await _put(channel)


async def _consume(wire: Wire) -> None:
    session = RawSession(wire.channel)
    await session.hello()
    await session.subscribe("t")
    delivery = await session.delivery()
    assert delivery.count == 8
    await session.outcome(delivery, pb.OUTCOME_ACK, places=[0, 3])
    await session.outcome(delivery, pb.OUTCOME_DEAD, places=[4, 1], reason="ill")
    await session.outcome(delivery, pb.OUTCOME_NACK, places=[3, 1])
    await session.send(is_goodbye=True)
    await session.ended()


async def _put(channel: grpc.aio.Channel) -> None:
    stub: Any = keyvalue_pb2_grpc.KeyValueStub(channel)
    for key, value in ((b"k", b"first"), (b"gone", b"x"), (b"k", b"second")):
        request: Any = keyvalue_pb2.PutRequest(topic="kv")
        request.messages.add(key=key, value=value)
        await stub.Put(request)
    request = keyvalue_pb2.DeleteRequest(topic="kv")
    request.keys.add(key=b"gone")
    await stub.Delete(request)


def keep(data: Path, target: Path) -> None:
    """Packs a directory, without what a start makes anew."""
    with tarfile.open(target, "w:gz") as archive:
        for path in sorted(data.rglob("*")):
            if path.is_file() and not path.name.startswith(_LEFT_OUT):
                archive.add(path, str(path.relative_to(data)))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        asyncio.run(make(Path(home) / "data"))
        keep(Path(home) / "data", Path(sys.argv[1]))
