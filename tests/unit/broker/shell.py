"""The loop and the broker over adapters in memory and a clock that stands still."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sandglass.adapters.memory_log import MemoryLog
from sandglass.adapters.memory_store import MemoryStore
from sandglass.broker.broker import Broker
from sandglass.broker.node_loop import NodeLoop
from sandglass.broker.subscription import Session, Subscription
from sandglass.broker.syncs import ThreadSync
from sandglass.core.dispatch import Delivery
from sandglass.core.message import Batch, Placed
from sandglass.core.offset import INDEX_BITS
from sandglass.core.record import Ending
from sandglass.core.topic import PartitionRef, Topic, TopicSettings
from sandglass.errors import SandglassError
from sandglass.sandflake import Generator
from sandglass.testing.faults import FaultyLog, FaultyStore, ManualClock
from sandglass.wire.convert import slice_body
from sandglass.wire.v1 import broker_pb2
from tests.unit.batches import cut_batch

DEADLINE_S = 60


@dataclass(slots=True)
class Consumer:
    """A receiver that keeps what it gets."""

    subscription: Subscription
    deliveries: list[Delivery] = field(default_factory=list[Delivery])
    end: list[SandglassError | None] = field(default_factory=list[SandglassError | None])

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:
        self.deliveries.append(delivery)

    def ended(self, subscription: Subscription, error: SandglassError | None) -> None:
        self.end.append(error)

    @property
    def values(self) -> list[bytes]:
        """All that came, in order."""
        return [value for delivery in self.deliveries for value in values_of(delivery)]


class Shell:
    """A node without surfaces. `t` is the topic that `start` makes."""

    def __init__(self) -> None:
        self.memory_log = MemoryLog()
        self.memory_store = MemoryStore()
        self.log = FaultyLog(self.memory_log)
        self.store = FaultyStore(self.memory_store)
        self.clock = ManualClock()
        self.failures: list[BaseException] = []
        self.topic: Topic | None = None
        self.settings = TopicSettings()
        self.partition_count = 1
        self._seed = 0

    @property
    def t(self) -> Topic:
        assert self.topic is not None
        return self.topic

    async def start(self) -> None:
        """A leader begins; the clock is past any promise."""
        self.loop = NodeLoop(self.log, self.store, self.clock, slice_body)
        self.loop.on_failure = self.failures.append
        self.broker = Broker(
            self.loop, Generator(wall_ms=self.clock.wall_ms, entropy=self._entropy)
        )
        await self.loop.start()
        self.topic = self.broker.catalog.topics()[0] if self.broker.catalog.topics() else None
        if self.topic is None:
            self.topic = await self.broker.catalog.create_topic(
                "t", partition_count=self.partition_count, settings=self.settings
            )

    async def stop(self) -> None:
        self.log.release_sync()
        async with asyncio.timeout(DEADLINE_S):
            await self.broker.stop()
            await self.loop.stop()

    async def crash(self, *, kept_batch_count: int = 0, kept_write_count: int = 0) -> None:
        """The process ends, here and now, and another one starts."""
        task = self.loop._task
        assert task is not None
        self.log.release_sync()
        task.cancel()
        await asyncio.wait([task])
        syncs = self.loop._writer.syncs
        assert isinstance(syncs, ThreadSync)
        await syncs.ended()
        self.loop._writer.close()
        self.memory_log.crash(kept_batch_count)
        self.memory_store.crash(kept_write_count)
        self.memory_log.reopen()
        self.memory_store.reopen()
        self.log, self.store = FaultyLog(self.memory_log), FaultyStore(self.memory_store)
        self.clock.advance(1000)
        await self.start()

    # --- time ---------------------------------------------------------------------------------

    async def until(self, check: Callable[[], object]) -> None:
        """Lets the loop run until something is so; fails after a deadline."""
        async with asyncio.timeout(DEADLINE_S):
            while not check():
                self.loop._kick.set()
                await asyncio.sleep(0)

    async def quiet(self) -> None:
        """Until nothing is on its way: some turns in which nothing changes."""
        for _ in range(3):
            turn_count = self.loop.stats.turn_count
            await self.until(
                lambda: (
                    not self.loop._queue
                    and not self.loop._writer.is_syncing
                    and self.loop.stats.turn_count > turn_count + 2  # noqa: B023  # called at once
                )
            )

    async def advance(self, by_ms: int, *, step_ms: int = 100) -> None:
        """Time passes, and the loop has its turns: no pause of the process."""
        while by_ms > 0:
            self.clock.advance(min(step_ms, by_ms))
            by_ms -= step_ms
            await self.quiet()

    # --- calls --------------------------------------------------------------------------------

    def produce_nowait(
        self,
        *values: bytes,
        delay_ms: int = 0,
        due_ms: int = 0,
        place: int = 0,
    ) -> "Answer":
        """A produce that is answered later, or never."""
        batch = batch_of(*values, delay_ms=delay_ms, due_ms=due_ms)
        answer = Answer()
        self.broker.produce_nowait(self.t.partitions[place], "", batch, answer.take_placed)
        return answer

    def produce_each(self, *delays_ms: int) -> "Answer":
        """A message for each delay, a row each; answered later."""
        messages = [broker_pb2.Message(value=b"%d" % delay_ms) for delay_ms in delays_ms]
        raw = broker_pb2.MessageBatch(messages=messages).SerializeToString()
        batch = cut_batch(raw, len(messages), [], [*delays_ms])
        answer = Answer()
        self.broker.produce_nowait(self.t.partitions[0], "", batch, answer.take_placed)
        return answer

    async def produce(
        self, *values: bytes, delay_ms: int = 0, due_ms: int = 0, place: int = 0
    ) -> Placed:
        async with asyncio.timeout(DEADLINE_S):
            return await self.broker.produce(
                self.t,
                self.t.partitions[place],
                "",
                batch_of(*values, delay_ms=delay_ms, due_ms=due_ms),
            )

    async def consume(
        self,
        group: str = "g",
        *,
        session: Session | None = None,
        credit_count: int = 1000,
        ack_timeout_ms: int = 0,
        refs: Sequence[PartitionRef] = (),
        is_drain: bool = False,
    ) -> Consumer:
        consumer = Consumer(None)  # pyright: ignore[reportArgumentType] - set below
        async with asyncio.timeout(DEADLINE_S):
            consumer.subscription = await self.broker.consumers.subscribe(
                session,
                consumer,
                subscription_id=1,
                topic=self.t,
                refs=refs or self.t.partitions,
                channel="",
                group=group,
                consumer="c",
                credit_count=credit_count,
                credit_bytes=1 << 20,
                ack_timeout_ms=ack_timeout_ms,
                is_drain=is_drain,
            )
        return consumer

    def settle(
        self, consumer: Consumer, delivery: Delivery, ending: Ending = Ending.ACKED
    ) -> "Answer":
        answer = Answer()
        self.broker.outcomes.settle(
            consumer.subscription,
            delivery.partition,
            delivery.lease.token,
            [],
            ending,
            answer.take,
        )
        return answer

    def offsets(self, placed: Placed) -> list[int]:
        offsets: list[int] = []
        index = placed.first_index
        for due_ms, count in zip(placed.dues, placed.counts, strict=True):
            offsets += [due_ms << INDEX_BITS | index + place for place in range(count)]
            index += count
        return offsets

    def _entropy(self, count: int) -> bytes:
        self._seed += 1
        return self._seed.to_bytes(count, "big")


class Answer:
    """What an admitted request was told: nothing yet, None, or an error."""

    def __init__(self) -> None:
        self.told: list[SandglassError | None] = []
        self.placed: Placed | None = None

    def take(self, error: SandglassError | None) -> None:
        self.told.append(error)

    def take_placed(self, placed: Placed | None, error: SandglassError | None) -> None:
        self.placed = placed
        self.take(error)


def batch_of(*values: bytes, delay_ms: int = 0, due_ms: int = 0) -> Batch:
    messages = [broker_pb2.Message(value=value) for value in values]
    raw = broker_pb2.MessageBatch(messages=messages).SerializeToString()
    return cut_batch(
        raw, len(values), [due_ms] if due_ms else [], [delay_ms] if delay_ms else []
    )


def values_of(delivery: Delivery) -> list[bytes]:
    values: list[bytes] = []
    for part in delivery.slices:
        body = slice_body(part.body, part.row_count, part.first, part.count)
        parsed = broker_pb2.MessageBatch.FromString(body)
        values += [message.value for message in parsed.messages]
    return values


def delivered_offsets(consumer: Consumer) -> list[int]:
    return [
        (part.due_ms << INDEX_BITS | part.first_index) + place
        for delivery in consumer.deliveries
        for part in delivery.slices
        for place in range(part.count)
    ]


@asynccontextmanager
async def running(shell: Shell) -> AsyncIterator[Shell]:
    """Starts it, and stops it however the test ended."""
    await shell.start()
    try:
        yield shell
    finally:
        await shell.stop()
