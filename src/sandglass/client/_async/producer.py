"""
Producing: one message at a time for many callers, or many for one.

What is unanswered is bounded in bytes and messages; who comes beyond it waits. A node that is
busy, or finds no leader, has written nothing: the request is repeated here until the caller's
time is over. A
refusal for another reason of a request that several callers share may be about one of them:
each message is then sent again, alone.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from itertools import islice
from typing import Final, cast

from sandglass.client._async.connection import Connection, Endpoint, steady_ms
from sandglass.client._async.flying import CountFuture, Flying
from sandglass.client.batching import BATCH_COUNT_MAX, Batcher, OpenBatch, Route
from sandglass.client.events import Expired, Produce, Produced
from sandglass.client.message import Message, ProduceSummary, Receipt, receipt
from sandglass.client.requests import (
    Bulk,
    Sink,
    Value,
    check_several,
    encode_one,
    requests_of,
    time_of,
)
from sandglass.client.room import Room, Waiter
from sandglass.core import limits
from sandglass.errors import (
    BusyError,
    InvalidError,
    NotLeaderError,
    SandglassError,
    UnavailableError,
)
from sandglass.wire.v1 import broker_pb2

PASSING: Final = (BusyError, NotLeaderError, UnavailableError)
"""Refusals of a node that has written nothing: the request is repeated."""

LINGER_MS: Final = 50
"""Messages of a slow source gather for so long."""

ReceiptFuture = asyncio.Future[Receipt]


class Producer:
    """
    The producing half of a client.

    `room` is taken before a message comes in by `add` or `submit`, and given back here when it
    is answered.
    """

    def __init__(
        self, connection: Connection, endpoint: Endpoint, *, wall_ms: Callable[[], int]
    ) -> None:
        self._connection = connection
        self._endpoint = endpoint
        self.wall_ms = wall_ms
        self.room = Room()
        self._batcher = Batcher()
        self._delayed: set[asyncio.TimerHandle] = set()
        self._idle: asyncio.Future[None] | None = None

    # --- for users ----------------------------------------------------------------------------

    async def produce_nowait(self, message: Message, route: Route) -> ReceiptFuture:
        """See `AsyncClient.produce_nowait`."""
        time_ms, is_delay = time_of(message, self.wall_ms())
        part = encode_one(message)
        deadline_ms = steady_ms() + self._endpoint.timeout_ms
        if not self.room.take(1, len(part)):
            await self._wait_for_room(1, len(part), deadline_ms)
        future: ReceiptFuture = asyncio.get_running_loop().create_future()
        self.add(
            route,
            part,
            time_ms=time_ms,
            is_delay=is_delay,
            sink=future,
            deadline_ms=deadline_ms,
        )
        return future

    async def produce_many(
        self,
        messages: Iterable[Value | Message] | AsyncIterable[Value | Message],
        route: Route,
        on_progress: Callable[[int], object] | None,
    ) -> ProduceSummary:
        """See `AsyncClient.produce_many`."""
        flying = Flying(on_progress)
        try:
            async for chunk in _chunks(messages):
                for produce in requests_of(chunk, route, self.wall_ms()):
                    flying.add(await self._send(produce, route), produce.count)
                    await flying.settle(until_empty=False)
                await asyncio.sleep(0)
            await flying.settle(until_empty=True)
        except SandglassError as failure:
            await flying.count_rest()
            failure.add_note(f"{flying.done_count} messages of this call were produced before")
            raise
        except BaseException:
            flying.cancel()
            raise
        return ProduceSummary(route[0], flying.done_count, flying.partitions)

    async def _send(self, produce: Produce, route: Route) -> CountFuture:
        """Takes in a whole request, once there is room for it."""
        size_bytes = len(produce.batch)
        if not self.room.take(produce.count, size_bytes):
            deadline_ms = steady_ms() + self._endpoint.timeout_ms
            await self._wait_for_room(produce.count, size_bytes, deadline_ms)
        future: CountFuture = asyncio.get_running_loop().create_future()
        self.submit(produce, route, future)
        return future

    # --- for the client -----------------------------------------------------------------------

    def add(
        self,
        route: Route,
        part: bytes,
        *,
        time_ms: int,
        is_delay: bool,
        sink: Sink[Receipt],
        deadline_ms: int,
    ) -> None:
        """Takes in one message, for which room was taken; see `Batcher.add`."""
        self._batcher.add(
            route,
            part,
            time_ms=time_ms,
            is_delay=is_delay,
            sink=sink,
            deadline_ms=deadline_ms,
        )
        self._connection.session.work()

    def submit(self, produce: Produce, route: Route, sink: Sink[dict[str, int]]) -> None:
        """Takes in a whole request, for which room was taken."""
        produce.owner = Bulk(route, sink)
        produce.deadline_ms = steady_ms() + self._endpoint.timeout_ms
        self._batcher.sent(route)
        self._connection.session.produce(produce)

    def gave_back(self, count: int, size_bytes: int) -> None:
        """Room of what is answered, or will never be sent."""
        self.room.give_back(count, size_bytes)
        self._tell_if_idle()

    def leave(self, waiter: Waiter) -> None:
        """Somebody waits for room no longer."""
        self.room.leave(waiter)
        self._tell_if_idle()

    def no_room(self) -> SandglassError:
        """The error of who waited for room in vain."""
        return self._endpoint.unavailable(
            f"{self.room.count} messages wait for an answer, and this one for room;"
            f" {self._connection.cause}"
        )

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
        is_passing = isinstance(error, PASSING) and not error.is_result_unknown
        if is_passing and not event.is_over:
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
        while self.room.count:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle

    def close(self) -> None:
        """Nobody waits for repeats any more."""
        for handle in self._delayed:
            handle.cancel()
        self._delayed.clear()

    # --- private ------------------------------------------------------------------------------

    def _repeat_later(self, produce: Produce, wait_ms: int) -> None:
        loop = asyncio.get_running_loop()

        def repeat() -> None:
            self._delayed.discard(handle)
            self._connection.session.produce(produce)

        handle = loop.call_later(wait_ms / 1000, repeat)
        self._delayed.add(handle)

    def _tell_if_idle(self) -> None:
        if not self.room.count and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def _wait_for_room(self, count: int, size_bytes: int, deadline_ms: int) -> None:
        """In the order of coming, until what is unanswered leaves room; it is then taken."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = Waiter(count, size_bytes, lambda: future.done() or future.set_result(None))
        if self.room.stand(waiter):
            return
        try:
            async with asyncio.timeout((deadline_ms - steady_ms()) / 1000):
                await future
        except TimeoutError as error:
            self.leave(waiter)
            raise self.no_room() from error
        except asyncio.CancelledError:
            self.leave(waiter)
            raise

    def _answered(self, produce: Produce) -> None:
        self._batcher.answered((produce.topic, produce.partition, produce.channel))
        owner = produce.owner
        if not isinstance(owner, OpenBatch):
            self.gave_back(produce.count, len(produce.batch))
        self._connection.session.work()

    def _succeed(self, produce: Produce, reply: broker_pb2.ProduceReply) -> None:
        owner = produce.owner
        if isinstance(owner, Bulk):
            counts = {placed.partition: sum(placed.run_count) for placed in reply.placed}
            if not owner.sink.done():
                owner.sink.set_result(counts)
            return
        assert isinstance(owner, OpenBatch), "a produce is a batch's or a bulk's"
        self.gave_back(len(owner.parts), owner.size_bytes)
        for placed in reply.placed:
            places = list(placed.request_places) or range(len(owner.sinks))
            runs = zip(placed.run_due_ms, placed.run_count, strict=True)
            dues = (due_ms for due_ms, count in runs for _ in range(count))
            for number, (place, due_ms) in enumerate(zip(places, dues, strict=False)):
                sink = cast("Sink[Receipt]", owner.sinks[place])
                if not sink.done():
                    index = placed.first_index + number
                    sink.set_result(
                        receipt(produce.topic, placed.partition, due_ms=due_ms, index=index)
                    )

    def _fail(self, owner: object, error: SandglassError) -> None:
        if isinstance(owner, Bulk):
            if not owner.sink.done():
                owner.sink.set_exception(error)
            return
        assert isinstance(owner, OpenBatch), "a produce is a batch's or a bulk's"
        self.gave_back(len(owner.parts), owner.size_bytes)
        for each in owner.sinks:
            sink = cast("Sink[Receipt]", each)
            if not sink.done():
                sink.set_exception(_copy(error))


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
    check_several(messages)
    source = iter(messages)
    while chunk := list(islice(source, BATCH_COUNT_MAX)):
        yield chunk
