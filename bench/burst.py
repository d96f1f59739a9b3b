"""
A million messages that fall due within one second, a row each, and what another producer
notices of it.

The other producer is a process of its own, and so is the consumer: with the server they are
three on the cores that there are. How much of what is noticed comes from that alone, the floors
show, beside the node's figures: they hand the same messages to the same consumer in deliveries
of the same size, at the rate that the node has just reached, while the same producer works.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bench import load
from bench.floors import KEPT_TOPIC
from bench.lines import (
    CREDIT_COUNT,
    FLOORS,
    IN_FLIGHT,
    NODE,
    Bench,
    Figure,
    Line,
    figure,
    quantile,
)
from bench.load import BATCH_COUNT, ByTime, Session, WrongError
from bench.process import ROOT, Server, Spent
from sandglass.wire.v1 import broker_pb2

COUNT = 1_000_000
COUNT_QUICK = 3000
BEFORE_S = 3
"""How long the other producer has a floor for itself."""

AFTER_S = 4
"""How long it goes on after the burst has begun, at least."""

STEP_COUNT = BATCH_COUNT // 2
"""What a floor hands out in one delivery: as many as a turn of the node does."""


async def burst(bench: Bench) -> list[Figure]:
    """The node, then each floor at the node's rate."""
    count = COUNT_QUICK if bench.sizes.is_quick else COUNT
    messages = _Messages(load.batches(count), count)
    done = await _burst_of_node(bench, messages)
    for kind in FLOORS:
        async with bench.session(kind, "burst", topic=KEPT_TOPIC) as (server, session):
            noticed = await _burst_of_floor(server, session, messages, done.rate)
        done.notes.update({f"{kind}_{name}": value for name, value in noticed.items()})
    return [done]


@dataclass(slots=True)
class _Messages:
    batches: list[bytes]
    count: int
    first_ms: int = 0
    """When the first is due."""

    def dues(self) -> list[int]:
        return [self.first_ms + place * 1000 // self.count for place in range(self.count)]

    def checksum(self) -> int:
        return sum(map(load.checksum, self.batches))


async def _burst_of_node(bench: Bench, messages: _Messages) -> Figure:
    count = messages.count
    async with bench.session(NODE, "burst", topic="burst") as (server, session):
        first_ms = messages.first_ms = load.now_ms() + count // 50 + 3000
        dues = messages.dues()
        random.Random(1).shuffle(dues)
        requests = load.scheduled_requests("burst", messages.batches, dues)
        await load.produce(session, requests, in_flight=IN_FLIGHT)
        if load.now_ms() >= first_ms:
            raise WrongError("producing took so long that messages were due before its end")
        check = ByTime()
        async with (
            _others(server.address, first_ms / 1000 + AFTER_S - time.time()) as others,
            Session(server.address) as consumer,
        ):
            await asyncio.sleep(max(0.0, first_ms / 1000 - 0.5 - time.time()))
            await server.stall_ms()
            spent = Spent(server)
            spent.start()
            await load.consume(
                consumer, check, topic="burst", count=count, credit_count=CREDIT_COUNT
            )
            spent.stop()
            end = time.time()
            stall = await server.stall_ms()
        check.expect(count=count, checksum=messages.checksum())
    spent.seconds = end - first_ms / 1000
    notes = _noticed(others, first_ms / 1000, end) | stall
    return figure("burst", NODE, spent, count, "lateness", check.lateness_ms, **notes)


async def _burst_of_floor(
    server: Server, session: Session, messages: _Messages, rate: float
) -> dict[str, float]:
    """The same messages, in the order of their times, `rate` a second."""
    halves = [
        batch[low : low + len(batch) // 2]
        for batch in messages.batches
        for low in (0, len(batch) // 2)
    ]
    requests = load.scheduled_requests(KEPT_TOPIC, halves, messages.dues())
    await load.produce(session, requests, in_flight=IN_FLIGHT, batch_count=STEP_COUNT)
    check = ByTime()
    async with (
        _others(server.address, BEFORE_S + messages.count / rate + 1) as others,
        Session(server.address) as consumer,
    ):
        await asyncio.sleep(BEFORE_S)
        began = time.time()
        await asyncio.gather(
            load.consume(
                consumer,
                check,
                topic=KEPT_TOPIC,
                count=messages.count,
                credit_count=0,
                is_granting=False,
            ),
            _grant(consumer, messages.count, rate),
        )
        end = time.time()
    check.expect(count=messages.count, checksum=messages.checksum())
    return _noticed(others, began, end)


async def _grant(session: Session, count: int, rate: float) -> None:
    """Credit for `count` messages, `rate` a second."""
    credit = broker_pb2.ClientFrame()
    credit.credits.add(subscription_id=1, count=STEP_COUNT)
    began = time.monotonic()
    for granted in range(0, count, STEP_COUNT):
        await asyncio.sleep(began + granted / rate - time.monotonic())
        session.post(credit)


# --- the other producer -----------------------------------------------------------------------


@asynccontextmanager
async def _others(address: str, seconds: float) -> AsyncIterator[list[tuple[float, float]]]:
    """A small producer beside the block; what it noticed is in the list afterwards."""
    noticed: list[tuple[float, float]] = []
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.ping", address, "others", str(seconds)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield noticed
        out, _ = await process.communicate()
        if process.returncode:
            raise WrongError("the other producer has failed")
        noticed += [(began, ms) for began, ms in json.loads(out)]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _noticed(others: list[tuple[float, float]], began: float, end: float) -> dict[str, float]:
    """What the other producer noticed of what went on from `began` to `end`, in Unix s."""
    before = [ms for at, ms in others if at < began]
    during = [ms for at, ms in others if began <= at < end]
    return {
        "drained_s": end - began,
        "others_p99_ms": quantile(during, 0.99),
        "others_p99_ms_before": quantile(before, 0.99),
    }


BURST_LINES: dict[str, Line] = {"burst": burst}
