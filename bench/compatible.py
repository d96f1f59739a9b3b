"""
The compatible protocol's Produce, as its old clients call it: a unary call a request.

What a request of 1,000 costs the server is spent on its messages; what a request of one costs
is the call itself, so there the empty handler is the measure. Beside it stands one that appends
the request to a file, and answers when that is synced.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc.aio

from bench import load
from bench.floors import KEPT_TOPIC
from bench.lines import CREDIT_COUNT, IN_FLIGHT, KINDS, NODE, Bench, Figure, Line, figure
from bench.load import InOrder, Session, WrongError
from bench.process import Spent
from sandglass.wire.compat import sandglass_pb2 as compat_pb
from sandglass.wire.v1 import raw_pb2

METHOD = "/sandglass.BrokerService/Produce"
SINGLES_IN_FLIGHT = 64
POOL_COUNT = 64


@dataclass(slots=True)
class _Calls:
    """Requests sent by so many at a time; `offsets` are those of the answers, as they came."""

    call: Any
    requests: Sequence[bytes]
    latencies_ms: list[float] = field(default_factory=list[float])
    offsets: list[bytes] = field(default_factory=list[bytes])
    next: int = 0

    async def run(self, in_flight: int) -> None:
        await asyncio.gather(*(self._send() for _ in range(in_flight)))

    async def _send(self) -> None:
        while self.next < len(self.requests):
            request = self.requests[self.next]
            self.next += 1
            began_ns = time.monotonic_ns()
            raw = await self.call(request)
            self.latencies_ms.append((time.monotonic_ns() - began_ns) / 1e6)
            self.offsets += compat_pb.ProduceResponse.FromString(raw).offsets


async def compatible_batches(bench: Bench) -> list[Figure]:
    """Requests of 1,000 messages."""
    return await _line(
        bench,
        "compatible produce, 1000",
        load.BATCH_COUNT,
        bench.sizes.compatible_batches,
        in_flight=IN_FLIGHT,
    )


async def compatible_singles(bench: Bench) -> list[Figure]:
    """Requests of one message."""
    return await _line(
        bench,
        "compatible produce, 1",
        1,
        bench.sizes.compatible_singles,
        in_flight=SINGLES_IN_FLIGHT,
    )


async def _line(
    bench: Bench, line: str, batch_count: int, request_count: int, *, in_flight: int
) -> list[Figure]:
    pool = [
        load.encode(load.values(batch_count, first_number=place * batch_count))
        for place in range(min(POOL_COUNT, request_count))
    ]
    batches = [pool[place % len(pool)] for place in range(request_count)]
    pool_requests = {id(batch): _request(KEPT_TOPIC, batch) for batch in pool}
    requests = [pool_requests[id(batch)] for batch in batches]
    count = batch_count * request_count
    figures: list[Figure] = []
    for kind in KINDS:
        async with (
            bench.session(kind, f"compatible-{batch_count}", topic=KEPT_TOPIC) as (
                server,
                session,
            ),
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            calling: Any = channel  # the stubs want serializers; bytes need none
            calls = _Calls(calling.unary_unary(METHOD), requests)
            spent = Spent(server)
            spent.start()
            await calls.run(in_flight)
            spent.stop()
            done = figure(line, kind, spent, count, "answer", calls.latencies_ms)
            figures.append(done)
            if kind == NODE:
                for floor in figures[:-1]:
                    part = done.server_us / floor.server_us if floor.server_us else 0.0
                    done.notes[f"server_of_{floor.kind}"] = part
                await _check(session, calls.offsets, batches, count)
    return figures


def _request(topic: str, batch: bytes) -> bytes:
    """The messages of a batch as a `ProduceMessageRequest`: the same bytes, another tag."""
    messages = raw_pb2.RawBatch.FromString(batch).messages
    return raw_pb2.RawCompatibleProduce(topic=topic, messages=messages).SerializeToString()


async def _check(
    session: Session, offsets: list[bytes], batches: list[bytes], count: int
) -> None:
    """Every message has an index of its own, and comes back; in which order is not known."""
    indexes = sorted(int.from_bytes(offset[6:], "big") for offset in offsets)
    if indexes != list(range(1, count + 1)):
        raise WrongError(f"{len(set(indexes))} different indexes of {count}")
    check = InOrder()
    await load.consume(session, check, topic=KEPT_TOPIC, count=count, credit_count=CREDIT_COUNT)
    if check.size_bytes != sum(map(len, batches)):
        raise WrongError(f"{check.size_bytes} bytes came back of {sum(map(len, batches))}")


COMPATIBLE_LINES: dict[str, Line] = {
    "compatible-batches": compatible_batches,
    "compatible-singles": compatible_singles,
}
