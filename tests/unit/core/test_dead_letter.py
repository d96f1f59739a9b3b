"""Dead letters that come back, and that go."""

import pytest

from sandglass.core import keys, outcome
from sandglass.core.dead_letter import Selection, admit_purge, admit_redrive
from sandglass.core.membership import admit_drop
from sandglass.core.message import DEAD_LETTER_CHANNEL, REDRIVE_CHANNEL, DeadLetterOrigin
from sandglass.core.offset import INDEX_BITS
from sandglass.core.outcome import first_place
from sandglass.core.record import Append, Cut, Ending, Purge, Redrive
from sandglass.core.view import Overlay
from sandglass.errors import LeaseLostError
from tests.unit.core.drive import Drive, numbers_of, offset


def bury_again(drive: Drive, reader: str) -> None:
    """A dead letter of a dead letter, as only stores of early versions hold them."""
    (letter,) = drive.letters()
    place = letter.due_ms << INDEX_BITS | letter.first_index
    append = Append(
        DEAD_LETTER_CHANNEL,
        drive.partition.assigned_index + 1,
        letter.produced_ms,
        [drive.wall_ms],
        [1],
        [letter.body],
        [False],
        [],
        DeadLetterOrigin(place, reader, 1, "dead", DEAD_LETTER_CHANNEL),
    )
    drive.partition.assigned_index += 1
    drive.apply(drive.partition.record([append], drive.moment))


def died(count: int = 1, *, group: str = "g", channel: str = "master") -> Drive:
    """A partition in which a group has given up so many messages, of one batch."""
    drive = Drive()
    bury(drive, count, group=group, channel=channel)
    return drive


def bury(drive: Drive, count: int = 1, *, group: str = "g", channel: str = "master") -> None:
    part = drive.group(group, channel=channel, is_from_now=True)
    drive.produce(0, counts=[count], channel=channel)
    consumer = drive.read(part)
    for delivery in drive.dispatch():
        drive.end(delivery, Ending.DEAD, reason="bad")
    drive.partition.remove_consumer(drive.group(group, channel=channel), consumer)


def test_a_redriven_message_comes_to_its_group_alone_with_attempts_anew() -> None:
    drive = died()
    drive.produce(counts=[1])
    for name in ("g", "other"):
        drive.read(drive.group(name))
    before = [(d.group.name, d.attempt, numbers_of(d.slices)) for d in drive.dispatch()]

    assert 1 == drive.redrive(drive.letters())
    deliveries = drive.dispatch()

    assert [("g", 1, [2]), ("other", 1, [1, 2])] == before
    assert [("g", 1, [1])] == [
        (d.group.name, d.attempt, numbers_of(d.slices)) for d in deliveries
    ]


def test_its_dead_letter_goes_in_the_same_record() -> None:
    drive = died(3)

    record, count = admit_redrive(drive.partition, drive.letters(), drive.moment, drive.store)
    assert record is not None
    drive.apply(record)

    assert 3 == count
    assert [Redrive, Purge] == [type(each) for each in record.operations]
    assert [] == drive.letters()


def test_a_redriven_message_is_settled_like_any_other() -> None:
    drive = died(2)
    group = drive.group()
    drive.redrive(drive.letters())
    waiting = group.retry_count
    drive.read(group)

    (delivery,) = drive.dispatch()
    drive.end(delivery, Ending.NACKED, [(1, 1)])
    drive.end(delivery, Ending.ACKED)
    drive.go(1)
    (again,) = drive.dispatch()
    drive.end(again, Ending.ACKED)

    assert (2, 0, 2, 2) == (waiting, group.retry_count, group.acked_count, group.redriven_count)
    assert 2 == again.attempt
    assert [] == drive.take()


def test_a_second_death_names_the_place_where_the_message_stood_first() -> None:
    drive = died(3)
    first = drive.fetch()[0]
    drive.redrive(drive.letters())
    drive.read(drive.group())
    (delivery,) = drive.dispatch()

    drive.end(delivery, Ending.DEAD, [(2, 1)], reason="again")

    (letter,) = drive.letters()
    assert letter.origin is not None
    assert (first.due_ms << INDEX_BITS | first.first_index + 2) == letter.origin.offset
    assert ("again", "master", 1) == (
        letter.origin.reason,
        letter.origin.channel,
        letter.origin.attempts,
    )


def test_a_message_whose_original_is_gone_comes_back_all_the_same() -> None:
    drive = Drive()
    drive.produce()
    group = drive.group()
    drive.read(group)
    delivery = drive.dispatch()[0]
    drive.go(10)
    drive.end(delivery, Ending.DEAD)
    drive.apply(drive.partition.record([Cut(drive.wall_ms << INDEX_BITS)], drive.moment))
    assert [] == drive.fetch()

    drive.redrive(drive.letters())

    assert [1] == drive.take()


def test_committed_does_not_go_back_and_waits_for_the_redriven_message() -> None:
    drive = died(2)
    group = drive.group()
    before = drive.committed(group)
    drive.go(5)
    drive.redrive(drive.letters())
    drive.produce()
    drive.read(group)
    deliveries = drive.dispatch()
    main = next(each for each in deliveries if not each.lease.is_retry)
    drive.end(main, Ending.ACKED)

    waiting = drive.committed(group)
    drive.end(next(each for each in deliveries if each.lease.is_retry), Ending.ACKED)

    assert before <= waiting < drive.committed(group)


def test_committed_of_a_group_that_starts_in_the_future_does_not_go_back_either() -> None:
    """What is redriven to it finds its place before the start."""
    drive = died()
    group = drive.group()
    drive.seek(group, (drive.wall_ms + 1000) << INDEX_BITS)
    before = drive.committed(group)

    drive.go(5)
    drive.redrive(drive.letters())
    waiting = drive.committed(group)
    drive.read(group)
    drive.end(drive.dispatch()[0], Ending.ACKED)
    drive.go(2000)
    last = drive.produce()
    drive.end(drive.dispatch()[0], Ending.ACKED)

    assert before <= waiting < drive.committed(group)
    assert offset(drive.wall_ms, last.first_index) < drive.committed(group)


def redriven_between() -> tuple[Drive, list[int]]:
    """
    A redriven message (1) stands, in time, between two others (2 and 3); offsets of all three
    in the order in which they stand.
    """
    drive = died()
    second = drive.produce()
    drive.redrive(drive.letters())
    between = drive.partition.last_index
    third = drive.produce()
    indexes = (second.first_index, between, third.first_index)
    return drive, [offset(drive.wall_ms, index) for index in indexes]


def test_a_lease_of_the_main_order_does_not_reach_over_a_redriven_message() -> None:
    drive, _ = redriven_between()
    group = drive.group()
    drive.read(group)
    retry, *main = drive.dispatch()

    for delivery in main:
        drive.end(delivery, Ending.NACKED, delay_ms=0)
    drive.end(retry, Ending.NACKED, delay_ms=0)
    drive.go(1)
    again = drive.dispatch()
    for delivery in again:
        for place in range(delivery.lease.count):
            drive.end(delivery, Ending.ACKED, [(place, 1)])

    assert [1, 2, 3] == sorted(n for each in again for n in numbers_of(each.slices))
    assert (0, 3) == (group.retry_count, group.acked_count)
    assert [] == drive.take()
    assert offset(drive.wall_ms - 1, drive.partition.last_index) < drive.committed(group)


def test_neither_does_an_outcome_by_offset() -> None:
    drive, offsets = redriven_between()
    drive.restart(promised=drive.wall_ms + 1)
    group = drive.group()

    drive.end_offsets(group, offsets[::2], Ending.NACKED)
    drive.end_offsets(group, offsets[::2], Ending.ACKED)
    drive.read(group)

    assert [1] == drive.take()
    assert (1, 2) == (group.retry_count, group.acked_count)


def test_a_purge_between_two_turns_of_a_reader_leaves_nothing_that_it_looks_for() -> None:
    """The reader has taken the first of two letters that wait together; the second goes."""
    drive = died()
    drive.go(10)
    bury(drive)
    reader = drive.group("reader", channel=DEAD_LETTER_CHANNEL)
    drive.read(reader)
    for delivery in drive.dispatch():
        drive.end(delivery, Ending.NACKED)
    drive.go(1)
    drive.grant(reader.consumers[0], credit_count=1)
    taken = drive.take()

    drive.purge(drive.letters()[1:])
    drive.grant(reader.consumers[0], credit_count=5)

    assert ([1], []) == (taken, drive.take())
    assert 1 == reader.expired_count


def test_a_purge_leaves_its_readers_what_came_back_to_them_in_between() -> None:
    """A letter of a letter is redriven to the reader; then a later letter is purged."""
    drive = died()
    reader = drive.group("reader", channel=DEAD_LETTER_CHANNEL)
    bury_again(drive, "reader")
    drive.redrive(drive.letters(Selection(group="reader")))
    bury(drive)

    drive.purge(drive.letters()[-1:])

    assert 1 == reader.retry_count


def test_a_letter_of_a_letter_that_came_back_becomes_a_dead_letter_again() -> None:
    """It stands where nobody can read it: without another it would be gone."""
    drive = died()
    drive.read(drive.group("reader", channel=DEAD_LETTER_CHANNEL))
    bury_again(drive, "reader")
    drive.end(drive.dispatch()[0], Ending.ACKED)
    drive.redrive(drive.letters(Selection(group="reader")))
    assert 1 == len(drive.letters())

    drive.end(drive.dispatch()[0], Ending.DEAD)

    assert ["g", "reader"] == [each.origin.group for each in drive.letters() if each.origin]


def test_an_outcome_by_offset_for_a_letter_that_goes_is_ignored() -> None:
    drive = died()
    reader = drive.group("reader", channel=DEAD_LETTER_CHANNEL)
    drive.read(reader)
    drive.end(drive.dispatch()[0], Ending.NACKED, delay_ms=50)
    (letter,) = drive.letters()
    record, _ = admit_purge(drive.partition, [letter], drive.moment, drive.store)

    records, ignored_count = outcome.admit_offsets(
        drive.partition,
        reader,
        [offset(letter.due_ms, letter.first_index)],
        Ending.ACKED,
        drive.moment,
        drive.store,
    )
    drive.apply(record)

    assert ([], 1) == (records, ignored_count)
    assert (0, 1) == (reader.acked_count, reader.expired_count)


def test_a_redriven_message_holds_after_a_restart() -> None:
    drive = died(2)
    drive.redrive(drive.letters())

    drive.restart()
    drive.read(drive.group())

    assert [1, 2] == drive.take()
    assert 0 == len(drive.letters())


def test_a_part_of_a_row_can_be_taken_and_the_rest_stays_as_it_was() -> None:
    drive = died(4)
    (row,) = drive.letters()
    offset = row.due_ms << INDEX_BITS | row.first_index

    middle = row._replace(first=1, first_index=row.first_index + 1, count=2)
    assert 2 == drive.redrive([middle])

    left = drive.letters()
    assert [1, 4] == numbers_of(left)
    assert [offset, offset + 3] == [
        part.due_ms << INDEX_BITS | part.first_index for part in left
    ]
    places = [part.origin.offset + part.first for part in left if part.origin]
    assert places[1] - places[0] == 3
    drive.read(drive.group())
    assert [2, 3] == drive.take()


def test_a_selection_goes_by_group_channel_and_reason() -> None:
    drive = died(1)
    bury(drive, 1, group="h")
    bury(drive, 1, channel="side")

    def numbers(**wanted: str) -> list[int]:
        return numbers_of(drive.letters(Selection(**wanted)))

    assert [1, 3] == numbers(group="g")
    assert [3] == numbers(channel="side")
    assert [1, 2, 3] == numbers(reason="bad")
    assert [] == numbers(reason="good")


def test_what_a_record_on_its_way_takes_is_not_taken_twice() -> None:
    drive = died(3)
    letters = drive.letters()
    first, _ = admit_redrive(drive.partition, letters[:1], drive.moment, drive.store)
    assert first is not None

    second, count = admit_purge(drive.partition, letters, drive.moment, drive.store)

    assert (None, 0) == (second, count)
    drive.apply(first)


def test_dead_letters_of_a_group_that_is_gone_stay() -> None:
    drive = died(1)
    bury(drive, 1, group="h")
    drive.apply(admit_drop(drive.partition, drive.group("g"), drive.moment))

    assert 1 == drive.redrive(drive.letters())

    assert [1] == numbers_of(drive.letters())


def test_purged_letters_are_gone_and_the_group_counts_them_as_dead_still() -> None:
    drive = died(3)

    assert 3 == drive.purge(drive.letters())

    assert [] == drive.letters()
    assert [] == drive.fetch(DEAD_LETTER_CHANNEL)
    assert (3, 0) == (drive.group().dead_count, drive.group().retry_count)


def test_nobody_reads_the_way_back_and_retention_takes_it() -> None:
    drive = died(1)
    drive.redrive(drive.letters())
    group = drive.group()
    drive.go(10)

    drive.apply(drive.partition.admit_cut(drive.wall_ms << INDEX_BITS, drive.moment))

    prefix = keys.rows_prefix(1, REDRIVE_CHANNEL)
    assert [] == list(drive.store.range(prefix, keys.after_prefix(prefix)))
    assert (0, 1) == (group.retry_count, group.expired_count)


# --- consumers of the dead letters' channel ---------------------------------------------------


def test_a_lease_on_a_dead_letter_that_goes_is_lost_and_the_others_stand() -> None:
    drive = died(3)
    reader = drive.group("r", channel=DEAD_LETTER_CHANNEL)
    drive.read(reader)
    (delivery,) = drive.dispatch()
    (row,) = drive.letters()

    drive.purge([row._replace(first=1, first_index=row.first_index + 1, count=1)])

    with pytest.raises(LeaseLostError):
        drive.end(delivery, Ending.ACKED, [(1, 1)])
    drive.end(delivery, Ending.ACKED)
    assert (2, 1) == (reader.acked_count, reader.expired_count)
    drive.produce()
    top = row.due_ms << INDEX_BITS | row.first_index + 2
    assert drive.committed(reader) > top


def test_what_waits_for_a_reader_or_was_not_read_expires_with_its_dead_letter() -> None:
    drive = died(2)
    reader = drive.group("r", channel=DEAD_LETTER_CHANNEL)
    consumer = drive.read(reader)
    drive.end(drive.dispatch()[0], Ending.NACKED, delay_ms=100)
    drive.partition.remove_consumer(reader, consumer)
    bury(drive, 2)

    drive.purge(drive.letters())
    drive.read(reader)
    drive.go(200)

    assert (0, 4) == (reader.retry_count, reader.expired_count)
    assert [] == drive.take()


def test_nothing_is_handed_out_to_readers_while_a_purge_is_on_its_way() -> None:
    drive = died(2)
    reader = drive.group("r", channel=DEAD_LETTER_CHANNEL)
    drive.read(reader)
    record, _ = admit_purge(drive.partition, drive.letters(), drive.moment, drive.store)

    assert [] == drive.take()
    drive.apply(record)
    assert [] == drive.take()


def test_a_dead_letter_that_its_reader_gives_up_stays_one_and_makes_no_other() -> None:
    drive = died(2)
    (letters,) = drive.letters()
    reader, other = [drive.group(name, channel=DEAD_LETTER_CHANNEL) for name in ("r", "o")]
    drive.read(reader)

    (delivery,) = drive.dispatch()
    drive.end(delivery, Ending.DEAD, [(0, 1)])
    for _ in range(drive.max_deliveries):
        drive.end(delivery, Ending.NACKED)
        drive.go(1)
        (delivery,) = drive.dispatch() or [delivery]

    assert [letters] == drive.letters()
    assert (2, 0, []) == (reader.dead_count, reader.retry_count, drive.dispatch())
    drive.read(other)
    assert [1, 2] == drive.take()


def test_a_dead_letter_that_was_given_up_can_still_be_redriven() -> None:
    drive = died()
    reader = drive.group("r", channel=DEAD_LETTER_CHANNEL)
    drive.read(reader)
    drive.end(drive.dispatch()[0], Ending.DEAD)

    assert 1 == drive.redrive(drive.letters())
    drive.read(drive.group())

    assert [1] == drive.take()
    assert (1, 0) == (reader.dead_count, reader.expired_count)


def test_a_lease_of_nothing_but_what_goes_ends_and_others_stand() -> None:
    drive = died(2)
    reader = drive.group("r", channel=DEAD_LETTER_CHANNEL)
    for _ in range(2):
        drive.read(reader, credit_count=1)
    first, second = drive.dispatch()
    (row,) = drive.letters()

    drive.purge([row._replace(count=1)])

    assert [second.lease.token] == [*reader.leases]
    with pytest.raises(LeaseLostError):
        drive.end(first, Ending.ACKED)


def test_a_purge_of_what_a_retry_row_only_spans_takes_nothing_from_it() -> None:
    """The row's part of offset space begins before its message; nothing lies there."""
    drive = died()
    reader = drive.group("r", channel=DEAD_LETTER_CHANNEL)
    drive.read(reader)
    drive.end(drive.dispatch()[0], Ending.NACKED, delay_ms=100)
    (row,) = drive.letters()
    scratch = Overlay(drive.store)

    reader.apply_remove(1, row.due_ms << INDEX_BITS, scratch)

    assert (1, 0) == (reader.retry_count, reader.expired_count)


def test_the_place_of_a_message_that_never_died_is_its_own() -> None:
    drive = Drive()
    placed = drive.produce()

    (part,) = drive.fetch()

    assert placed.dues[0] << INDEX_BITS | 1 == first_place(part)
