"""A topic whose log is sealed, and rows that are copied to another log, here the same one."""

import asyncio
from dataclasses import replace

import pytest

from sandglass.broker import moving
from sandglass.broker.groups import Start
from sandglass.core import keys, limits
from sandglass.core.machine import encode_topic
from sandglass.core.record import PutTopic
from sandglass.core.topic import GroupSettings, PartitionRef, Topic, TopicKind
from sandglass.core.view import Row
from sandglass.errors import NotLeaderError, PreconditionError
from tests.unit.broker.shell import Shell

COMING = Topic("coming", TopicKind.TIMER, (PartitionRef("c", 50),), is_coming=True)
REVISION = 7


def rows(shell: Shell, number: int) -> list[Row]:
    prefixes = [keys.partition_prefix(bytes((kind,)), number) for kind in keys.MOVED_KINDS]
    ranges = [(prefix, keys.after_prefix(prefix)) for prefix in prefixes]
    return [
        (keys.renumbered(key, 1), value)
        for first, end in ranges
        for key, value in shell.loop.view.range(first, end)
    ]


async def copy(shell: Shell) -> int:
    return await moving.copy(shell.loop, 1, shell.loop, 50, ahead_ms=0)


async def seal(shell: Shell) -> None:
    await moving.seal(shell.loop, "t", REVISION)


async def test_what_differs_is_copied_and_what_is_gone_goes(shell: Shell) -> None:
    await moving.commit(shell.loop, PutTopic("coming", encode_topic(COMING)))
    await shell.produce(b"one", b"two", delay_ms=60_000)
    await shell.consume()

    assert await copy(shell) == len(rows(shell, 1)) > 3
    assert rows(shell, 1) == rows(shell, 50)
    assert 0 == await copy(shell)
    await shell.produce(b"three")
    assert 1 < await copy(shell) < 5
    await shell.broker.catalog.delete_topic("t")
    await copy(shell)
    assert [] == rows(shell, 50)


async def test_many_rows_are_copied_in_slices(shell: Shell) -> None:
    await moving.commit(shell.loop, PutTopic("coming", encode_topic(COMING)))
    count = limits.SNAPSHOT_SLICE_ROW_COUNT
    for _ in range(3):
        answer = shell.produce_each(*range(60_000, 60_000 + count))
        await shell.until(lambda answer=answer: answer.told)
    await shell.produce(bytes(limits.SNAPSHOT_SLICE_BYTES), delay_ms=90_000)

    assert await copy(shell) == len(rows(shell, 1)) > 3 * count
    assert rows(shell, 1) == rows(shell, 50)


async def test_nothing_is_taken_any_more_from_when_a_seal_is_on_its_way(shell: Shell) -> None:
    """What was admitted before lands before it; what comes after would be left behind."""
    before = shell.produce_nowait(b"before")
    shell.log.hold_sync()
    await shell.until(lambda: shell.loop._writer.is_syncing)
    waiting = shell.produce_nowait(b"not admitted yet")
    sealing = asyncio.create_task(seal(shell))
    await asyncio.sleep(0)

    with pytest.raises(NotLeaderError, match="on its way to another log"):
        shell.produce_nowait(b"after")
    shell.log.release_sync()
    await sealing

    assert [None] == before.told
    assert [NotLeaderError] == [type(each) for each in waiting.told]
    assert REVISION == shell.loop.machine.topics["t"].seal
    assert 1 == shell.loop.machine.partition(1, shell.loop.view).last_index
    with pytest.raises(NotLeaderError):
        await shell.consume()


async def test_a_change_that_was_on_its_way_is_carried_out_before_the_seal(
    shell: Shell,
) -> None:
    """And none comes behind it: what is copied is all there is."""
    shell.produce_nowait(b"x")
    shell.log.hold_sync()
    await shell.until(lambda: shell.loop._writer.is_syncing)
    changing = asyncio.create_task(shell.broker.catalog.change_topic("t", max_deliveries=9))
    await asyncio.sleep(0)
    sealing = asyncio.create_task(seal(shell))
    await asyncio.sleep(0)

    with pytest.raises(NotLeaderError):
        await shell.broker.catalog.change_topic("t", max_deliveries=3)
    with pytest.raises(NotLeaderError):
        await shell.broker.groups.create(shell.t, "late", Start(), GroupSettings())
    shell.log.release_sync()
    await sealing
    await changing

    topic = shell.loop.machine.topics["t"]
    assert (9, REVISION) == (topic.settings.max_deliveries, topic.seal)


async def test_nothing_is_handed_out_of_a_sealed_log_nor_closed(shell: Shell) -> None:
    consumer = await shell.consume()
    await shell.produce(b"later", delay_ms=500)
    await seal(shell)
    closed = shell.loop.machine.partition(1, shell.loop.view).closed

    await shell.advance(2000)

    assert [] == consumer.deliveries
    partition = shell.loop.machine.partition(1, shell.loop.view)
    assert closed == partition.closed == partition.written.closed
    await moving.commit(shell.loop, PutTopic("t", encode_topic(shell.t)))
    moving.wait_for_claims(shell.loop, 1)
    await shell.until(lambda: consumer.deliveries)


async def test_it_is_sealed_after_a_restart_until_it_is_unsealed(shell: Shell) -> None:
    await shell.produce(b"x")
    await seal(shell)

    await shell.crash()
    with pytest.raises(NotLeaderError):
        await shell.produce(b"y")
    await moving.commit(shell.loop, PutTopic("t", encode_topic(replace(shell.t, seal=0))))
    shell.topic = shell.loop.machine.topics["t"]
    assert 2 == (await shell.produce(b"y")).first_index


async def test_a_partition_that_is_stopped_does_not_move(shell: Shell) -> None:
    shell.loop.stopped[1] = "partition 1 stands still: a rule"

    with pytest.raises(PreconditionError, match="topic 't' can't move: partition 1 stands"):
        await seal(shell)

    del shell.loop.stopped[1]
    await shell.produce(b"x")


async def test_who_looked_at_a_partition_before_its_rows_came_writes_nothing_over_them(
    shell: Shell,
) -> None:
    """A node that stops writes the closed offsets of all that it has in memory."""
    await shell.produce(b"one", b"two")
    await moving.commit(shell.loop, PutTopic("coming", encode_topic(COMING)))
    shell.loop.machine.partition(50, shell.loop.view)
    await copy(shell)

    await moving.commit(shell.loop, shell.loop.machine.close_exact())

    assert 2 == shell.loop.machine.partition(50, shell.loop.view).last_index
