"""Placing, promising, cutting: what a partition does besides handing out."""

from dataclasses import replace

import pytest

from sandglass.core import limits
from sandglass.core.counting import count_pending, count_skipped, count_unread, has_below
from sandglass.core.membership import admit_group, admit_seek
from sandglass.core.offset import INDEX_BITS, MAX
from sandglass.core.record import CloseExact, Ending, Promise, PromiseExact, Settle
from sandglass.core.retract import retract
from sandglass.errors import BusyError, NotFoundError
from tests.unit.core.drive import START_MS, Drive, numbers_of, offset

# --- where messages go ------------------------------------------------------------------------


def test_message_without_a_due_time_or_with_a_past_one_is_placed_at_now() -> None:
    drive = Drive()

    placed = drive.produce(0, START_MS - 50, START_MS)

    assert [START_MS] * 3 == placed.dues
    assert 1 == placed.first_index


def test_scheduled_message_keeps_its_due_time() -> None:
    drive = Drive()

    placed = drive.produce(START_MS + 5, START_MS + 5, START_MS + 9)

    assert [START_MS + 5, START_MS + 5, START_MS + 9] == placed.dues


def test_delay_counts_from_the_leaders_clock_and_none_is_now() -> None:
    drive = Drive()

    placed = drive.produce(0, 70, is_delay=True)

    assert [START_MS, START_MS + 70] == placed.dues


def test_delay_beyond_the_last_year_ends_there() -> None:
    drive = Drive()

    placed = drive.produce(limits.DUE_MS_MAX, is_delay=True)

    assert limits.DUE_MS_MAX == placed.dues[0]


def test_message_for_now_is_delivered_at_once_when_the_clock_was_stepped_back() -> None:
    drive = Drive()
    drive.read(drive.group())
    drive.produce()
    drive.wall_ms -= 600

    placed = drive.produce()

    assert START_MS == placed.dues[0]
    assert [1, 2] == drive.take()


def test_message_scheduled_for_a_time_that_now_has_passed_waits_in_steady_time() -> None:
    drive = Drive()
    drive.read(drive.group())
    drive.produce()
    drive.wall_ms -= 600

    placed = drive.produce(drive.wall_ms + 40)

    assert START_MS == placed.dues[0]
    assert [1] == drive.take()
    drive.go(39)
    assert [] == drive.take()
    drive.go(1)
    assert [2] == drive.take()


# --- what was read is closed ------------------------------------------------------------------


def test_what_is_produced_after_a_read_stands_above_it() -> None:
    drive = Drive()
    drive.produce()
    drive.fetch()

    placed = drive.produce()

    assert offset(START_MS, 1) == drive.partition.closed
    assert offset(placed.dues[0], placed.first_index) > drive.partition.closed


def test_reads_stay_below_an_append_in_flight_though_a_later_one_is_applied() -> None:
    drive = Drive()
    drive.read(drive.group())
    drive.produce()
    in_flight, _ = drive.admit()
    drive.go(5)

    assert [1] == drive.take()
    assert [1] == numbers_of(drive.fetch())
    drive.apply(in_flight)
    assert [2] == drive.take()


def test_nothing_is_handed_out_beyond_the_promise() -> None:
    drive = Drive()
    drive.read(drive.group())
    drive.produce()

    assert [] == drive.dispatch(offset(START_MS, 0))
    assert drive.partition.closed < offset(START_MS, 1)
    assert [1] == [n for d in drive.dispatch(offset(START_MS, 1)) for n in numbers_of(d.slices)]


def test_promise_of_what_exists_lets_it_out_while_the_clock_stands_back() -> None:
    drive = Drive()
    drive.read(drive.group())
    drive.produce()
    drive.wall_ms -= 600

    record = drive.apply(drive.partition.admit_promise(drive.moment))

    assert [PromiseExact(offset(START_MS, 1))] == record.operations
    assert [1] == [n for d in drive.dispatch(0) for n in numbers_of(d.slices)]
    assert drive.partition.admit_promise(drive.moment) is None


def test_blocked_group_is_looked_at_again_though_its_message_is_due_ahead_of_the_clock() -> (
    None
):
    drive = Drive()
    group = drive.group()
    drive.read(group)
    drive.wall_ms += 600
    drive.produce()
    drive.wall_ms -= 600

    drive.dispatch(0)

    assert group.is_blocked
    assert group.next_wall_ms is None


def test_new_leader_counts_what_was_promised_as_closed() -> None:
    drive = Drive()
    drive.produce()

    drive.restart(promised=START_MS + 250)

    assert offset(START_MS + 250, 0) == drive.partition.closed
    assert START_MS + 250 == drive.produce().dues[0]


def test_exact_close_voids_the_promise_and_keeps_what_was_read() -> None:
    drive = Drive()
    drive.apply(drive.machine.record([Promise(START_MS + 250)], drive.moment))
    drive.produce()
    drive.fetch()
    drive.apply(drive.machine.record([drive.machine.close_exact()], drive.moment))

    drive.restart()

    assert offset(START_MS, 1) == drive.partition.closed
    assert 0 == drive.machine.promised_ms


def test_exact_close_of_a_deleted_partition_is_passed_over() -> None:
    drive = Drive()

    drive.apply(drive.machine.record([CloseExact([(7, 5)])], drive.moment))

    assert [1] == list(drive.machine.refs)


def test_fetch_ends_where_there_is_nothing_more() -> None:
    drive = Drive()
    drive.produce(0, counts=[4])
    partition = drive.partition

    half = partition.fetch("master", 0, offset(START_MS, 2), MAX, drive.store)

    assert [1, 2] == numbers_of(list(half))
    rest = partition.fetch("master", offset(START_MS, 3), offset(START_MS, 2), MAX, drive.store)
    assert [] == list(rest)


# --- our mistakes stop the partition ----------------------------------------------------------


def test_record_of_another_partition_is_refused() -> None:
    drive = Drive()
    record, _ = drive.admit()

    with pytest.raises(AssertionError, match="another partition"):
        drive.partition.apply(replace(record, partition=2), drive.store)


def test_append_that_leaves_an_index_out_is_refused() -> None:
    drive = Drive()
    drive.admit()
    record, _ = drive.admit()

    with pytest.raises(AssertionError, match="index is left out"):
        drive.partition.apply(record, drive.store)


def test_append_below_what_is_closed_is_refused() -> None:
    drive = Drive()
    record, _ = drive.admit()
    drive.partition.closed = offset(START_MS, 1)

    with pytest.raises(AssertionError, match="below what is closed"):
        drive.partition.apply(record, drive.store)


def test_operation_of_the_node_in_a_record_of_a_partition_is_refused() -> None:
    drive = Drive()
    record, _ = drive.admit()

    with pytest.raises(AssertionError, match="in a record of a partition"):
        drive.partition.apply(replace(record, operations=[Promise(1)]), drive.store)


# --- limits -----------------------------------------------------------------------------------


def test_last_channel_is_taken_and_one_more_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CHANNEL_COUNT_MAX", 2)
    drive = Drive()
    drive.produce(channel="one")
    drive.produce(channel="two")
    drive.produce(channel="one")

    with pytest.raises(BusyError, match="has 2 channels") as refusal:
        drive.admit(channel="three")

    assert "channel" == refusal.value.field
    assert ["one", "two"] == drive.partition.channels.names(drive.store)


def test_last_group_is_made_and_one_more_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GROUP_COUNT_MAX", 2)
    drive = Drive()
    drive.group("one")
    drive.group("two")

    with pytest.raises(BusyError, match="has 2 groups"):
        drive.group("three")

    assert [("master", "one"), ("master", "two")] == drive.partition.groups.names(drive.store)


def test_group_is_made_once_though_it_is_asked_for_twice_at_once() -> None:
    drive = Drive()
    asked = [
        admit_group(drive.partition, "master", "g", moment=drive.moment, view=drive.store)
        for _ in range(2)
    ]

    drive.apply(asked[0])

    assert asked[1] is None
    assert 1 == drive.group().number


def test_group_that_does_not_exist_is_not_found() -> None:
    drive = Drive()

    with pytest.raises(NotFoundError, match="no group 'g' reads channel 'master'"):
        drive.partition.group("master", "g", drive.store)


def test_group_from_now_is_given_what_is_produced_later_or_due_later() -> None:
    drive = Drive()
    drive.produce(0, START_MS + 5)
    group = drive.group(is_from_now=True)
    drive.read(group)
    drive.produce()
    drive.go(5)

    assert [3, 2] == drive.take()


# --- retention --------------------------------------------------------------------------------


def test_cut_takes_whole_milliseconds_of_what_was_read_and_nothing_else() -> None:
    drive = Drive()
    drive.produce(0, counts=[4])
    drive.go(10)
    drive.produce(0, drive.wall_ms + 100)
    drive.fetch()

    drive.apply(drive.partition.admit_cut(offset(drive.wall_ms, 6), drive.moment))

    assert offset(drive.wall_ms, 0) == drive.partition.cut
    assert [5] == numbers_of(drive.fetch())
    assert drive.partition.admit_cut(offset(START_MS, 3), drive.moment) is None


def test_nothing_is_cut_of_an_empty_partition_or_of_what_is_still_ahead() -> None:
    drive = Drive()
    assert drive.partition.admit_cut(MAX, drive.moment) is None
    drive.produce(drive.wall_ms + 100)
    drive.produce()

    drive.apply(drive.partition.admit_cut(MAX, drive.moment))

    assert has_below(drive.partition, MAX, drive.store)
    assert drive.partition.cut >> INDEX_BITS <= drive.wall_ms


def test_what_nobody_reads_is_cut_and_closed() -> None:
    drive = Drive()
    drive.produce()
    drive.go(5000)
    below = offset(drive.wall_ms, 0)

    drive.apply(drive.partition.admit_cut(below, drive.moment))

    assert not has_below(drive.partition, below, drive.store)
    assert below - 1 == drive.partition.closed


def _cut_all(drive: Drive) -> None:
    drive.go(10)
    drive.fetch()
    drive.apply(drive.partition.admit_cut(offset(drive.wall_ms, 0), drive.moment))


def test_what_is_cut_unread_has_expired() -> None:
    drive = Drive()
    group = drive.group()
    drive.produce(0, counts=[3])
    _cut_all(drive)
    drive.read(group)

    assert [] == drive.take()
    assert (3, 0, 0) == (group.expired_count, group.acked_count, group.retry_count)
    assert offset(drive.wall_ms, 0) == drive.committed(group)


def test_outcome_for_what_was_cut_under_a_lease_changes_nothing() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group)
    drive.produce(0, counts=[3])
    (delivery,) = drive.dispatch()
    _cut_all(drive)

    drive.end(delivery, Ending.NACKED, [(0, 1)])
    drive.end(delivery, Ending.ACKED, [(1, 1)])
    drive.end(delivery, Ending.DEAD)

    assert (3, 0, 0) == (group.expired_count, group.acked_count, group.retry_count)
    assert 0 == group.dead_count
    assert [] == drive.take()


def test_outcome_for_a_lease_of_which_a_part_was_cut_counts_the_rest() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group)
    drive.produce(0, START_MS + 10, counts=[2, 3])
    drive.go(10)
    (delivery,) = drive.dispatch()
    drive.fetch()
    drive.apply(drive.partition.admit_cut(offset(START_MS + 10, 0), drive.moment))

    drive.end(delivery, Ending.ACKED)

    assert (2, 3) == (group.expired_count, group.acked_count)


def test_what_waits_for_its_retry_is_cut_too_and_the_rest_of_its_row_stays() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group)
    drive.produce(0, START_MS + 10, counts=[2, 3])
    drive.go(10)
    (delivery,) = drive.dispatch()
    drive.end(delivery, Ending.NACKED, delay_ms=50)
    drive.fetch()

    drive.apply(drive.partition.admit_cut(offset(START_MS + 10, 0), drive.moment))

    assert (2, 3) == (group.expired_count, group.retry_count)
    drive.go(50)
    assert [3, 4, 5] == drive.take()


def test_cut_takes_the_done_ranges_below_it_along() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group)
    drive.produce(0, counts=[3])
    drive.end(drive.dispatch()[0], Ending.ACKED, [(1, 1)])
    assert 1 == len(group.done.lows)

    _cut_all(drive)

    assert ([], 2, 1) == (group.done.lows, group.expired_count, group.acked_count)
    drive.restart()
    assert group.done == drive.group().done


def test_group_made_after_a_cut_begins_there() -> None:
    drive = Drive()
    drive.produce()
    _cut_all(drive)

    group = drive.group()

    assert offset(drive.wall_ms, 0) == drive.committed(group)
    assert 0 == group.expired_count


# --- counting ---------------------------------------------------------------------------------


def test_unread_counts_due_messages_that_are_not_done_and_only_so_many_rows() -> None:
    drive = Drive()
    group = drive.group()
    drive.produce(0, 0, START_MS + 5, counts=[2, 3, 9])

    def count(row_count_max: int) -> tuple[int, int]:
        return count_unread(
            drive.partition, group, drive.moment, drive.store, row_count_max=row_count_max
        )

    assert (5, 2) == count(10)
    assert (5, 2) == count(2)
    assert (2, 1) == count(1)


def test_skipped_counts_due_messages_before_the_start_and_only_so_many_rows() -> None:
    drive = Drive()
    drive.produce(0, 0, START_MS + 5, counts=[2, 3, 9])
    drive.group("all")
    drive.group("now", is_from_now=True)
    drive.produce(0)
    drive.apply(
        admit_seek(
            drive.partition,
            drive.group("far"),
            start=offset(START_MS + 5, 10),
            moment=drive.moment,
        )
    )

    def count(name: str, row_count_max: int = 10) -> tuple[int, int]:
        return count_skipped(
            drive.partition,
            drive.group(name),
            drive.moment,
            drive.store,
            row_count_max=row_count_max,
        )

    assert [(0, 0), (5, 2), (6, 3)] == [count("all"), count("now"), count("far")]
    assert (2, 1) == count("now", 1)
    drive.wall_ms += 5
    assert (5, 2) == count("now")
    assert (5 + 1 + 4, 4) == count("far")
    drive.apply(drive.partition.admit_cut(offset(drive.wall_ms, 0), drive.moment))
    assert (4, 1) == count("far")


def test_pending_counts_messages_that_are_not_due_and_only_so_many_rows() -> None:
    drive = Drive()
    drive.produce(0, START_MS + 5, START_MS + 6, counts=[2, 3, 9])

    def count(row_count_max: int) -> tuple[int, int]:
        return count_pending(
            drive.partition, "master", drive.store, row_count_max=row_count_max
        )

    assert (12, 2) == count(10)
    assert (3, 1) == count(1)


def test_a_group_that_is_only_looked_at_does_not_stay_in_memory() -> None:
    drive = Drive()
    drive.group()
    drive.partition.groups.loaded.clear()

    peeked = drive.partition.groups.peek("master", "g", drive.store)

    assert peeked is not None
    assert "g" == peeked.name
    assert {} == drive.partition.groups.loaded
    assert drive.partition.groups.peek("master", "none", drive.store) is None


def test_settle_names_a_tile_that_ends_just_above_its_last_message() -> None:
    """A message for now comes between one that is leased and one of next year."""
    drive = Drive()
    drive.read(drive.group())
    drive.produce(0, START_MS + 365 * 86_400_000)
    (delivery,) = drive.dispatch()
    drive.produce()

    record = drive.end(delivery, Ending.ACKED)

    assert [Settle(1, Ending.ACKED, [(0, offset(START_MS, 1) + 1, 1)], [])] == record.operations
    assert [3] == drive.take()


def test_a_cut_that_is_not_durable_yet_lets_nobody_read_further() -> None:
    """What it closes would be unknown to the next leader, were it lost."""
    drive = Drive()
    drive.produce()
    drive.go(5000)
    before = drive.partition.readable(0)

    cut = drive.partition.admit_cut(offset(drive.wall_ms - 1000, 0), drive.moment)

    assert before == drive.partition.readable(0)
    drive.apply(cut)
    assert offset(drive.wall_ms - 1000, 0) - 1 == drive.partition.closed


def test_channels_on_their_way_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CHANNEL_COUNT_MAX", 3)
    drive = Drive()
    drive.produce(channel="a")
    second, _ = drive.admit(channel="b")
    refused = [drive.admit(channel="c")[0] for _ in range(2)]

    with pytest.raises(BusyError, match="3 channels"):
        drive.admit(channel="d")

    drive.apply(second)
    retract(drive.partition, refused)
    drive.admit(channel="d")
    with pytest.raises(BusyError, match="3 channels"):
        drive.admit(channel="c")
