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
from datetime import timedelta
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
    client_produce_count: int = 400_000
    client_consume_count: int = 250_000


QUICK = Sizes(
    produce_batches=20,
    consume_batches=20,
    both_batches=20,
    scheduled_count=5000,
    pending_count=5000,
    due_per_s=1000,
    due_s=1,
    client_produce_count=3000,
    client_consume_count=3000,
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


Line = Callable[[Bench], Awaitable[list[Figure]]]


def quantile(numbers: list[float], part: float) -> float:
    """The number below which `part` of them are; 0 of none."""
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


def figure(
    line: str,
    kind: str,
    spent: Spent,
    *,
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
        memory_mb=spent.server.memory_mb(),
        notes=notes,
    )


def _pool(count: int) -> list[bytes]:
    """`count` batches, `POOL_COUNT` different ones."""
    kinds = min(count, POOL_COUNT)
    pool = [
        load.encode(load.values(BATCH_COUNT, first_number=place * BATCH_COUNT))
        for place in range(kinds)
    ]
    return [pool[place % kinds] for place in range(count)]


def _requests(topic: str, batches: list[bytes]) -> list[bytes]:
    encoded: dict[int, bytes] = {}
    for batch in batches[:POOL_COUNT]:
        encoded[id(batch)] = load.produce_request(topic, batch)
    return [encoded[id(batch)] for batch in batches]


async def _check_group(session: Session, topic: str, count: int) -> None:
    status = await session.group(topic, "bench")
    if status.acked_count != count or status.lag_count or status.leased_count:
        raise WrongError(f"the group counts {status.acked_count} acks of {count}")


# --- produce, consume, both -------------------------------------------------------------------


async def produce(bench: Bench) -> list[Figure]:
    """Batches of 1000 on one session, 16 in flight; then everything is read back."""
    figures: list[Figure] = []
    batches = _pool(bench.sizes.produce_batches)
    for kind in (*FLOORS, NODE):
        topic = "produce"
        async with bench.server(kind, "produce") as server, Session(server.address) as session:
            await session.create_topic(topic)
            spent = Spent(server)
            first_index = await _last_index(session, topic, kind) + 1
            spent.start()
            result = await load.produce(
                session,
                _requests(topic, batches),
                in_flight=IN_FLIGHT,
                first_index=first_index,
            )
            spent.stop()
            figures.append(
                figure(
                    "produce",
                    kind,
                    spent,
                    count=result.count,
                    latency="answer",
                    latencies_ms=result.latencies_ms,
                )
            )
            if kind == NODE:
                await _read_back(session, topic, batches)
    return figures
