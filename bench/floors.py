"""
Floors: the least that a server of the same transport and frames can do.

*file* appends each batch to one file, syncs it in groups, and answers; *empty* answers at once
and keeps nothing. Both hand out again, from memory, what was produced to the topic `kept`, as
credit allows, and take outcomes: *file* appends each, and answers when it is synced. There are
no indexes, no due times, no leases, no checks, no view and no recovery: what a node costs more
than the file is the price of all those.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from os import fdatasync
from pathlib import Path
from typing import Any, BinaryIO

import grpc
import grpc.aio

from sandglass.wire.v1 import admin_pb2, broker_pb2

KEPT_TOPIC = "kept"
DELIVERY_BYTES_MAX = 512 * 1024
FRAME_BYTES_MAX = 1024 * 1024
REQUEST_BYTES_MAX = 5 * 1024 * 1024

_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", REQUEST_BYTES_MAX),
    ("grpc.max_send_message_length", REQUEST_BYTES_MAX),
)


_EOF: Any = grpc.aio.EOF  # pyright: ignore[reportAttributeAccessIssue] - not in the stubs


@asynccontextmanager
async def serve_floor(path: Path | None) -> AsyncIterator[int]:
    """Serves on a free port, which it yields; with a `path` the file floor."""
    floor = Floor(None if path is None else path.open("wb", buffering=1024 * 1024))
    server = grpc.aio.server(options=_OPTIONS)
    session = grpc.stream_stream_rpc_method_handler(floor.session)
    create = grpc.unary_unary_rpc_method_handler(floor.create_topic)
    produce = grpc.unary_unary_rpc_method_handler(floor.produce)
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("sandglass.v1.Broker", {"Session": session}),
            grpc.method_handlers_generic_handler("sandglass.v1.Admin", {"CreateTopic": create}),
            grpc.method_handlers_generic_handler(
                "sandglass.BrokerService", {"Produce": produce}
            ),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)
        floor.close()


@dataclass(slots=True)
class _Kept:
    """`dues`: of each message, or none: all are for now, in one run."""

    batch: bytes
    count: int
    first_index: int
    dues: list[int]

    def put_columns(self, wire: broker_pb2.Delivery) -> None:
        if not self.dues:
            wire.run_due_ms.append(0)
            wire.run_first_index.append(self.first_index)
            wire.run_count.append(self.count)
            return
        wire.run_due_ms.extend(self.dues)
        wire.run_first_index.extend(range(self.first_index, self.first_index + self.count))
        wire.run_count.extend([1] * self.count)


@dataclass(slots=True)
class Floor:
    """`file` is None for the empty floor."""

    file: BinaryIO | None
    last_indexes: dict[str, int] = field(default_factory=dict[str, int])
    kept: deque[_Kept] = field(default_factory=deque[_Kept])
    waiting: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])
    consumers: "list[_Stream]" = field(default_factory=list["_Stream"])
    _syncing: asyncio.Task[None] | None = None
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    async def create_topic(self, raw: bytes, _: Any) -> bytes:
        """Begins the topic anew."""
        request = admin_pb2.CreateTopicRequest.FromString(raw)
        self.last_indexes[request.name] = 0
        if request.name == KEPT_TOPIC:
            self.kept.clear()
        if self.file is not None:
            self.file.seek(0)
            self.file.truncate()
        topic = admin_pb2.Topic(name=request.name, partitions=["0"])
        return admin_pb2.CreateTopicReply(topic=topic).SerializeToString()

    async def produce(self, raw: bytes, _: Any) -> bytes:
        """What a unary call costs that does nothing, or waits until its bytes are synced."""
        if self.file is not None:
            stored = asyncio.Event()
            self.store(raw, stored.set)
            await stored.wait()
        return b""

    async def session(self, _: Any, context: Any) -> None:
        """One stream."""
        stream = _Stream(self, context)
        writer = asyncio.create_task(stream.write())
        try:
            while (raw := await context.read()) is not _EOF:
                stream.take(broker_pb2.ClientFrame.FromString(raw))
        finally:
            writer.cancel()
            if stream in self.consumers:
                self.consumers.remove(stream)

    def store(self, raw: bytes, done: Callable[[], None]) -> None:
        """Calls `done` once `raw` is durable; at once without a file."""
        if self.file is None:
            done()
            return
        self.file.write(raw)
        self.waiting.append(done)
        if self._syncing is None:
            self._syncing = asyncio.create_task(self._sync())

    async def _sync(self) -> None:
        assert self.file is not None
        loop = asyncio.get_running_loop()
        while self.waiting:
            waiting, self.waiting = self.waiting, []
            self.file.flush()
            await loop.run_in_executor(self._thread, fdatasync, self.file.fileno())
            for done in waiting:
                done()
        self._syncing = None

    def close(self) -> None:
        """Takes the file away with it."""
        self._thread.shutdown()
        if self.file is not None:
            self.file.close()
            Path(self.file.name).unlink()


class _Stream:
    def __init__(self, floor: Floor, context: Any) -> None:
        self.floor = floor
        self.context = context
        self.credit_count = 0
        self._token = 0
        self._reply = broker_pb2.ServerFrame()
        self.kick = asyncio.Event()

    def take(self, frame: broker_pb2.ClientFrame) -> None:
        if frame.HasField("hello"):
            self._reply.welcome.session_id = "floor"
            self.kick.set()
        for outcome in frame.outcomes:
            self._take_outcome(outcome)
        for credit in frame.credits:
            self.credit_count += credit.count
        for subscribe in frame.subscribes:
            self.credit_count += subscribe.credit_count
            self.floor.consumers.append(self)
            self._reply.subscribed.add(
                subscription_id=subscribe.subscription_id, partitions=["0"]
            )
        for request in frame.produces:
            self._take_produce(request)
        if self.credit_count:
            self.kick.set()

    def _take_outcome(self, outcome: broker_pb2.Outcome) -> None:
        def done() -> None:
            self._reply.outcomes.add(request_id=outcome.request_id)
            self.kick.set()

        self.floor.store(outcome.token.to_bytes(16, "big"), done)

    def _take_produce(self, request: broker_pb2.ProduceRequest) -> None:
        floor = self.floor
        first_index = floor.last_indexes[request.topic] + 1
        floor.last_indexes[request.topic] += request.count
        batch, dues = request.batch, list(request.due_ms)

        def done() -> None:
            reply = self._reply.produces.add(request_id=request.request_id)
            reply.placed.add(partition="0", first_index=first_index, run_count=[request.count])
            self.kick.set()
            if request.topic == KEPT_TOPIC:
                floor.kept.append(_Kept(batch, request.count, first_index, dues))
                for consumer in floor.consumers:
                    consumer.kick.set()

        floor.store(batch, done)

    async def write(self) -> None:
        while True:
            await self.kick.wait()
            await asyncio.sleep(0)
            self.kick.clear()
            while (frame := self._next_frame()) is not None:
                await self.context.write(frame)

    def _next_frame(self) -> bytes | None:
        size_bytes = 0
        if self in self.floor.consumers:
            while size_bytes + DELIVERY_BYTES_MAX <= FRAME_BYTES_MAX:
                delivery = self._next_delivery()
                if delivery is None:
                    break
                self._reply.deliveries.append(delivery)
                size_bytes += len(delivery.batch)
        raw, self._reply = self._reply.SerializeToString(), broker_pb2.ServerFrame()
        return raw or None

    def _next_delivery(self) -> broker_pb2.Delivery | None:
        kept, taken, size_bytes = self.floor.kept, list[_Kept](), 0
        while kept and kept[0].count <= self.credit_count:
            size_bytes += len(kept[0].batch)
            if taken and size_bytes > DELIVERY_BYTES_MAX:
                break
            self.credit_count -= kept[0].count
            taken.append(kept.popleft())
        if not taken:
            return None
        self._token += 1
        wire = broker_pb2.Delivery(
            subscription_id=1,
            token=self._token,
            attempt=1,
            batch=b"".join([each.batch for each in taken]),
            count=sum(each.count for each in taken),
        )
        for each in taken:
            each.put_columns(wire)
        return wire
