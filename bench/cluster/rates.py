"""
What goes through three nodes: batches, singles, both ways, more partitions, more replicas.

The load goes to the nodes that lead, so that nothing is forwarded. The floor is the engine
itself, which is given the same bytes in entries of the size that the nodes make of them.
"""

import asyncio
import itertools
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from bench import load
from bench.cluster.bench import NODES, RAW, ClusterBench
from bench.cluster.nodes import Led, Nodes, Stored, stored
from bench.cluster.raw import RawStream
from bench.lines import Figure, figure, pool
from bench.load import BATCH_COUNT, InOrder, Session, WrongError
from bench.process import Spent

IN_FLIGHT = 32
"""Requests of a session, some 3 MB: as many bytes as `RAW_IN_FLIGHT` entries have."""
RAW_IN_FLIGHT = 16
SINGLES_IN_FLIGHT = 128
CREDIT_COUNT = 20_000

_numbers = itertools.count(1)


@dataclass(slots=True)
class Sum:
    """Several rounds of one kind, added up."""

    spent: Spent
    count: int = 0
    size_bytes: int = 0
    engines_s: float = 0.0
    latencies_ms: list[float] = field(default_factory=list[float])
    seconds: float = 0.0
    server_s: float = 0.0
    client_s: float = 0.0

    def add(self, count: int, latencies_ms: list[float]) -> None:
        """A round has ended: `spent` was stopped."""
        self.count += count
        self.latencies_ms += latencies_ms
        self.seconds += self.spent.seconds
        self.server_s += self.spent.server_s
        self.client_s += self.spent.client_s

    def figure(self, line: str, kind: str, latency: str, **notes: float) -> Figure:
        total = Spent(self.spent.server, self.seconds, self.server_s, self.client_s)
        total.memory_mb = self.spent.memory_mb
        if self.engines_s:
            notes = {"engines_us": self.engines_s / self.count * 1e6, **notes}
        return figure(line, kind, total, self.count, latency, self.latencies_ms, **notes)


# --- produce ----------------------------------------------------------------------------------


async def produce(bench: ClusterBench) -> list[Figure]:
    """Batches of 1,000 into one partition of three replicas, in turns with the bare engine."""
    nodes = await bench.nodes()
    topic = f"produce-{next(_numbers)}"
    led = await nodes.create_topic(topic)
    batches = pool(bench.sizes.produce_batches)
    sent, floor = Sum(Spent(nodes.processes)), Sum(Spent(nodes.engines))
    behind_s = entry_bytes = 0.0
    async with nodes.cluster.engine(nodes.cluster.nodes[0]) as connection:
        raw = RawStream(connection, f"RAW_{topic}")
        await raw.create()
        for _ in range(bench.sizes.rounds):
            before = await stored(connection)
            await _produce(nodes, topic, led, batches, sent)
            began_s = time.monotonic()
            await nodes.settled(led)
            behind_s = max(behind_s, time.monotonic() - began_s)
            after = await stored(connection)
            entry_bytes = _entry_bytes(before, after)
            await _publish(raw, batches, entry_bytes, floor)
        await raw.delete()
    await _check(led[0], topic, batches * bench.sizes.rounds)
    await nodes.delete_topic(topic)
    size_bytes = sum(map(len, batches)) * bench.sizes.rounds
    return [
        floor.figure("produce", RAW, "answer", mb_s=size_bytes / floor.seconds / 1e6),
        sent.figure(
            "produce",
            NODES,
            "answer",
            mb_s=size_bytes / sent.seconds / 1e6,
            entry_bytes=entry_bytes,
            behind_s=behind_s,
        ),
    ]


async def _produce(
    nodes: Nodes, topic: str, led: list[Led], batches: list[bytes], total: Sum
) -> None:
    """One round: all batches into each partition, a session each."""
    first_index = total.count // len(led) + 1
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(Session(each.node.address)) for each in led]
        requests = [requests_of(topic, batches, each.partition) for each in led]
        engines_s = nodes.engines.cpu_s()
        total.spent.start()
        done = await asyncio.gather(
            *[
                load.produce(
                    session, of_partition, in_flight=IN_FLIGHT, first_index=first_index
                )
                for session, of_partition in zip(sessions, requests, strict=True)
            ]
        )
        total.spent.stop()
        total.engines_s += nodes.engines.cpu_s() - engines_s
    total.add(
        sum(each.count for each in done), [ms for each in done for ms in each.latencies_ms]
    )


async def _publish(
    raw: RawStream, batches: list[bytes], entry_bytes: float, total: Sum
) -> None:
    """One round of the floor: the same batches, joined to entries of that size."""
    per_entry = max(1, round(entry_bytes / len(batches[0])))
    entries = [
        b"".join(batches[at : at + per_entry]) for at in range(0, len(batches), per_entry)
    ]
    total.spent.start()
    latencies_ms = await raw.publish(entries, in_flight=RAW_IN_FLIGHT)
    total.spent.stop()
    total.add(len(batches) * BATCH_COUNT, latencies_ms)


def _entry_bytes(before: Stored, after: Stored) -> float:
    return (after.size_bytes - before.size_bytes) / (after.entry_count - before.entry_count)


def requests_of(topic: str, batches: list[bytes], partition: str = "") -> list[bytes]:
    """A request of each batch; of the same one the same."""
    made: dict[bytes, bytes] = {}
    for batch in batches:
        if batch not in made:
            made[batch] = load.produce_request(topic, batch, partition=partition)
    return [made[batch] for batch in batches]


async def _check(led: Led, topic: str, batches: list[bytes]) -> None:
    """
    Reads a topic's one partition to its end.

    Raises:
        WrongError: something else is in it than these batches.
    """
    check, count = InOrder(), len(batches) * BATCH_COUNT
    async with Session(led.node.address) as session:
        await load.consume(session, check, topic=topic, count=count, credit_count=CREDIT_COUNT)
    check.expect(batches)


async def singles(bench: ClusterBench) -> list[Figure]:
    """One message a request, 128 in flight on one session, each answered by itself."""
    nodes = await bench.nodes()
    topic = f"singles-{next(_numbers)}"
    (led,) = await nodes.create_topic(topic)
    values = load.values(bench.sizes.singles_count)
    requests = [load.produce_request(topic, load.encode([value])) for value in values]
    total = Sum(Spent(nodes.processes))
    async with Session(led.node.address) as session:
        engines_s = nodes.engines.cpu_s()
        total.spent.start()
        sent = await load.produce(session, requests, in_flight=SINGLES_IN_FLIGHT, batch_count=1)
        total.spent.stop()
        total.engines_s += nodes.engines.cpu_s() - engines_s
    total.add(sent.count, sent.latencies_ms)
    await nodes.delete_topic(topic)
    return [total.figure("singles", NODES, "answer")]


# --- produce and consume ----------------------------------------------------------------------


async def both(bench: ClusterBench) -> list[Figure]:
    """One session produces while another consumes and acknowledges, until all is settled."""
    nodes = await bench.nodes()
    topic = f"both-{next(_numbers)}"
    (led,) = await nodes.create_topic(topic)
    batches = pool(bench.sizes.both_batches)
    count = len(batches) * BATCH_COUNT
    total, check = Sum(Spent(nodes.processes)), InOrder()
    async with Session(led.node.address) as session, Session(led.node.address) as other:
        engines_s = nodes.engines.cpu_s()
        total.spent.start()
        sent, _ = await asyncio.gather(
            load.produce(
                session, requests_of(topic, batches, led.partition), in_flight=IN_FLIGHT
            ),
            load.consume(other, check, topic=topic, count=count, credit_count=CREDIT_COUNT),
        )
        total.spent.stop()
        total.engines_s += nodes.engines.cpu_s() - engines_s
        check.expect(batches)
        status = await session.group(topic, "bench")
        if status.acked_count != count:
            raise WrongError(f"the group counts {status.acked_count} acks of {count}")
    way_ms = [
        (arrived_ns - sent.posted_ns[(index - 1) // BATCH_COUNT]) / 1e6
        for index, arrived_ns in check.arrived_ns
    ]
    total.add(count, way_ms)
    await nodes.delete_topic(topic)
    return [total.figure("both", NODES, "way")]


# --- growth -----------------------------------------------------------------------------------

SHAPES = ((1, 1), (1, 2), (1, 3), (2, 3), (4, 3))
"""Partitions, replicas of each."""


async def growth(bench: ClusterBench) -> list[Figure]:
    """Producing batches with more replicas, and into more partitions at once."""
    nodes = await bench.nodes()
    totals = [Sum(Spent(nodes.processes)) for _ in SHAPES]
    batches = pool(bench.sizes.growth_batches)
    topics = [f"growth-{next(_numbers)}" for _ in SHAPES]
    led = [
        await nodes.create_topic(topic, partition_count=partitions, replication_factor=replicas)
        for topic, (partitions, replicas) in zip(topics, SHAPES, strict=True)
    ]
    for _ in range(bench.sizes.rounds):
        for at, (partitions, replicas) in enumerate(SHAPES):
            part = batches[: max(1, len(batches) // partitions)]
            await _produce(nodes, topics[at], led[at], part, totals[at])
            if replicas == len(nodes.cluster.nodes):
                await nodes.settled(led[at])
    for topic in topics:
        await nodes.delete_topic(topic)
    return [
        total.figure(
            f"{partitions} partition{'s' if partitions > 1 else ''}, RF {replicas}",
            NODES,
            "answer",
        )
        for total, (partitions, replicas) in zip(totals, SHAPES, strict=True)
    ]
