"""A topic whose log is sealed, and rows that are copied to another log, here the same one."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest

from sandglass.broker import moving
from sandglass.broker.groups import Start
from sandglass.core import keys, limits
from sandglass.core.machine import encode_topic
from sandglass.core.record import Ending, PutTopic
from sandglass.core.topic import GroupSettings, PartitionRef, Topic, TopicKind
from sandglass.core.view import Changes, Overlay, Row
from sandglass.errors import (
    NotLeaderError,
    PreconditionError,
    UnavailableError,
)
from tests.unit.broker.shell import Shell

COMING = Topic("coming", TopicKind.TIMER, (PartitionRef("c", 50),), is_coming=True)
REVISION = 7


@pytest.fixture(autouse=True)
def in_its_cluster(shell: Shell) -> None:
    """What moves gets on."""
    shell.loop.stuck_error = lambda _: None


def rows(shell: Shell, number: int) -> list[Row]:
    prefixes = [keys.partition_prefix(bytes((kind,)), number) for kind in keys.MOVED_KINDS]
    ranges = [(prefix, keys.after_prefix(prefix)) for prefix in prefixes]
    return [
        (keys.renumbered(key, 1), value)
        for first, end in ranges
        for key, value in shell.loop.view.range(first, end)
    ]


async def copy(shell: Shell, written: moving.Written | None = None) -> int:
    return await moving.copy(shell.loop, 1, shell.loop, 50, ahead_ms=0, written=written)


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


@pytest.fixture
def read_count(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many message rows of the old log were read in order, so far."""
    counted, read = [0], Overlay.range

    def count(view: Overlay, first: bytes, end: bytes) -> Iterator[Row]:
        for row in read(view, first, end):
            counted[0] += row[0].startswith(keys.partition_prefix(b"m", 1))
            yield row

    monkeypatch.setattr(Overlay, "range", count)
    return counted


async def test_of_what_was_copied_only_what_was_written_since_is_read_again(
    shell: Shell, read_count: list[int]
) -> None:
    await moving.commit(shell.loop, PutTopic("coming", encode_topic(COMING)))
    answer = shell.produce_each(*range(60_000, 60_100))
    await shell.until(lambda: answer.told)
    with moving.watched(shell.loop, 1) as written:
        await copy(shell, written)
        assert read_count[0] >= 100
        await shell.produce(b"later", delay_ms=90_000)
        read_count[0] = 0

        assert 1 < await copy(shell, written) < 5
        assert 0 == await copy(shell, written)

    assert 0 == read_count[0]
    assert rows(shell, 1) == rows(shell, 50)
    assert [] == shell.loop.applier.watchers


async def test_a_range_that_goes_is_gone_in_the_other_log(shell: Shell) -> None:
    await moving.commit(shell.loop, PutTopic("coming", encode_topic(COMING)))
    await shell.produce(b"one", b"two", delay_ms=60_000)
    with moving.watched(shell.loop, 1) as written:
        await copy(shell, written)
        assert rows(shell, 50)
        await shell.broker.catalog.delete_topic("t")
        await copy(shell, written)

    assert [] == rows(shell, 50)


@pytest.mark.parametrize("seed", range(5))
async def test_what_is_copied_bit_by_bit_is_whole(shell: Shell, seed: int) -> None:
    chance = Random(seed)
    await moving.commit(shell.loop, PutTopic("coming", encode_topic(COMING)))
    with moving.watched(shell.loop, 1) as written:
        for _ in range(12):
            consumer = await shell.consume(credit_count=chance.randint(1, 4))
            for _ in range(chance.randint(0, 4)):
                delays = [chance.choice((0, 0, 300, 60_000)) for _ in range(3)]
                answer = shell.produce_each(*delays)
                await shell.until(lambda answer=answer: answer.told)
            await shell.advance(200)
            for delivery in consumer.deliveries:
                ending = chance.choice((Ending.ACKED, Ending.NACKED, Ending.DEAD))
                answer = shell.settle(consumer, delivery, ending)
                await shell.until(lambda answer=answer: answer.told)
            shell.broker.consumers.leave(consumer.subscription)
            if chance.random() < 0.5:
                await copy(shell, written)
        await shell.quiet()
        await copy(shell, written)

    assert len(rows(shell, 1)) > 20
    assert rows(shell, 1) == rows(shell, 50)


def test_where_too_much_was_written_all_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOVED_KEY_COUNT_MAX", 3)
    message = keys.partition_prefix(b"m", 1)
    written = moving.Written(1)
    whole, _ = written.take()

    written.note(Changes({message + bytes((place,)): b"" for place in range(3)}))
    few, singles = written.take()
    assert {low[:1] for low, _ in few} == {b"r", b"x"}
    assert [message + bytes((place,)) for place in range(3)] == singles
    written.note(Changes({message + bytes((place,)): b"" for place in range(4)}))

    assert (whole, []) == written.take()


def test_what_is_of_others_is_not_noted() -> None:
    written = moving.Written(1)
    written.take()
    row, other = keys.partition_prefix(b"m", 1), keys.partition_prefix(b"m", 2)

    written.note(Changes({other + b"x": b"", keys.NODE_KEY: b"", b"q" + row[1:]: b""}))
    written.note(Changes({}, [(other, keys.after_prefix(other)), (row + b"a", other + b"b")]))
    retry = keys.partition_prefix(b"r", 1)
    written.note(Changes({retry + b"x": b""}, [(retry + b"a", retry + b"b")]))

    ranges, singles = written.take()
    assert (row + b"a", keys.after_prefix(row)) in ranges
    assert ([], 3) == (singles, len(ranges))


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
    shell.loop.stuck_error = lambda _: None
    with pytest.raises(NotLeaderError):
        await shell.produce(b"y")
    await moving.commit(shell.loop, PutTopic("t", encode_topic(replace(shell.t, seal=0))))
    shell.topic = shell.loop.machine.topics["t"]
    assert 2 == (await shell.produce(b"y")).first_index


async def test_a_node_that_ended_on_the_way_and_is_alone_says_what_to_do(shell: Shell) -> None:
    await shell.produce(b"x")
    await seal(shell)

    await shell.crash()

    (warning,) = shell.broker.loops.look_around().warnings
    assert warning.startswith("topic 't' is not served: it was on its way")
    assert "start the node with its cluster" in warning
    for call in (
        shell.produce(b"y"),
        shell.consume(),
        shell.broker.catalog.change_topic("t", max_deliveries=9),
        shell.broker.groups.create(shell.t, "late", Start(), GroupSettings()),
    ):
        with pytest.raises(PreconditionError, match="start the node with its cluster"):
            await call
    await moving.commit(shell.loop, PutTopic("t", encode_topic(replace(shell.t, seal=0))))
    assert () == shell.broker.loops.stuck_texts()


async def test_one_that_is_still_to_join_is_waited_for(shell: Shell) -> None:
    await seal(shell)
    await shell.crash()
    shell.broker.loops.is_member = lambda: True
    shell.broker.loops.why_alone = lambda: "the engine has no quorum yet"

    with pytest.raises(UnavailableError, match="the engine has no quorum yet"):
        await shell.produce(b"y")


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
