"""Topics that come and go while others produce, consume, or give up waiting."""

import asyncio

import pytest

from sandglass.errors import ConflictError, NotFoundError
from tests.unit.broker.shell import Shell


async def _hold(shell: Shell) -> None:
    """A sync is running, and takes its time: what is admitted now waits."""
    shell.log.hold_sync()
    shell.loop.submit(shell.loop.machine.record([], shell.loop.moment()))
    await shell.until(lambda: shell.loop._writer.is_syncing)


async def test_a_name_stays_taken_when_nobody_waits_for_its_topic_any_more(
    shell: Shell,
) -> None:
    """Otherwise a second topic would take the first one's place, and hide its messages."""
    await _hold(shell)
    given_up = asyncio.ensure_future(shell.broker.catalog.create_topic("new"))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.wait([given_up])

    with pytest.raises(ConflictError):
        await shell.broker.catalog.create_topic("new")

    shell.log.release_sync()
    await shell.until(lambda: "new" in shell.loop.machine.topics)
    await shell.broker.catalog.delete_topic("new")
    await shell.broker.catalog.create_topic("new")


async def test_who_comes_while_a_topic_is_being_deleted_is_told_as_well(shell: Shell) -> None:
    await shell.consume()  # the group is there: the next one needs no record
    await _hold(shell)
    deleting = asyncio.ensure_future(shell.broker.catalog.delete_topic("t"))
    await asyncio.sleep(0)

    late = await shell.consume()
    deleting.cancel()
    shell.log.release_sync()
    await shell.until(lambda: late.end)

    assert [type(error) for error in late.end] == [NotFoundError]


async def test_what_comes_behind_the_deletion_of_its_topic_is_not_said_to_be_kept(
    shell: Shell,
) -> None:
    consumer = await shell.consume()
    await shell.produce(b"x")
    await shell.until(lambda: consumer.deliveries)
    await _hold(shell)
    deleting = asyncio.ensure_future(shell.broker.catalog.delete_topic("t"))
    await asyncio.sleep(0)

    late, acked = shell.produce_nowait(b"late"), shell.settle(consumer, consumer.deliveries[0])
    shell.log.release_sync()
    await shell.until(lambda: deleting.done() and late.told and acked.told)

    assert [type(error) for error in (*late.told, *acked.told)] == [NotFoundError] * 2


async def test_a_topic_of_the_same_name_has_nothing_of_the_old_one(shell: Shell) -> None:
    consumer = await shell.consume()
    await shell.produce(b"old")
    await shell.until(lambda: consumer.deliveries)

    await shell.broker.catalog.delete_topic("t")
    shell.topic = await shell.broker.catalog.create_topic("t")
    again = await shell.consume()
    placed = await shell.produce(b"new")
    await shell.until(lambda: again.values)

    assert again.values == [b"new"]
    assert placed.first_index == 1
    assert again.end == []
