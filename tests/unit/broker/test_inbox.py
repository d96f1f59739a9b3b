"""Records that wait for the log: what a turn takes of them, and that they are not too many."""

import asyncio

import pytest

from sandglass.broker.inbox import Inbox, Waiting
from sandglass.core import limits
from sandglass.core.dispatch import Delivery
from sandglass.core.record import Ending, Head, Record, Settle
from tests.unit.broker.shell import Consumer, Shell


def test_a_turn_takes_no_more_records_than_it_can_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "TURN_ANSWER_COUNT_MAX", 5)
    inbox = Inbox()
    record = Record(1, Head(1, 0, 0, 0, 0), [Settle(1, Ending.ACKED, [(0, 1, 1)], [])])
    for _ in range(4):
        inbox.add(Waiting(record, None, answer_count=2))

    assert 3 == len(inbox.encoded(limits.TURN_APPEND_BYTES_MAX))


async def test_who_nacks_one_by_one_brings_no_more_than_credit_allows_while_a_sync_lasts(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It grants credit as it nacks: the longer the sync, the more would wait."""
    monkeypatch.setattr(limits, "GROUP_ENDING_COUNT_MAX", 10)
    credit_count = 20
    consumer = await shell.consume(credit_count=credit_count)
    await shell.produce(*[b"%d" % number for number in range(500)])
    await shell.until(lambda: consumer.deliveries)
    shell.log.hold_sync()
    shell.produce_nowait(b"opens the turn")
    await shell.until(lambda: shell.loop._writer.is_syncing)

    def nack_all() -> int:
        for delivery in consumer.deliveries:
            _nack_each(shell, consumer, delivery)
        consumer.deliveries.clear()
        return len(shell.loop._writer.inbox.waiting)

    waiting: list[int] = []
    for _ in range(200):
        waiting.append(nack_all())
        shell.loop._kick.set()
        await asyncio.sleep(0)
    shell.log.release_sync()
    (group,) = shell.loop.machine.partition(1, shell.loop.view).reading
    await shell.until(lambda: (nack_all(), group.retry_count == 501)[1])

    assert max(waiting) <= limits.GROUP_ENDING_COUNT_MAX + credit_count + 1


def _nack_each(shell: Shell, consumer: Consumer, delivery: Delivery) -> None:
    for place in range(delivery.lease.count):
        shell.broker.outcomes.settle(
            consumer.subscription,
            delivery.partition,
            delivery.lease.token,
            [(place, 1)],
            Ending.NACKED,
            None,
            delay_ms=3_600_000 + place,
        )
    shell.broker.consumers.grant(consumer.subscription, delivery.lease.count, 1 << 20)
