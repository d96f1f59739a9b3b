"""The layout of keys and of a message row's columns."""

import pytest

from sandglass.core import keys
from sandglass.core.message import DeadLetterOrigin


def test_key_of_a_message_row_is_that_of_view_version_1() -> None:
    prefix = keys.rows_prefix(7, "side")

    key = keys.row_key(prefix, 0x010203040506, 8, 9)

    expected = b"m\0\0\0\7side\0\0" + bytes.fromhex("01020304050600000000000000080009")
    assert expected == key
    assert (0x010203040506 << 64 | 8, 9) == keys.row_place(key)
    assert 7 == keys.partition_of(key)


def test_row_of_an_entry_is_that_of_view_version_1() -> None:
    prefix = keys.entries_prefix(7, "side")

    key = keys.entry_key(prefix, (b"a\0b", b"c\0"))

    assert b"k\0\0\0\7side\0" + b"a\0\xffb\0\0" + b"c\0" == key
    assert (b"a\0b", b"c\0") == keys.entry_of(prefix, key)
    value = keys.entry_columns(9, 8) + b"message"
    assert b"\0" + bytes.fromhex("0000000000000009 0000000000000008") + b"message" == value
    assert (9, 8, b"message") == keys.read_entry(value)


def test_no_channel_or_group_is_a_prefix_of_another() -> None:
    assert not keys.rows_prefix(1, "ab").startswith(keys.rows_prefix(1, "a"))
    assert not keys.group_name_key(1, "a", "bc").startswith(keys.group_name_key(1, "a", "b"))


def test_first_key_after_a_prefix_is_above_all_that_start_with_it() -> None:
    prefix = keys.partition_prefix(b"m", 0xFFFFFFFF)

    assert keys.after_prefix(prefix) > prefix + b"\xff" * 50
    assert keys.after_prefix(keys.partition_prefix(b"m", 1)) == keys.partition_prefix(b"m", 2)


def test_names_come_back_out_of_their_keys() -> None:
    assert "side" == keys.channel_of(keys.channel_key(1, "side"))
    assert ("side", "g") == keys.group_of(keys.group_name_key(1, "side", "g"))


def test_retry_keys_are_in_order_of_time_then_offset() -> None:
    prefix = keys.group_prefix(b"r", 1, 2)

    places = [(5, 9), (5, 1 << 100), (6, 0)]

    built = [keys.retry_key(prefix, *place) for place in places]
    assert sorted(built) == built
    assert places == [keys.retry_place(key) for key in built]
    assert [9, 1 << 100, 0] == [keys.offset_at_end(key) for key in built]


@pytest.mark.parametrize("wait_until_ms", [0, 77])
@pytest.mark.parametrize("is_scheduled", [False, True])
@pytest.mark.parametrize("origin", [None, DeadLetterOrigin(5 << 64 | 6, "g", 3, "bad")])
def test_columns_of_a_row_come_back_and_the_batch_behind_them(
    wait_until_ms: int, is_scheduled: bool, origin: DeadLetterOrigin | None
) -> None:
    columns = keys.row_columns(
        4, is_scheduled=is_scheduled, wait_until_ms=wait_until_ms, origin=origin
    )

    flags, produced_ms, until_ms, read, start = keys.read_row(columns + b"batch")

    assert is_scheduled == bool(flags & keys.IS_SCHEDULED)
    assert (4, wait_until_ms, origin) == (produced_ms, until_ms, read)
    assert len(columns) == start
