"""Drains: they hand out what is ready, and end, whatever the clock and others do."""

import asyncio

import pytest

from sandglass.broker.drain import Drain
from sandglass.broker.node_loop import NodeLoop
from sandglass.broker.subscription import Subscription
from sandglass.core import limits
from sandglass.core.dispatch import Delivery
from sandglass.core.record import Ending
from sandglass.errors import NotFoundError
from tests.unit.broker.shell import DEADLINE_S, Shell, running, values_of


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
        await shell.until(lambda: shell.loop._writer.is_syncing)

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
            shell.broker.outcomes.settle(
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


# --- what a call did not hand on --------------------------------------------------------------


async def opened(shell: Shell) -> Drain:
    async with asyncio.timeout(DEADLINE_S):
        return await shell.broker.consumers.open_drain(
            shell.t, shell.t.partitions[0], "master", "g", "c"
        )


async def taken(drain: Drain) -> Delivery | None:
    async with asyncio.timeout(DEADLINE_S):
        return await drain.next()


async def left(shell: Shell) -> list[bytes]:
    """What the group is given by the next call, at once."""
    drain = await opened(shell)
    found: list[bytes] = []
    while (delivery := await taken(drain)) is not None:
        found += values_of(delivery)
    drain.close()
    return found


async def test_a_call_that_ends_gives_back_what_it_never_took(shell: Shell) -> None:
    await shell.produce(b"a", b"b")
    drain = await opened(shell)
    await shell.quiet()

    drain.close()
    await shell.quiet()

    assert [b"a", b"b"] == await left(shell)
    assert 2 == shell.loop.stats.outcomes[Ending.RELEASED].total()


async def test_of_its_last_messages_a_call_gives_back_those_it_did_not_hand_on(
    shell: Shell,
) -> None:
    await shell.produce(b"a", b"b", b"c", b"d")
    drain = await opened(shell)
    delivery = await taken(drain)
    assert delivery is not None
    shell.broker.outcomes.settle(
        subscription_of(drain),
        delivery.partition,
        delivery.lease.token,
        [(2, 1)],
        Ending.ACKED,
        None,
    )

    drain.close(handed_on_count=1)
    await shell.quiet()

    assert [b"b", b"d"] == await left(shell)


async def test_what_was_handed_on_stays_leased(shell: Shell) -> None:
    await shell.produce(b"a")
    drain = await opened(shell)
    assert await taken(drain) is not None

    drain.close()
    await shell.quiet()

    assert [] == await left(shell)
    await shell.advance(limits.ACK_TIMEOUT_MS_DEFAULT + 1)
    assert [b"a"] == await left(shell)


async def test_messages_whose_lease_ended_before_they_were_taken_are_left_out(
    shell: Shell,
) -> None:
    await shell.produce(b"a")
    drain = await opened(shell)
    await shell.quiet()
    await shell.advance(limits.ACK_TIMEOUT_MS_DEFAULT + 1)

    assert await taken(drain) is None
    drain.close()


async def test_a_wait_ends_with_the_first_messages_that_become_ready(shell: Shell) -> None:
    drain = await opened(shell)
    assert await taken(drain) is None

    waiting = asyncio.create_task(drain.first(DEADLINE_S))
    await shell.quiet()
    assert not waiting.done()
    await shell.produce(b"a", b"b")
    delivery = await waiting

    assert delivery is not None
    assert [b"a", b"b"] == values_of(delivery)
    assert await taken(drain) is None
    await shell.produce(b"c")
    drain.close()
    assert [b"c"] == await left(shell)


async def test_a_wait_for_nothing_ends_and_leaves_nobody_reading(shell: Shell) -> None:
    drain = await opened(shell)
    assert await taken(drain) is None

    assert await drain.first(0.01) is None

    assert 0 == shell.broker.consumers.reading_count
    drain.close()


async def test_a_stop_ends_a_wait_and_gives_back_what_was_not_taken(shell: Shell) -> None:
    await shell.produce(b"a")
    reading, waiting = await opened(shell), await opened(shell)
    assert await taken(waiting) is None
    await shell.quiet()
    late = asyncio.create_task(waiting.first(DEADLINE_S))
    await asyncio.sleep(0)

    reading.stop()
    waiting.stop()

    assert await late is None
    assert await waiting.first(DEADLINE_S) is None
    reading.close()
    waiting.close()
    await shell.quiet()
    assert [b"a"] == await left(shell)


async def test_a_topic_that_is_deleted_ends_a_wait_with_an_error(shell: Shell) -> None:
    drain = await opened(shell)
    assert await taken(drain) is None
    waiting = asyncio.create_task(drain.first(DEADLINE_S))
    await shell.quiet()

    await shell.broker.catalog.delete_topic("t")

    with pytest.raises(NotFoundError, match="was deleted"):
        await waiting
    drain.close()


def subscription_of(drain: Drain) -> Subscription:
    assert drain._subscription is not None
    return drain._subscription
