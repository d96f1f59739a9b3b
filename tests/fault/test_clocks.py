"""
The wall clock of a real node is set, by an hour or a day, while clients produce and consume.

Clients judge by their own monotonic clock: what goes out at once keeps coming, nothing that
waits is early, nothing is lost, and nothing that was acked comes again.

A message that waits for a moment when the clock is set back waits until the clock shows it. So
none does here: the load is calm then.
"""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from sandglass import AsyncClient, AsyncReceived
from sandglass.errors import LeaseLostError, UnavailableError
from sandglass.testing.history import History, number_of, value_of
from sandglass.testing.process import NodeProcess
from tests.fault.witness import Witness

STEPPED = str(Path(__file__).with_name("stepped_server.py"))
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
WAIT_S = 60.0
NACK_S = 0.3


class Clock:
    """The node's, as it is set."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset_ms = 0
        self.step(0)

    def step(self, by_ms: int) -> None:
        """In one go: the node never reads half a number."""
        self._offset_ms += by_ms
        part = self._path.with_suffix(".new")
        part.write_text(str(self._offset_ms))
        os.replace(part, self._path)


@dataclass
class Stepped:
    """A node and its clock."""

    node: NodeProcess
    clock: Clock


@pytest.fixture
async def stepped(tmp_path: Path) -> AsyncIterator[Stepped]:
    clock = Clock(tmp_path / "clock")
    command = [STEPPED, str(tmp_path / "clock")]
    async with NodeProcess(tmp_path / "data", command=command) as node:
        yield Stepped(node, clock)


@dataclass
class Load:
    """
    A producer of messages for now and for soon, and a consumer that gives some back for a
    while.

    Waits are `is_kept` where no clock may end them before their time: not where a node has
    started with another clock, which it takes for right.
    """

    address: str
    seed: int
    history: History = field(default_factory=History)
    is_kept: bool = True
    due: dict[int, float] = field(default_factory=dict[int, float])
    """By message, on our clock: not before this."""
    delayed: set[int] = field(default_factory=set[int])
    answered: set[int] = field(default_factory=set[int])
    has_delays: bool = True
    tasks: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])
    sent_count: int = 0
    nacked_count: int = 0

    def start(self, client: AsyncClient) -> None:
        """Until `stop`."""
        self.tasks = [
            asyncio.create_task(self._produce(client)),
            asyncio.create_task(self._consume(client)),
        ]

    async def stop(self) -> None:
        """In the middle of whatever it does."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks = []

    async def until_done(self, client: AsyncClient) -> None:
        """Consumes until all is acked."""
        # What the consumer before had not looked at yet comes again, behind newer ones as well.
        self.history.restarted()
        consuming = asyncio.create_task(self._consume(client))
        deadline = time.monotonic() + WAIT_S
        while self.answered - self.history.acking_by("g"):
            assert not consuming.done(), consuming.exception()
            assert time.monotonic() < deadline, self._missing()
            await asyncio.sleep(0.02)
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
        self.history.check_complete("g")

    async def calm(self) -> None:
        """No message waits for a moment any more; those that were nacked go on."""
        self.has_delays = False
        deadline = time.monotonic() + WAIT_S
        while self.answered & self.delayed - self.history.acking_by("g"):
            assert time.monotonic() < deadline, self._missing()
            await asyncio.sleep(0.02)

    async def more(self, count: int) -> None:
        """Waits until so many more are acked."""
        wanted = self.history.acked_count("g") + count
        deadline = time.monotonic() + WAIT_S
        while self.history.acked_count("g") < wanted:
            for task in self.tasks:
                assert not task.done(), task.exception()
            assert time.monotonic() < deadline, self._missing()
            await asyncio.sleep(0.02)

    def _missing(self) -> str:
        acked, (sent, answered) = self.history.acked_count("g"), self.history.count()
        return f"{acked} acked of {answered} answered of {sent}: they stopped coming"

    async def _produce(self, client: AsyncClient) -> None:
        chance = random.Random(self.seed)
        while True:
            number, self.sent_count = self.sent_count, self.sent_count + 1
            delay_s = chance.choice((0.0, 0.0, 0.05, 0.4)) if self.has_delays else 0.0
            self.history.sent(number, "p", due_ms=0)
            self.due[number] = time.monotonic() + delay_s
            delay = timedelta(seconds=delay_s) if delay_s else None
            if delay:
                self.delayed.add(number)
            with suppress(UnavailableError):  # the node has died: it may be there, or not
                receipt = await client.produce("t", value_of(number), delay=delay)
                self.history.answered(number, int(receipt.offset, 16))
                self.answered.add(number)
            await asyncio.sleep(0.002)

    async def _consume(self, client: AsyncClient) -> None:
        chance = random.Random(self.seed + 1)
        async for message in client.consume("t", group="g"):
            await self._take(message, is_nacked=chance.random() < 0.1)

    async def _take(self, message: AsyncReceived, *, is_nacked: bool) -> None:
        number, now_s = number_of(message.value), time.monotonic()
        if self.is_kept:
            early_s = self.due[number] - now_s
            assert early_s <= 0.001, f"message {number} came {early_s:.3f} s early"
        # What had to wait for a clock that was set back comes when it is over, in no order.
        consumer = f"c-{number}" if number in self.delayed else "c"
        place = int(message.offset, 16)
        self.history.delivered("g", consumer, "p", number, place, wall_ms=1)
        if is_nacked:
            self.nacked_count += 1
            self.due[number] = now_s + NACK_S
            await message.nack(delay=timedelta(seconds=NACK_S))
            return
        self.history.acking("g", [number])
        with suppress(LeaseLostError):  # the node has died: it may be acked, or come again
            await message.ack(wait=True)
            self.history.acked("g", [number])


async def topic_on(node: NodeProcess) -> None:
    async with AsyncClient(node.address) as client:
        await client.create_topic("t", max_deliveries=1000)


@pytest.mark.parametrize(
    "steps", [(-HOUR_MS, HOUR_MS), (DAY_MS, -DAY_MS)], ids=["back", "ahead"]
)
async def test_a_clock_that_is_set_under_load_holds_nothing_up(
    stepped: Stepped, steps: tuple[int, ...]
) -> None:
    await topic_on(stepped.node)
    load = Load(stepped.node.address, 1)
    async with Witness(stepped.node.address) as witness, AsyncClient(load.address) as client:
        load.start(client)
        await load.more(30)
        for step_ms in steps:
            await load.calm()
            stepped.clock.step(step_ms)
            load.has_delays = True
            await witness.goes_on(50)
            await load.more(60)
        await load.stop()
        await load.until_done(client)

    assert load.nacked_count


async def test_a_restart_while_the_clock_is_set_back_holds_nothing_up(stepped: Stepped) -> None:
    """After kill -9; the waits of before go on, and none is short."""
    await _restarted(stepped, -HOUR_MS, "kill", is_kept=True)


async def _restarted(stepped: Stepped, step_ms: int, end: str, *, is_kept: bool) -> None:
    node, port = stepped.node, stepped.node.grpc_port
    await topic_on(node)
    load = Load(node.address, 2, is_kept=is_kept)
    async with AsyncClient(load.address) as client:
        load.start(client)
        await load.more(30)
        await load.calm()
        stepped.clock.step(step_ms)
        load.has_delays = True
        await load.more(30)
        if end == "kill":
            node.kill()
            await node.wait()
        else:
            node.terminate()
            assert 0 == await node.wait(), node.stderr
        load.history.restarted()
        await node.start(grpc_port=port)
        await load.more(60)
        await load.calm()
        stepped.clock.step(-step_ms)
        load.has_delays = True
        await load.more(60)
        await load.stop()
        await load.until_done(client)


@pytest.mark.fault
@pytest.mark.parametrize("end", ["kill", "terminate"])
@pytest.mark.parametrize("step_ms", [-HOUR_MS, HOUR_MS, DAY_MS, -DAY_MS])
async def test_a_restart_after_any_step_loses_nothing(
    stepped: Stepped, step_ms: int, end: str
) -> None:
    """A node that starts takes its clock for right: what waits for a moment is due by it."""
    await _restarted(stepped, step_ms, end, is_kept=step_ms < 0)


@pytest.mark.fault
async def test_an_hour_back_is_felt_for_moments_at_most(stepped: Stepped) -> None:
    """Where it was felt, it was for an hour, or for a minute; a busy machine takes seconds."""
    async with Witness(stepped.node.address) as witness:
        await witness.goes_on(200)
        before = len(witness.lateness_s)
        stepped.clock.step(-HOUR_MS)
        await witness.goes_on(2000)
        worst_s = max(witness.lateness_s[before:])

    assert worst_s < 20, f"{worst_s:.3f} s from produce to delivery"


@pytest.mark.fault
async def test_a_day_ahead_is_believed_when_it_has_lasted_a_minute(stepped: Stepped) -> None:
    """Until then what is due tomorrow waits; from then on it is there."""
    async with AsyncClient(stepped.node.address) as client:
        await client.create_topic("t")
        await client.produce("t", "tomorrow", delay=timedelta(hours=23))
        stepped.clock.step(DAY_MS)
        began_s = time.monotonic()
        async with asyncio.timeout(90):
            async for message in client.consume("t", group="g"):
                assert b"tomorrow" == message.value
                break

    assert time.monotonic() - began_s >= 60
