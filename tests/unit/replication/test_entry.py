import struct
from dataclasses import replace

import pytest
from crc32c import crc32c

from sandglass.errors import CorruptError
from sandglass.replication.entry import (
    HEAD_BYTES,
    Entry,
    EntryKind,
    chain_after,
    decode,
    encode,
    message_id,
    size_of,
)
from tests.unit.replication.stream import A

ENTRY = Entry(EntryKind.RECORDS, A, 3, 7, 5, 41, 0xABCD, (b"one", b"", b"three"))
FENCE = Entry(EntryKind.FENCE, A, 3, 0, 0, 41, 0xABCD, (b"open",))


def sealed(rest: bytes) -> bytes:
    """Bytes with a right checksum, whatever they say."""
    return struct.pack("<4sBI", b"SGen", 1, crc32c(rest)) + rest


@pytest.mark.parametrize("entry", [ENTRY, FENCE, replace(ENTRY, records=(b"x",))])
def test_entry_is_read_as_it_was_written(entry: Entry) -> None:
    raw = encode(entry)

    assert entry == decode(1, raw)
    assert size_of(entry.records) == len(raw)


def test_bytes_of_an_entry_are_what_the_format_says() -> None:
    raw = encode(FENCE)

    assert b"SGen\x01" + struct.pack("<I", crc32c(raw[9:])) == raw[:9]
    assert b"\x01" + A + struct.pack("<QQQQII", 3, 0, 0, 41, 0xABCD, 1) == raw[9:HEAD_BYTES]
    assert struct.pack("<I", 4) + b"open" == raw[HEAD_BYTES:]


def test_last_position_is_that_of_the_last_record() -> None:
    assert 43 == ENTRY.last_position


@pytest.mark.parametrize("at", range(len(encode(ENTRY))))
def test_each_damaged_byte_is_noticed_and_the_sequence_named(at: int) -> None:
    raw = bytearray(encode(ENTRY))
    raw[at] ^= 0x20

    with pytest.raises(CorruptError, match="entry 12 of"):
        decode(12, bytes(raw))


@pytest.mark.parametrize("size", range(len(encode(ENTRY))))
def test_entry_that_is_cut_short_is_noticed(size: int) -> None:
    with pytest.raises(CorruptError):
        decode(12, encode(ENTRY)[:size])


def test_newer_version_is_called_newer_and_not_damaged() -> None:
    raw = encode(ENTRY)

    with pytest.raises(CorruptError, match="format version 2; this node reads 1"):
        decode(12, raw[:4] + b"\x02" + raw[5:])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda rest: b"\x09" + rest[1:], "9 is not a valid EntryKind"),
        (lambda rest: b"\x01" + rest[1:], "a fence entry has n = 7"),
        (lambda rest: rest[:25] + bytes(8) + rest[33:], "a records entry has n = 0"),
        (lambda rest: rest[:33] + b"\x08" + rest[34:], "n = 7 it says that n = 8 was"),
        (lambda rest: rest[:53] + bytes(4), "it carries no record"),
        (lambda rest: rest + b"more", "it ends at"),
        (lambda rest: rest[:-1], "it ends at"),
    ],
)
def test_bytes_that_no_entry_has_are_refused_though_the_checksum_is_right(
    change: object, what: str
) -> None:
    rest = change(encode(ENTRY)[9:])  # type: ignore[operator]

    with pytest.raises(CorruptError, match=what):
        decode(12, sealed(rest))


def test_other_bytes_are_called_no_entry() -> None:
    with pytest.raises(CorruptError, match="it is no log entry"):
        decode(12, b"hello, this is somebody else's")


@pytest.mark.parametrize(
    "entry",
    [
        replace(ENTRY, writer=b"short"),
        replace(ENTRY, n=0, known=0),
        replace(FENCE, n=1),
        replace(ENTRY, known=8),
        replace(ENTRY, records=()),
    ],
)
def test_entry_against_its_own_rules_is_not_written(entry: Entry) -> None:
    with pytest.raises(AssertionError):
        encode(entry)


def test_chain_depends_on_every_entry_before() -> None:
    one, two = encode(FENCE), encode(ENTRY)

    assert chain_after(chain_after(0, one), two) != chain_after(chain_after(0, two), one)
    assert chain_after(0, two) != chain_after(1, two)
    assert crc32c(one[5:9] + two[5:9]) == chain_after(chain_after(0, one), two)


def test_message_id_tells_writer_epoch_n_and_attempt_apart() -> None:
    entries = [
        ENTRY,
        replace(ENTRY, epoch=4),
        replace(ENTRY, n=8),
        replace(ENTRY, writer=b"z" * 16),
    ]
    ids = {message_id(entry, attempt=attempt) for entry in entries for attempt in (0, 1)}

    assert 8 == len(ids)
    assert f"{A.hex()}-3-7-0" in ids
