"""
What those who use a simulated cluster have in common; and its producers and operators.

They call the brokers of nodes as surfaces do. Some of what they send goes to a node that isn't
the right one any more.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from sandglass.broker.loops import Loops
from sandglass.core.message import Batch, Placed, Slice
from sandglass.core.offset import INDEX_BITS
from sandglass.core.topic import PartitionRef
from sandglass.errors import SandglassError
from sandglass.testing.history import number_of, value_of
from sandglass.testing.moving_checks import MovingHistory
from sandglass.testing.moving_seen import Given
from sandglass.testing.simulated_host import Host
from sandglass.testing.simulated_stream import is_growing
from sandglass.testing.virtual_time import START_MS, VirtualLoop
from sandglass.wire.convert import check_batch, cut, slice_body
from sandglass.wire.v1 import broker_pb2

GROUPS = ("first", "second")


@dataclass(slots=True)
class Scene:
    """What all users share."""

    loop: VirtualLoop
    hosts: list[Host]
    history: MovingHistory
    spread_ms: int
    """By so much clocks may differ."""
    is_moving: Callable[[], bool] = lambda: False
    """Is any topic on its way?"""
    is_over: bool = False
    is_calm: bool = False
    numbers: "count[int]" = field(default_factory=lambda: count(1))
    there: set[str] = field(default_factory=set[str])
    """Ways that have stood since they began."""
    claimed_count: int = 0
    rerouted_count: int = 0
    sought_count: int = 0
    redriven_count: int = 0
    purged_count: int = 0
    cut_count: int = 0
    refused_count: int = 0

    def chances(self, *of: int) -> float:
        """One of these times in ms, in seconds."""
        return self.loop.chance.choice(of) / 1000

    def serving(self, topic: str, place: int) -> tuple[Host, PartitionRef] | None:
        """The node that serves a partition, and its number there."""
        for host in self.loop.chance.sample(self.hosts, len(self.hosts)):
            ref = ref_at(host, topic, place) if host.is_ready else None
            if ref is not None and is_served(host.broker.loops, ref.number):
                return host, ref
        return None


def is_served(loops: Loops, number: int) -> bool:
    """Is a partition led there, and on no way to another log?"""
    return loops.is_here(number) and number in loops.of(number).machine.refs


def ref_at(host: Host, topic: str, place: int) -> PartitionRef | None:
    """A partition, as a node knows it."""
    found = host.broker.loops.topic(topic)
    if found is None or place >= len(found.partitions):
        return None
    return found.partitions[place]


def batch_of(values: Sequence[bytes], *, delay_ms: int = 0, due_ms: int = 0) -> Batch:
    """A batch, as it comes by the wire."""
    messages = [broker_pb2.Message(value=value) for value in values]
    raw = broker_pb2.MessageBatch(messages=messages).SerializeToString()
    checked = check_batch(
        raw, len(values), [due_ms] if due_ms else [], [delay_ms] if delay_ms else []
    )
    return cut(checked)


def messages_of(slices: Sequence[Slice]) -> list[Given]:
    """What stands in slices. With an origin it has been redriven, or is a dead letter."""
    found: list[Given] = []
    for part in slices:
        body = slice_body(part.body, part.row_count, part.first, part.count)
        first = part.due_ms << INDEX_BITS | part.first_index
        for place, each in enumerate(broker_pb2.MessageBatch.FromString(body).messages):
            is_redriven = part.origin is not None
            number = number_of(each.value)
            found.append(Given(number, first + place, each.value, is_redriven))
    return found


def id_of(loops: Loops, number: int) -> tuple[str, str]:
    """(topic, id) of the partition of a number that is led there."""
    loop = loops.of_any(number)
    assert loop is not None
    topic, ref = loop.machine.refs[number]
    return topic.name, ref.id


async def fetched(host: Host, name: str, ref: PartitionRef, channel: str) -> list[Slice]:
    """All that a channel of a partition shows there."""
    topic = host.broker.catalog.topic(name)
    return [
        each
        async for slices in host.broker.fetch(topic, ref, channel, 0, (1 << 112) - 1)
        for each in slices
    ]


class Producer:
    """It produces to one topic, again and again."""

    def __init__(self, scene: Scene, topic: str, mean_ms: int) -> None:
        self.scene, self.topic, self.mean_ms = scene, topic, mean_ms

    async def run(self) -> None:
        """Until things calm down."""
        chance = self.scene.loop.chance
        while not self.scene.is_calm:
            await asyncio.sleep(chance.expovariate(1000 / self.mean_ms))
            host = chance.choice(self.scene.hosts)
            if host.is_ready:
                found = host.broker.loops.topic(self.topic)
                place = chance.randrange(len(found.partitions)) if found is not None else 0
                self._produce(place)

    def _batch(self, numbers: Sequence[int]) -> tuple[Batch, int]:
        """Messages for now or for soon; and when somebody may have them, at the earliest."""
        scene, chance = self.scene, self.scene.loop.chance
        lot, ahead_ms = chance.random(), chance.choice((5, 40, 300, 2500))
        values, at_ms = [*map(value_of, numbers)], scene.loop.now_ms + ahead_ms
        if lot < 0.2:
            return batch_of(values, delay_ms=ahead_ms), at_ms - scene.spread_ms
        if lot < 0.4:
            return batch_of(values, due_ms=START_MS + at_ms), at_ms - scene.spread_ms
        return batch_of(values), 0

    def _produce(self, place: int) -> None:
        scene, chance = self.scene, self.scene.loop.chance
        found = scene.serving(self.topic, place)
        if chance.random() < 0.15:  # it was there a while ago
            host = chance.choice(scene.hosts)
            ref = ref_at(host, self.topic, place) if host.is_ready else None
            found = (host, ref) if ref is not None else None
        if found is None:
            return
        host, ref = found
        numbers = [next(scene.numbers) for _ in range(chance.choice((1, 1, 2, 4)))]
        batch, from_ms = self._batch(numbers)
        for number in numbers:
            scene.history.send(number, ref.id, value_of(number), from_ms)
        life = host.life
        assert life is not None

        def told(placed: Placed | None, error: SandglassError | None) -> None:
            if life.is_over:
                return
            if placed is not None:
                offset = placed.dues[0] << INDEX_BITS | placed.first_index
                for nth, number in enumerate(numbers):
                    scene.history.answer(number, offset + nth)
            elif error is not None and not error.is_result_unknown:
                refuse()

        def refuse() -> None:
            scene.refused_count += 1
            for number in numbers:
                scene.history.refuse(number)

        try:
            host.broker.produce_nowait(ref, "", batch, told)
        except SandglassError:
            refuse()


class Mover:
    """An operator who lets a topic move, and grow."""

    def __init__(self, scene: Scene, topic: str, mean_ms: int) -> None:
        self.scene, self.topic, self.mean_ms = scene, topic, mean_ms
        self.asked_count = 0

    async def run(self) -> None:
        """Until things calm down."""
        chance = self.scene.loop.chance
        while not self.scene.is_calm:
            await asyncio.sleep(chance.expovariate(1000 / self.mean_ms))
            await self._move()

    async def _move(self) -> None:
        chance, hosts = self.scene.loop.chance, self.scene.hosts
        wanted: dict[str, Any] = {"replication_factor": chance.choice((1, 1, 2, 3, 3))}
        lot = chance.random()
        if lot < 0.3:
            wanted = {"replication_factor": 1, "node": chance.choice(hosts).name}
        elif lot < 0.4:
            wanted = {"partition_count": chance.choice((2, 3))}
        for host in chance.sample(hosts, len(hosts)):
            if not host.is_ready or host.switching is None or host.life is None:
                continue
            self.asked_count += 1
            try:
                async with asyncio.timeout(self.scene.chances(500, 5000, 10_000)):
                    await host.life.call(self._change(host, wanted))
                    return
            except (SandglassError, TimeoutError):
                continue

    async def _change(self, host: Host, wanted: dict[str, Any]) -> None:
        is_growing.set("partition_count" in wanted)
        await host.broker.catalog.change_topic(self.topic, **wanted)
