"""
Decoders of what lies in a replicated log: its entries, and the reader that says which of them
count.
"""

from collections.abc import Sequence
from struct import Struct

from crc32c import crc32c

from fuzz.target import Target, check
from sandglass.errors import CorruptError
from sandglass.replication import entry
from sandglass.replication.entry import Entry, EntryKind
from sandglass.replication.reader import Mark, Reader

_START = Struct("<4sBI")
_WRITERS = (b"a" * 16, b"b" * 16)


def entries(data: bytes) -> None:
    """As it is, and behind a start that is right."""
    start = _START.pack(b"SGen", entry.FORMAT_VERSION, crc32c(data))
    for raw in (data, start + data):
        try:
            found = entry.decode(7, raw)
        except CorruptError:
            continue
        check(raw == entry.encode(found), "an entry was taken that nobody could have written")
        check(found.position <= found.last_position, "its last record comes before its first")
        check(len(raw) == entry.size_of(found.records), "another size")


def _entry_seeds() -> Sequence[bytes]:
    found = (
        Entry(EntryKind.FENCE, _WRITERS[0], 3, 0, 0, 8, 5, (b"opens",)),
        Entry(EntryKind.RECORDS, _WRITERS[1], 3, 2, 1, 9, 6, (b"one", b"", b"three" * 9)),
    )
    raws = [entry.encode(each) for each in found]
    return [raw[_START.size :] for raw in raws] + raws


def streams(data: bytes) -> None:
    """
    A stream, six bytes an entry: how it differs from the one that would follow, in sequence,
    writer, epoch, n, what was known, position and chain.
    """
    reader, sequence, positions = Reader(), 0, 0
    for at in range(0, len(data) - 5, 6):
        odd = data[at : at + 6]
        before = reader.mark
        sequence += 1 + (odd[0] >> 7) * (odd[0] & 1)
        raw = entry.encode(_following(before, odd))
        accepted = reader.take(sequence, raw)
        if accepted is None:
            check(reader.mark == before, "what doesn't count moves the mark")
            continue
        mark = accepted.mark
        check(reader.frozen is None, "a frozen reader goes on")
        check(accepted.position == positions + 1, "a record is left out, or read twice")
        check(mark.epoch >= before.epoch, "epochs go back")
        if mark.epoch == before.epoch:
            check(mark.n == before.n + 1 and mark.writer == before.writer, "out of turn")
        positions = mark.position
        check(Mark.decode(mark.encode()) == mark, "a mark comes back as another")


def _following(mark: Mark, odd: bytes) -> Entry:
    """The entry that follows `mark`, changed."""

    def off(byte: int) -> int:
        return byte % 5 - 2 if byte & 0x80 else 0

    is_fence = bool(odd[0] & 2)
    n = 0 if is_fence else max(1, mark.n + 1 + off(odd[2]))
    return Entry(
        EntryKind.FENCE if is_fence else EntryKind.RECORDS,
        _WRITERS[odd[0] >> 2 & 1] if odd[0] & 8 else mark.writer or _WRITERS[0],
        max(1, mark.epoch + is_fence + off(odd[1])),
        n,
        max(0, min(n, mark.n + off(odd[3]))),
        max(1, mark.position + 1 + off(odd[4])),
        mark.chain ^ (odd[5] >> 7),
        (b"record",) * (1 + odd[5] % 3),
    )


_STREAMS = (
    b"\2\0\0\0\0\0" + b"\0\0\0\0\0\1" * 3 + b"\2\0\0\0\0\0" + b"\0\0\0\0\0\2" * 2,
    b"\2\0\0\0\0\0" + b"\0\0\0\0\0\0" + b"\x0e\0\0\0\0\0" + b"\x08\x81\0\0\0\0" * 2,
)

TARGETS = (
    Target("log-entry", entries, _entry_seeds, 512),
    Target("log-stream", streams, lambda: _STREAMS, 256),
)
