"""
A load generator that handles whole frames.

Requests are encoded before the clock runs; only the request id is put before each. What is to
be sent is posted as serialized pieces of a `ClientFrame` and leaves joined, up to 1 MiB a
frame: protobuf reads joined pieces as one message. What arrives is counted and summed a
delivery at a time. So the client costs little beside the transport, and every line checks what
came.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
import grpc.aio
from crc32c import crc32c

from sandglass.client.encode import tag, varint
from sandglass.wire.v1 import admin_pb2, broker_pb2, keyvalue_pb2, raw_pb2

VALUE_BYTES = 100
BATCH_COUNT = 1000
FRAME_BYTES_MAX = 1024 * 1024
CREDIT_BYTES = 64 * 1024 * 1024
YEAR_MS = 365 * 24 * 3600 * 1000
RETENTION_MS = 100 * YEAR_MS
"""Nothing is cut while a line runs, not even under a clock that is a year ahead."""

_MESSAGE = broker_pb2.MessageBatch(
    messages=[broker_pb2.Message(value=bytes(VALUE_BYTES))]
).SerializeToString()
_MESSAGE_HEAD = _MESSAGE[:-VALUE_BYTES]
_PRODUCES_TAG = tag(broker_pb2.ClientFrame.PRODUCES_FIELD_NUMBER)
_REQUEST_ID_TAG = b"\x08"
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)


_EOF: Any = grpc.aio.EOF  # pyright: ignore[reportAttributeAccessIssue] - not in the stubs


class WrongError(Exception):
    """What came back is not what was sent: the figure counts for nothing."""


# --- messages ---------------------------------------------------------------------------------


def values(count: int, *, first_number: int = 0) -> list[bytes]:
    """Values of 100 bytes that don't compress, each unlike all others."""
    chance = random.Random(first_number)
    noise = chance.randbytes(1 << 20)
    filling = VALUE_BYTES - 8
    starts = [number * 7919 % (len(noise) - filling) for number in range(count)]
    return [
        number.to_bytes(8, "big") + noise[start : start + filling]
        for number, start in enumerate(starts, first_number)
    ]


def encode(batch_values: Sequence[bytes]) -> bytes:
    """A serialized `MessageBatch`."""
    return _MESSAGE_HEAD + _MESSAGE_HEAD.join(batch_values)


def checksum(batch: bytes) -> int:
    """The sum of the checksums of a batch's messages: the same in any order."""
    return sum(map(crc32c, raw_pb2.RawBatch.FromString(batch).messages[:]))


def produce_request(
    topic: str, batch: bytes, dues: Sequence[int] = (), *, partition: str = ""
) -> bytes:
    """A serialized `ProduceRequest` without its id."""
    return broker_pb2.ProduceRequest(
        topic=topic,
        partition=partition,
        batch=batch,
        count=len(batch) // len(_MESSAGE),
        due_ms=dues,
    ).SerializeToString()


def batches(count: int) -> list[bytes]:
    """Batches of different messages, all of them; `count` is a multiple of `BATCH_COUNT`."""
    return [
        encode(values(BATCH_COUNT, first_number=first))
        for first in range(0, count, BATCH_COUNT)
    ]


def scheduled_requests(topic: str, some: Sequence[bytes], dues: Sequence[int]) -> list[bytes]:
    """A `produce_request` for each of these batches, which are of one size."""
    each = len(dues) // len(some)
    return [
        produce_request(topic, batch, dues[place : place + each])
        for place, batch in zip(range(0, len(dues), each), some, strict=True)
    ]


def put_request(topic: str, entries: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A serialized `ProduceRequest` of keys and values, without its id."""
    messages = [broker_pb2.Message(key=key, value=value) for key, value in entries]
    batch = broker_pb2.MessageBatch(messages=messages).SerializeToString()
    return broker_pb2.ProduceRequest(
        topic=topic, batch=batch, count=len(entries)
    ).SerializeToString()


def get_request(topic: str, keys: Sequence[bytes]) -> keyvalue_pb2.GetRequest:
    """Asks for keys of a KV topic."""
    return keyvalue_pb2.GetRequest(
        topic=topic, keys=[keyvalue_pb2.Key(key=key) for key in keys]
    )


def now_ms() -> int:
    """Since the Unix epoch."""
    return time.time_ns() // 1_000_000


# --- a session --------------------------------------------------------------------------------


class Session:
    """An open `Session` stream. Post pieces, read frames."""

    def __init__(self, address: str) -> None:
        self._channel: Any = grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self._call = self._channel.stream_stream("/sandglass.v1.Broker/Session")()
        self._outbox: deque[bytes] = deque()
        self._kick = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Session":
        self._writer = asyncio.create_task(self._write())
        self.post(broker_pb2.ClientFrame(hello=broker_pb2.Hello(client_name="bench")))
        try:
            frame = await self.read()
            if not frame.HasField("welcome"):
                raise WrongError(f"the first frame is no welcome: {str(frame)[:200]}")
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def _end(self) -> None:
        assert self._writer is not None
        self._writer.cancel()
        self._call.cancel()
        await self._channel.close()

    async def create_topic(
        self,
        name: str,
        *,
        partition_count: int = 1,
        replication_factor: int = 0,
        is_kv: bool = False,
    ) -> list[str]:
        """With a retention that cuts nothing; returns the partitions' ids."""
        request = admin_pb2.CreateTopicRequest(
            name=name,
            kind=admin_pb2.TOPIC_KIND_KV if is_kv else admin_pb2.TOPIC_KIND_TIMER,
            partition_count=partition_count,
            replication_factor=replication_factor,
            settings=admin_pb2.TopicSettings(retention_ms=RETENTION_MS),
        )
        call = self._channel.unary_unary("/sandglass.v1.Admin/CreateTopic")
        reply = admin_pb2.CreateTopicReply.FromString(await call(request.SerializeToString()))
        return list(reply.topic.partitions)

    async def get(self, request: keyvalue_pb2.GetRequest) -> list[keyvalue_pb2.Entry]:
        """Entries of a KV topic."""
        call = self._channel.unary_unary("/sandglass.v1.KeyValue/Get")
        reply = await call(request.SerializeToString())
        return list(keyvalue_pb2.GetReply.FromString(reply).entries)

    async def group(self, topic: str, group: str) -> admin_pb2.GroupStatus:
        """How far a group is."""
        request = admin_pb2.ListGroupsRequest(topic=topic, group=group)
        call = self._channel.unary_unary("/sandglass.v1.Admin/ListGroups")
        reply = admin_pb2.ListGroupsReply.FromString(await call(request.SerializeToString()))
        return reply.groups[0]

    def post(self, piece: bytes | broker_pb2.ClientFrame) -> None:
        """Queues a piece of a frame; what is queued by the next pass of the loop shares one."""
        self._outbox.append(piece if isinstance(piece, bytes) else piece.SerializeToString())
        self._kick.set()

    def post_request(self, request_id: int, request: bytes) -> None:
        """Queues a `produce_request`."""
        raw_id = _REQUEST_ID_TAG + varint(request_id)
        head = _PRODUCES_TAG + varint(len(raw_id) + len(request)) + raw_id
        self.post(head + request)

    async def read(self) -> broker_pb2.ServerFrame:
        """The next frame."""
        raw = await self._call.read()
        if raw is _EOF:
            raise WrongError(f"the session has ended: {await self._call.details()}")
        return broker_pb2.ServerFrame.FromString(raw)

    async def _write(self) -> None:
        outbox = self._outbox
        while True:
            await self._kick.wait()
            self._kick.clear()
            while outbox:
                pieces, size_bytes = [outbox.popleft()], 0
                size_bytes = len(pieces[0])
                while outbox and size_bytes + len(outbox[0]) <= FRAME_BYTES_MAX:
                    pieces.append(outbox.popleft())
                    size_bytes += len(pieces[-1])
                await self._call.write(b"".join(pieces))


# --- producing --------------------------------------------------------------------------------


@dataclass(slots=True)
class Produced:
    """What became of the requests. `posted_ns` is when each was posted, by its place."""

    count: int = 0
    latencies_ms: list[float] = field(default_factory=list[float])
    posted_ns: list[int] = field(default_factory=list[int])


async def produce(
    session: Session,
    requests: Sequence[bytes],
    *,
    in_flight: int,
    batch_count: int = BATCH_COUNT,
    first_index: int = 1,
) -> Produced:
    """
    Sends all requests, `in_flight` at a time, and waits for the answers.

    Raises:
        WrongError: one was refused, or its messages didn't get the next indexes.
    """
    result = Produced()
    posted_ns, latencies_ms = result.posted_ns, result.latencies_ms
    answered = 0
    while answered < len(requests):
        while len(posted_ns) < min(len(requests), answered + in_flight):
            posted_ns.append(time.monotonic_ns())
            session.post_request(len(posted_ns), requests[len(posted_ns) - 1])
        frame = await session.read()
        now_ns = time.monotonic_ns()
        for reply in frame.produces:
            if reply.HasField("error"):
                raise WrongError(f"a request was refused: {reply.error.message}")
            place = reply.request_id - 1
            latencies_ms.append((now_ns - posted_ns[place]) / 1e6)
            (placed,) = reply.placed
            expected = first_index + place * batch_count
            if placed.first_index != expected or sum(placed.run_count) != batch_count:
                raise WrongError(
                    f"request {place} has {sum(placed.run_count)} messages from index"
                    f" {placed.first_index} on; it must be {batch_count} from {expected} on"
                )
            result.count += batch_count
            answered += 1
    return result


# --- consuming --------------------------------------------------------------------------------


class Check(Protocol):
    """Looks at each delivery as it arrives."""

    count: int

    def take(self, delivery: broker_pb2.Delivery) -> None:
        """
        Raises:
            WrongError: it isn't what has to come.
        """
        ...


@dataclass(slots=True)
class InOrder:
    """Every message in the order of its index: one running checksum over all batches."""

    count: int = 0
    sum: int = 0
    size_bytes: int = 0
    arrived_ns: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """(last index, when)."""

    def take(self, delivery: broker_pb2.Delivery) -> None:
        for first, count in zip(delivery.run_first_index, delivery.run_count, strict=True):
            if first != self.count + 1:
                raise WrongError(f"index {first} came after {self.count}")
            self.count += count
        self.sum = crc32c(delivery.batch, self.sum)
        self.size_bytes += len(delivery.batch)
        self.arrived_ns.append((self.count, time.monotonic_ns()))

    def expect(self, batches: Sequence[bytes]) -> None:
        """
        Raises:
            WrongError: these batches, one after the other, are not what came.
        """
        expected = 0
        for batch in batches:
            expected = crc32c(batch, expected)
        if self.count * len(_MESSAGE) != sum(map(len, batches)) or self.sum != expected:
            raise WrongError(f"{self.count} messages came, with checksum {self.sum:x}")


@dataclass(slots=True)
class ByTime:
    """Messages of many due times: in the order of those, none early, a sum over all."""

    count: int = 0
    sum: int = 0
    early_count: int = 0
    lateness_ms: list[float] = field(default_factory=list[float])
    due_ms: int = 0
    clock_ahead_ms: int = 0
    frame_count: int = 0
    is_in_order: bool = True
    """False for what was handed out before: it comes again as it was given back."""

    def take(self, delivery: broker_pb2.Delivery) -> None:
        now_ms = time.time_ns() / 1e6 + self.clock_ahead_ms
        self.frame_count += 1
        for due_ms, count in zip(delivery.run_due_ms, delivery.run_count, strict=True):
            if due_ms < self.due_ms and self.is_in_order:
                raise WrongError(f"a message due at {due_ms} came after one of {self.due_ms}")
            self.due_ms = due_ms
            if now_ms < due_ms:
                self.early_count += count
            self.lateness_ms += [now_ms - due_ms] * count
        messages = raw_pb2.RawBatch.FromString(delivery.batch).messages[:]
        if len(messages) != delivery.count:
            raise WrongError(f"{len(messages)} messages came as {delivery.count}")
        self.count += len(messages)
        self.sum += sum(map(crc32c, messages))

    def expect(self, *, count: int, checksum: int) -> None:
        """
        Raises:
            WrongError: something is missing, double, changed, or came early.
        """
        if self.early_count:
            raise WrongError(f"{self.early_count} messages came early")
        if (self.count, self.sum) != (count, checksum):
            raise WrongError(f"{self.count} messages came of {count}, or with other bytes")


async def consume(
    session: Session,
    check: Check,
    *,
    topic: str,
    count: int,
    credit_count: int,
    is_granting: bool = True,
) -> list[float]:
    """
    Takes `count` messages, acknowledges each delivery as it comes, and waits for the answers.

    Args:
        is_granting: credit goes back as it is used; if not, the caller grants what there is.

    Returns:
        How long each acknowledgement took, in ms.

    Raises:
        WrongError: one was refused, or `check` says so.
    """
    latencies_ms: list[float] = []
    posted_ns: dict[int, int] = {}
    subscribe_to(session, topic, credit_count)
    while check.count < count or posted_ns:
        frame = await session.read()
        now_ns = time.monotonic_ns()
        for ended in (*frame.subscribed, *frame.ended):
            if ended.HasField("error"):
                raise WrongError(f"the subscription has ended: {ended.error.message}")
        for reply in frame.outcomes:
            if reply.HasField("error"):
                raise WrongError(f"an outcome was refused: {reply.error.message}")
            latencies_ms.append((now_ns - posted_ns.pop(reply.request_id)) / 1e6)
        if not frame.deliveries:
            continue
        answer = broker_pb2.ClientFrame()
        taken_count = taken_bytes = 0
        for delivery in frame.deliveries:
            check.take(delivery)
            posted_ns[delivery.token] = time.monotonic_ns()
            answer.outcomes.add(
                request_id=delivery.token,
                subscription_id=1,
                token=delivery.token,
                kind=broker_pb2.OUTCOME_ACK,
            )
            taken_count += delivery.count
            taken_bytes += len(delivery.batch)
        if is_granting:
            answer.credits.add(subscription_id=1, count=taken_count, bytes=taken_bytes)
        session.post(answer)
    if check.count > count:
        raise WrongError(f"{check.count} messages came of {count}")
    return latencies_ms


def subscribe_to(
    session: Session,
    topic: str,
    credit_count: int,
    *,
    subscription_id: int = 1,
    group: str = "bench",
    credit_bytes: int = CREDIT_BYTES,
    ack_timeout_ms: int = 0,
) -> None:
    """Posts a subscription of a group from the beginning; 0 means the topic's timeout."""
    session.post(
        broker_pb2.ClientFrame(
            subscribes=[
                broker_pb2.Subscribe(
                    subscription_id=subscription_id,
                    topic=topic,
                    group=group,
                    consumer="bench",
                    credit_count=credit_count,
                    credit_bytes=credit_bytes,
                    ack_timeout_ms=ack_timeout_ms,
                )
            ]
        )
    )
