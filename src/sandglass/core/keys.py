"""
Where things stand in the view: the layout of its keys, and of the small values.

A key is a kind byte, the partition's number (4 bytes), then what the kind needs. Integers are
big-endian, so that byte order is number order. Names end with a zero byte, which no name holds:
no name is a prefix of another's keys.

| kind | rest of the key | value |
| --- | --- | --- |
| `m` messages | channel, 0, lane (1), due ms (6), first index (8), count (2) | columns, batch |
| `c` channel | channel, 0 | empty |
| `g` group's name | channel, 0, group, 0 | group number (4) |
| `h` group | group number (4) | channel, name, floor, counters |
| `d` done range | group number (4), low (14) | high (14) |
| `r` retry row | group number (4), due in steady ms (8), low (14) | high, counts, redriven? |
| `x` retry index | group number (4), low (14) | due in steady ms (8) |
| `s` session that reads a group | group number (4), session | whose it is |
| `k` entry of a KV topic | channel, 0, key escaped, 0, 0, clustering key | columns, message |
| `p` partition | | last index, closed offset, clocks |
| `q` record set aside | position (8) | reason, record |
| `n` node | (partition number 0) | epoch, promise, clocks |
| `l` mark of a replicated log | (partition number 0) | where its reader stands |
| `t` topic | (partition number 0) name, 0 | settings and partitions |
| `u` group of a topic | (partition number 0) topic, 0, group, 0 | start and settings |

In an entry's key each zero byte of the key is followed by 255, and two zero bytes end it: so
the order of rows is that of (key, clustering key), and no key is a prefix of another.

Format version 2. To change it: raise `VIEW_VERSION`, write the step from the old layout in
`docs/internals/storage-format.md`, keep a store of the old version under `tests/data/`. A new
kind of row, as `k` was, changes no layout: a program that doesn't know it can't read the
records that make it either.
"""

from dataclasses import replace
from itertools import accumulate
from struct import Struct
from typing import Final

from sandglass.core.message import CHANNEL_DEFAULT, DeadLetterOrigin, EntryKey
from sandglass.core.offset import MAX, OFFSET_BYTES

VIEW_VERSION: Final = 2

LANE: Final = b"\0"
"""Room for priorities; always 0 today."""

_PARTITION = Struct(">cI")
_PLACE = Struct(">QQH")
_NUMBER = Struct(">I")
_RETRY = Struct(">Q")
PLACE: Final = Struct(">HIQH")
"""The end of a message row's key: due ms in two parts, first index, count."""

PLACE_BYTES: Final = PLACE.size
COLUMNS: Final = Struct(">BQ")
"""What a message row begins with: flags, produced ms. Flags up to `IS_SCHEDULED`: no more."""

PARTITION_KINDS: Final = b"mcghdrxskpq"

MOVED_KINDS: Final = b"cdghkmprsx"
"""Those that move with a partition to another log. One with records set aside doesn't move."""

RETRY_STEADY_AT: Final = _PARTITION.size + _NUMBER.size
"""Where the time stands in a retry row's key."""

PARTITION_STEADY_AT: Final = 8 + OFFSET_BYTES + 8 + 8
"""Where the steady time stands in a partition's own row."""


def partition_prefix(kind: bytes, partition: int) -> bytes:
    """What all keys of one kind of a partition start with."""
    return _PARTITION.pack(kind, partition)


def after_prefix(prefix: bytes) -> bytes:
    """The first key above all that start with `prefix`."""
    return (int.from_bytes(prefix, "big") + 1).to_bytes(len(prefix), "big")


def rows_prefix(partition: int, channel: str) -> bytes:
    """What the message rows of a channel start with."""
    return _PARTITION.pack(b"m", partition) + channel.encode() + b"\0" + LANE


def channel_of_row(key: bytes) -> str:
    """The channel of a message row's key."""
    return key[_PARTITION.size : -PLACE_BYTES - 2].decode()


def row_key(prefix: bytes, due_ms: int, first_index: int, count: int) -> bytes:
    """The key of a message row; `prefix` from `rows_prefix`."""
    return prefix + _PLACE.pack(due_ms, first_index, count)[2:]


def row_keys(
    prefix: bytes, dues: list[int], first_index: int, counts: list[int]
) -> list[bytes]:
    """The keys of rows with consecutive indexes from `first_index` on."""
    indexes = accumulate(counts, initial=first_index)
    packed = map(_PLACE.pack, dues, indexes, counts)
    return [prefix + place[2:] for place in packed]


def row_place(key: bytes) -> tuple[int, int]:
    """(offset of the first message, count) of a message row's key."""
    high, low, index, count = PLACE.unpack_from(key, len(key) - PLACE_BYTES)
    return ((high << 32 | low) << 64) | index, count


def at(prefix: bytes, offset: int) -> bytes:
    """
    The bound between rows that start below `offset` and those at or above it. Just above the
    highest offset is as good as at it: no message stands there.
    """
    return prefix + min(offset, MAX).to_bytes(OFFSET_BYTES, "big")


def channel_key(partition: int, channel: str) -> bytes:
    """The key that says that a channel is in use."""
    return _PARTITION.pack(b"c", partition) + channel.encode() + b"\0"


def channel_of(key: bytes) -> str:
    """The channel of a `c` key."""
    return key[_PARTITION.size : -1].decode()


def group_name_key(partition: int, channel: str, group: str) -> bytes:
    """The key that leads from a group's name to its number."""
    return _PARTITION.pack(b"g", partition) + b"%b\0%b\0" % (channel.encode(), group.encode())


def group_of(key: bytes) -> tuple[str, str]:
    """(channel, group) of a `g` key."""
    channel, group, _ = key[_PARTITION.size :].split(b"\0")
    return channel.decode(), group.decode()


def group_prefix(kind: bytes, partition: int, group: int) -> bytes:
    """What the `d`, `r`, `x` or `s` keys of a group start with; its `h` key as a whole."""
    return _PARTITION.pack(kind, partition) + _NUMBER.pack(group)


def retry_key(prefix: bytes, until_ms: int, low: int) -> bytes:
    """The key of a retry row; `prefix` is the group's `r` prefix."""
    return prefix + _RETRY.pack(until_ms) + low.to_bytes(OFFSET_BYTES, "big")


def retry_place(key: bytes) -> tuple[int, int]:
    """(due in steady ms, low) of a retry row's key."""
    start = len(key) - OFFSET_BYTES
    return _RETRY.unpack_from(key, start - 8)[0], int.from_bytes(key[start:], "big")


def offset_at_end(key: bytes) -> int:
    """The offset that a `d` or `x` key ends with."""
    return int.from_bytes(key[-OFFSET_BYTES:], "big")


def session_key(partition: int, group: int, session: str) -> bytes:
    """The key that says that a session reads a group."""
    return group_prefix(b"s", partition, group) + session.encode()


def session_of(key: bytes) -> str:
    """The session of an `s` key."""
    return key[_PARTITION.size + _NUMBER.size :].decode()


def entries_prefix(partition: int, channel: str) -> bytes:
    """What the entries of a KV channel start with."""
    return _PARTITION.pack(b"k", partition) + channel.encode() + b"\0"


def entry_key(prefix: bytes, key: EntryKey) -> bytes:
    """The key of an entry; `prefix` from `entries_prefix`."""
    return b"%b%b\0\0%b" % (prefix, key[0].replace(b"\0", b"\0\xff"), key[1])


def entry_of(prefix: bytes, row_key: bytes) -> EntryKey:
    """What `entry_key` made a row's key of."""
    escaped, _, clustering_key = row_key[len(prefix) :].partition(b"\0\0")
    return escaped.replace(b"\0\xff", b"\0"), clustering_key


def partition_key(partition: int) -> bytes:
    """The key of a partition's own row."""
    return _PARTITION.pack(b"p", partition)


PARTITIONS_PREFIX: Final = b"p"
"""What the own rows of all partitions start with."""


def closed_of(value: bytes) -> int:
    """The closed offset in a partition's own row, which `Partition` writes."""
    return int.from_bytes(value[8 : 8 + OFFSET_BYTES], "big")


def epoch_of(value: bytes) -> int:
    """The epoch in a partition's own row."""
    at = PARTITION_STEADY_AT + 8
    return int.from_bytes(value[at : at + 4], "big")


def partition_of(key: bytes) -> int:
    """The number of the partition that a key belongs to."""
    return _PARTITION.unpack_from(key)[1]


def is_of(key: bytes, partition: int) -> bool:
    """Is it the key of a row of this partition?"""
    return key[0] in PARTITION_KINDS and partition_of(key) == partition


def renumbered(key: bytes, partition: int) -> bytes:
    """The key of the same row in another partition, which sorts there as it does here."""
    return _PARTITION.pack(key[:1], partition) + key[_PARTITION.size :]


QUARANTINE_PREFIX: Final = b"q"


def quarantine_key(partition: int, position: int) -> bytes:
    """The key of a record that its partition could not carry out."""
    return _PARTITION.pack(b"q", partition) + _RETRY.pack(position)


def quarantine_value(reason: str, record: bytes) -> bytes:
    """Why it was set aside, and its bytes."""
    text = reason.encode()
    return _NUMBER.pack(len(text)) + text + record


def read_quarantine(value: bytes) -> tuple[str, bytes]:
    """Why a record was set aside, and its bytes."""
    (size,) = _NUMBER.unpack_from(value)
    end = _NUMBER.size + size
    return value[_NUMBER.size : end].decode(), value[end:]


NODE_KEY: Final = _PARTITION.pack(b"n", 0)
MARK_KEY: Final = _PARTITION.pack(b"l", 0)
"""Written by the host, with the rows of the entry that the mark stands at."""

TOPICS_PREFIX: Final = _PARTITION.pack(b"t", 0)
GROUPS_PREFIX: Final = _PARTITION.pack(b"u", 0)


def topic_key(name: str) -> bytes:
    """The key of a topic's row."""
    return TOPICS_PREFIX + name.encode() + b"\0"


def topic_groups_prefix(topic: str) -> bytes:
    """What the rows of a topic's groups in the catalog start with."""
    return GROUPS_PREFIX + topic.encode() + b"\0"


def topic_group_key(topic: str, group: str) -> bytes:
    """The key of a group's row in the catalog."""
    return topic_groups_prefix(topic) + group.encode() + b"\0"


# --- the columns of a message row -------------------------------------------------------------

IS_SCHEDULED: Final = 1
"""Produced with a due time of its own: never to be handed out before the clock shows it."""

HAS_WAIT: Final = 2
"""The clock had been stepped back: the wait stands beside the offset, in steady time."""

HAS_ORIGIN: Final = 4
"""A dead letter."""

_WAIT = Struct(">Q")
_LENGTH = Struct(">H")
_ORIGIN = Struct(">14sIHH")
_HAS_CHANNEL: Final = 1 << 15
"""With the length of the group's name: its channel follows, when that isn't `master`."""


def row_columns(
    produced_ms: int,
    *,
    is_scheduled: bool = False,
    wait_until_ms: int = 0,
    origin: DeadLetterOrigin | None = None,
) -> bytes:
    """What stands before the batch in a message row; `wait_until_ms` is steady, 0 for none."""
    flags = (
        (IS_SCHEDULED if is_scheduled else 0)
        | (HAS_WAIT if wait_until_ms else 0)
        | (HAS_ORIGIN if origin else 0)
    )
    columns = COLUMNS.pack(flags, produced_ms)
    if wait_until_ms:
        columns += _WAIT.pack(wait_until_ms)
    if origin:
        columns += origin_bytes(origin)
    return columns


def read_row(value: bytes) -> tuple[int, int, int, DeadLetterOrigin | None, int]:
    """(flags, produced ms, wait until in steady ms, origin, where the batch starts)."""
    flags, produced_ms = COLUMNS.unpack_from(value)
    start = COLUMNS.size
    wait_until_ms, origin = 0, None
    if flags & HAS_WAIT:
        (wait_until_ms,) = _WAIT.unpack_from(value, start)
        start += _WAIT.size
    if flags & HAS_ORIGIN:
        origin, start = read_origin(value, start)
    return flags, produced_ms, wait_until_ms, origin, start


def moved_origin(columns: bytes, by: int) -> bytes:
    """The columns of a dead letters' row without its first `by` messages."""
    flags, produced_ms, wait_until_ms, origin, _ = read_row(columns)
    assert origin is not None, "a row of other messages among the dead letters"
    assert not flags & (IS_SCHEDULED | HAS_WAIT), "a dead letter that waits for its time"
    origin = replace(origin, offset=origin.offset + by)
    return row_columns(produced_ms, wait_until_ms=wait_until_ms, origin=origin)


def origin_bytes(origin: DeadLetterOrigin) -> bytes:
    """A dead letter's origin, as it stands in rows and records."""
    group, reason, channel = (
        text.encode() for text in (origin.group, origin.reason, origin.channel)
    )
    place = origin.offset.to_bytes(OFFSET_BYTES, "big")
    has_channel = origin.channel != CHANNEL_DEFAULT
    flag = _HAS_CHANNEL if has_channel else 0
    raw = _ORIGIN.pack(place, origin.attempts, len(group) | flag, len(reason)) + group + reason
    return raw + _LENGTH.pack(len(channel)) + channel if has_channel else raw


def read_origin(raw: bytes, start: int) -> tuple[DeadLetterOrigin, int]:
    """The origin that stands at `start`, and where it ends."""
    place, attempts, group_bytes, reason_bytes = _ORIGIN.unpack_from(raw, start)
    middle = start + _ORIGIN.size + (group_bytes & ~_HAS_CHANNEL)
    end = middle + reason_bytes
    group, reason = raw[start + _ORIGIN.size : middle].decode(), raw[middle:end].decode()
    channel = CHANNEL_DEFAULT
    if group_bytes & _HAS_CHANNEL:
        (channel_bytes,) = _LENGTH.unpack_from(raw, end)
        end += _LENGTH.size + channel_bytes
        channel = raw[end - channel_bytes : end].decode()
    return DeadLetterOrigin(int.from_bytes(place, "big"), group, attempts, reason, channel), end


# --- the columns of an entry ------------------------------------------------------------------

_ENTRY = Struct(">BQQ")


def entry_columns(revision: int, produced_ms: int) -> bytes:
    """What stands before the message in an entry's row: flags (none so far), and these."""
    return _ENTRY.pack(0, revision, produced_ms)


def read_entry(value: bytes) -> tuple[int, int, bytes]:
    """(revision, produced ms, message) of an entry's row."""
    _, revision, produced_ms = _ENTRY.unpack_from(value)
    return revision, produced_ms, value[_ENTRY.size :]
