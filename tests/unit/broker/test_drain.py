"""Drains: they hand out what is ready, and end, whatever the clock and others do."""

import asyncio

import pytest

from sandglass.broker.node_loop import NodeLoop
from sandglass.core import limits
from sandglass.core.record import Ending
from tests.unit.broker.shell import DEADLINE_S, Shell, running


async def test_a_drain_ends_though_the_promise_ran_out_as_it_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And nothing else is produced that would make another one."""
    shell = Shell()
    shell.partition_count = 2
    async with running(shell):
        first = shell.t.partitions[0]
        await shell.consume(refs=[first])
        await shell.quiet()
        until_ms = shell.loop.machine.promised_ms
        shell.clock.advance(until_ms - 1 - shell.clock.wall_ms())
        freshen = NodeLoop.freshen

        async def slow(loop: NodeLoop, numbers: list[int]) -> None:
            await freshen(loop, numbers)
            shell.clock.advance(2)

        monkeypatch.setattr(NodeLoop, "freshen", slow)
        shell.log.hold_sync()
        shell.produce_nowait(b"of another partition", place=1)
        await shell.until(lambda: shell.loop._sync is not None)

        drain = await shell.consume(refs=[first], is_drain=True)
        for _ in range(20):
            await asyncio.sleep(0)
        shell.log.release_sync()
        await shell.until(lambda: drain.end)

        assert drain.end == [None]


async def test_single_messages_of_large_rows_never_exceed_a_drains_credit(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each gives back what it took, not the size of its row."""
    monkeypatch.setattr(limits, "CREDIT_BYTES_MAX", 9 << 20)
    monkeypatch.setattr(limits, "TURN_ROW_COUNT_MAX", 10)
    await shell.produce(*[b"%03d" % number + b"x" * 2000 for number in range(100)])
    consumer = await shell.consume()
    await shell.until(lambda: consumer.deliveries)
    for delivery in consumer.deliveries:
        for place in range(delivery.lease.count):
            shell.broker.consumers.settle(
                consumer.subscription,
                delivery.partition,
                delivery.lease.token,
                [(place, 1)],
                Ending.NACKED,
                None,
            )
    shell.broker.consumers._forget(consumer.subscription)
    await shell.quiet()
    count = 0

    async with asyncio.timeout(DEADLINE_S):
        async for slices in shell.broker.consumers.drain(
            shell.t, shell.t.partitions[0], "", "g", "c"
        ):
            count += sum(part.count for part in slices)

    assert count == 100
