"""
What is measured: one function a line. Each checks that nothing was lost, changed or early.

A line runs on its own node, in a new directory. Its floors take the same frames from the same
generator, just before it, so that what the machine does at the time weighs on both.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from crc32c import crc32c

import sandglass
from bench import load
from bench.floors import KEPT_TOPIC
from bench.load import BATCH_COUNT, YEAR_MS, ByTime, InOrder, Session, WrongError
from bench.process import Server, Spent

FLOORS = ("empty", "file")
NODE = "node"
KINDS = (*FLOORS, NODE)
LEAD_MS = 1500
"""Between the last message produced and the first one due."""

IN_FLIGHT = 16
CREDIT_COUNT = 20_000
POOL_COUNT = 64
"""Different batches, sent over and over."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much each line does."""

    produce_batches: int = 3000
    consume_batches: int = 3000
    both_batches: int = 2500
    scheduled_count: int = 300_000
    pending_count: int = 1_000_000
    due_per_s: int = 5000
    due_s: int = 8
    put_batches: int = 300
    client_produce_count: int = 400_000
    client_consume_count: int = 250_000
    client_single_count: int = 40_000
    compatible_batches: int = 1000
    compatible_singles: int = 20_000
    is_quick: bool = False


QUICK = Sizes(
    produce_batches=20,
    consume_batches=20,
    both_batches=20,
    scheduled_count=5000,
    pending_count=5000,
    due_per_s=1000,
    due_s=1,
    put_batches=5,
    client_produce_count=3000,
    client_consume_count=3000,
    client_single_count=1000,
    compatible_batches=20,
    compatible_singles=500,
    is_quick=True,
)


@dataclass(frozen=True, slots=True)
class Figure:
    """
    What one kind of server did on one line; times in ms, CPU in µs a message.

    `latency` says what p50 and p99 are of.
    """

    line: str
    kind: str
    count: int
    seconds: float
    server_us: float
    client_us: float
    latency: str
    p50_ms: float
    p99_ms: float
    max_ms: float
    memory_mb: int
    notes: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.count / self.seconds

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "rate": self.rate}


class Bench:
    """Where the lines run. Floors are started once and serve all lines."""

    def __init__(self, directory: Path, sizes: Sizes, stack: AsyncExitStack) -> None:
        self.sizes = sizes
        self.directory = directory
        self._stack = stack
        self._floors: dict[str, Server] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, sizes: Sizes) -> "AsyncIterator[Bench]":
        """A temporary directory, which goes afterwards."""
        with TemporaryDirectory(prefix="sandglass-bench-") as name:
            async with AsyncExitStack() as stack:
                yield cls(Path(name), sizes, stack)

    @asynccontextmanager
    async def server(self, kind: str, name: str, *arguments: str) -> AsyncIterator[Server]:
        """A floor, or a node on directory `name`."""
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        if kind == NODE:
            async with Server(kind, directory, *arguments) as server:
                yield server
            return
        if kind not in self._floors:
            floor = Server(kind, self.directory)
            self._floors[kind] = await self._stack.enter_async_context(floor)
        yield self._floors[kind]

    @asynccontextmanager
    async def session(
        self, kind: str, name: str, *, topic: str
    ) -> AsyncIterator[tuple[Server, Session]]:
        """As `server`, with an open session and an empty topic."""
        async with self.server(kind, name) as server, Session(server.address) as session:
            await session.create_topic(topic)
            yield server, session


Line = Callable[[Bench], Awaitable[list[Figure]]]


def quantile(numbers: list[float], part: float) -> float:
    """The number below which `part` of them are; 0 of none."""
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


def figure(
    line: str,
    kind: str,
    spent: Spent,
    count: int,
    latency: str,
    latencies_ms: list[float],
    **notes: float,
) -> Figure:
    """A line's figure of what was spent on `count` messages."""
    return Figure(
        line=line,
        kind=kind,
        count=count,
        seconds=spent.seconds,
        server_us=spent.server_s / count * 1e6,
        client_us=spent.client_s / count * 1e6,
        latency=latency,
        p50_ms=quantile(latencies_ms, 0.5),
        p99_ms=quantile(latencies_ms, 0.99),
        max_ms=max(latencies_ms, default=0.0),
        memory_mb=spent.memory_mb,
        notes=notes,
    )


# --- produce, consume, both -------------------------------------------------------------------


async def produce(bench: Bench) -> list[Figure]:
    """Batches of 1000 on one session; afterwards everything is read back."""
    figures: list[Figure] = []
    batches = pool(bench.sizes.produce_batches)
    requests = _requests("produce", batches)
    for kind in KINDS:
        async with bench.session(kind, "produce", topic="produce") as (server, session):
            spent = Spent(server)
            spent.start()
            sent = await load.produce(session, requests, in_flight=IN_FLIGHT)
            spent.stop()
            done = figure("produce", kind, spent, sent.count, "answer", sent.latencies_ms)
            figures.append(done)
            if kind == NODE:
                await _consume_all(session, "produce", batches)
    return figures


async def consume(bench: Bench) -> list[Figure]:
    """Takes and acknowledges what was produced before; each acknowledgement is answered."""
    figures: list[Figure] = []
    batches = pool(bench.sizes.consume_batches)
    requests = _requests(KEPT_TOPIC, batches)
    for kind in KINDS:
        async with bench.session(kind, "consume", topic=KEPT_TOPIC) as (server, session):
            await load.produce(session, requests, in_flight=IN_FLIGHT)
            spent = Spent(server)
            spent.start()
            latencies_ms = await _consume_all(session, KEPT_TOPIC, batches)
            spent.stop()
            count = len(batches) * BATCH_COUNT
            figures.append(figure("consume", kind, spent, count, "ack", latencies_ms))
            if kind == NODE:
                await _check_group(session, KEPT_TOPIC, count)
    return figures


async def both(bench: Bench) -> list[Figure]:
    """One session produces while another consumes and acknowledges, until all is settled."""
    figures: list[Figure] = []
    batches = pool(bench.sizes.both_batches)
    requests = _requests(KEPT_TOPIC, batches)
    count = len(batches) * BATCH_COUNT
    for kind in KINDS:
        async with (
            bench.session(kind, "both", topic=KEPT_TOPIC) as (server, session),
            Session(server.address) as other,
        ):
            check = InOrder()
            spent = Spent(server)
            spent.start()
            sent, _ = await asyncio.gather(
                load.produce(session, requests, in_flight=IN_FLIGHT),
                load.consume(
                    other, check, topic=KEPT_TOPIC, count=count, credit_count=CREDIT_COUNT
                ),
            )
            spent.stop()
            check.expect(batches)
            way_ms = [
                (arrived_ns - sent.posted_ns[(index - 1) // BATCH_COUNT]) / 1e6
                for index, arrived_ns in check.arrived_ns
            ]
            figures.append(figure("both", kind, spent, count, "way", way_ms))
            if kind == NODE:
                await _check_group(session, KEPT_TOPIC, count)
    return figures


async def _consume_all(session: Session, topic: str, batches: list[bytes]) -> list[float]:
    check = InOrder()
    count = len(batches) * BATCH_COUNT
    latencies_ms = await load.consume(
        session, check, topic=topic, count=count, credit_count=CREDIT_COUNT
    )
    check.expect(batches)
    return latencies_ms


async def _check_group(session: Session, topic: str, count: int) -> None:
    status = await session.group(topic, "bench")
    if status.acked_count != count or status.lag_count or status.leased_count:
        raise WrongError(f"the group counts {status.acked_count} acks of {count}")


def pool(count: int) -> list[bytes]:
    """`count` batches, `POOL_COUNT` different ones over and over."""
    different = [
        load.encode(load.values(BATCH_COUNT, first_number=place * BATCH_COUNT))
        for place in range(min(count, POOL_COUNT))
    ]
    return [different[place % POOL_COUNT] for place in range(count)]


def _requests(topic: str, batches: list[bytes]) -> list[bytes]:
    different = [load.produce_request(topic, batch) for batch in batches[:POOL_COUNT]]
    return [different[place % POOL_COUNT] for place in range(len(batches))]


# --- times ------------------------------------------------------------------------------------


async def schedule(bench: Bench) -> list[Figure]:
    """
    Batches of messages due at different times of the coming year, in random order.

    Afterwards the node is stopped, and started on the same data under a clock that is a year
    ahead: all must come, in the order of their times.
    """
    figures: list[Figure] = []
    count = bench.sizes.scheduled_count
    dues = _year_of_dues(count, after_ms=load.now_ms() + 60_000)
    batches = load.batches(count)
    requests = load.scheduled_requests("schedule", batches, dues)
    for kind in KINDS:
        async with bench.session(kind, "schedule", topic="schedule") as (server, session):
            spent = Spent(server)
            spent.start()
            sent = await load.produce(session, requests, in_flight=IN_FLIGHT)
            spent.stop()
            done = figure("schedule", kind, spent, sent.count, "answer", sent.latencies_ms)
            figures.append(done)
    figures.append(await _a_year_later(bench, "schedule", batches))
    return figures


async def lateness(bench: Bench) -> list[Figure]:
    """
    Many messages are pending, each with its own due time, in random order; so many a second
    fall due and are acknowledged as they come. Then the rest, a year later.
    """
    sizes = bench.sizes
    due_count = sizes.due_per_s * sizes.due_s
    far_count = sizes.pending_count - due_count
    batches = load.batches(sizes.pending_count)
    far, near = batches[: far_count // BATCH_COUNT], batches[far_count // BATCH_COUNT :]
    async with bench.session(NODE, "lateness", topic="lateness") as (server, session):
        dues = _year_of_dues(far_count, after_ms=load.now_ms() + 600_000)
        requests = load.scheduled_requests("lateness", far, dues)
        await load.produce(session, requests, in_flight=IN_FLIGHT)
        first_ms = load.now_ms() + LEAD_MS
        dues = [first_ms + place * 1000 // sizes.due_per_s for place in range(due_count)]
        random.Random(2).shuffle(dues)
        requests = load.scheduled_requests("lateness", near, dues)
        await load.produce(
            session, requests, in_flight=IN_FLIGHT, first_index=len(far) * BATCH_COUNT + 1
        )
        if load.now_ms() >= first_ms:
            raise WrongError("producing took so long that messages were due before its end")
        check = ByTime()
        spent = Spent(server)
        async with Session(server.address) as consumer:
            await asyncio.sleep((first_ms - load.now_ms()) / 2000)
            spent.start()
            await load.consume(
                consumer, check, topic="lateness", count=due_count, credit_count=CREDIT_COUNT
            )
            spent.stop()
        check.expect(count=due_count, checksum=sum(map(load.checksum, near)))
        done = figure(
            "lateness",
            NODE,
            spent,
            due_count,
            "lateness",
            check.lateness_ms,
            early=check.early_count,
            frames=check.frame_count,
            server_cores=spent.server_s / spent.seconds,
        )
    return [done, await _a_year_later(bench, "lateness", far)]


async def _a_year_later(bench: Bench, name: str, batches: list[bytes]) -> Figure:
    """Opens the data of line `name` a year later, and takes all that has waited."""
    ahead_ms = YEAR_MS + 3_600_000
    check = ByTime(clock_ahead_ms=ahead_ms)
    count = len(batches) * BATCH_COUNT
    arguments = ("--clock-ahead-ms", str(ahead_ms))
    async with (
        bench.server(NODE, name, *arguments) as server,
        Session(server.address) as session,
    ):
        spent = Spent(server)
        spent.start()
        latencies_ms = await load.consume(
            session, check, topic=name, count=count, credit_count=CREDIT_COUNT
        )
        spent.stop()
    check.expect(count=count, checksum=sum(map(load.checksum, batches)))
    return figure(f"{name}: a year later", NODE, spent, count, "ack", latencies_ms)


def _year_of_dues(count: int, *, after_ms: int) -> list[int]:
    """Different times of a year, in random order."""
    chance = random.Random(1)
    dues = [after_ms + each for each in chance.sample(range(YEAR_MS), count)]
    assert len(set(dues)) == count
    return dues


# --- the client -------------------------------------------------------------------------------


async def client_produce(bench: Bench) -> list[Figure]:
    """`AsyncClient.produce_many` of single values: it does the batching."""
    count = bench.sizes.client_produce_count
    source = load.values(count)
    async with (
        bench.server(NODE, "client-produce") as server,
        sandglass.AsyncClient(server.address) as client,
    ):
        await client.create_topic("client")
        spent = Spent(server)
        spent.start()
        await client.produce_many("client", source)
        spent.stop()
        async with Session(server.address) as session:
            check = InOrder()
            await load.consume(
                session, check, topic="client", count=count, credit_count=CREDIT_COUNT
            )
        check.expect([load.encode(source)])
    return [figure("client produce_many", NODE, spent, count, "", [])]


async def client_consume(bench: Bench) -> list[Figure]:
    """`async for` and `ack` of each message by itself."""
    count = bench.sizes.client_consume_count
    source = load.values(count)
    expected = sum(map(crc32c, source))
    total = came_count = 0
    latencies_ms: list[float] = []
    async with bench.server(NODE, "client-consume") as server:
        async with sandglass.AsyncClient(server.address) as client:
            await client.create_topic("client")
            await client.produce_many("client", source)
        spent = Spent(server)
        async with sandglass.AsyncClient(server.address) as client:
            spent.start()
            consumer = client.consume("client", group="bench", credit=CREDIT_COUNT)
            async for message in consumer:
                total += crc32c(message.value)
                came_count += 1
                await message.ack()
                if came_count == count:
                    break
        spent.stop()
        if total != expected:
            raise WrongError("other messages came than were sent")
        async with Session(server.address) as session:
            await _check_group(session, "client", count)
    return [figure("client async for + ack", NODE, spent, count, "", latencies_ms)]


# --- keys -------------------------------------------------------------------------------------


async def keys(bench: Bench) -> list[Figure]:
    """
    Puts to a KV topic in batches of 1000, keys in random order, each key three times; then all
    keys are got, 1000 a call, one call after the other.
    """
    put_batches = bench.sizes.put_batches // 3 * 3
    count = put_batches * BATCH_COUNT
    values = load.values(count)
    names = [b"key-%07d" % (number % (count // 3)) for number in range(count)]
    order = list(range(count))
    random.Random(1).shuffle(order)
    requests = [
        load.put_request(
            "keys", [(names[place], values[place]) for place in order[at : at + BATCH_COUNT]]
        )
        for at in range(0, count, BATCH_COUNT)
    ]
    last = {names[place]: values[place] for place in order}
    async with bench.server(NODE, "keys") as server, Session(server.address) as session:
        await session.create_topic("keys", is_kv=True)
        spent = Spent(server)
        spent.start()
        sent = await load.produce(session, requests, in_flight=IN_FLIGHT)
        spent.stop()
        put = figure("keys: put", NODE, spent, sent.count, "answer", sent.latencies_ms)
        wanted = list(last)
        random.Random(2).shuffle(wanted)
        asked = [
            load.get_request("keys", wanted[at : at + BATCH_COUNT])
            for at in range(0, len(wanted), BATCH_COUNT)
        ]
        latencies_ms: list[float] = []
        spent = Spent(server)
        spent.start()
        for at, request in enumerate(asked):
            started_ns = time.monotonic_ns()
            found = await session.get(request)
            latencies_ms.append((time.monotonic_ns() - started_ns) / 1e6)
            for name, entry in zip(wanted[at * BATCH_COUNT :], found, strict=False):
                if entry.message.value != last[name]:
                    raise WrongError(f"{name!r} is not what was put last")
            if len(found) != len(request.keys):
                raise WrongError(f"{len(found)} of {len(request.keys)} keys were answered")
        spent.stop()
        got = figure("keys: get", NODE, spent, len(wanted), "answer", latencies_ms)
    return [put, got]


LINES: dict[str, Line] = {
    "produce": produce,
    "consume": consume,
    "both": both,
    "schedule": schedule,
    "lateness": lateness,
    "keys": keys,
    "client-produce": client_produce,
    "client-consume": client_consume,
}
