"""Dead letters over the broker: pages, counts, redrives and purges over several partitions."""

import pytest

from sandglass.broker.dead_letters import Taken
from sandglass.broker.listing import Page
from sandglass.core import limits
from sandglass.core.dead_letter import Selection
from sandglass.core.record import Ending
from sandglass.core.topic import Topic
from sandglass.errors import InvalidError, NoSpaceError, NotFoundError
from sandglass.wire.convert import slice_body
from sandglass.wire.v1 import broker_pb2
from tests.unit.broker.shell import Shell


async def bury(shell: Shell, *values: bytes, group: str = "g", reason: str = "bad") -> None:
    """Values that a group gives up, spread over the partitions of the topic."""
    consumer = await shell.consume(group)
    for number, value in enumerate(values):
        shell.clock.advance(1)
        await shell.produce(value, place=number % len(shell.t.partitions))
        await shell.until(lambda: consumer.deliveries)
        delivery = consumer.deliveries.pop()
        shell.broker.outcomes.settle(
            consumer.subscription,
            delivery.partition,
            delivery.lease.token,
            [],
            Ending.DEAD,
            None,
            reason=reason,
        )
        await shell.quiet()
    shell.broker.consumers._forget(consumer.subscription)


async def two(shell: Shell) -> Topic:
    """A topic of two partitions."""
    shell.topic = await shell.broker.catalog.create_topic("two", partition_count=2)
    return shell.topic


def values_of(page: Page) -> list[bytes]:
    found: list[bytes] = []
    for _, part in page.entries:
        body = slice_body(part.body, part.row_count, part.first, part.count)
        found += [each.value for each in broker_pb2.MessageBatch.FromString(body).messages]
    return found


async def all_pages(shell: Shell, count: int, *, is_newest_first: bool) -> list[list[bytes]]:
    pages: list[list[bytes]] = []
    after = None
    while True:
        page = await shell.broker.dead_letters.page(
            shell.t, after=after, count=count, is_newest_first=is_newest_first
        )
        pages.append(values_of(page))
        after = page.next_place
        if after is None:
            return pages


async def test_pages_go_through_all_partitions_in_order_of_death(shell: Shell) -> None:
    await two(shell)
    await bury(shell, b"1", b"2", b"3", b"4", b"5")

    assert [[b"1", b"2"], [b"3", b"4"], [b"5"]] == await all_pages(
        shell, 2, is_newest_first=False
    )
    assert [[b"5", b"4"], [b"3", b"2"], [b"1"]] == await all_pages(
        shell, 2, is_newest_first=True
    )


@pytest.mark.parametrize("is_newest_first", [False, True])
async def test_a_page_that_is_cut_short_leaves_nothing_out(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, *, is_newest_first: bool
) -> None:
    """A look reads one row: what another partition has beyond it must wait."""
    monkeypatch.setattr(limits, "LOOK_ROW_COUNT_MAX", 1)
    await two(shell)
    await bury(shell, b"1", b"2", b"3", b"4", b"5")

    pages = await all_pages(shell, 100, is_newest_first=is_newest_first)

    expected = [b"1", b"2", b"3", b"4", b"5"]
    found = [value for page in pages for value in page]
    assert (expected[::-1] if is_newest_first else expected) == found
    assert len(pages) > 2


async def test_a_page_goes_by_a_selection_and_by_size(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bury(shell, b"1", b"2")
    await bury(shell, b"3", group="h", reason="worse")
    monkeypatch.setattr(limits, "PAGE_BYTES_MAX", 5)

    by_reason = await shell.broker.dead_letters.page(shell.t, Selection(reason="worse"))
    first = await shell.broker.dead_letters.page(shell.t)

    assert {b"1", b"2", b"3"} >= set(values_of(by_reason))
    assert all(part.origin and part.origin.reason == "worse" for _, part in by_reason.entries)
    assert [b"1"] == values_of(first)
    assert first.next_place is not None


@pytest.mark.parametrize("count", [0, limits.PAGE_COUNT_MAX + 1])
async def test_a_page_of_none_or_too_many_is_refused(shell: Shell, count: int) -> None:
    with pytest.raises(InvalidError, match="page_size"):
        await shell.broker.dead_letters.page(shell.t, count=count)


async def test_a_count_is_exact_and_by_group(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LOOK_ROW_COUNT_MAX", 2)
    await two(shell)
    await bury(shell, b"1", b"2", b"3")

    count = await shell.broker.dead_letters.count(shell.t)

    assert (3, {("g", "master"): 3}) == (count.count, count.groups)
    assert count.size_bytes >= 3
    other = await shell.broker.dead_letters.count(shell.t, Selection(group="h"))
    assert 0 == other.count


async def test_a_redrive_goes_on_until_all_that_had_died_is_back(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when each step takes one row, and what comes back dies again at once."""
    monkeypatch.setattr("sandglass.broker.dead_letters.STEP_ROW_COUNT_MAX", 1)
    await two(shell)
    await bury(shell, b"1", b"2", b"3")
    shell.clock.advance(1)

    taken = await shell.broker.dead_letters.redrive(shell.t)

    assert (3, 0) == (taken.count, taken.skipped_count)
    consumer = await shell.consume("g")
    await shell.until(lambda: len(consumer.values) == 3)
    assert [b"1", b"2", b"3"] == sorted(consumer.values)
    assert 0 == (await shell.broker.dead_letters.count(shell.t)).count


async def test_a_redrive_takes_no_more_than_its_limit_and_nothing_newer_than_its_bound(
    shell: Shell,
) -> None:
    await bury(shell, b"1", b"2")
    shell.clock.advance(1)
    bound_ms = shell.clock.wall_ms()
    await bury(shell, b"3")

    first = await shell.broker.dead_letters.redrive(shell.t, limit=1, before_ms=bound_ms)
    second = await shell.broker.dead_letters.redrive(shell.t, limit=9, before_ms=bound_ms)

    assert (Taken(1, 0, bound_ms), Taken(1, 0, bound_ms)) == (first, second)
    page = await shell.broker.dead_letters.page(shell.t)
    assert [b"3"] == values_of(page)


async def test_letters_are_taken_by_their_places(shell: Shell) -> None:
    await bury(shell, b"1", b"2", b"3")
    page = await shell.broker.dead_letters.page(shell.t)
    ref, part = page.entries[1]
    offset = part.due_ms << 64 | part.first_index

    taken = await shell.broker.dead_letters.purge(shell.t, offsets=[(ref, offset)])

    assert 1 == taken.count == shell.loop.stats.purged[ref.number]
    assert [b"1", b"3"] == values_of(await shell.broker.dead_letters.page(shell.t))
    with pytest.raises(NotFoundError, match=f"no such dead letter at {offset:028x}"):
        await shell.broker.dead_letters.redrive(shell.t, offsets=[(ref, offset)])


async def test_letters_of_a_group_that_is_gone_are_counted_as_skipped(shell: Shell) -> None:
    await bury(shell, b"1")
    await shell.broker.groups.delete(shell.t, "g")

    taken = await shell.broker.dead_letters.redrive(shell.t)

    assert (0, 1) == (taken.count, taken.skipped_count)
    assert 1 == (await shell.broker.dead_letters.purge(shell.t)).count


async def test_a_redrive_and_a_purge_hold_after_a_crash(shell: Shell) -> None:
    await bury(shell, b"1", b"2", b"3")
    page = await shell.broker.dead_letters.page(shell.t)
    ref, part = page.entries[0]
    at = [(ref, part.due_ms << 64 | part.first_index)]
    await shell.broker.dead_letters.redrive(shell.t, offsets=at)
    redriven_is_none = shell.loop.stats.purged[ref.number]
    await shell.broker.dead_letters.purge(shell.t)

    assert (0, 2) == (redriven_is_none, shell.loop.stats.purged[ref.number])
    await shell.crash(kept_batch_count=100)
    consumer = await shell.consume("g")
    await shell.until(lambda: consumer.values)
    await shell.quiet()

    assert [b"1"] == consumer.values
    assert 0 == (await shell.broker.dead_letters.count(shell.t)).count


async def test_a_redrive_waits_for_room_on_the_disk(shell: Shell) -> None:
    await bury(shell, b"1")
    shell.loop._writer.is_full = True

    with pytest.raises(NoSpaceError):
        await shell.broker.dead_letters.redrive(shell.t)

    shell.loop._writer.is_full = False
    assert 1 == (await shell.broker.dead_letters.count(shell.t)).count


async def test_what_is_redriven_is_no_channel_that_anybody_sees(shell: Shell) -> None:
    await bury(shell, b"1")
    await shell.broker.dead_letters.redrive(shell.t)

    status = shell.broker.status.partition(shell.t.partitions[0])
    assert status is not None

    assert ["__death_letter", "master"] == status.channels
