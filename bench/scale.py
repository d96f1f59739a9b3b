"""
Lines about size: many pending, many groups, partitions and leases.

What must not happen shows as figures beside the rate: `stall_ms` is the longest time that the
node's event loop was away, as the node itself saw it, and `stall_cpu_ms` the most CPU time that
it took for that, whatever else the machine did.
"""

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from bench import load
from bench.lines import (
    CREDIT_COUNT,
    IN_FLIGHT,
    KINDS,
    NODE,
    Bench,
    Figure,
    Line,
    figure,
)
from bench.load import BATCH_COUNT, YEAR_MS, ByTime, Session, WrongError
from bench.process import ROOT, Server, Spent, memory_mb_of
from sandglass.testing.ports import free_ports
from sandglass.wire.v1 import broker_pb2

SINGLES_IN_FLIGHT = 128
HOUR_MS = 3_600_000
NACK_CREDIT_COUNT = 2000
NACK_MS_MAX = 300_000
GROUP_CREDIT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ScaleSizes:
    """How much each line does."""

    singles_count: int = 40_000
    pending_count: int = 10_000_000
    killed_batches: int = 1000
    plain_batches: int = 600
    group_count: int = 1000
    group_batches: int = 30
    idle_partition_count: int = 10_000
    lease_count: int = 100_000
    nacked_count: int = 1_000_000
    fair_partition_count: int = 1000
    fair_rounds: int = 60


QUICK = ScaleSizes(
    singles_count=300,
    pending_count=3000,
    killed_batches=20,
    plain_batches=20,
    group_count=20,
    group_batches=3,
    idle_partition_count=30,
    lease_count=1000,
    nacked_count=2000,
    fair_partition_count=10,
    fair_rounds=2,
)


def _sizes(bench: Bench) -> ScaleSizes:
    return QUICK if bench.sizes.is_quick else ScaleSizes()


# --- one message a request --------------------------------------------------------------------


async def singles(bench: Bench) -> list[Figure]:
    """One message a request, 128 requests in flight on one session, each answered by itself."""
    figures: list[Figure] = []
    values = load.values(_sizes(bench).singles_count)
    requests = [load.produce_request("singles", load.encode([value])) for value in values]
    for kind in KINDS:
        async with bench.session(kind, "singles", topic="singles") as (server, session):
            spent = Spent(server)
            spent.start()
            sent = await load.produce(
                session, requests, in_flight=SINGLES_IN_FLIGHT, batch_count=1
            )
            spent.stop()
            figures.append(
                figure("singles", kind, spent, sent.count, "answer", sent.latencies_ms)
            )
    return figures


# --- many pending, and a restart --------------------------------------------------------------


async def pending(bench: Bench) -> list[Figure]:
    """
    Ten million wait, each for its own moment of a year: what that costs in memory, and how soon
    the command delivers again after SIGTERM, and after a kill in the middle of producing.
    """
    sizes = _sizes(bench)
    count = sizes.pending_count
    async with _Command.running(bench.directory / "pending") as node:
        await node.first_delivery("now")
        await asyncio.sleep(1)
        none_mb = node.memory_mb()
        spent = await _fill(node, count)
        await asyncio.sleep(5 if count > 10_000 else 0)
        full_mb = node.memory_mb()
        await node.end(signal.SIGTERM)
        after_term_ms = await node.start_to_first_delivery()
        again_mb = node.memory_mb()
        after_kill_ms = [
            await _kill_while_producing(node, number, sizes.killed_batches)
            for number in range(3)
        ]
    filled = figure(
        "pending",
        NODE,
        spent,
        count,
        "",
        [],
        more_mb=full_mb - none_mb,
        more_mb_after_restart=again_mb - none_mb,
    )
    restart = figure(
        "pending: restart",
        NODE,
        spent,
        count,
        "first delivery",
        [after_term_ms, *after_kill_ms],
        after_term_ms=after_term_ms,
        after_kill_ms=max(after_kill_ms),
    )
    return [filled, restart]


async def _fill(node: "_Command", count: int) -> Spent:
    """Different due times in random order, over a year that begins in an hour."""
    pool = load.batches(min(count, 64 * BATCH_COUNT))
    chance = random.Random(1)
    start_ms = load.now_ms() + HOUR_MS
    spent = Spent(node)
    spent.start()
    async with Session(node.address) as session:
        await session.create_topic("far")
        for first in range(0, count, 200_000):
            some = min(200_000, count - first)
            dues = [start_ms + chance.randrange(YEAR_MS) for _ in range(some)]
            batches = [pool[place % len(pool)] for place in range(some // BATCH_COUNT)]
            requests = load.scheduled_requests("far", batches, dues)
            await load.produce(session, requests, in_flight=IN_FLIGHT, first_index=first + 1)
    spent.stop()
    return spent


async def _kill_while_producing(node: "_Command", number: int, batches: int) -> float:
    """Two seconds of producing, or half of what there is to produce."""
    chance = random.Random(number)
    start_ms = load.now_ms() + HOUR_MS
    dues = [start_ms + chance.randrange(YEAR_MS) for _ in range(batches * BATCH_COUNT)]
    requests = load.scheduled_requests(
        f"killed-{number}", load.batches(BATCH_COUNT) * batches, dues
    )
    async with Session(node.address) as session:
        await session.create_topic(f"killed-{number}")
        producing = asyncio.create_task(load.produce(session, requests, in_flight=IN_FLIGHT))
        await asyncio.sleep(min(2.0, batches / 500))
        await node.end(signal.SIGKILL)
        producing.cancel()
        with suppress(asyncio.CancelledError, WrongError, grpc.aio.AioRpcError):
            await producing
    return await node.start_to_first_delivery()


class _Command:
    """The `sandglass` command on a directory, started again and again."""

    def __init__(self, directory: Path) -> None:
        # Not one that the system gives to what connects: whoever asks again and again for a
        # server that is away would get it as its own, and be connected to itself.
        (self.port,) = free_ports(1)
        self.address = f"127.0.0.1:{self.port}"
        self._directory = directory
        self._process: asyncio.subprocess.Process | None = None
        self._group_count = 0

    @classmethod
    @asynccontextmanager
    async def running(cls, directory: Path) -> "AsyncIterator[_Command]":
        """Started; ended in the end."""
        command = cls(directory)
        await command.start()
        try:
            yield command
        finally:
            await command.end(signal.SIGTERM)

    async def start(self) -> None:
        directory, port = str(self._directory), str(self.port)
        self._process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("sandglass")),
            *("--data", directory, "--grpc_port", port, "--http_port", "0"),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    async def end(self, number: signal.Signals) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            process.send_signal(number)
            await process.wait()

    def cpu_s(self) -> float:
        assert self._process is not None
        return Server.cpu_s_of(self._process.pid)

    def memory_mb(self) -> int:
        assert self._process is not None
        return memory_mb_of(self._process.pid)

    async def first_delivery(self, topic: str) -> None:
        """Until a new group has been given a message that is due."""
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                break
            await asyncio.sleep(0.002)
        async with Session(self.address) as session:
            if not self._group_count:
                await session.create_topic(topic)
                request = load.produce_request(topic, load.encode(load.values(10)))
                await load.produce(session, [request], in_flight=1, batch_count=10)
            self._group_count += 1
            group = f"bench-{self._group_count}"
            load.subscribe_to(session, topic, 10, group=group)
            while not (await session.read()).deliveries:
                pass

    async def start_to_first_delivery(self) -> float:
        """In ms, from the start of the process."""
        began_ns = time.monotonic_ns()
        await self.start()
        await self.first_delivery("now")
        return (time.monotonic_ns() - began_ns) / 1e6


# --- many of everything -----------------------------------------------------------------------


async def groups(bench: Bench) -> list[Figure]:
    """A thousand groups read the tail of one topic."""
    sizes = _sizes(bench)
    batches, names = sizes.group_batches, [f"g{n}" for n in range(sizes.group_count)]
    count = batches * BATCH_COUNT * len(names)
    async with (
        bench.session(NODE, "groups", topic="groups") as (server, session),
        Session(server.address) as readers,
    ):
        for number, name in enumerate(names):
            load.subscribe_to(
                readers,
                "groups",
                2 * BATCH_COUNT,
                subscription_id=number + 1,
                group=name,
                credit_bytes=GROUP_CREDIT_BYTES,
            )
        await _subscribed(readers, len(names))
        request = load.produce_request("groups", load.encode(load.values(BATCH_COUNT)))
        await server.stall_ms()
        spent = Spent(server)
        spent.start()
        _, answers_ms = await asyncio.gather(
            load.produce(session, [request] * batches, in_flight=1),
            _read_all(readers, count),
        )
        spent.stop()
        stall = await server.stall_ms()
    return [figure("groups", NODE, spent, count, "ack", answers_ms, **stall)]


async def idle(bench: Bench) -> list[Figure]:
    """Producing beside ten thousand partitions that hold something and are not read."""
    sizes = _sizes(bench)
    async with bench.session(NODE, "idle", topic="plain") as (server, session):
        alone = await _produce_plain(server, session, "plain", sizes.plain_batches)
        left = sizes.idle_partition_count
        while left:
            await session.create_topic(f"idle-{left}", partition_count=min(left, 1000))
            left -= min(left, 1000)
        await server.stall_ms()
        await session.create_topic("beside")
        beside = await _produce_plain(server, session, "beside", sizes.plain_batches)
        # A whole round of retention's looks, which come each minute.
        await asyncio.sleep(0 if bench.sizes.is_quick else 62)
        stall = await server.stall_ms()
    return [
        figure(
            "idle partitions",
            NODE,
            beside,
            sizes.plain_batches * BATCH_COUNT,
            "",
            [],
            of_plain=alone.seconds / beside.seconds,
            **stall,
        )
    ]


async def leases(bench: Bench) -> list[Figure]:
    """A session that holds a hundred thousand leases breaks; another gets all of it."""
    count = _sizes(bench).lease_count
    async with bench.session(NODE, "leases", topic="leases") as (server, session):
        batches = load.batches(count)
        await server.stall_ms()
        now_ms = load.now_ms()
        # A due time each, all past: a row a message.
        dues = [now_ms + 1 + place % 1000 for place in range(count)]
        await load.produce(
            session, load.scheduled_requests("leases", batches, dues), in_flight=IN_FLIGHT
        )
        holder = Session(server.address)
        async with holder:
            await _take_in_small_leases(holder, "leases", count)
        spent = Spent(server)
        spent.start()
        check = ByTime(is_in_order=False)
        async with Session(server.address) as other:
            await load.consume(
                other, check, topic="leases", count=count, credit_count=CREDIT_COUNT
            )
        spent.stop()
        stall = await server.stall_ms()
        check.expect(count=count, checksum=sum(map(load.checksum, batches)))
    return [figure("leases given back", NODE, spent, count, "", [], **stall)]


async def nacked(bench: Bench) -> list[Figure]:
    """
    A million messages, each nacked for an hour by itself; new ones come beside them. Then the
    same with a time of its own for each: what says the same of one delivery shares a record,
    and these don't.
    """
    return [
        await _nacked(bench, "nacked for an hour", delay_step_ms=0),
        await _nacked(bench, "nacked, a time each", delay_step_ms=1),
    ]


async def _nacked(bench: Bench, line: str, *, delay_step_ms: int) -> Figure:
    sizes = _sizes(bench)
    count = sizes.nacked_count
    directory = f"nacked-{delay_step_ms}"
    async with bench.session(NODE, directory, topic="nacked") as (server, session):
        batches = load.batches(count)
        requests = [load.produce_request("nacked", batch) for batch in batches]
        await load.produce(session, requests, in_flight=IN_FLIGHT)
        before_mb = server.memory_mb()
        await server.stall_ms()
        spent = Spent(server)
        spent.start()
        async with Session(server.address) as consumer:
            await _nack_each(consumer, "nacked", count, delay_step_ms=delay_step_ms)
        spent.stop()
        stall = await server.stall_ms()
        more_mb = server.memory_mb() - before_mb
        plain_batches = sizes.plain_batches
        async with Session(server.address) as producer:
            await producer.create_topic("plain")
            alone = await _both(server, producer, "plain", plain_batches)
            beside = await _both(
                server, producer, "nacked", plain_batches, first_index=count + 1
            )
    return figure(
        line, NODE, spent, count, "", [], **stall, more_mb=more_mb, of_plain=alone / beside
    )


async def fair(bench: Bench) -> list[Figure]:
    """Ten consumers of a group with credit for one message, on a thousand partitions."""
    sizes = _sizes(bench)
    partition_count, rounds = sizes.fair_partition_count, sizes.fair_rounds
    count = partition_count * rounds
    consumer_count = min(10, partition_count)
    async with bench.server(NODE, "fair") as server, Session(server.address) as session:
        ids = await session.create_topic("fair", partition_count=partition_count)
        batch = load.encode(load.values(2 * rounds))
        await _produce_everywhere(session, "fair", ids, batch, 2 * rounds)
        await server.stall_ms()
        spent = Spent(server)
        spent.start()
        of_partition, of_consumer = await _take_one_each(session, consumer_count, count)
        spent.stop()
        stall = await server.stall_ms()
    return [
        figure(
            "fair",
            NODE,
            spent,
            count,
            "",
            [],
            # Each partition holds twice what is taken: it could give so much, or so little.
            partitions_off=_off(of_partition, partition_count, count),
            consumers_off=_off(of_consumer, consumer_count, count),
            **stall,
        )
    ]


def _off(counts: Counter[int], total: int, count: int) -> float:
    """How far from an even share the furthest one is, as a part of that share."""
    share = count / total
    furthest = max(abs(each - share) for each in counts.values())
    if len(counts) < total:
        furthest = max(furthest, share)
    return furthest / share


# --- what the lines do ------------------------------------------------------------------------


async def _subscribed(session: Session, count: int) -> None:
    while count:
        for reply in (await session.read()).subscribed:
            if reply.HasField("error"):
                raise WrongError(f"a subscription was refused: {reply.error.message}")
            count -= 1


async def _read_all(session: Session, count: int) -> list[float]:
    """Takes and acknowledges what comes on all subscriptions, until `count` have come."""
    came_count = 0
    answers_ms: list[float] = []
    posted_ns: dict[int, int] = {}
    while came_count < count or posted_ns:
        frame = await session.read()
        now_ns = time.monotonic_ns()
        for reply in frame.outcomes:
            if reply.HasField("error"):
                raise WrongError(f"an outcome was refused: {reply.error.message}")
            answers_ms.append((now_ns - posted_ns.pop(reply.request_id)) / 1e6)
        answer = broker_pb2.ClientFrame()
        for delivery in frame.deliveries:
            came_count += delivery.count
            posted_ns[delivery.token] = now_ns
            _settle(answer, delivery, broker_pb2.OUTCOME_ACK, request_id=delivery.token)
            answer.credits.add(
                subscription_id=delivery.subscription_id,
                count=delivery.count,
                bytes=len(delivery.batch),
            )
        if frame.deliveries:
            session.post(answer)
    if came_count > count:
        raise WrongError(f"{came_count} messages came of {count}")
    return answers_ms


def _settle(
    answer: broker_pb2.ClientFrame,
    delivery: broker_pb2.Delivery,
    kind: broker_pb2.OutcomeKind,
    *,
    request_id: int,
) -> None:
    answer.outcomes.add(
        request_id=request_id,
        subscription_id=delivery.subscription_id,
        partition_number=delivery.partition_number,
        token=delivery.token,
        kind=kind,
    )


async def _take_in_small_leases(session: Session, topic: str, count: int) -> None:
    """Holds `count` messages under one lease each: a hundred subscriptions, one at a time."""
    places = 100
    for number in range(1, places + 1):
        load.subscribe_to(session, topic, 1, subscription_id=number)
    held = 0
    while held < count:
        frame = await session.read()
        answer = broker_pb2.ClientFrame()
        for delivery in frame.deliveries:
            held += delivery.count
            answer.credits.add(
                subscription_id=delivery.subscription_id, count=1, bytes=len(delivery.batch)
            )
        if frame.deliveries:
            session.post(answer)


async def _nack_each(session: Session, topic: str, count: int, *, delay_step_ms: int) -> None:
    # Nacking them one by one takes a while on a busy machine: no lease may end over it.
    load.subscribe_to(session, topic, NACK_CREDIT_COUNT, ack_timeout_ms=NACK_MS_MAX)
    left, came_count = 0, 0
    while came_count < count or left:
        frame = await session.read()
        for reply in frame.outcomes:
            if reply.HasField("error"):
                raise WrongError(f"an outcome was refused: {reply.error.message}")
            left -= 1
        for delivery in frame.deliveries:
            came_count += delivery.count
            answer = broker_pb2.ClientFrame()
            for place in range(delivery.count):
                answer.outcomes.add(
                    request_id=place + 1,
                    subscription_id=1,
                    token=delivery.token,
                    kind=broker_pb2.OUTCOME_NACK,
                    places=[place, 1],
                    delay_ms=HOUR_MS + place * delay_step_ms,
                )
            left += delivery.count
            answer.credits.add(
                subscription_id=1, count=delivery.count, bytes=len(delivery.batch)
            )
            session.post(answer)


async def _produce_plain(server: Server, session: Session, topic: str, batches: int) -> Spent:
    request = load.produce_request(topic, load.encode(load.values(BATCH_COUNT)))
    spent = Spent(server)
    spent.start()
    await load.produce(session, [request] * batches, in_flight=IN_FLIGHT)
    spent.stop()
    return spent


async def _both(
    server: Server, session: Session, topic: str, batches: int, *, first_index: int = 1
) -> float:
    """Seconds that producing, consuming and acknowledging take together."""
    request = load.produce_request(topic, load.encode(load.values(BATCH_COUNT)))
    count = batches * BATCH_COUNT
    check = load.InOrder(count=first_index - 1)
    began_ns = time.monotonic_ns()
    async with Session(server.address) as consumer:
        await asyncio.gather(
            load.produce(
                session, [request] * batches, in_flight=IN_FLIGHT, first_index=first_index
            ),
            load.consume(
                consumer,
                check,
                topic=topic,
                count=first_index - 1 + count,
                credit_count=CREDIT_COUNT,
            ),
        )
    return (time.monotonic_ns() - began_ns) / 1e9


async def _produce_everywhere(
    session: Session, topic: str, ids: list[str], batch: bytes, count: int
) -> None:
    for place, partition in enumerate(ids):
        request = broker_pb2.ProduceRequest(
            topic=topic, partition=partition, batch=batch, count=count
        )
        session.post_request(place + 1, request.SerializeToString())
    left = len(ids)
    while left:
        for reply in (await session.read()).produces:
            if reply.HasField("error"):
                raise WrongError(f"a request was refused: {reply.error.message}")
            left -= 1


async def _take_one_each(
    session: Session, consumer_count: int, count: int
) -> tuple[Counter[int], Counter[int]]:
    """Messages by partition and by consumer, each taken and acknowledged one at a time."""
    for number in range(1, consumer_count + 1):
        load.subscribe_to(session, "fair", 1, subscription_id=number)
    of_partition: Counter[int] = Counter()
    of_consumer: Counter[int] = Counter()
    while of_consumer.total() < count:
        frame = await session.read()
        answer = broker_pb2.ClientFrame()
        for delivery in frame.deliveries:
            if delivery.count != 1:
                raise WrongError(f"{delivery.count} messages came for a credit of 1")
            of_partition[delivery.partition_number] += 1
            of_consumer[delivery.subscription_id] += 1
            _settle(answer, delivery, broker_pb2.OUTCOME_ACK, request_id=0)
            answer.credits.add(
                subscription_id=delivery.subscription_id, count=1, bytes=len(delivery.batch)
            )
        if frame.deliveries:
            session.post(answer)
    return of_partition, of_consumer


SCALE_LINES: dict[str, Line] = {
    "singles": singles,
    "pending": pending,
    "groups": groups,
    "idle": idle,
    "leases": leases,
    "nacked": nacked,
    "fair": fair,
}
