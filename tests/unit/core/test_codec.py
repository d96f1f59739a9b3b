"""Records as bytes, by example; that any record comes back stands in the property tests."""

import struct
from pathlib import Path
from zlib import crc32

import pytest

from sandglass.core import codec
from sandglass.core.message import DeadLetterOrigin
from sandglass.core.record import (
    Append,
    Attach,
    Delete,
    Detach,
    Ending,
    Head,
    Move,
    OpenEpoch,
    Promise,
    Put,
    Record,
    Settle,
)
from sandglass.errors import CorruptError

HEAD = Head(epoch=2, closed=3, now_ms=4, reached_ms=5, steady_ms=6)
APPEND = Append("m", 1, 4, [4, 9], [2, 1], [b"ab", b"c"], [False, True], [0, 8])


def test_bytes_of_a_record_are_those_of_format_version_2() -> None:
    """Changes only together with the version, and with a reader of the old one."""
    raw = codec.encode(Record(0, HEAD, [Promise(7)]))

    columns = bytes.fromhex(
        """
        00000000 00000002 0000000000000000000000000003
        0000000000000004 0000000000000005 0000000000000006 0001
        08 0000000000000007
        """
    )
    start = b"\x02" + crc32(columns).to_bytes(4, "big") + len(columns).to_bytes(4, "big")
    assert start + columns == raw


def test_bytes_of_a_put_and_a_delete_are_those_of_format_version_2() -> None:
    put = Put("m", 7, 4, [(b"k", b""), (b"\0", b"cc")], [b"one", b"two!"])
    delete = Delete("m", 9, 4, [(b"k", b"c")])

    raw = codec.encode(Record(1, HEAD, [put, delete]))

    operations = bytes.fromhex(
        """
        14 00000001 6d 0000000000000007 0000000000000004
        00000002 0001 0001 0000 0002 6b 00 6363 00000003 00000004
        15 00000001 6d 0000000000000009 0000000000000004 00000001 0001 0001 6b 63
        """
    )
    assert raw.endswith(operations + b"onetwo!")
    assert Record(1, HEAD, [put, delete]) == codec.decode(raw)


def test_bytes_of_sessions_are_those_of_format_version_2() -> None:
    operations = [Attach(3, "one", "me"), Detach(3, ["one", "two"])]

    raw = codec.encode(Record(1, HEAD, [*operations]))

    columns = bytes.fromhex(
        """
        12 00000003 00000003 6f6e65 00000002 6d65
        13 00000003 00000002 00000003 6f6e65 00000003 74776f
        """
    )
    assert raw.endswith(columns)
    assert operations == codec.decode(raw).operations


def test_records_of_version_1_are_still_read() -> None:
    """As the program before the first release wrote them: all operations that it had."""
    data = Path(__file__).parents[2] / "data" / "records-v1.hex"
    node, letters, group = [
        codec.decode(bytes.fromhex(line)) for line in data.read_text().split()
    ]

    assert Head(3, 5 << 64 | 7, 1700000000000, 1700000000001, 12345) == node.head
    assert [OpenEpoch(3), Promise(1700000000250)] == node.operations[:2]
    append, letter, settle = letters.operations
    assert isinstance(append, Append)
    assert ([b"\n\x01a\n\x01b", b"\n\x01c"], [0, 22345]) == (append.bodies, append.waits)
    assert isinstance(letter, Append)
    assert DeadLetterOrigin(4 << 64 | 6, "g", 5, "nacked") == letter.origin
    assert Settle(1, Ending.DEAD, [(4 << 64, 4 << 64 | 7, 1)], []) == settle
    assert Move(1, Ending.NACKED, 13345, 2, 1, [(1, 9, 3)], [(9, 11, 2)]) == group.operations[1]


@pytest.mark.parametrize(
    "append",
    [
        APPEND,
        Append("m", 1, 4, [4], [1], [b""], [True], []),
        Append("m", 1, 4, [4], [1], [b"x"], [False], [], DeadLetterOrigin(5, "g", 2, "bad")),
    ],
)
def test_append_comes_back_with_its_flags_waits_and_origin(append: Append) -> None:
    record = Record(1, HEAD, [append, append])

    assert record == codec.decode(codec.encode(record))


def test_record_of_another_version_is_refused() -> None:
    raw = codec.encode(Record(0, HEAD, []))

    with pytest.raises(CorruptError, match="format version 3; this node reads 1 to 2"):
        codec.decode(b"\x03" + raw[1:])


def test_wrong_checksum_is_refused() -> None:
    raw = bytearray(codec.encode(Record(0, HEAD, [Promise(7)])))
    raw[-1] ^= 1

    with pytest.raises(CorruptError, match="wrong checksum"):
        codec.decode(bytes(raw))


def test_batch_that_is_cut_short_is_refused() -> None:
    raw = codec.encode(Record(1, HEAD, [APPEND]))

    with pytest.raises(CorruptError, match="cut short"):
        codec.decode(raw[:-1])


def test_bytes_behind_a_record_are_refused() -> None:
    raw = codec.encode(Record(1, HEAD, [APPEND]))

    with pytest.raises(CorruptError, match="ends at"):
        codec.decode(raw + b"x")


def test_unknown_operation_and_unknown_ending_are_refused() -> None:
    raw = codec.encode(Record(1, HEAD, [Settle(1, Ending.ACKED, [], [])]))
    columns = bytearray(raw[9:])
    for place, value in ((len(columns) - 14, 99), (len(columns) - 9, 0)):
        wrong = bytearray(columns)
        wrong[place] = value
        start = b"\x02" + crc32(wrong).to_bytes(4, "big") + len(wrong).to_bytes(4, "big")
        with pytest.raises(CorruptError):
            codec.decode(start + bytes(wrong))


def _sealed(columns: bytes, bodies: bytes = b"") -> bytes:
    """A record of these columns with a right checksum."""
    return struct.pack(">BII", codec.VERSION, crc32(columns), len(columns)) + columns + bodies


def test_bytes_that_belong_to_no_operation_are_refused() -> None:
    raw = codec.encode(Record(0, HEAD, [Promise(7)]))

    with pytest.raises(CorruptError, match="1 bytes of a record belong to nothing"):
        codec.decode(_sealed(raw[9:] + b"x"))


@pytest.mark.parametrize("cut_bytes", range(1, 30))
def test_columns_that_are_cut_short_are_refused(cut_bytes: int) -> None:
    """Though the bytes of the batches stand behind them, and could be taken for columns."""
    raw = codec.encode(Record(1, HEAD, [APPEND]))
    columns, bodies = raw[9:-3], raw[-3:]

    with pytest.raises(CorruptError):
        codec.decode(_sealed(columns[:-cut_bytes], bodies * 20))


ORIGIN = DeadLetterOrigin(5, "g", 2, "bad", "c")


@pytest.mark.parametrize(
    ("append", "place", "value"),
    [
        (Append("m", 1, 4, [4], [1], [b""], [False], []), 27, 8),  # a flag that there isn't
        (Append("m", 1, 4, [4], [1], [b""], [False], []), 28, 2),  # neither scheduled nor not
        (
            Append("m", 1, 4, [4, 5], [1, 1], [b""] * 2, [False, True], []),
            28,
            1,
        ),  # another
        (Append("m", 1, 4, [4, 5], [1, 1], [b""] * 2, [False, True], []), -1, 0),  # all alike
        (Append("m", 1, 4, [4], [1], [b""], [False], [], ORIGIN), -3, 9),  # a longer channel
        (Append("m", 1, 4, [4], [1], [b""], [False], [], ORIGIN), -2, 0),  # a shorter one
    ],
)
def test_an_append_that_nobody_could_have_written_is_refused(
    append: Append, place: int, value: int
) -> None:
    columns = bytearray(codec.encode(Record(1, HEAD, [append]))[9:])
    start = len(codec.encode(Record(1, HEAD, []))[9:])
    columns[place if place < 0 else start + place - 1] = value

    with pytest.raises(CorruptError):
        codec.decode(_sealed(bytes(columns)))
