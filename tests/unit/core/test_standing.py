"""How a message stands with a group, and how far the group is: also after a restart."""

from sandglass.core import keys
from sandglass.core.group import Group
from sandglass.core.record import Ending
from sandglass.core.standing import Standing, standing_of
from sandglass.core.view import Changes
from tests.unit.core.drive import START_MS, Drive, offset


def stands(drive: Drive, group: Group, index: int) -> tuple[Standing, int] | None:
    return standing_of(drive.partition, group, offset(START_MS, index), drive.store)


def test_a_message_that_nobody_was_given_or_that_is_none_has_no_standing() -> None:
    drive = Drive()
    group = drive.group()

    drive.produce(0, counts=[2])

    assert [None] * 4 == [stands(drive, group, index) for index in range(4)]
    assert (0, 0) == (group.consumed, group.acked)


def test_each_outcome_gives_a_message_its_standing() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group, credit_count=6)
    drive.produce(0, counts=[8])
    (delivery,) = drive.dispatch()

    drive.end(delivery, Ending.ACKED, [(0, 1), (2, 1)])
    drive.end(delivery, Ending.NACKED, [(3, 1)], delay_ms=50)
    drive.end(delivery, Ending.DEAD, [(4, 1)])

    assert [
        (Standing.COMMITTED, 0),
        (Standing.HANDED_OUT, 1),
        (Standing.SETTLED, 0),
        (Standing.WAITING, 1),
        (Standing.SETTLED, 0),
        (Standing.HANDED_OUT, 1),
        None,
        None,
    ] == [stands(drive, group, index) for index in range(1, 9)]


def test_a_retry_that_is_handed_out_counts_the_attempts_before_it() -> None:
    drive = Drive()
    group = drive.group()
    consumer = drive.read(group)
    drive.produce()
    drive.end(drive.dispatch()[0], Ending.NACKED)

    drive.grant(consumer, credit_count=1)
    drive.dispatch()

    assert (Standing.HANDED_OUT, 2) == stands(drive, group, 1)


def test_a_message_that_waits_for_the_clock_was_never_handed_out() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group)
    drive.produce(START_MS + 500)
    drive.go(600)
    drive.partition.see(drive.wall_ms)
    drive.wall_ms -= 550
    drive.partition.reached_ms = drive.wall_ms

    assert [] == drive.take()

    place = offset(START_MS + 500, 1)
    assert 1 == group.retry_count
    assert standing_of(drive.partition, group, place, drive.store) is None
    assert 0 == group.consumed == group.recorded


def test_messages_before_the_start_of_a_group_have_no_standing() -> None:
    drive = Drive()
    drive.produce()

    group = drive.group(is_from_now=True)

    assert stands(drive, group, 1) is None


def test_the_greatest_ack_and_the_last_recorded_delivery_survive_a_restart() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group, credit_count=6)
    drive.produce(0, counts=[8])
    (delivery,) = drive.dispatch()
    drive.end(delivery, Ending.ACKED, [(0, 1), (2, 1)])
    drive.end(delivery, Ending.NACKED, [(3, 1)])
    assert offset(START_MS, 6) == group.consumed

    drive.restart()

    loaded = drive.group()
    assert offset(START_MS, 3) == loaded.acked
    assert offset(START_MS, 4) == loaded.consumed
    assert [(Standing.HANDED_OUT, 1), (Standing.WAITING, 1), None] == [
        stands(drive, loaded, index) for index in (2, 4, 5)
    ]


def test_a_lesser_ack_does_not_lower_the_greatest() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group)
    drive.produce(0, counts=[3])
    (delivery,) = drive.dispatch()

    drive.end(delivery, Ending.ACKED, [(2, 1)])
    drive.end(delivery, Ending.ACKED, [(0, 1)])

    assert offset(START_MS, 3) == group.acked


def test_a_group_s_row_of_version_1_is_read_without_them() -> None:
    drive = Drive()
    group = drive.group()
    key = keys.group_prefix(b"h", 1, group.number)
    raw = drive.store.get(key)
    assert raw is not None
    head, tail = raw[:-36], raw[-36:]
    assert (bytes(36), b"\0") == (tail, head[-1:])

    drive.position += 1
    drive.store.write(Changes({key: head[:-1]}), drive.position)
    drive.restart()

    loaded = drive.group()
    assert ("master", "g", 0, 0) == (loaded.channel, loaded.name, loaded.acked, loaded.consumed)
