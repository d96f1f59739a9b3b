"""
Decoders of what lies on the disk: records, keys of the view, log and superblock.

Random bytes would never pass a checksum. So the targets set it right where it guards the
outside of a decoder, and leave it wrong where it is what is tried.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from struct import Struct
from zlib import crc32

from crc32c import crc32c

from fuzz.target import Target, check
from sandglass.adapters import superblock
from sandglass.adapters.files import Files
from sandglass.adapters.segment import (
    HEADER_BYTES,
    FrameReader,
    Header,
    decode_header,
    encode_frame,
    scan,
)
from sandglass.core import codec, keys
from sandglass.core.message import DeadLetterOrigin
from sandglass.core.record import (
    Append,
    Attach,
    CloseExact,
    CreateGroup,
    Cut,
    Delete,
    DeleteGroup,
    DeleteTopic,
    Detach,
    DropGroup,
    Ending,
    Head,
    Move,
    OpenEpoch,
    Promise,
    PromiseExact,
    Purge,
    Put,
    PutGroup,
    PutRows,
    PutTopic,
    Record,
    Redrive,
    SeekGroup,
    Settle,
)
from sandglass.errors import CorruptError, PreconditionError
from sandglass.replication import snapshot
from sandglass.replication.reader import Mark

PATH = Path("fuzzed")

# --- records ----------------------------------------------------------------------------------

_START = Struct(">BII")
_HEAD = Head(epoch=2, closed=3, now_ms=4, reached_ms=5, steady_ms=6)


def record(data: bytes) -> None:
    """Bytes 0 and 1 say where the columns end; version, checksum and length are set right."""
    body = data[2:]
    columns_bytes = int.from_bytes(data[:2], "big") % (len(body) + 1)
    start = _START.pack(codec.VERSION, crc32(body[:columns_bytes]), columns_bytes)
    for raw in (start + body, data):
        try:
            found = codec.decode(raw)
        except CorruptError:
            continue
        again = codec.encode(found)
        check(raw[1:] == again[1:], "a record was taken that nobody could have written")


def _record_seeds() -> Sequence[bytes]:
    ranges = [(1, 9, 3), (9, 11, 2)]
    origin = DeadLetterOrigin(5, "g", 2, "bad", "c")
    append = Append("m", 1, 4, [4, 9], [2, 1], [b"ab", b"c"], [False, True], [0, 8], origin)
    plain = Append("m", 1, 4, [4], [1], [b"x"], [True], [])
    operations = [
        *(append, plain, Redrive(1, 5, plain), Put("m", 7, 4, [(b"k", b"")], [b"one"])),
        *(Delete("m", 9, 4, [(b"k", b"c")]), Settle(1, Ending.ACKED, ranges, [])),
        *(Move(1, Ending.NACKED, 13345, 2, 1, [], ranges), CreateGroup(1, "m", "g", 5)),
        *(SeekGroup(1, 5), DropGroup(1), Purge(ranges), Cut(5), PromiseExact(5), OpenEpoch(3)),
        *(Promise(7), CloseExact([(1, 5)]), PutTopic("t", b"{}"), DeleteTopic("t", [1, 2])),
        *(PutGroup("t", "g", b"{}"), DeleteGroup("t", "g")),
        *(Attach(1, "session", "owner"), Detach(1, ["one", "two"])),
        PutRows(1, [(b"p", b"row"), (b"q", None)]),
    ]
    raws = [codec.encode(Record(1, _HEAD, [each])) for each in operations]
    raws.append(codec.encode(Record(1, _HEAD, [append, plain, append])))
    return [raw[7:9] + raw[_START.size :] for raw in raws] + raws


# --- keys -------------------------------------------------------------------------------------


def entry_keys(data: bytes) -> None:
    """Two pairs of keys: each comes back, and their rows stand in the order of the pairs."""
    parts = [*data.split(b"\xfe", 3), b"", b"", b""][:4]
    one, other = (parts[0], parts[1]), (parts[2], parts[3])
    prefix = keys.entries_prefix(7, "master")
    rows = [keys.entry_key(prefix, each) for each in (one, other)]
    for pair, row in zip((one, other), rows, strict=True):
        check(pair == keys.entry_of(prefix, row), "an entry's key comes back as another")
    check((one < other) == (rows[0] < rows[1]), "rows are not in the order of their keys")
    check((one == other) == (rows[0] == rows[1]), "two keys have one row")


def row_columns(data: bytes) -> None:
    """What stands before the batch of a row: what is read is what was written."""
    numbers = [int.from_bytes(data[at : at + 6], "big") for at in (1, 7, 13)]
    texts = [each.decode("latin-1") for each in data[19:].split(b"\xfe", 2)]
    origin = None
    if len(texts) == 3 and len(texts[0]) < 1 << 14:
        origin = DeadLetterOrigin(numbers[2], texts[0], numbers[1] & 0xFFFF, texts[1], texts[2])
    is_scheduled = bool(data[:1] > b"\x80")
    raw = keys.row_columns(
        numbers[0], is_scheduled=is_scheduled, wait_until_ms=numbers[1], origin=origin
    )
    flags, produced_ms, wait_until_ms, read, start = keys.read_row(raw + b"batch")
    check((produced_ms, wait_until_ms) == (numbers[0], numbers[1]), "other times")
    check(read == origin, "another origin")
    check(bool(flags & keys.IS_SCHEDULED) == is_scheduled, "another flag")
    check(start == len(raw), "the batch begins elsewhere")


# --- log and superblock -----------------------------------------------------------------------

_NODE, _FILE = b"n" * 16, b"f" * 8
_BATCHES = ([b"one", b"two" * 30], [b""], [], [b"three" * 100], [b"four"], [], [b"five"])


class _OneFile(Files):
    """A file in memory, for reading."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def size_bytes(self, fd: int) -> int:
        return len(self._content)

    def read(self, fd: int, size_bytes: int, offset: int) -> bytes:
        return self._content[offset : offset + size_bytes]


def damaged_log(data: bytes) -> None:
    """
    A log with damage: the data are pairs of place (2 bytes) and value; the last byte left over
    says how much of the end is cut off.
    """
    content = bytearray(_log())
    pairs, rest = divmod(len(data), 3)
    for at in range(0, min(pairs, 4) * 3, 3):
        content[int.from_bytes(data[at : at + 2], "big") % len(content)] ^= data[at + 2]
    if rest:
        del content[len(content) - data[-1] :]
    records = _read_log(bytes(content))
    whole = [each for batch in _BATCHES for each in batch]
    check(records == whole[: len(records)], "damage was read as a record")


def any_log(data: bytes) -> None:
    """Anything at all behind a good header; what looks like a frame gets a right checksum."""
    header, _ = Header(1, _NODE, _FILE, 1, 4096, 0).encode()
    content, at = bytearray(header + data), HEADER_BYTES
    while (at := content.find(b"SGfr" + _FILE, at)) >= 0 and at + 44 <= len(content):
        end = at + 44 + int.from_bytes(content[at + 16 : at + 20], "little")
        content[at + 12 : at + 16] = crc32c(content[at + 16 : end]).to_bytes(4, "little")
        at += 12
    _read_log(bytes(content))


def _read_log(content: bytes) -> list[bytes]:
    try:
        found = decode_header(content[:HEADER_BYTES], PATH)
    except PreconditionError:
        return []
    if found is None:
        return []
    header, crc = found
    reader = FrameReader(_OneFile(content), 0, file_id=header.file_id, end_bytes=len(content))
    try:
        end = scan(reader, header, crc, PATH)
    except CorruptError:
        return []
    check(end.mark <= end.last_position, "what is durable lies beyond the end")
    check(end.mark_bytes <= end.end_bytes <= len(content), "the end lies beyond the file")
    records: list[bytes] = []
    at = HEADER_BYTES
    while at < end.end_bytes:
        frame = reader.frame_at(at)
        assert frame is not None, "a frame that was scanned is gone"
        records += [raw for _, raw in frame.records()]
        at = frame.end
    check(len(records) == end.last_position - header.first_position + 1, "a record is missing")
    return records


def _log() -> bytes:
    header, crc = Header(1, _NODE, _FILE, 1, 4096, 0).encode()
    parts, position = [header], 1
    for records in _BATCHES:
        mark = max(0, position - 2)
        buffers, crc = encode_frame(
            records, file_id=_FILE, previous=crc, first_position=position, mark=mark
        )
        parts += buffers
        position += len(records)
    return b"".join(parts) + bytes(200)


def superblocks(data: bytes) -> None:
    """As it is, and with the checksum set right."""
    for raw in (data, data + crc32c(data).to_bytes(4, "little")):
        try:
            found = superblock.decode_superblock(raw, PATH)
        except (CorruptError, PreconditionError):
            continue
        again = superblock.encode_superblock(found, version=found.version)
        check(raw == again, "a superblock was taken that nobody could have written")


def _superblock_seeds() -> Sequence[bytes]:
    raws = [
        superblock.encode_superblock(
            superblock.Superblock(_NODE, bytes(16), 7), version=version
        )
        for version in (1, superblock.SUPERBLOCK_VERSION)
    ]
    return raws + [raw[:-4] for raw in raws]


_ENTRY_KEYS = (b"k\xfec\xfek\0\xfe", b"\0\xff\xfe\0\0\xfe\0")

# --- snapshots --------------------------------------------------------------------------------


def snapshot_part(data: bytes) -> None:
    """A part that is taken is one that could have been written."""
    for raw in (data, snapshot.encode_part([])[:5] + data):
        try:
            rows = snapshot.decode_part(raw)
        except CorruptError:
            continue
        check(snapshot.encode_part(rows) == raw, "a part comes back as another")


def manifest(data: bytes) -> None:
    """A manifest, or a log's generations, is refused, or the same when it is written again."""
    for raw in (data, _MANIFEST_HEAD + data):
        with suppress(CorruptError):
            found = snapshot.Manifest.decode(raw)
            check(found == snapshot.Manifest.decode(found.encode()), "it comes back as another")
    with suppress(CorruptError):
        snapshot.Generations.decode(data)


_MANIFEST_HEAD = b"SGsm\x01"


def _manifest_seeds() -> Sequence[bytes]:
    part = snapshot.Part("p3-" + 64 * "a", b"m", 2, 100)
    found = snapshot.Manifest("c", 7, Mark(5, 2, 1, 7, 4), 1000, (part,), ((1, 500),))
    kept = snapshot.Generation("m3-" + 64 * "b", 5, 4, 100, 1000)
    return [found.encode()[5:], snapshot.Generations((kept,)).encode()]


_ROWS = [(b"a", b"1"), (b"b", b""), (b"ba", b"33")]

TARGETS = (
    Target("record", record, _record_seeds),
    Target("entry-key", entry_keys, lambda: _ENTRY_KEYS, 64),
    Target("row-columns", row_columns, lambda: [bytes(19) + b"g\xfebad\xfec", bytes(19)], 256),
    Target("log-damage", damaged_log, lambda: [b"\0\x50\x01", b"\1\x01\x80\x08"], 16),
    Target("log", any_log, lambda: [_log()[HEADER_BYTES:], _log()[HEADER_BYTES:-200]]),
    Target("snapshot-part", snapshot_part, lambda: [snapshot.encode_part(_ROWS)[5:]], 256),
    Target("manifest", manifest, _manifest_seeds),
    Target("superblock", superblocks, _superblock_seeds, 128),
)
