"""
Producing: one message at a time for many callers, or many for one.

What is unanswered is bounded in bytes and messages; who comes beyond it waits. A node that is
busy has written nothing, so its refusal is repeated here until the caller's time is over. A
refusal for another reason of a request that several callers share may be about one of them:
each message is then sent again, alone.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate, islice
from typing import Final, cast

from sandglass.client import encode
from sandglass.client._async.connection import Connection, Endpoint, steady_ms
from sandglass.client.batching import BATCH_BYTES_MAX, BATCH_COUNT_MAX, Batcher, OpenBatch
from sandglass.client.events import Expired, Produce, Produced
from sandglass.client.message import (
    Message,
    ProduceSummary,
    Receipt,
    moment_ms,
    receipt,
    span_ms,
)
from sandglass.core import limits
from sandglass.errors import BusyError, InvalidError, SandglassError
from sandglass.wire.v1 import broker_pb2

UNANSWERED_BYTES_MAX: Final = 16 * 1024 * 1024
UNANSWERED_COUNT_MAX: Final = 100_000
"""Messages; a million small ones would cost more in objects than in bytes."""

LINGER_MS: Final = 50
"""Messages of a slow source gather for so long."""

Value = bytes | str
ReceiptFuture = asyncio.Future[Receipt]
CountFuture = asyncio.Future[dict[str, int]]


@dataclass(slots=True, eq=False)
class _Bulk:
    """A finished batch of `produce_many`, whose answer goes to one future."""

    route: tuple[str, str, str]
    future: CountFuture


@dataclass(slots=True)
class _Times:
    """A column of times in the making; see `OpenBatch`."""

    times: list[int] = field(default_factory=list[int])
    is_timed: bool = False
    is_delay: bool = False


class Producer:
    """The producing half of a client."""

    def __init__(
        self, connection: Connection, endpoint: Endpoint, *, wall_ms: Callable[[], int]
    ) -> None:
        self._connection = connection
        self._endpoint = endpoint
        self._wall_ms = wall_ms
        self._batcher = Batcher()
        self._unanswered_bytes = 0
        self._unanswered_count = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._delayed: set[asyncio.TimerHandle] = set()
        self._idle: asyncio.Future[None] | None = None

    # --- for users ----------------------------------------------------------------------------

    async def produce(
        self, message: Message, *, topic: str, channel: str, partition: str
    ) -> Receipt:
        """See `AsyncClient.produce`."""
        time_ms, is_delay = self._time_of(message)
        part = encode_one(message)
        deadline_ms = steady_ms() + self._endpoint.timeout_ms
        await self._wait_for_room(len(part), deadline_ms)
        future: ReceiptFuture = asyncio.get_running_loop().create_future()
        self._took(1, len(part))
        self._batcher.add(
            (topic, partition, channel),
            part,
            time_ms=time_ms,
            is_delay=is_delay,
            sink=future,
            deadline_ms=deadline_ms,
        )
        self._connection.session.work()
        return await future

    async def produce_many(
        self,
        messages: Iterable[Value | Message] | AsyncIterable[Value | Message],
        *,
        topic: str,
        channel: str,
        partition: str,
        on_progress: Callable[[int], object] | None,
    ) -> ProduceSummary:
        """See `AsyncClient.produce_many`."""
        flying: dict[CountFuture, int] = {}
        partitions: dict[str, int] = {}
        done_count = 0
        error = cast("BaseException | None", None)

        async def settle(*, until_empty: bool) -> None:
            nonlocal done_count, error
            while flying and error is None:
                done = [each for each in flying if each.done()]
                for each in done:
                    count = flying.pop(each)
                    error = error or each.exception()
                    if each.exception() is None:
                        done_count += count
                        for name, part_count in each.result().items():
                            partitions[name] = partitions.get(name, 0) + part_count
                if done and on_progress is not None:
                    on_progress(done_count)
                if not until_empty or not flying:
                    return
                await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)

        try:
            async for chunk in _chunks(messages):
                for produce in self._requests(chunk, (topic, partition, channel)):
                    deadline_ms = steady_ms() + self._endpoint.timeout_ms
                    await self._wait_for_room(len(produce.batch), deadline_ms)
                    flying[self._submit(produce)] = produce.count
                    await settle(until_empty=False)
                    if error is not None:
                        raise error
                await asyncio.sleep(0)
            await settle(until_empty=True)
            if error is not None:
                raise error
        except SandglassError as failure:
            await _settled(flying)
            for each, count in flying.items():
                done_count += 0 if each.exception() else count
            failure.add_note(f"{done_count} messages of this call were produced before")
            raise
        except BaseException:
            for each in flying:
                each.cancel()
            raise
        return ProduceSummary(topic, done_count, partitions)

    # --- for the client -----------------------------------------------------------------------

    def before_frame(self) -> None:
        """A frame is about to be cut: open batches may go with it."""
        for batch in self._batcher.cut():
            self._connection.session.produce(batch.to_produce())

    def tick(self) -> None:
        """Fails what waits in vain for a connection, or for another request."""
        for batch in self._batcher.expire(steady_ms()):
            self._fail(batch, self._endpoint.unavailable(self._connection.cause))

    def on_produced(self, event: Produced) -> None:
        """A request was answered."""
        produce, error = event.produce, event.error
        if error is None:
            assert event.reply is not None, "a produce has a reply or an error"
            self._answered(produce)
            self._succeed(produce, event.reply)
            return
        if isinstance(error, BusyError) and not error.is_result_unknown:
            wait_ms = error.retry_after_ms or limits.BUSY_RETRY_MS
            if steady_ms() + wait_ms < produce.deadline_ms:
                self._repeat_later(produce, wait_ms)
                return
        self._answered(produce)
        owner = produce.owner
        if isinstance(owner, OpenBatch) and len(owner.parts) > 1 and _may_be_one_s(error):
            for place in range(len(owner.parts)):
                alone = owner.alone(place)
                self._batcher.sent(alone.route)
                self._connection.session.produce(alone.to_produce())
            return
        self._fail(owner, error)

    def on_expired(self, event: Expired) -> None:
        """Nobody answered a request in time."""
        produce = event.produce
        self._answered(produce)
        self._fail(
            produce.owner,
            self._endpoint.unavailable(
                "the request was sent and not answered"
                if produce.is_sent
                else self._connection.cause,
                is_result_unknown=produce.is_sent,
            ),
        )

    async def drain(self) -> None:
        """Waits until everything is answered, or has failed: each has a deadline."""
        while self._unanswered_count:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle

    def close(self) -> None:
        """Nobody waits for repeats any more."""
        for handle in self._delayed:
            handle.cancel()
        self._delayed.clear()

    # --- private ------------------------------------------------------------------------------

    def _time_of(self, message: Message) -> tuple[int, bool]:
        """When a message is due: Unix ms, or ms from now and True; 0 is now."""
        if message.delay is not None:
            if message.due_at is not None:
                raise InvalidError("delay and due_at are both given; give one", field="delay")
            high = limits.DUE_MS_MAX - self._wall_ms()
            return span_ms(message.delay, field="delay", low=0, high=high), True
        if message.due_at is not None:
            return moment_ms(message.due_at, field="due_at"), False
        return 0, False

    def _requests(
        self, chunk: list[Value | Message], route: tuple[str, str, str]
    ) -> Iterator[Produce]:
        """A chunk of messages as requests within the bounds of one."""
        if set(map(type, chunk)) == {bytes}:
            values = cast("list[bytes]", chunk)
            for first, end in _cuts(list(map(len, values))):
                batch = encode.encode_values(values[first:end])
                yield _bulk(batch, end - first, route, _Times())
            return
        parts: list[bytes] = []
        column = _Times()
        size_bytes = 0
        for each in chunk:
            message = each if isinstance(each, Message) else Message(each)
            time_ms, is_delay = self._time_of(message)
            part = encode_one(message)
            is_mixed = bool(time_ms) and column.is_timed and column.is_delay is not is_delay
            if parts and (is_mixed or size_bytes + len(part) > BATCH_BYTES_MAX):
                yield _bulk(b"".join(parts), len(parts), route, column)
                parts, column, size_bytes = [], _Times(), 0
            parts.append(part)
            column.times.append(time_ms)
            if time_ms:
                column.is_timed, column.is_delay = True, is_delay
            size_bytes += len(part)
        yield _bulk(b"".join(parts), len(parts), route, column)

    def _submit(self, produce: Produce) -> CountFuture:
        future: CountFuture = asyncio.get_running_loop().create_future()
        produce.owner = _Bulk((produce.topic, produce.partition, produce.channel), future)
        produce.deadline_ms = steady_ms() + self._endpoint.timeout_ms
        self._took(produce.count, len(produce.batch))
        self._batcher.sent((produce.topic, produce.partition, produce.channel))
        self._connection.session.produce(produce)
        return future

    def _repeat_later(self, produce: Produce, wait_ms: int) -> None:
        loop = asyncio.get_running_loop()

        def repeat() -> None:
            self._delayed.discard(handle)
            self._connection.session.produce(produce)

        handle = loop.call_later(wait_ms / 1000, repeat)
        self._delayed.add(handle)

    def _took(self, count: int, size_bytes: int) -> None:
        self._unanswered_count += count
        self._unanswered_bytes += size_bytes

    def _gave_back(self, count: int, size_bytes: int) -> None:
        self._unanswered_count -= count
        self._unanswered_bytes -= size_bytes
        if not self._unanswered_count and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        if self._has_room(0):
            while self._waiting:
                waiter = self._waiting.popleft()
                if not waiter.done():
                    waiter.set_result(None)
                    break

    def _has_room(self, size_bytes: int) -> bool:
        return not self._unanswered_count or (
            self._unanswered_bytes + size_bytes <= UNANSWERED_BYTES_MAX
            and self._unanswered_count < UNANSWERED_COUNT_MAX
        )

    async def _wait_for_room(self, size_bytes: int, deadline_ms: int) -> None:
        """In the order of coming, until what is unanswered leaves room."""
        if not self._waiting and self._has_room(size_bytes):
            return
        loop = asyncio.get_running_loop()
        is_first = False
        while not (is_first and self._has_room(size_bytes)):
            waiter = loop.create_future()
            if is_first:
                self._waiting.appendleft(waiter)
            else:
                self._waiting.append(waiter)
            try:
                async with asyncio.timeout((deadline_ms - steady_ms()) / 1000):
                    await waiter
            except TimeoutError as error:
                raise self._endpoint.unavailable(
                    f"{self._unanswered_count} messages wait for an answer, and this one for"
                    f" room; {self._connection.cause}"
                ) from error
            except asyncio.CancelledError:
                self._gave_back(0, 0)  # this turn is somebody else's
                raise
            is_first = True
        # Others may have room as well.
        self._gave_back(0, 0)

    def _answered(self, produce: Produce) -> None:
        self._batcher.answered((produce.topic, produce.partition, produce.channel))
        owner = produce.owner
        if not isinstance(owner, OpenBatch):
            self._gave_back(produce.count, len(produce.batch))
        self._connection.session.work()

    def _succeed(self, produce: Produce, reply: broker_pb2.ProduceReply) -> None:
        owner = produce.owner
        if isinstance(owner, _Bulk):
            counts = {placed.partition: sum(placed.run_count) for placed in reply.placed}
            if not owner.future.done():
                owner.future.set_result(counts)
            return
        assert isinstance(owner, OpenBatch), "a produce is a batch's or a bulk's"
        self._gave_back(len(owner.parts), owner.size_bytes)
        for placed in reply.placed:
            places = list(placed.request_places) or range(len(owner.sinks))
            runs = zip(placed.run_due_ms, placed.run_count, strict=True)
            dues = (due_ms for due_ms, count in runs for _ in range(count))
            for number, (place, due_ms) in enumerate(zip(places, dues, strict=False)):
                future = cast("ReceiptFuture", owner.sinks[place])
                if not future.done():
                    index = placed.first_index + number
                    future.set_result(
                        receipt(produce.topic, placed.partition, due_ms=due_ms, index=index)
                    )

    def _fail(self, owner: object, error: SandglassError) -> None:
        if isinstance(owner, _Bulk):
            if not owner.future.done():
                owner.future.set_exception(error)
            return
        assert isinstance(owner, OpenBatch), "a produce is a batch's or a bulk's"
        self._gave_back(len(owner.parts), owner.size_bytes)
        for sink in owner.sinks:
            future = cast("ReceiptFuture", sink)
            if not future.done():
                future.set_exception(_copy(error))


def encode_one(message: Message) -> bytes:
    """
    A batch of one message.

    Raises:
        InvalidError: a field is too large or of another type.
    """
    if type(message.value) is bytes and not (
        message.key or message.clustering_key or message.headers or message.id
    ):
        return encode.encode_value(message.value)
    return encode.encode_message(
        message.value, message.key, message.clustering_key, message.headers, message.id
    )


def _may_be_one_s(error: SandglassError) -> bool:
    """Whether a refusal of a whole batch may be the fault of one message in it."""
    return isinstance(error, InvalidError) and not error.is_result_unknown


def _copy(error: SandglassError) -> SandglassError:
    """An error for each caller: raised ones gather tracebacks and notes."""
    return type(error)(
        error.message,
        field=error.field,
        retry_after_ms=error.retry_after_ms,
        is_result_unknown=error.is_result_unknown,
    )


def _bulk(batch: bytes, count: int, route: tuple[str, str, str], column: _Times) -> Produce:
    topic, partition, channel = route
    times: list[int] = []
    if column.is_timed:
        is_one = min(column.times) == max(column.times)
        times = column.times[:1] if is_one else column.times
    return Produce(
        topic=topic,
        partition=partition,
        channel=channel,
        batch=batch,
        count=count,
        deadline_ms=0,
        owner=None,
        due_ms=() if column.is_delay else times,
        delay_ms=times if column.is_delay else (),
    )


def _cuts(sizes: list[int]) -> Iterator[tuple[int, int]]:
    """Ranges `[first, end)` of values that fit into a request; a larger one is alone."""
    if sum(sizes) + 16 * len(sizes) <= BATCH_BYTES_MAX:
        yield 0, len(sizes)
        return
    first = 0
    start_bytes = 0
    ends = list(accumulate(size + 16 for size in sizes))
    for place, end_bytes in enumerate(ends):
        if place > first and end_bytes - start_bytes > BATCH_BYTES_MAX:
            yield first, place
            first = place
            start_bytes = ends[place - 1]
    yield first, len(sizes)


async def _chunks(
    messages: Iterable[Value | Message] | AsyncIterable[Value | Message],
) -> AsyncIterator[list[Value | Message]]:
    """Up to a request's count at a time, as they come."""
    if isinstance(messages, AsyncIterable):
        chunk: list[Value | Message] = []
        first_ms = 0
        async for message in messages:
            if not chunk:
                first_ms = steady_ms()
            chunk.append(message)
            if len(chunk) >= BATCH_COUNT_MAX or steady_ms() - first_ms >= LINGER_MS:
                yield chunk
                chunk = []
        if chunk:
            yield chunk
        return
    if isinstance(messages, str | bytes):
        raise InvalidError("messages is one message; give several", field="messages")
    source = iter(messages)
    while chunk := list(islice(source, BATCH_COUNT_MAX)):
        yield chunk


async def _settled(futures: Iterable[CountFuture]) -> None:
    """Waits for all. Each has a deadline of its own."""
    await asyncio.gather(*futures, return_exceptions=True)
