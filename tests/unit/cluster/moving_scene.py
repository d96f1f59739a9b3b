"""
A node whose topic moves between its own log and replicated ones: real loops and catalog, over
logs, stores and a bucket in memory; and processes that end after any durable step.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from sandglass.adapters.memory_log import MemoryLog
from sandglass.adapters.memory_placement import MemoryPlacement
from sandglass.adapters.memory_store import MemoryStore
from sandglass.adapters.nats import Connection
from sandglass.broker.broker import Broker
from sandglass.broker.inbox import Done
from sandglass.broker.loops import is_replicated
from sandglass.broker.node_loop import NodeLoop
from sandglass.broker.subscription import Subscription
from sandglass.broker.syncs import ThreadSync
from sandglass.cluster.coming import is_made, make_log
from sandglass.cluster.placed import Placed, topic_key
from sandglass.cluster.reconciling import free, reconcile
from sandglass.cluster.switch import Act
from sandglass.cluster.switching import Switching
from sandglass.core import codec
from sandglass.core.dispatch import Delivery
from sandglass.core.offset import INDEX_BITS
from sandglass.core.record import NODE, Ending, Head, OpenEpoch, Record
from sandglass.core.topic import Topic
from sandglass.errors import SandglassError
from sandglass.sandflake import Generator
from sandglass.testing.faults import ManualClock
from sandglass.wire.convert import slice_body
from sandglass.wire.v1 import broker_pb2
from tests.unit.broker.shell import Answer, batch_of, values_of
from tests.unit.cluster.scene import Cluster

DEADLINE_S = 60

Message = tuple[str, int, bytes]
"""The id of its partition, its offset, its value."""


class Died(BaseException):  # no error: the process is gone
    """The process ends here."""


@dataclass
class Life:
    """A process, which ends with its durable step of this number."""

    steps_left: int = 1 << 30

    def step(self) -> None:
        """Something became durable: the process ends behind it, perhaps."""
        self.steps_left -= 1
        if self.steps_left == 0:
            raise Died


@dataclass(slots=True)
class MortalLoop(NodeLoop):
    """What is committed to it counts as a step."""

    life: Life = field(default_factory=Life)

    def commit(self, record: Record, landed: Done | None = None) -> Awaitable[None]:
        async def committed(waiting: Awaitable[None]) -> None:
            await waiting
            self.life.step()

        return committed(NodeLoop.commit(self, record, landed))


class MortalPlacement:
    """What is changed in the bucket counts as a step."""

    def __init__(self, bucket: MemoryPlacement, life: Life) -> None:
        self._bucket = bucket
        self._life = life

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bucket, name)

    async def set(self, key: str, value: bytes, revision: int | None = None) -> int:
        found = await self._bucket.set(key, value, revision)
        self._life.step()
        return found

    async def delete(self, key: str, revision: int | None = None) -> None:
        await self._bucket.delete(key, revision)
        self._life.step()


class Engine:
    """Which streams there are, by number; nobody reads one. One that is made is a step."""

    def __init__(self) -> None:
        self.streams: set[int] = set()
        self.life = Life()

    async def call(self, method: str, request: Any = None) -> dict[str, Any]:
        await asyncio.sleep(0)
        _, verb, name = method.split(".")
        number = int(name.removeprefix("SANDGLASS_"))
        if verb == "CREATE":
            self.streams.add(number)
            self.life.step()
        elif verb == "DELETE":
            self.streams.discard(number)
        return {}


@dataclass
class Consumer:
    """Keeps what it is given."""

    deliveries: list[Delivery] = field(default_factory=list[Delivery])
    ends: list[SandglassError | None] = field(default_factory=list[SandglassError | None])

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:
        self.deliveries.append(delivery)

    def ended(self, subscription: Subscription, error: SandglassError | None) -> None:
        self.ends.append(error)


class Scene:
    """`a` of three nodes, and its topic `t` of two partitions."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.cluster = Cluster()
        self.bucket = self.cluster.placement
        self.catalog = self.cluster.nodes[0].catalog
        self.catalog.clock = self.clock
        self.engine = Engine()
        self.catalog.connection = cast(Connection, self.engine)
        self.catalog.homes._own = lambda: self.own.machine.topics
        self._own_log, self._own_store = MemoryLog(), MemoryStore()
        self._logs: dict[int, tuple[MemoryLog, MemoryStore]] = {}
        self.loops: dict[int, MortalLoop] = {}
        self.deleted: set[int] = set()
        self._seed = 0
        self.tokens: dict[str, int] = {}
        """The highest of each partition that was given out."""

    # --- its life -----------------------------------------------------------------------------

    async def begin(self) -> None:
        await self.cluster.begin()
        await self.bucket.delete(topic_key("t"))
        await self.start(Life())
        self.broker.loops.shared = None
        topic = await self.broker.catalog.create_topic("t", partition_count=2)
        self.broker.loops.shared = self.catalog
        placed = Placed(topic, (("a",), ("a",)))
        await self.bucket.set(topic_key("t"), placed.encode())

    async def start(self, life: Life) -> None:
        """A process of node `a` begins, and leads what it can."""
        self.life = self.engine.life = life
        self.own = MortalLoop(self._own_log, self._own_store, self.clock, slice_body)
        self.broker = Broker(
            self.own, Generator(wall_ms=self.clock.wall_ms, entropy=self._entropy)
        )
        loops = self.broker.loops
        loops.shared = self.catalog
        self.catalog.on_changed = loops.changed
        await self.own.start()
        self.own.life = life
        self.loops = {}
        self.switching = Switching(
            cast(Any, MortalPlacement(self.bucket, life)),
            "a",
            self.own,
            self,
            left=loops.leave,
            published=lambda _: None,
        )

    async def end(self) -> None:
        """It is killed. Another begins when the clock is past what it promised."""
        for loop in (self.own, *self.loops.values()):
            task = loop._task
            assert task is not None
            task.cancel()
            await asyncio.wait([task])
            syncs = loop._writer.syncs
            assert isinstance(syncs, ThreadSync)
            await syncs.ended()
            loop._writer.close()
        pairs = [(self._own_log, self._own_store), *self._logs.values()]
        for log, store in pairs:
            log.crash()
            store.crash()
            log.reopen()
            store.reopen()
        self.clock.advance(1000)

    async def stop(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await self.broker.stop()
            for loop in (self.own, *self.loops.values()):
                await loop.stop()

    # --- logs, as `Switching` has them --------------------------------------------------------

    def led(self, number: int) -> MortalLoop | None:
        return self.loops.get(number)

    def is_made(self, number: int) -> bool:
        return is_made(self.catalog, number)

    async def make(self, number: int, factor: int, *, epoch: int) -> None:
        await make_log(self.catalog, number, factor, epoch=epoch)
        self.life.step()

    async def delete(self, number: int, factor: int) -> None:
        await self.catalog.delete_log(number, factor)
        loop = self.loops.pop(number, None)
        self._logs.pop(number, None)
        self.deleted.add(number)
        self.broker.loops._led.pop(number, None)
        if loop is not None:
            await loop.stop()

    async def lead(self) -> None:
        """Node `a` leads all the logs that it is to have, and says what the catalog says."""
        for number in sorted(self.catalog.held_by("a")):
            if number in self.loops or not is_made(self.catalog, number):
                continue
            if number not in self._logs:
                self._logs[number] = (
                    _log(self.catalog.leadership(number).epoch),
                    MemoryStore(),
                )
            loop = MortalLoop(*self._logs[number], self.clock, slice_body)
            await loop.start()
            self.loops[number] = loop
            self.broker.loops.add(number, loop)
        for number, loop in [*self.loops.items()]:
            await free(self.catalog, number, loop)
            await reconcile(self.catalog, number, loop)
            loop.life = self.life

    async def go_on(self) -> None:
        """Until nothing is left to do."""
        async with asyncio.timeout(DEADLINE_S):
            while self.switching.next("t") is not Act.NOTHING or self._is_moving():
                for loop in self.loops.values():
                    loop.life = Life()
                await self.lead()
                while await self.switching.go_on("t"):
                    pass
                await asyncio.sleep(0)  # so that the deadline is seen where nothing is done
        for loop in self.loops.values():
            loop.life = Life()
        await self.lead()

    def _is_moving(self) -> bool:
        topic = self.broker.loops.topic("t")
        return topic is not None and any(
            not self.broker.loops.is_here(ref.number)
            for ref in topic.partitions
            if is_replicated(ref.number)
        )

    # --- clients ------------------------------------------------------------------------------

    @property
    def topic(self) -> Topic:
        topic = self.broker.loops.topic("t")
        assert topic is not None
        return topic

    async def produce(self, place: int, *values: bytes, delay_ms: int = 0) -> list[Message]:
        ref = self.topic.partitions[place]
        placed = await self.broker.produce(
            self.topic, ref, "", batch_of(*values, delay_ms=delay_ms)
        )
        offset = placed.dues[0] << INDEX_BITS | placed.first_index
        return [(ref.id, offset + nth, value) for nth, value in enumerate(values)]

    async def consume(self) -> "tuple[Subscription, Consumer]":
        consumer = Consumer()
        subscription = await self.broker.consumers.subscribe(
            None,
            consumer,
            subscription_id=1,
            topic=self.topic,
            refs=self.topic.partitions,
            channel="",
            group="g",
            consumer="c",
            credit_count=1000,
            credit_bytes=1 << 20,
        )
        return subscription, consumer

    async def take(self, count: int) -> "tuple[Subscription, list[Delivery]]":
        """So many messages that are ready, in their deliveries; the consumer takes no more."""
        subscription, consumer = await self.consume()

        def came() -> bool:
            return sum(each.lease.count for each in consumer.deliveries) >= count

        await self.until(came)
        self.broker.consumers.leave(subscription)
        for each in consumer.deliveries:
            partition = self.id_of(subscription.topic, each)
            assert each.lease.token > self.tokens.get(partition, 0), "tokens only grow"
            self.tokens[partition] = each.lease.token
        return subscription, consumer.deliveries

    def id_of(self, topic: Topic, delivery: Delivery) -> str:
        return next(ref.id for ref in topic.partitions if ref.number == delivery.partition)

    async def settle(
        self, subscription: Subscription, delivery: Delivery, ending: Ending, delay_ms: int = 0
    ) -> None:
        answer = Answer()
        self.broker.outcomes.settle(
            subscription,
            delivery.partition,
            delivery.lease.token,
            [],
            ending,
            answer.take,
            delay_ms=delay_ms if ending is Ending.NACKED else None,
        )
        await self.until(lambda: answer.told)
        assert [None] == answer.told

    def messages(self, topic: Topic, deliveries: list[Delivery]) -> Iterator[Message]:
        for delivery in deliveries:
            values = iter(values_of(delivery))
            for part in delivery.slices:
                offset = (part.due_ms << INDEX_BITS | part.first_index) + part.first
                for nth in range(part.count):
                    yield self.id_of(topic, delivery), offset + nth, next(values)

    async def read(self) -> list[Message]:
        """All that is readable."""
        found: list[Message] = []
        for ref in self.topic.partitions:
            async for slices in self.broker.fetch(self.topic, ref, "", 0, (1 << 112) - 1):
                for part in slices:
                    body = slice_body(part.body, part.row_count, part.first, part.count)
                    offset = part.due_ms << INDEX_BITS | part.first_index
                    found += [
                        (ref.id, offset + nth, value) for nth, value in enumerate(_values(body))
                    ]
        return found

    async def until(self, check: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not check():
                for loop in (self.own, *self.loops.values()):
                    loop._kick.set()
                await asyncio.sleep(0)

    def _entropy(self, count: int) -> bytes:
        self._seed += 1
        return self._seed.to_bytes(count, "big")


def _values(body: bytes) -> list[bytes]:
    return [each.value for each in broker_pb2.MessageBatch.FromString(body).messages]


def _log(epoch: int) -> MemoryLog:
    """A new log, whose first leader is to begin above this epoch."""
    log = MemoryLog()
    log.append([codec.encode(Record(NODE, Head(epoch, 0, 0, 0, 0), [OpenEpoch(epoch)]))])
    log.sync()
    return log


@asynccontextmanager
async def moving_scene() -> AsyncIterator[Scene]:
    scene = Scene()
    await scene.begin()
    try:
        yield scene
    finally:
        await scene.stop()
