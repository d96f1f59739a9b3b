"""What is pending, counted and listed."""

import pytest

from sandglass.core import limits
from sandglass.errors import InvalidError
from tests.unit.broker.shell import Shell


async def test_only_what_is_still_to_come_counts(shell: Shell) -> None:
    await shell.produce(b"now")
    await shell.produce(b"a", delay_ms=1000)
    await shell.produce(b"b", b"c", delay_ms=2000)
    now_ms = shell.clock.wall_ms()

    pending = await shell.broker.schedule.count(shell.t)

    assert (3, False, now_ms + 1000) == (
        pending.count,
        pending.is_lower_bound,
        pending.next_due_ms,
    )
    await shell.advance(1500)
    assert 2 == (await shell.broker.schedule.count(shell.t)).count


async def test_a_count_goes_by_time_and_channel(shell: Shell) -> None:
    now_ms = shell.clock.wall_ms()
    for number in range(1, 6):
        await shell.produce(b"x", due_ms=now_ms + 1000 * number)

    async def count(*, from_ms: int = 0, to_ms: int = 0) -> int:
        pending = await shell.broker.schedule.count(shell.t, from_ms=from_ms, to_ms=to_ms)
        return pending.count

    assert 3 == await count(from_ms=now_ms + 2000, to_ms=now_ms + 5000)
    assert 4 == await count(to_ms=now_ms + 5000)
    assert 0 == await count(to_ms=now_ms)
    assert 0 == (await shell.broker.schedule.count(shell.t, "side")).count
    assert 0 == (await shell.broker.schedule.count(shell.t, "side")).next_due_ms


async def test_a_count_of_too_many_rows_is_a_lower_bound(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LOOK_ROW_COUNT_MAX", 2)
    monkeypatch.setattr(limits, "COUNT_ROW_COUNT_MAX", 4)
    for number in range(1, 8):
        await shell.produce(b"x", delay_ms=1000 * number)

    pending = await shell.broker.schedule.count(shell.t)

    assert (4, True) == (pending.count, pending.is_lower_bound)


async def test_the_next_ones_are_listed_in_order_over_all_partitions(shell: Shell) -> None:
    shell.topic = await shell.broker.catalog.create_topic("two", partition_count=2)
    now_ms = shell.clock.wall_ms()
    for number in (3, 1, 2):
        await shell.produce(b"x", due_ms=now_ms + number, place=number % 2)

    first = await shell.broker.schedule.page(shell.t, count=2)
    second = await shell.broker.schedule.page(shell.t, count=2, after=first.next_place)

    dues = [[part.due_ms - now_ms for _, part in page.entries] for page in (first, second)]
    assert [[1, 2], [3]] == dues
    assert second.next_place is None


async def test_looking_ahead_closes_nothing(shell: Shell) -> None:
    await shell.produce(b"x", delay_ms=5000)
    closed = shell.loop.partition(shell.t.partitions[0].number).closed

    await shell.broker.schedule.page(shell.t)
    await shell.broker.schedule.count(shell.t)

    assert closed == shell.loop.partition(shell.t.partitions[0].number).closed


async def test_a_time_outside_the_calendar_is_refused(shell: Shell) -> None:
    with pytest.raises(InvalidError, match="to_ms"):
        await shell.broker.schedule.count(shell.t, to_ms=limits.DUE_MS_MAX + 1)
    with pytest.raises(InvalidError, match="channel"):
        await shell.broker.schedule.page(shell.t, "a/b")
