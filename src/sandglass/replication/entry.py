"""
Log entries: what one message of a replicated log's stream holds, as a value and as bytes.

An entry carries records, and says who wrote it and what it follows: the epoch and its number
in it (`n`, counted from 0), the writer, the position of its first record, and the *chain*: the
CRC of the checksums of all entries before it that readers accept. The entry with n = 0 is the
*fence*: it opens its epoch, and carries the record that says so. Its writer can't know what
else lands before it, so position and chain of a fence are those of the end that it had read: a
lower bound. In all others they are exact.

An entry is never changed once it is made: sent again, it is the same bytes.

The format, and the steps for changing it: docs/internals/replicated-log-format.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct, pack, unpack_from
from struct import error as StructError
from typing import Final

from crc32c import crc32c

from sandglass.errors import CorruptError

FORMAT_VERSION: Final = 1

WRITER_BYTES: Final = 16

_MAGIC: Final = b"SGen"

_START: Final = Struct("<4sBI")
"""Magic, version, CRC of all that follows."""

_REST: Final = Struct("<B16sQQQQII")
"""Kind, writer, epoch, n, known, position, chain, count of records; then their lengths."""

HEAD_BYTES: Final = _START.size + _REST.size

_CRC: Final = Struct("<I")
_CRC_AT: Final = _START.size - _CRC.size

assert HEAD_BYTES == 66


class EntryKind(IntEnum):
    """What an entry is for."""

    FENCE = 1
    """Opens an epoch."""

    RECORDS = 2


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One message of the stream.

    Invariant: n is 0 in a fence and above 0 elsewhere; there is at least one record.
    """

    kind: EntryKind
    writer: bytes
    """Who made it: 16 bytes, drawn anew by each who begins to lead. Of two fences with one
    epoch only the first counts, so an epoch alone doesn't say whose an entry is."""

    epoch: int
    n: int
    known: int
    """The highest n of the epoch that the writer knew to be accepted: never to be missed."""

    position: int
    """Of the first record. In a fence: the least that it can be."""

    chain: int
    """Of all that was accepted before; see the head of this file."""

    records: tuple[bytes, ...]

    @property
    def last_position(self) -> int:
        """Of the last record; in a fence the least that it can be."""
        return self.position + len(self.records) - 1


def encode(entry: Entry) -> bytes:
    """The bytes of an entry."""
    assert len(entry.writer) == WRITER_BYTES, "a writer's id is 16 bytes"
    assert (entry.n == 0) == (entry.kind is EntryKind.FENCE), (
        "a fence is the first of its epoch"
    )
    assert entry.known <= entry.n
    assert entry.records, "an entry carries records"
    count = len(entry.records)
    head = _REST.pack(
        entry.kind,
        entry.writer,
        entry.epoch,
        entry.n,
        entry.known,
        entry.position,
        entry.chain,
        count,
    ) + pack(f"<{count}I", *map(len, entry.records))
    checksum = crc32c(head)
    for record in entry.records:
        checksum = crc32c(record, checksum)
    start = _START.pack(_MAGIC, FORMAT_VERSION, checksum)
    return b"".join((start, head, *entry.records))


def decode(sequence: int, raw: bytes) -> Entry:
    """
    The entry that the stream holds at `sequence`.

    Raises:
        CorruptError: another version, a wrong checksum, or bytes that are no entry; the message
            names the sequence. What follows it must not be believed.
    """
    try:
        return _decode(raw)
    except (StructError, ValueError) as error:
        raise CorruptError(f"entry {sequence} of {len(raw)} bytes: {error}") from error


def _decode(raw: bytes) -> Entry:
    magic, version, checksum = _START.unpack_from(raw)
    if magic != _MAGIC:
        raise ValueError("it is no log entry")
    if version != FORMAT_VERSION:
        raise ValueError(f"it has format version {version}; this node reads {FORMAT_VERSION}")
    if crc32c(memoryview(raw)[_START.size :]) != checksum:
        raise ValueError("its checksum is wrong")
    kind, writer, epoch, n, known, position, chain, count = _REST.unpack_from(raw, _START.size)
    sizes = unpack_from(f"<{count}I", raw, HEAD_BYTES)
    at = HEAD_BYTES + 4 * count
    records: list[bytes] = []
    for size in sizes:
        records.append(raw[at : at + size])
        at += size
    if at != len(raw):
        raise ValueError(f"it ends at {at}")
    if not records:
        raise ValueError("it carries no record")
    found = EntryKind(kind)
    if (n == 0) != (found is EntryKind.FENCE):
        raise ValueError(f"a {found.name.lower()} entry has n = {n}")
    if known > n:
        raise ValueError(f"with n = {n} it says that n = {known} was accepted before")
    return Entry(found, writer, epoch, n, known, position, chain, tuple(records))


def chain_after(chain: int, raw: bytes) -> int:
    """The chain once an entry with these bytes is accepted where it was `chain`."""
    return crc32c(raw[_CRC_AT : _START.size], chain)


def checksum_of(raw: bytes) -> int:
    """What the bytes of an entry say that their checksum is."""
    return int.from_bytes(raw[_CRC_AT : _START.size], "little")


def size_of(records: Sequence[bytes]) -> int:
    """How many bytes an entry with these records has."""
    return HEAD_BYTES + sum(map(len, records)) + 4 * len(records)


def message_id(entry: Entry, *, attempt: int) -> str:
    """
    What the engine tells repeats apart by (`Nats-Msg-Id`).

    The same for the same entry, as long as nothing proves that its stored copy isn't accepted:
    then it has to be stored once more, under the next `attempt`.
    """
    return f"{entry.writer.hex()}-{entry.epoch}-{entry.n}-{attempt}"
