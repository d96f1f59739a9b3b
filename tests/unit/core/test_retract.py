"""Admissions that are undone, because the log has no room for them."""

from sandglass.core import outcome
from sandglass.core.dead_letter import admit_redrive
from sandglass.core.membership import admit_group, admit_seek
from sandglass.core.offset import MAX
from sandglass.core.record import Append, Ending, Record
from sandglass.core.retract import retract
from tests.unit.core.drive import Drive, numbers_of, offset


def _dead_letter(drive: Drive) -> Record:
    """On its way: the first message of the one delivery."""
    (delivery,) = drive.dispatch()
    return outcome.admit_outcome(
        drive.partition,
        delivery.group,
        delivery.lease.token,
        [(0, 1)],
        Ending.DEAD,
        moment=drive.moment,
        view=drive.store,
    )


def test_what_is_taken_back_leaves_no_gap() -> None:
    drive = Drive()
    drive.produce()
    refused, _ = drive.admit(0, counts=[3])

    assert {} == retract(drive.partition, [refused])

    placed = drive.produce()
    assert 2 == placed.first_index
    assert 2 == sum(part.count for part in drive.fetch())


def test_what_is_taken_back_holds_back_no_reader() -> None:
    drive = Drive()
    drive.produce()
    refused, _ = drive.admit()
    drive.go(1)
    drive.partition.see(drive.wall_ms)
    before = drive.partition.read_bound()

    retract(drive.partition, [refused])

    assert before < offset(drive.wall_ms, 0) <= drive.partition.read_bound()


def test_a_seek_to_an_offset_goes_there_and_one_to_the_end_follows_the_indexes() -> None:
    drive = Drive()
    drive.produce(counts=[5])
    group = drive.group()
    refused, _ = drive.admit(0, counts=[3])
    third, sixth = offset(drive.wall_ms, 3), offset(drive.wall_ms, 6)
    exact = admit_seek(drive.partition, group, moment=drive.moment, start=third)
    at_end = admit_seek(drive.partition, group, moment=drive.moment, start=None)

    moved = retract(drive.partition, [refused])
    drive.apply(moved.get(id(exact), exact))
    start = group.start
    drive.apply(moved[id(at_end)])

    assert (third, sixth) == (start, group.start)


def test_outcomes_behind_it_stay_and_a_dead_letter_takes_its_index() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group)
    drive.produce(0, counts=[2])
    refused, _ = drive.admit(0, counts=[3])
    dead = _dead_letter(drive)
    token = next(iter(group.leases))
    ack = outcome.admit_outcome(
        drive.partition,
        group,
        token,
        [(1, 1)],
        Ending.ACKED,
        moment=drive.moment,
        view=drive.store,
    )

    moved = retract(drive.partition, [refused])

    assert [id(dead)] == list(moved)
    drive.apply(moved[id(dead)])
    drive.apply(ack)
    assert (1, 1) == (group.acked_count, group.dead_count)
    assert 3 == drive.partition.last_index
    assert [1] == numbers_of(drive.fetch("__death_letter"))


def test_a_dead_letter_that_moves_stays_above_what_is_closed() -> None:
    """A far message held back no reader, so the index that falls free may be closed by now."""
    drive = Drive()
    drive.read(drive.group())
    drive.produce()
    refused, _ = drive.admit(drive.wall_ms + 100_000)
    dead = _dead_letter(drive)
    drive.partition.fetch("master", 0, MAX, MAX, drive.store)
    drive.partition.closed = offset(drive.wall_ms, 2)

    (moved,) = retract(drive.partition, [refused]).values()

    assert dead is not moved
    (append,) = [each for each in moved.operations if isinstance(each, Append)]
    assert offset(append.dues[0], append.first_index) > drive.partition.closed
    drive.apply(moved)
    assert [] == drive.fetch("__death_letter")
    drive.go(1)
    assert [1] == numbers_of(drive.fetch("__death_letter"))


def test_of_many_that_are_taken_back_those_between_move_down_by_all_before_them() -> None:
    drive = Drive()
    drive.read(drive.group())
    drive.produce()
    first, _ = drive.admit(0, counts=[3])
    dead = _dead_letter(drive)
    second, _ = drive.admit(0, counts=[5])

    moved = retract(drive.partition, [first, second])

    drive.apply(moved[id(dead)])
    assert 2 == drive.partition.last_index
    assert 3 == drive.produce().first_index


def test_a_group_that_starts_now_misses_nothing_that_takes_an_index_given_back() -> None:
    """Its start lies above what was admitted before it, and some of that is never there."""
    drive = Drive()
    refused, _ = drive.admit(0, counts=[3])
    made = admit_group(
        drive.partition, "master", "g", start=None, moment=drive.moment, view=drive.store
    )
    assert made is not None
    old = admit_group(drive.partition, "master", "old", moment=drive.moment, view=drive.store)
    assert old is not None

    moved = retract(drive.partition, [refused])
    drive.apply(moved[id(made)])
    drive.apply(moved.get(id(old), old))
    group = drive.group()
    drive.read(group)
    drive.produce()

    assert [4] == drive.take()
    assert 0 == drive.group("old").start


def test_a_redrive_behind_it_takes_its_indexes() -> None:
    drive = _with_a_dead_letter()
    refused, _ = drive.admit(0, counts=[3])
    redrive, count = admit_redrive(drive.partition, drive.letters(), drive.moment, drive.store)
    assert redrive is not None

    moved = retract(drive.partition, [refused])
    drive.apply(moved[id(redrive)])

    assert 1 == count
    assert 3 == drive.partition.last_index == drive.partition.assigned_index


def test_a_redrive_that_is_taken_back_leaves_its_dead_letter() -> None:
    drive = _with_a_dead_letter()
    redrive, _ = admit_redrive(drive.partition, drive.letters(), drive.moment, drive.store)
    assert redrive is not None

    retract(drive.partition, [redrive])

    assert 2 == drive.partition.assigned_index
    assert 1 == drive.redrive(drive.letters())


def _with_a_dead_letter() -> Drive:
    drive = Drive()
    drive.read(drive.group())
    drive.produce()
    drive.apply(_dead_letter(drive))
    return drive
