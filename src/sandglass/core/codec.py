"""
Records as bytes, and back.

A record is: version (1 byte), CRC-32 of all that follows but the batches' bytes (4), partition
(4), epoch (4), closed offset (14), now, reached and steady ms (8 each), count of operations
(2); then each operation: kind (1), and its fields in the order of its class. Integers are
big-endian; offsets take 14 bytes, texts a length of 2 and UTF-8, lists a count of 4. An
append's columns stand together, its batches at the end, and so do a put's and its messages. The
log has a checksum of its own over everything; the one here shows a record that was cut or
joined wrongly.

Format version 2. To change it: raise `VERSION`, keep the reader of the old one beside the new,
and records of the old version under `tests/data/`. The steps so far:

- 1 to 2: the operations attach (18), detach (19), put (20), delete (21) and put rows (22) came;
  all else is as it was, so one reader does for both.
"""

from collections.abc import Callable
from itertools import chain
from struct import Struct, pack, unpack_from
from struct import error as StructError
from typing import Any, Final
from zlib import crc32

from sandglass.core import keys
from sandglass.core import record as records
from sandglass.core.message import DeadLetterOrigin, EntryKey
from sandglass.core.offset import OFFSET_BYTES
from sandglass.core.record import Ending, Head, Operation, Range, Record
from sandglass.errors import CorruptError

VERSION: Final = 2
VERSION_READ_MIN: Final = 1

_START = Struct(">BI")
_HEAD = Struct(">II14sQQQH")
_KIND = Struct(">B")
_COUNT = Struct(">I")
_APPEND = Struct(">QQIBB")
_PUT = Struct(">QQ")
_RANGE = Struct(">14s14sI")
_MOVE = Struct(">IBQII")
_SETTLE = Struct(">IB")


def encode(record: Record) -> bytes:
    """The bytes of a record."""
    head = record.head
    columns = [
        _HEAD.pack(
            record.partition,
            head.epoch,
            _place(head.closed),
            head.now_ms,
            head.reached_ms,
            head.steady_ms,
            len(record.operations),
        )
    ]
    bodies: list[bytes] = []
    for operation in record.operations:
        kind, write = _WRITERS[type(operation)]
        columns.append(_KIND.pack(kind))
        write(operation, columns)
        bodies += records.bodies_of(operation)
    joined = b"".join(columns)
    return b"".join(
        (_START.pack(VERSION, crc32(joined)), _COUNT.pack(len(joined)), joined, *bodies)
    )


def decode(raw: bytes) -> Record:
    """
    The record that these bytes are.

    Raises:
        CorruptError: another version, a wrong checksum, or bytes that are no record.
    """
    try:
        return _decode(raw)
    except (StructError, IndexError, KeyError, ValueError) as error:
        raise CorruptError(f"a record of {len(raw)} bytes cannot be read: {error}") from error


def _decode(raw: bytes) -> Record:
    version, checksum = _START.unpack_from(raw)
    if not VERSION_READ_MIN <= version <= VERSION:
        raise CorruptError(
            f"a record has format version {version}; this node reads {VERSION_READ_MIN} to"
            f" {VERSION}"
        )
    (columns_bytes,) = _COUNT.unpack_from(raw, _START.size)
    start = _START.size + _COUNT.size
    columns = raw[start : start + columns_bytes]
    if crc32(columns) != checksum:
        raise CorruptError(f"a record of {len(raw)} bytes has a wrong checksum")
    reader = _Reader(columns, raw, body_at=start + columns_bytes)
    partition, epoch, closed, now_ms, reached_ms, steady_ms, count = reader.take(_HEAD)
    head = Head(epoch, int.from_bytes(closed, "big"), now_ms, reached_ms, steady_ms)
    operations = [_READERS[reader.take(_KIND)[0]](reader) for _ in range(count)]
    if reader.at != len(columns):
        raise CorruptError(f"{len(columns) - reader.at} bytes of a record belong to nothing")
    if reader.body_at != len(raw):
        raise CorruptError(f"a record of {len(raw)} bytes ends at {reader.body_at}")
    return Record(partition, head, operations)


class _Reader:
    """`columns` from their beginning, bodies of `raw` from `body_at` on."""

    __slots__ = ("at", "body_at", "columns", "raw")

    def __init__(self, columns: bytes, raw: bytes, body_at: int) -> None:
        self.columns, self.raw, self.at, self.body_at = columns, raw, 0, body_at

    def take(self, layout: Struct) -> tuple[Any, ...]:
        values = layout.unpack_from(self.columns, self.at)
        self.at += layout.size
        return values

    def count(self) -> int:
        return self.take(_COUNT)[0]

    def take_bytes(self, size: int) -> bytes:
        self.at += size
        if self.at > len(self.columns):
            raise ValueError("a column is cut short")
        return self.columns[self.at - size : self.at]

    def text(self) -> str:
        return self.blob().decode()

    def blob(self) -> bytes:
        return self.take_bytes(self.count())

    def offset(self) -> int:
        return int.from_bytes(self.take_bytes(OFFSET_BYTES), "big")

    def column(self, code: str, count: int) -> list[int]:
        layout = f">{count}{code}"
        values = list(unpack_from(layout, self.columns, self.at))
        self.at += Struct(layout).size
        return values

    def body(self, size: int) -> bytes:
        self.body_at += size
        body = self.raw[self.body_at - size : self.body_at]
        if len(body) != size:
            raise ValueError("a batch is cut short")
        return body

    def ranges(self) -> list[Range]:
        return [
            (int.from_bytes(low, "big"), int.from_bytes(high, "big"), count)
            for low, high, count in (self.take(_RANGE) for _ in range(self.count()))
        ]


def _place(offset: int) -> bytes:
    return offset.to_bytes(OFFSET_BYTES, "big")


def _blob(raw: bytes) -> bytes:
    return _COUNT.pack(len(raw)) + raw


def _write_ranges(ranges: list[Range], out: list[bytes]) -> None:
    out.append(_COUNT.pack(len(ranges)))
    out.extend(_RANGE.pack(_place(low), _place(high), count) for low, high, count in ranges)


def _write_append(op: records.Append, out: list[bytes]) -> None:
    count = len(op.dues)
    is_uniform = op.scheduled.count(op.scheduled[0]) == count
    flags = (1 if op.waits else 0) | (2 if op.origin else 0) | (4 if is_uniform else 0)
    out.append(_blob(op.channel.encode()))
    out.append(
        _APPEND.pack(op.first_index, op.produced_ms, count, flags, 1 if op.scheduled[0] else 0)
    )
    out.append(pack(f">{count}Q", *op.dues))
    out.append(pack(f">{count}H", *op.counts))
    out.append(pack(f">{count}I", *map(len, op.bodies)))
    if not is_uniform:
        out.append(bytes(op.scheduled))
    if op.waits:
        out.append(pack(f">{count}Q", *op.waits))
    if op.origin:
        out.append(_blob(keys.origin_bytes(op.origin)))


def _read_append(reader: _Reader) -> records.Append:
    channel = reader.text()
    first_index, produced_ms, count, flags, scheduled = reader.take(_APPEND)
    dues = reader.column("Q", count)
    counts = reader.column("H", count)
    sizes = reader.column("I", count)
    marks = bytes([scheduled]) * count if flags & 4 else reader.take_bytes(count)
    if not count or flags > 7 or not _is_written(marks, scheduled, is_uniform=bool(flags & 4)):
        raise ValueError("an append that nobody wrote")
    waits = reader.column("Q", count) if flags & 1 else []
    origin = _read_origin(reader.blob()) if flags & 2 else None
    bodies = [reader.body(size) for size in sizes]
    is_scheduled = list(map(bool, marks))
    return records.Append(
        channel, first_index, produced_ms, dues, counts, bodies, is_scheduled, waits, origin
    )


def _is_written(marks: bytes, first: int, *, is_uniform: bool) -> bool:
    """Whether marks of rows are as they are written: 0 or 1, and alike if that was said."""
    is_alike = marks.count(marks[0]) == len(marks)
    return marks[0] == first and max(marks) <= 1 and is_alike == is_uniform


def _read_origin(raw: bytes) -> DeadLetterOrigin:
    origin, end = keys.read_origin(raw, 0)
    if end != len(raw) or keys.origin_bytes(origin) != raw:
        raise ValueError("an origin that nobody wrote")
    return origin


def _write_put(op: records.Put, out: list[bytes]) -> None:
    out.append(_blob(op.channel.encode()))
    out.append(_PUT.pack(op.first_index, op.produced_ms))
    _write_keys(op.keys, out)
    out.append(pack(f">{len(op.keys)}I", *map(len, op.messages)))


def _read_put(reader: _Reader) -> records.Put:
    channel = reader.text()
    first_index, produced_ms = reader.take(_PUT)
    keys = _read_keys(reader)
    messages = [reader.body(size) for size in reader.column("I", len(keys))]
    return records.Put(channel, first_index, produced_ms, keys, messages)


def _write_delete(op: records.Delete, out: list[bytes]) -> None:
    out.append(_blob(op.channel.encode()))
    out.append(_PUT.pack(op.first_index, op.produced_ms))
    _write_keys(op.keys, out)


def _read_delete(reader: _Reader) -> records.Delete:
    channel = reader.text()
    first_index, produced_ms = reader.take(_PUT)
    return records.Delete(channel, first_index, produced_ms, _read_keys(reader))


def _write_keys(keys: list[EntryKey], out: list[bytes]) -> None:
    count = len(keys)
    out.append(_COUNT.pack(count))
    out.append(pack(f">{count}H", *[len(key) for key, _ in keys]))
    out.append(pack(f">{count}H", *[len(clustering) for _, clustering in keys]))
    out += chain.from_iterable(keys)


def _read_keys(reader: _Reader) -> list[EntryKey]:
    count = reader.count()
    sizes = zip(reader.column("H", count), reader.column("H", count), strict=True)
    return [(reader.take_bytes(key), reader.take_bytes(rest)) for key, rest in sizes]


def _write_settle(op: records.Settle, out: list[bytes]) -> None:
    out.append(_SETTLE.pack(op.group, op.ending))
    _write_ranges(op.main, out)
    _write_ranges(op.retry, out)


def _read_settle(reader: _Reader) -> records.Settle:
    group, ending = reader.take(_SETTLE)
    return records.Settle(group, Ending(ending), reader.ranges(), reader.ranges())


def _write_move(op: records.Move, out: list[bytes]) -> None:
    until_ms = op.until_ms
    out.append(_MOVE.pack(op.group, op.ending, until_ms, op.attempts, op.releases))
    _write_ranges(op.main, out)
    _write_ranges(op.retry, out)


def _read_move(reader: _Reader) -> records.Move:
    group, ending, until_ms, attempts, releases = reader.take(_MOVE)
    return records.Move(
        group, Ending(ending), until_ms, attempts, releases, reader.ranges(), reader.ranges()
    )


def _write_create_group(op: records.CreateGroup, out: list[bytes]) -> None:
    out += (
        _COUNT.pack(op.group),
        _blob(op.channel.encode()),
        _blob(op.name.encode()),
        _place(op.start),
    )


def _read_create_group(reader: _Reader) -> records.CreateGroup:
    return records.CreateGroup(reader.count(), reader.text(), reader.text(), reader.offset())


def _write_attach(op: records.Attach, out: list[bytes]) -> None:
    out += (_COUNT.pack(op.group), _blob(op.session.encode()), _blob(op.owner.encode()))


def _read_attach(reader: _Reader) -> records.Attach:
    return records.Attach(reader.count(), reader.text(), reader.text())


def _write_detach(op: records.Detach, out: list[bytes]) -> None:
    out += (_COUNT.pack(op.group), _COUNT.pack(len(op.sessions)))
    out += [_blob(session.encode()) for session in op.sessions]


def _read_detach(reader: _Reader) -> records.Detach:
    return records.Detach(reader.count(), [reader.text() for _ in range(reader.count())])


def _write_redrive(op: records.Redrive, out: list[bytes]) -> None:
    out += (_COUNT.pack(op.group), _ONE.pack(op.until_ms))
    _write_append(op.append, out)


def _read_redrive(reader: _Reader) -> records.Redrive:
    return records.Redrive(reader.count(), reader.take(_ONE)[0], _read_append(reader))


def _write_close_exact(op: records.CloseExact, out: list[bytes]) -> None:
    out.append(_COUNT.pack(len(op.closed)))
    out.extend(_COUNT.pack(partition) + _place(closed) for partition, closed in op.closed)


def _read_close_exact(reader: _Reader) -> records.CloseExact:
    return records.CloseExact(
        [(reader.count(), reader.offset()) for _ in range(reader.count())]
    )


def _write_delete_topic(op: records.DeleteTopic, out: list[bytes]) -> None:
    count = len(op.partitions)
    out += (_blob(op.name.encode()), _COUNT.pack(count), pack(f">{count}I", *op.partitions))


def _read_delete_topic(reader: _Reader) -> records.DeleteTopic:
    name = reader.text()
    return records.DeleteTopic(name, reader.column("I", reader.count()))


def _write_rows(op: records.PutRows, out: list[bytes]) -> None:
    out += (_COUNT.pack(op.partition), _COUNT.pack(len(op.rows)))
    for key, value in op.rows:
        out += (_blob(key), _NO_VALUE if value is None else b"\1" + _blob(value))


def _read_rows(reader: _Reader) -> records.PutRows:
    partition, count = reader.count(), reader.count()
    return records.PutRows(partition, [_read_row(reader) for _ in range(count)])


def _read_row(reader: _Reader) -> tuple[bytes, bytes | None]:
    key = reader.blob()
    match reader.take_bytes(1):
        case b"\1":
            return key, reader.blob()
        case value if value == _NO_VALUE:
            return key, None
        case _:
            raise ValueError("a row that nobody wrote")


_NO_VALUE: Final = b"\0"

_ONE = Struct(">Q")

_WRITERS: dict[type, tuple[int, Callable[[Any, list[bytes]], None]]] = {
    records.Append: (1, _write_append),
    records.Settle: (2, _write_settle),
    records.Move: (3, _write_move),
    records.CreateGroup: (4, _write_create_group),
    records.Cut: (5, lambda op, out: out.append(_place(op.below))),
    records.PromiseExact: (6, lambda op, out: out.append(_place(op.offset))),
    records.OpenEpoch: (7, lambda op, out: out.append(_ONE.pack(op.epoch))),
    records.Promise: (8, lambda op, out: out.append(_ONE.pack(op.until_ms))),
    records.CloseExact: (9, _write_close_exact),
    records.PutTopic: (
        10,
        lambda op, out: out.extend((_blob(op.name.encode()), _blob(op.value))),
    ),
    records.DeleteTopic: (11, _write_delete_topic),
    records.PutGroup: (
        12,
        lambda op, out: out.extend(
            (_blob(op.topic.encode()), _blob(op.name.encode()), _blob(op.value))
        ),
    ),
    records.DeleteGroup: (
        13,
        lambda op, out: out.extend((_blob(op.topic.encode()), _blob(op.name.encode()))),
    ),
    records.DropGroup: (14, lambda op, out: out.append(_COUNT.pack(op.group))),
    records.SeekGroup: (
        15,
        lambda op, out: out.extend((_COUNT.pack(op.group), _place(op.start))),
    ),
    records.Redrive: (16, _write_redrive),
    records.Purge: (17, lambda op, out: _write_ranges(op.ranges, out)),
    records.Attach: (18, _write_attach),
    records.Detach: (19, _write_detach),
    records.Put: (20, _write_put),
    records.Delete: (21, _write_delete),
    records.PutRows: (22, _write_rows),
}

_READERS: dict[int, Callable[[_Reader], Operation]] = {
    1: _read_append,
    2: _read_settle,
    3: _read_move,
    4: _read_create_group,
    5: lambda reader: records.Cut(reader.offset()),
    6: lambda reader: records.PromiseExact(reader.offset()),
    7: lambda reader: records.OpenEpoch(reader.take(_ONE)[0]),
    8: lambda reader: records.Promise(reader.take(_ONE)[0]),
    9: _read_close_exact,
    10: lambda reader: records.PutTopic(reader.text(), reader.blob()),
    11: _read_delete_topic,
    12: lambda reader: records.PutGroup(reader.text(), reader.text(), reader.blob()),
    13: lambda reader: records.DeleteGroup(reader.text(), reader.text()),
    14: lambda reader: records.DropGroup(reader.count()),
    15: lambda reader: records.SeekGroup(reader.count(), reader.offset()),
    16: _read_redrive,
    17: lambda reader: records.Purge(reader.ranges()),
    18: _read_attach,
    19: _read_detach,
    20: _read_put,
    21: _read_delete,
    22: _read_rows,
}
