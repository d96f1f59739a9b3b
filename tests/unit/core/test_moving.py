"""Rows of a partition that comes from another log, and the topic that they are of."""

from dataclasses import replace
from zlib import crc32

import pytest

from sandglass.core import codec, keys
from sandglass.core.machine import Machine, decode_topic, encode_topic
from sandglass.core.moving import moved_row
from sandglass.core.offset import OFFSET_BYTES
from sandglass.core.record import DeleteTopic, PutRows, PutTopic, Record, row_count
from sandglass.core.topic import PartitionRef, Topic, TopicKind
from sandglass.core.view import Row
from sandglass.errors import CorruptError
from sandglass.testing.seen import take_messages
from tests.unit.core.drive import Drive

COMING = Topic("b", TopicKind.TIMER, (PartitionRef("Q", 7),), is_coming=True)


def _put(drive: Drive, topic: Topic) -> None:
    put = PutTopic(topic.name, encode_topic(topic))
    drive.apply(drive.machine.record([put], drive.moment))


def _put_rows(drive: Drive, *rows: tuple[bytes, bytes | None]) -> None:
    record = drive.machine.record([PutRows(7, [*rows])], drive.moment)
    assert record == codec.decode(codec.encode(record))
    drive.apply(record)


def _rows(drive: Drive, number: int) -> list[Row]:
    prefixes = [keys.partition_prefix(bytes((kind,)), number) for kind in keys.MOVED_KINDS]
    ranges = [(prefix, keys.after_prefix(prefix)) for prefix in prefixes]
    return [row for first, end in ranges for row in drive.store.range(first, end)]


def test_a_row_says_the_same_of_another_partition_in_another_steady_time() -> None:
    until = (1000).to_bytes(8, "big")
    low = bytes(OFFSET_BYTES)
    retry = keys.retry_key(keys.group_prefix(b"r", 1, 3), 1000, 9)
    index = keys.group_prefix(b"x", 1, 3) + low
    prefix = keys.rows_prefix(1, "master")
    plain = keys.row_key(prefix, 5, 6, 1), keys.row_columns(4) + b"batch"
    waiting = keys.row_key(prefix, 5, 7, 1), keys.row_columns(4, wait_until_ms=1000) + b"batch"

    moved = [
        moved_row(row, 7, ahead_ms=50)
        for row in ((retry, b"v"), (index, until), plain, waiting)
    ]

    assert (keys.retry_key(keys.group_prefix(b"r", 7, 3), 1050, 9), b"v") == moved[0]
    assert (keys.group_prefix(b"x", 7, 3) + low, (1050).to_bytes(8, "big")) == moved[1]
    to = keys.rows_prefix(7, "master")
    assert (keys.row_key(to, 5, 6, 1), plain[1]) == moved[2]
    assert (0, 4, 1050) == (
        keys.row_place(moved[3][0])[1] - 1,
        *keys.read_row(moved[3][1])[1:3],
    )


def test_what_is_over_is_over_in_a_log_that_counts_from_later_on() -> None:
    retry = keys.retry_key(keys.group_prefix(b"r", 1, 3), 40, 9)

    key, _ = moved_row((retry, b""), 7, ahead_ms=-50)

    assert (0, 9) == keys.retry_place(key)


def test_a_partition_whose_rows_were_put_goes_on_where_it_stood() -> None:
    drive = Drive()
    drive.produce()
    before = drive.partition
    _put(drive, COMING)
    drive.machine.partition(7, drive.store)  # somebody has looked at it
    _put_rows(drive, *(moved_row(row, 7, ahead_ms=5) for row in _rows(drive, 1)))

    _put(drive, replace(COMING, is_coming=False))

    after = drive.machine.partition(7, drive.store)
    assert (before.last_index, before.written.closed) == (
        after.last_index,
        after.written.closed,
    )
    assert before.written.steady_ms + 5 == after.written.steady_ms
    row = drive.store.get(keys.partition_key(7))
    assert row is not None
    assert before.written.epoch == keys.epoch_of(row)
    assert drive.machine.epoch == after.epoch, "it is led"


def test_rows_are_put_and_deleted_while_their_topic_is_coming_and_no_longer() -> None:
    drive = Drive()
    first, second = (keys.channel_key(7, name) for name in ("one", "two"))
    _put_rows(drive, (first, b""))  # nobody knows the partition yet
    assert [] == _rows(drive, 7)
    _put(drive, COMING)
    _put_rows(drive, (first, b""), (second, b""))
    _put_rows(drive, (first, None))
    assert [(second, b"")] == _rows(drive, 7)

    _put(drive, replace(COMING, is_coming=False))
    _put_rows(drive, (second, None))
    assert [(second, b"")] == _rows(drive, 7)
    drive.apply(drive.machine.record([DeleteTopic("b", [7])], drive.moment))
    _put_rows(drive, (first, b""))
    assert [] == _rows(drive, 7)


@pytest.mark.parametrize("key", [keys.channel_key(8, "c"), keys.topic_key("b")])
def test_a_row_of_another_partition_is_no_row_of_this_one(key: bytes) -> None:
    drive = Drive()
    _put(drive, COMING)

    with pytest.raises(AssertionError):
        _put_rows(drive, (key, b""))


def test_a_topic_that_moves_says_so_and_others_nothing_of_it() -> None:
    topic = replace(COMING, is_coming=False)

    for each in (topic, COMING, replace(topic, seal=5)):
        assert each == decode_topic(encode_topic(each))
    assert [False, True, True] == [
        each.is_moving for each in (topic, COMING, replace(topic, seal=5))
    ]
    assert b"seal" not in encode_topic(topic)
    assert 2 == row_count(PutRows(7, [(b"a", None), (b"b", b"")]))


def test_a_row_that_nobody_wrote_is_refused() -> None:
    drive = Drive()
    record = drive.machine.record([PutRows(7, [(b"key", None)])], drive.moment)
    raw = codec.encode(record)

    assert record == codec.decode(raw)
    bad = Record(0, record.head, [PutRows(7, [(b"key", b"")])])
    columns = codec.encode(bad)
    # The mark of the value stands before its length.
    broken = bytearray(columns)
    broken[-5] = 2
    with pytest.raises(CorruptError):
        codec.decode(_checked(bytes(broken)))


def _checked(raw: bytes) -> bytes:
    """With the checksum of what it holds."""
    return raw[:1] + crc32(raw[9:]).to_bytes(4, "big") + raw[5:]


def test_it_is_the_same_after_a_restart() -> None:
    drive = Drive()
    _put(drive, COMING)
    _put_rows(drive, *(moved_row(row, 7, ahead_ms=0) for row in _rows(drive, 1)))

    machine = Machine.load(take_messages, drive.store)

    assert machine.topics["b"].is_coming
    assert machine.topics == drive.machine.topics
