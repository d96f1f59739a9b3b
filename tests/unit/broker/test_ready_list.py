"""Credit of one subscription over many partitions: who has a turn, and in which order."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from sandglass.broker.subscription import Subscription
from sandglass.core import limits
from sandglass.core.dispatch import Delivery
from sandglass.errors import SandglassError
from tests.unit.broker.shell import Consumer, Shell, running


@dataclass(frozen=True, slots=True)
class Granting:
    """A receiver that grants credit for a message whenever it is handed some."""

    shell: Shell
    consumer: Consumer

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:
        self.consumer.deliver(subscription, delivery)
        self.shell.broker.consumers.grant(subscription, 1, 100)

    def ended(self, subscription: Subscription, error: SandglassError | None) -> None:
        self.consumer.ended(subscription, error)


@asynccontextmanager
async def _filled(partition_count: int, message_count: int) -> AsyncIterator[Shell]:
    shell = Shell()
    shell.partition_count = partition_count
    async with running(shell):
        for place in range(partition_count if message_count else 0):
            await shell.produce(*[b"%d" % place] * message_count, place=place)
        yield shell


async def _take_one_by_one(shell: Shell, consumer: Consumer, count: int) -> list[int]:
    """The partition of each message, with credit for one at a time."""
    came: list[int] = []
    for number in range(count):
        await shell.until(lambda: len(consumer.deliveries) > number)  # noqa: B023  # at once
        delivery = consumer.deliveries[number]
        assert delivery.lease.count == 1
        came.append(delivery.partition)
        shell.settle(consumer, delivery)
        shell.broker.consumers.grant(consumer.subscription, 1, 0)
    return came


async def test_credit_of_one_goes_round_all_partitions() -> None:
    async with _filled(partition_count=7, message_count=4) as shell:
        consumer = await shell.consume(credit_count=1)

        came = await _take_one_by_one(shell, consumer, 28)

        # The first one is served before the others have joined the line.
        for first in range(1, 22, 7):
            assert 7 == len(set(came[first : first + 7]))


async def test_a_partition_that_something_wakes_keeps_its_place_in_the_line() -> None:
    """An outcome that lands, or a message, is no reason to be served before those who wait."""
    async with _filled(partition_count=3, message_count=2) as shell:
        consumer = await shell.consume(credit_count=0)
        await shell.quiet()
        first, second, last = (ref.number for ref in shell.t.partitions)

        for _ in range(3):
            shell.loop.ready(last)
            shell.broker.consumers.grant(consumer.subscription, 1, 100)
            await shell.quiet()

        assert [first, second, last] == [each.partition for each in consumer.deliveries]


async def test_a_partition_that_stands_still_leaves_the_line() -> None:
    """Its turn never comes: it would keep the credit that is offered to it for ever."""
    async with _filled(partition_count=2, message_count=1) as shell:
        consumer = await shell.consume(credit_count=0)
        await shell.quiet()
        bad = shell.produce_nowait(b"bad")
        shell.loop.partition(shell.t.partitions[0].number).last_index += 1
        await shell.until(lambda: bad.told)

        shell.broker.consumers.grant(consumer.subscription, 1, 100)
        await shell.until(lambda: consumer.values)

        assert [b"1"] == consumer.values


async def test_a_reader_that_leaves_with_an_offer_open_is_offered_to_nobody_any_more() -> None:
    """Others wait still: without end the partition would have turns for one who is gone."""
    async with _filled(partition_count=1, message_count=2) as shell:
        first, second = [await shell.consume(credit_count=0) for _ in range(2)]
        await shell.quiet()
        consumers = shell.broker.consumers

        consumers.grant(first.subscription, 1, 100)
        consumers.leave(first.subscription)
        await shell.quiet()
        assert not shell.loop._agenda.ready
        consumers.grant(second.subscription, 1, 100)
        await shell.until(lambda: second.values)

        assert [] == first.values


async def test_a_session_that_goes_on_is_served_by_those_who_have_waited() -> None:
    async with _filled(partition_count=3, message_count=1) as shell:
        session, _ = shell.broker.consumers.open_session("", "client")
        consumer = await shell.consume(session=session, credit_count=0)
        shell.broker.consumers.hold(session)
        shell.broker.consumers.grant(consumer.subscription, 3, 100)
        await shell.quiet()
        assert [] == consumer.values

        shell.broker.consumers.go_on(session)
        await shell.until(lambda: len(consumer.values) == 3)


async def test_several_consumers_of_a_group_share_the_turns() -> None:
    async with _filled(partition_count=5, message_count=12) as shell:
        consumers = [await shell.consume(credit_count=1) for _ in range(3)]

        for number in range(20):
            for consumer in consumers:
                await shell.until(lambda: len(consumer.deliveries) > number)  # noqa: B023  # at once
                shell.settle(consumer, consumer.deliveries[number])
                shell.broker.consumers.grant(consumer.subscription, 1, 0)
        await shell.quiet()

        seen = Counter(each.partition for one in consumers for each in one.deliveries)
        assert {12} == set(seen.values())
        assert [20, 20, 20] == [len(one.deliveries) for one in consumers]


async def test_large_credit_reaches_what_waited_for_it() -> None:
    async with _filled(partition_count=6, message_count=3) as shell:
        consumer = await shell.consume(credit_count=0)
        await shell.quiet()

        shell.broker.consumers.grant(consumer.subscription, 18, 1 << 20)
        await shell.until(lambda: len(consumer.values) == 18)

        assert 6 == len({each.partition for each in consumer.deliveries})


@pytest.mark.parametrize("partition_count", [1, 3])
async def test_credit_granted_from_inside_a_delivery_is_used(partition_count: int) -> None:
    """Who is handed the last message that there was credit for makes room for the next, in a
    turn that no grant has brought about."""
    async with _filled(partition_count, message_count=0) as shell:
        consumer = await shell.consume(credit_count=1)
        consumer.subscription.receiver = Granting(shell, consumer)
        for place in range(partition_count):
            shell.produce_nowait(b"1", b"2", b"3", b"4", place=place)
        await shell.until(lambda: len(consumer.values) == 4 * partition_count)

        assert 4 * partition_count == len(consumer.deliveries)


async def test_what_falls_due_without_credit_comes_with_it() -> None:
    async with running(Shell()) as shell:
        consumer = await shell.consume(credit_count=0)
        await shell.produce(b"later", delay_ms=500)
        await shell.advance(1000)

        shell.broker.consumers.grant(consumer.subscription, 1, 100)
        await shell.until(lambda: consumer.values)

        assert [b"later"] == consumer.values


async def test_one_who_comes_later_is_in_line_too() -> None:
    """The group has found no credit before this consumer was there."""
    async with running(Shell()) as shell:
        first = await shell.consume(credit_count=0)
        await shell.produce(b"x")
        await shell.quiet()
        second = await shell.consume(credit_count=0)
        await shell.quiet()

        shell.broker.consumers.grant(second.subscription, 1, 100)
        await shell.until(lambda: second.values)

        assert [] == first.values


async def test_a_turn_ends_when_it_has_handed_out_enough(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve groups, five deliveries a turn: all get theirs, and none twice."""
    monkeypatch.setattr(limits, "TURN_DELIVERY_COUNT_MAX", 5)
    consumers = [await shell.consume(f"g{number}") for number in range(12)]

    await shell.produce(b"x")
    await shell.until(lambda: all(consumer.values for consumer in consumers))
    await shell.quiet()

    assert all(consumer.values == [b"x"] for consumer in consumers)


async def test_a_thousand_ready_partitions_have_their_turns_in_slices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "TURN_PARTITION_COUNT_MAX", 3)
    async with _filled(partition_count=10, message_count=1) as shell:
        consumer = await shell.consume()

        await shell.until(lambda: len(consumer.values) == 10)


async def test_retention_looks_at_some_partitions_each_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "TURN_CUT_COUNT_MAX", 2)
    async with _filled(partition_count=5, message_count=1) as shell:
        consumer = await shell.consume(credit_count=0)

        await shell.advance(shell.settings.retention_ms + 120_000, step_ms=30_000_000)
        await shell.advance(10_000, step_ms=500)
        shell.broker.consumers.grant(consumer.subscription, 100, 1 << 20)
        await shell.quiet()

        assert [] == consumer.values
