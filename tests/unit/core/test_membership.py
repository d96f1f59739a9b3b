"""Groups that begin, move, and end."""

import pytest

from sandglass.core import keys, outcome
from sandglass.core.backoff import Backoff
from sandglass.core.machine import decode_group, encode_group
from sandglass.core.membership import admit_drop, admit_group, admit_seek
from sandglass.core.offset import INDEX_BITS
from sandglass.core.record import DeleteGroup, DeleteTopic, Ending, PutGroup
from sandglass.core.topic import GroupSettings, TopicGroup
from sandglass.errors import LeaseLostError, NotFoundError
from tests.unit.core.drive import Drive, numbers_of, offset


def rows_of(drive: Drive, kinds: bytes) -> list[bytes]:
    return [
        key
        for kind in kinds
        for key, _ in drive.store.range(bytes((kind,)), bytes((kind + 1,)))
    ]


# --- in the catalog ---------------------------------------------------------------------------


def test_group_is_read_as_it_was_written() -> None:
    settings = GroupSettings(700, 3, Backoff((1, 2), 3, 4, 5))
    group = TopicGroup("a", "g", 5, 6, settings, is_going=True)

    assert group == decode_group(encode_group(group))
    assert TopicGroup("a", "g") == decode_group(encode_group(TopicGroup("a", "g")))


def test_group_that_leaves_the_catalog_is_gone_after_a_restart() -> None:
    drive = Drive()
    drive.set_group("g", GroupSettings(max_deliveries=1))
    drive.set_group("h", GroupSettings())

    drive.apply(drive.machine.record([DeleteGroup("a", "g")], drive.moment))

    assert ["h"] == list(drive.machine.groups["a"])
    drive.restart()
    assert ["h"] == list(drive.machine.groups["a"])
    assert 3 == drive.partition.settings_of(drive.group("g")).max_deliveries


def test_groups_go_with_their_topic_and_one_that_comes_too_late_is_dropped() -> None:
    drive = Drive()
    drive.set_group("g", GroupSettings())

    drive.apply(drive.machine.record([DeleteTopic("a", [1])], drive.moment))
    late = PutGroup("a", "g", encode_group(TopicGroup("a", "g")))
    drive.apply(drive.machine.record([late], drive.moment))

    assert [] == rows_of(drive, b"u")
    drive.restart()
    assert {} == drive.machine.groups


# --- moving -----------------------------------------------------------------------------------


def test_a_seek_to_the_beginning_brings_everything_again_in_a_new_generation() -> None:
    drive = Drive()
    drive.produce(counts=[3])
    group = drive.group()
    drive.read(group)
    drive.end(drive.dispatch()[0], Ending.ACKED)

    drive.seek(group)

    assert [1, 2, 3] == drive.take()
    assert (2, 0, 0) == (group.generation, group.acked_count, group.start)


def test_what_was_leased_before_a_seek_can_not_be_settled_any_more() -> None:
    drive = Drive()
    drive.produce(counts=[2])
    group = drive.group()
    drive.read(group)
    (old,) = drive.dispatch()
    record = admit_seek(drive.partition, group, moment=drive.moment)

    with pytest.raises(LeaseLostError):
        drive.end(old, Ending.ACKED)
    assert [] == drive.take(), "nothing is handed out while the seek is on its way"
    drive.apply(record)

    assert [1, 2] == drive.take()


def test_an_outcome_by_offset_while_a_seek_is_on_its_way_is_ignored() -> None:
    """One that waits for its retry, and one that a leader before had handed out."""
    drive = Drive()
    placed = drive.produce(counts=[2])
    group = drive.group()
    drive.read(group)
    drive.end(drive.dispatch()[0], Ending.NACKED, [(0, 1)], delay_ms=50)
    first = offset(placed.dues[0], placed.first_index)
    drive.restart(promised=offset(drive.wall_ms, 0) >> INDEX_BITS)
    group = drive.group()
    record = admit_seek(drive.partition, group, moment=drive.moment)

    records, ignored_count = outcome.admit_offsets(
        drive.partition, group, [first, first + 1], Ending.ACKED, drive.moment, drive.store
    )
    drive.apply(record)
    drive.read(group)

    assert ([], 2) == (records, ignored_count)
    assert [1, 2] == drive.take()


def test_a_seek_drops_what_waited_for_its_retry() -> None:
    drive = Drive()
    drive.produce(counts=[2])
    group = drive.group()
    drive.read(group)
    drive.end(drive.dispatch()[0], Ending.NACKED, delay_ms=50)

    drive.seek(group, None)
    drive.go(100)

    assert [] == drive.take()
    assert 0 == group.retry_count
    assert [] == rows_of(drive, b"rxd")
    drive.produce()
    assert [3] == drive.take()


def test_a_nack_that_is_on_its_way_when_a_seek_comes_leaves_nothing_behind() -> None:
    drive = Drive()
    drive.produce()
    group = drive.group()
    drive.read(group)
    (delivery,) = drive.dispatch()
    nack = drive.admit_end(delivery, Ending.NACKED, delay_ms=50)
    seek = admit_seek(drive.partition, group, moment=drive.moment)

    drive.apply(nack)
    drive.apply(seek)

    assert [] == group.moving_ms
    assert [1] == drive.take()
    drive.go(100)
    assert [] == drive.take()


def test_a_seek_to_a_time_skips_what_was_due_before_it() -> None:
    drive = Drive()
    drive.produce()
    drive.go(10)
    drive.produce()
    group = drive.group()
    drive.read(group)

    drive.seek(group, offset(drive.wall_ms, 0))

    assert [2] == drive.take()
    drive.restart()
    drive.read(drive.group())
    assert [2] == drive.take()


def test_a_seek_below_what_retention_took_begins_where_it_stands() -> None:
    drive = Drive()
    drive.produce()
    drive.go(10)
    drive.produce()
    group = drive.group()
    drive.apply(drive.partition.admit_cut(drive.wall_ms << INDEX_BITS, drive.moment))

    drive.seek(group)
    drive.read(group)

    assert [2] == drive.take()
    assert 0 == group.expired_count


# --- ending -----------------------------------------------------------------------------------


def test_a_dropped_group_leaves_no_row_and_its_messages_to_nobody() -> None:
    drive = Drive()
    drive.produce(counts=[4])
    group = drive.group()
    consumer = drive.read(group)
    (delivery,) = drive.dispatch()
    drive.end(delivery, Ending.ACKED, [(1, 1)])
    drive.end(delivery, Ending.NACKED, [(2, 1)], delay_ms=50)
    drive.partition.remove_consumer(group, consumer)

    drive.drop(group)
    drive.go(1000)
    drive.expire()

    assert [] == rows_of(drive, b"ghdrx")
    with pytest.raises(NotFoundError):
        drive.partition.group("master", "g", drive.store)


def test_from_its_drop_on_nothing_is_admitted_for_a_group() -> None:
    drive = Drive()
    drive.produce()
    group = drive.group()
    consumer = drive.read(group)
    (delivery,) = drive.dispatch()
    drive.partition.remove_consumer(group, consumer)

    record = admit_drop(drive.partition, group, drive.moment)

    with pytest.raises(LeaseLostError):
        drive.end(delivery, Ending.ACKED)
    with pytest.raises(NotFoundError):
        drive.partition.group("master", "g", drive.store)
    assert None is admit_group(
        drive.partition, "master", "g", moment=drive.moment, view=drive.store
    )
    drive.apply(record)


def test_a_group_of_the_same_name_begins_anew() -> None:
    drive = Drive()
    drive.produce(counts=[2])
    group = drive.group()
    consumer = drive.read(group)
    drive.end(drive.dispatch()[0], Ending.ACKED)
    drive.partition.remove_consumer(group, consumer)
    drive.drop(group)

    again = drive.group()
    drive.read(again)

    assert again.number > group.number
    assert [1, 2] == drive.take()


def test_other_groups_and_retention_go_on_after_a_drop() -> None:
    drive = Drive()
    drive.produce(counts=[2])
    gone, other = drive.group("gone"), drive.group("other")
    drive.drop(gone)
    drive.restart()
    drive.go(10)

    drive.apply(drive.partition.admit_cut(drive.wall_ms << INDEX_BITS, drive.moment))

    assert 2 == drive.group("other").expired_count
    assert other.number == drive.group("other").number


def test_the_names_of_groups_that_are_gone_make_room_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sandglass.core import limits

    monkeypatch.setattr(limits, "GROUP_COUNT_MAX", 2)
    drive = Drive()
    for name in ("one", "two"):
        drive.group(name)
    drive.drop(drive.group("one"))

    assert "three" == drive.group("three").name
    assert [("master", "three"), ("master", "two")] == drive.partition.groups.names(drive.store)


def test_a_group_may_start_at_a_time() -> None:
    drive = Drive()
    drive.produce()
    drive.go(10)
    made = admit_group(
        drive.partition,
        "master",
        "g",
        start=drive.wall_ms << INDEX_BITS,
        moment=drive.moment,
        view=drive.store,
    )
    drive.apply(made)
    drive.produce()
    drive.read(drive.group())

    assert [[2]] == [numbers_of(each.slices) for each in drive.dispatch()]
    assert [] == [key for key in rows_of(drive, b"d") if key == keys.NODE_KEY]
