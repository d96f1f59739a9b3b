"""
`sandctl bench`: a small load on a node, to see what it answers at.

It makes a topic of its own, produces in batches one after the other, consumes and acknowledges
everything, and deletes the topic, whatever ends it. The figures are those of one client that
waits for each answer; `make bench` of the project measures what a node can do.
"""

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sandglass.cli.ctl import output
from sandglass.cli.ctl.call import call, globals_of
from sandglass.cli.ctl.progress import Progress
from sandglass.core import limits
from sandglass.settings import parse_duration

if TYPE_CHECKING:
    from sandglass import AsyncClient

GROUP: Final = "bench"
COUNT_MAX: Final = 10_000_000
DELAY_MAX: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked for: so many messages of so many bytes, in batches, due after `delay`."""

    topic: str
    count: int
    size_bytes: int
    batch_count: int
    delay: timedelta | None


def bench(
    context: typer.Context,
    topic: Annotated[
        str,
        typer.Option("--topic", metavar="NAME", help="The topic to make, use and delete."),
    ] = "sandctl-bench",
    count: Annotated[
        int, typer.Option("--count", "-n", metavar="N", help="How many messages.")
    ] = 10_000,
    size: Annotated[
        int, typer.Option("--size", metavar="BYTES", help="Bytes of each value: 0 to 1 MiB.")
    ] = 100,
    batch: Annotated[
        int, typer.Option("--batch", metavar="N", help="How many are produced at a time.")
    ] = 100,
    delay: Annotated[
        str,
        typer.Option("--delay", metavar="DURATION", help="Due so long from now; up to 1h."),
    ] = "",
) -> None:
    """Put a small load on a topic of its own, and tell how fast it was. Then it goes."""
    limits.check_name(topic, field="--topic")
    limits.check_range(count, field="--count", low=1, high=COUNT_MAX)
    limits.check_range(size, field="--size", low=0, high=limits.VALUE_BYTES_MAX)
    limits.check_range(batch, field="--batch", low=1, high=limits.ATOM_MESSAGE_COUNT_MAX)
    load = Load(topic, count, size, batch, _delay_of(delay))

    async def work(client: "AsyncClient", progress: Progress) -> None:
        progress.total = 2 * count
        async with _own_topic(client, topic):
            produced = await _produce(client, load, progress)
            consumed = await _consume(client, load, progress)
        found = {
            "count": count,
            "size_bytes": size,
            "batch_count": batch,
            "produce": _figures(produced, count),
            "consume": _figures(consumed, count),
        }
        if globals_of(context).is_json:
            output.print_json(found)
            return
        output.print_table(
            ["", "MESSAGES/S", "SECONDS", "P50 MS", "P99 MS"],
            [
                (name, *(found[name][key] for key in ("rate", "seconds", "p50_ms", "p99_ms")))
                for name in ("produce", "consume")
            ],
        )

    call(context, work, label=f"measuring with {topic}")


def quantile(numbers: Sequence[float], part: float) -> float:
    """The least of the numbers that so large a part of them, within (0, 1], is not above."""
    return sorted(numbers)[math.ceil(len(numbers) * part) - 1]


@dataclass(frozen=True, slots=True)
class _Measured:
    """How long all took, and each answer."""

    seconds: float
    answers_ms: list[float]


@asynccontextmanager
async def _own_topic(client: "AsyncClient", name: str) -> AsyncIterator[None]:
    """
    A topic that is there within the block; Ctrl-C as well takes it away.

    Raises:
        ConflictError: there is one of this name, which stays as it is.
    """
    making = asyncio.ensure_future(client.create_topic(name))
    try:
        await asyncio.shield(making)
        yield
    finally:
        # One whose making was interrupted may be there all the same.
        await asyncio.wait({making})
        if making.exception() is None:
            await client.delete_topic(name)


async def _produce(client: "AsyncClient", load: Load, progress: Progress) -> _Measured:
    from sandglass import Message

    value = os.urandom(load.size_bytes)
    message = Message(value, delay=load.delay) if load.delay else value
    answers_ms: list[float] = []
    started = time.monotonic()
    for first in range(0, load.count, load.batch_count):
        part_count = min(load.batch_count, load.count - first)
        asked = time.monotonic()
        await client.produce_many(load.topic, [message] * part_count)
        answers_ms.append((time.monotonic() - asked) * 1000)
        progress.update(first + part_count)
    return _Measured(time.monotonic() - started, answers_ms)


async def _consume(client: "AsyncClient", load: Load, progress: Progress) -> _Measured:
    """From the first delivery on: what is delayed is waited for before."""
    answers_ms: list[float] = []
    started, seen_count = 0.0, 0
    async with client.consume_batches(load.topic, group=GROUP) as batches:
        async for batch in batches:
            asked = time.monotonic()
            started = started or asked
            await batch.ack(wait=True)
            answers_ms.append((time.monotonic() - asked) * 1000)
            seen_count += len(batch)
            progress.update(load.count + seen_count)
            if seen_count >= load.count:
                break
    return _Measured(time.monotonic() - started, answers_ms)


def _figures(measured: _Measured, count: int) -> dict[str, Any]:
    return {
        "rate": round(count / max(measured.seconds, 1e-6)),
        "seconds": round(measured.seconds, 3),
        "p50_ms": round(quantile(measured.answers_ms, 0.5), 2),
        "p99_ms": round(quantile(measured.answers_ms, 0.99), 2),
    }


def _delay_of(text: str) -> timedelta | None:
    if not text:
        return None
    delay = parse_duration(text, field="--delay")
    longest_ms = DELAY_MAX // timedelta(milliseconds=1)
    limits.check_range(
        delay // timedelta(milliseconds=1), field="--delay in ms", low=0, high=longest_ms
    )
    return delay
