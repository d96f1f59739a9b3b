"""Groups of a topic over the broker: made, changed, moved, deleted; also when it crashes."""

import asyncio

import pytest

from sandglass.broker.groups import Start
from sandglass.core import limits
from sandglass.core.backoff import Backoff
from sandglass.core.offset import INDEX_BITS
from sandglass.core.record import Ending
from sandglass.core.topic import GroupSettings
from sandglass.errors import (
    BusyError,
    ConflictError,
    InvalidError,
    LeaseLostError,
    NotFoundError,
)
from tests.unit.broker.shell import Shell

OWN = GroupSettings(max_deliveries=2, backoff=Backoff((1000,)))


async def names(shell: Shell) -> list[str]:
    return sorted({part.group async for _, part in shell.broker.status.parts(shell.t)})


async def test_a_group_is_there_before_its_first_consumer(shell: Shell) -> None:
    await shell.broker.groups.create(shell.t, "g", Start(5000), OWN)
    await shell.crash(kept_batch_count=10)

    group = shell.broker.groups.group(shell.t, "g")

    assert (5000, OWN) == (group.start_ms, group.settings)
    assert 2 == shell.broker.groups.settings_of(shell.t, group).max_deliveries
    assert [] == await names(shell)


async def test_its_first_consumer_makes_a_group_that_is_none_yet(shell: Shell) -> None:
    await shell.consume("g")

    assert ["g"] == [group.name for group in shell.broker.groups.all(shell.t)]
    with pytest.raises(ConflictError, match="'g' of topic 't' already exists"):
        await shell.broker.groups.create(shell.t, "g", Start(), OWN)


async def test_a_start_holds_for_all_partitions_also_those_reached_later(shell: Shell) -> None:
    shell.partition_count = 2
    other = await shell.broker.catalog.create_topic("two", partition_count=2)
    shell.topic = other
    for place in range(2):
        await shell.produce(b"old", place=place)
    shell.clock.advance(10)
    start_ms = shell.clock.wall_ms()
    await shell.broker.groups.create(other, "g", Start(start_ms), GroupSettings())
    for place in range(2):
        await shell.produce(b"new%d" % place, place=place)

    consumer = await shell.consume("g")

    await shell.until(lambda: len(consumer.values) == 2)
    assert [b"new0", b"new1"] == sorted(consumer.values)
    parts = [
        shell.loop.partition(ref.number).group("master", "g", shell.loop.view)
        for ref in other.partitions
    ]
    assert [start_ms << INDEX_BITS] * 2 == [part.start for part in parts]


async def test_a_group_from_now_on_skips_what_was_produced_in_the_same_millisecond(
    shell: Shell,
) -> None:
    await shell.produce(b"old")
    await shell.broker.groups.create(shell.t, "g", Start(is_now=True), GroupSettings())
    await shell.produce(b"new")

    consumer = await shell.consume("g")

    await shell.until(lambda: consumer.values)
    assert [b"new"] == consumer.values


async def test_a_change_holds_for_the_next_failure_and_unset_takes_it_back(
    shell: Shell,
) -> None:
    consumer = await shell.consume("g")
    await shell.broker.groups.change(shell.t, "g", OWN)
    await shell.produce(b"x")
    await shell.until(lambda: consumer.deliveries)

    shell.settle(consumer, consumer.deliveries[0], Ending.NACKED)
    await shell.advance(900)
    assert 1 == len(consumer.deliveries)
    await shell.advance(200)
    assert 2 == consumer.deliveries[1].attempt

    group = await shell.broker.groups.change(
        shell.t, "g", GroupSettings(), ("max_deliveries", "backoff")
    )
    assert GroupSettings() == group.settings


async def test_changes_side_by_side_lose_nothing(shell: Shell) -> None:
    await shell.broker.groups.create(shell.t, "g", Start(), GroupSettings())

    await asyncio.gather(
        shell.broker.groups.change(shell.t, "g", GroupSettings(max_deliveries=3)),
        shell.broker.groups.change(shell.t, "g", GroupSettings(ack_timeout_ms=777)),
    )

    assert GroupSettings(777, 3) == shell.broker.groups.group(shell.t, "g").settings


async def test_a_setting_outside_its_limits_is_refused_and_nothing_changes(
    shell: Shell,
) -> None:
    await shell.consume("g")

    with pytest.raises(InvalidError, match="max_deliveries is 0"):
        await shell.broker.groups.change(shell.t, "g", GroupSettings(max_deliveries=0))
    with pytest.raises(InvalidError, match="start_ms"):
        await shell.broker.groups.create(shell.t, "h", Start(-1), GroupSettings())
    with pytest.raises(NotFoundError, match="group 'h' of topic 't' not found"):
        await shell.broker.groups.change(shell.t, "h", OWN)

    assert GroupSettings() == shell.broker.groups.group(shell.t, "g").settings


async def test_a_topic_has_so_many_groups_and_no_more(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "GROUP_COUNT_MAX", 2)
    for name in ("one", "two"):
        await shell.broker.groups.create(shell.t, name, Start(), GroupSettings())

    with pytest.raises(BusyError, match="topic 't' has 2 groups"):
        await shell.broker.groups.create(shell.t, "three", Start(), GroupSettings())


# --- seek -------------------------------------------------------------------------------------


async def test_a_seek_brings_back_what_was_settled_and_refuses_older_outcomes(
    shell: Shell,
) -> None:
    await shell.produce(b"a", b"b")
    consumer = await shell.consume("g")
    await shell.until(lambda: len(consumer.values) == 2)
    old = consumer.deliveries[0]

    await shell.broker.groups.seek(shell.t, "g", Start())
    await shell.until(lambda: len(consumer.values) == 4)

    with pytest.raises(LeaseLostError):
        shell.settle(consumer, old)
    ((_, status),) = [each async for each in shell.broker.status.parts(shell.t)]
    assert (2, 2, 0) == (status.generation, status.leased_count, status.acked_count)


async def test_a_seek_to_an_offset_moves_one_partition(shell: Shell) -> None:
    placed = await shell.produce(b"a", b"b", b"c")
    consumer = await shell.consume("g")
    await shell.until(lambda: len(consumer.values) == 3)
    offset = shell.offsets(placed)[1]

    await shell.broker.groups.seek(
        shell.t, "g", Start(), partition=shell.t.partitions[0], offset=offset
    )
    await shell.until(lambda: len(consumer.values) == 5)

    assert [b"b", b"c"] == consumer.values[3:]


# --- delete -----------------------------------------------------------------------------------


async def test_a_deleted_group_is_gone_and_its_consumers_are_told(shell: Shell) -> None:
    await shell.produce(b"a")
    consumer = await shell.consume("g")
    other = await shell.consume("h")
    await shell.until(lambda: consumer.values and other.values)

    await shell.broker.groups.delete(shell.t, "g")

    (error,) = consumer.end
    assert isinstance(error, NotFoundError)
    assert "group 'g' of topic 't' was deleted" == error.message
    assert [] == other.end
    assert ["h"] == await names(shell)
    assert ["h"] == [group.name for group in shell.broker.groups.all(shell.t)]
    with pytest.raises(NotFoundError):
        await shell.broker.groups.delete(shell.t, "g")


async def test_a_group_of_that_name_begins_anew(shell: Shell) -> None:
    await shell.produce(b"a")
    consumer = await shell.consume("g")
    await shell.until(lambda: consumer.values)
    shell.settle(consumer, consumer.deliveries[0])

    await shell.broker.groups.delete(shell.t, "g")
    again = await shell.consume("g")

    await shell.until(lambda: again.values)
    assert [b"a"] == again.values
    assert 1 == again.deliveries[0].attempt


async def test_nobody_can_read_a_group_that_is_going(shell: Shell) -> None:
    await shell.consume("g")
    shell.log.hold_sync()
    deleting = asyncio.create_task(shell.broker.groups.delete(shell.t, "g"))
    await asyncio.sleep(0)

    with pytest.raises(BusyError, match="is being deleted") as caught:
        await shell.consume("g")

    shell.log.release_sync()
    await deleting
    assert caught.value.retry_after_ms > 0
    await shell.consume("g")


async def test_a_consumer_that_comes_with_the_deletion_ends(shell: Shell) -> None:
    """It was admitted before the group was marked, and begins after."""
    await shell.consume("g")
    shell.log.hold_sync()
    coming = asyncio.create_task(shell.consume("g"))
    await asyncio.sleep(0)
    deleting = asyncio.create_task(shell.broker.groups.delete(shell.t, "g"))
    await asyncio.sleep(0)
    shell.log.release_sync()
    await deleting

    try:
        consumer = await coming
    except NotFoundError:
        consumer = None

    assert consumer is None or isinstance(consumer.end[0], NotFoundError)
    assert [] == await names(shell)


async def test_a_deletion_that_a_crash_cuts_short_is_finished(shell: Shell) -> None:
    await shell.produce(b"a")
    await shell.consume("g")
    group = shell.broker.groups.group(shell.t, "g")
    await shell.broker.groups._put(type(group)("t", "g", is_going=True))

    await shell.crash(kept_batch_count=100)
    await shell.advance(2000)
    await shell.until(lambda: "g" not in shell.loop.machine.groups["t"])

    assert [] == await names(shell)
