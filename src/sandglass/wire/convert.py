"""
A producer's bytes into rows for the core, and rows back into bytes for consumers.

What comes in is checked once, here, and is stored as it came; nobody looks inside it again
until it leaves. Rules:

1. A batch holds messages and nothing else. Anything beside them could carry weight that no
   limit counts. An unknown field *inside* a message is kept, and counts towards its size.
2. What is stored parses in both protocols, because both hand it out: as a v1 `Message`, and as
   a compatible one. So a v1 message may hold the fields 5 and 10 to 13, which v1 doesn't know,
   only if they make sense to the compatible side.
3. On the plain path there is no loop over messages in Python: `map`, `sum`, `accumulate` and
   the parser do it, at 0.01 to 0.05 µs a message each. The per-message checks run only for
   messages big enough to break a limit; `RawColumns` says cheaply what a batch holds at all.

A batch's bytes are canonical once they are checked (minimal lengths, nothing in between), so a
row is a plain slice of them: where each message ends is a running sum.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, compress, islice
from operator import ne
from typing import Final

import mmh3
from google.protobuf.message import DecodeError

from sandglass.core import limits, offset, routing
from sandglass.core.message import NOW, Batch, Placed, Slice
from sandglass.errors import InvalidError
from sandglass.wire.compat import sandglass_pb2 as compat
from sandglass.wire.v1 import broker_pb2, raw_pb2

COLUMN_ENTRY_BYTES: Final = 8
"""What an entry of `due_ms` or `delay_ms` counts in an atom's size, however it was encoded."""

MESSAGE_BYTES_MAX: Final = (
    limits.VALUE_BYTES_MAX + 3 * limits.KEY_BYTES_MAX + limits.HEADER_BYTES_MAX + 1024
)
"""A serialized message with everything at its limit; 1,024 for tags and lengths."""

HARMLESS_BYTES_MAX: Final = 3 * limits.HEADER_COUNT_MAX + 2
"""A message of this size breaks no limit: the emptiest header takes three bytes."""

_ENCODED_BYTES: Final = [size + (2 if size < 0x80 else 3) for size in range(0x4000)]
"""Size of a message -> its size within a batch: tag, length, message."""


@dataclass(frozen=True, slots=True)
class Checked:
    """
    A batch that has passed every check, not yet cut into rows.

    Invariant: `body` is exactly `raws` with a tag and a length before each; `sizes` are their
    sizes with both. `dues` is empty (now), one for all, or one each; ms from now if `is_delay`.
    """

    body: bytes
    raws: list[bytes]
    sizes: list[int]
    dues: list[int]
    is_delay: bool
    has_keys: bool


def cut_plain(
    batch: bytes, count: int, due_ms: Sequence[int], delay_ms: Sequence[int]
) -> Batch | None:
    """
    The short way, for most of all traffic: a batch that is one row as it stands, of messages
    that hold values and nothing else. Nothing that `check_batch` looks for can be in it.

    Returns:
        None if the batch is anything else: good or bad, that is for `check_batch` to say.

    Raises:
        InvalidError: a due time outside its limits.
    """
    if len(due_ms) + len(delay_ms) <= 1 and is_plain(batch, count):
        dues, is_delay = _check_times(count, due_ms, delay_ms)
        size_bytes = len(batch) + COLUMN_ENTRY_BYTES * len(dues)
        return Batch([count], dues or [NOW], [batch], count, size_bytes, is_delay)
    return None


def check_batch(
    batch: bytes, count: int, due_ms: Sequence[int], delay_ms: Sequence[int]
) -> Checked:
    """
    Checks a serialized `MessageBatch` with its columns.

    Args:
        count: how many messages the client says there are.
        due_ms: Unix ms; none, one, or `count`. Past times are let through: they mean now.
        delay_ms: as `due_ms`, from the leader's now. Not both.

    Raises:
        InvalidError: malformed, not UTF-8, something beside the messages, a count that lies, a
            limit broken, a column of another length, a time before 1970 or after 9999.
    """
    if not batch and not count:
        raise InvalidError("ErrNoMessageToProduce: batch holds no message", field="batch")
    limits.check_range(count, field="count", low=0, high=limits.ATOM_MESSAGE_COUNT_MAX)
    check_atom_bytes(len(batch), len(due_ms) + len(delay_ms), field="batch")
    dues, is_delay = _check_times(count, due_ms, delay_ms)
    try:
        # Before the deep parse: it bounds what that one may build.
        found = raw_pb2.RawBatch.FromString(batch).messages
    except DecodeError as error:
        raise InvalidError("batch is not a serialized MessageBatch", field="batch") from error
    if len(found) != count:
        raise InvalidError(
            f"count is {count}, but the batch holds {len(found)} messages", field="count"
        )
    raws = found[:]
    sizes = encoded_sizes(raws)
    # Each message takes at least a tag, its length and itself; if that explains every byte,
    # there is no other field, no padded length, and no order but this one.
    if sum(sizes) != len(batch):
        raise InvalidError("batch holds fields beside its messages", field="batch")
    has_keys = False
    if max(sizes) > limits.VALUE_BYTES_MAX or not _holds_only_values(batch, count):
        columns = check_messages(batch, raws, clustering_key_name="clustering_key")
        has_keys = bool(columns.keys or columns.ids)
    return Checked(batch, raws, sizes, dues, is_delay, has_keys)


def cut(checked: Checked) -> Batch:
    """
    Rows of one due time each, within the limits of a row.

    Times are left as they came: what is past, or not yet open, is the core's business.
    """
    body, dues, count = checked.body, checked.dues, len(checked.raws)
    size_bytes = len(body) + COLUMN_ENTRY_BYTES * len(dues)
    if len(dues) <= 1:
        due_ms = dues[0] if dues else NOW
        if count <= limits.ROW_MESSAGE_COUNT_MAX and len(body) <= limits.ROW_BYTES_MAX:
            return Batch([count], [due_ms], [body], count, size_bytes, checked.is_delay)
        ends = list(accumulate(checked.sizes))
        places = list(_row_ends(ends, [count]))
        dues = [due_ms] * len(places)
    else:
        ends = list(accumulate(checked.sizes))
        differs = map(ne, dues, islice(dues, 1, None))
        run_ends = [*compress(range(1, count), differs), count]
        if len(run_ends) == count:
            bodies = [body[start:end] for start, end in zip([0, *ends], ends, strict=False)]
            return Batch([1] * count, dues, bodies, count, size_bytes, checked.is_delay)
        places = list(_row_ends(ends, run_ends))
        dues = [dues[place - 1] for place in places]
    cuts = [ends[place - 1] for place in places]
    counts = list(map(int.__sub__, places, [0, *places]))
    bodies = [body[start:end] for start, end in zip([0, *cuts], cuts, strict=False)]
    return Batch(counts, dues, bodies, count, size_bytes, checked.is_delay)


def keys_of(checked: Checked) -> list[bytes] | None:
    """What messages are routed by: the key, else the id, else empty. None if all are empty."""
    if not checked.has_keys:
        return None
    parsed = broker_pb2.MessageBatch.FromString(checked.body)
    keys = [message.key or message.id.encode() for message in parsed.messages]
    return keys if any(keys) else None


def places_of(keys: Sequence[bytes], partition_count: int, *, spread: int) -> list[int]:
    """For each key its place in the topic's list of partitions; `spread` for an empty one."""
    known: dict[bytes, int] = {b"": spread}
    for key in keys:
        if key not in known:
            # The first half of MurmurHash3 x64-128, seed 0: what the prototype's keys hash to.
            key_hash = mmh3.hash64(key, seed=0, x64arch=True, signed=False)[0]
            known[key] = routing.place_of(key_hash, partition_count)
    return [known[key] for key in keys]


def split_by_partition(
    checked: Checked, partitions: Sequence[int]
) -> list[tuple[int, list[int] | None, Batch]]:
    """
    One batch for each partition: (its place in the topic, places in the request, its rows).

    Args:
        partitions: for each message the place of its partition. If it is one and the same, the
            places in the request are None.
    """
    by_partition: dict[int, list[int]] = {}
    for place, partition in enumerate(partitions):
        by_partition.setdefault(partition, []).append(place)
    if len(by_partition) == 1:
        return [(partitions[0], None, cut(checked))]
    return [
        (partition, places, cut(pick(checked, places)))
        for partition, places in sorted(by_partition.items())
    ]


def pick(checked: Checked, places: Sequence[int]) -> Checked:
    """Some of the messages, in the order given."""
    starts = list(accumulate(checked.sizes, initial=0))
    dues = checked.dues
    return Checked(
        body=b"".join([checked.body[starts[place] : starts[place + 1]] for place in places]),
        raws=[checked.raws[place] for place in places],
        sizes=[checked.sizes[place] for place in places],
        dues=[dues[place] for place in places] if len(dues) > 1 else dues,
        is_delay=checked.is_delay,
        has_keys=checked.has_keys,
    )


def slice_body(body: bytes, row_count: int, first: int, count: int) -> bytes:
    """
    Messages `[first, first + count)` of a row of `row_count`, as a serialized `MessageBatch`.

    The last row that was cut into is kept parsed, since a group takes a row in pieces.
    """
    assert 0 <= first < first + count <= row_count, "a slice lies within its row"
    if count == row_count:
        return body
    ends = _head.ends_of(body)
    assert len(ends) == row_count, "a row's count is that of its messages"
    return body[ends[first - 1] if first else 0 : ends[first + count - 1]]


def raw_messages(body: bytes) -> Sequence[bytes]:
    """The serialized messages of a batch that was checked when it came in."""
    return raw_pb2.RawBatch.FromString(body).messages


def slices_of(wire: broker_pb2.Delivery | broker_pb2.Fetched) -> list[Slice]:
    """The messages of a delivery: a slice for each run, of a row of its own."""
    raws = raw_messages(wire.batch)
    slices: list[Slice] = []
    first = 0
    for place, count in enumerate(wire.run_count):
        some = raws[first : first + count]
        body = (
            wire.batch
            if count == len(raws)
            else raw_pb2.RawBatch(messages=some).SerializeToString()
        )
        slices.append(
            Slice(
                body,
                count,
                0,
                count,
                wire.run_due_ms[place],
                wire.run_first_index[place],
                wire.run_produced_ms[place],
            )
        )
        first += count
    return slices


def placed_to_wire(placed: Placed) -> broker_pb2.Placed:
    """A core `Placed` as the message of the protocol."""
    return broker_pb2.Placed(
        partition=placed.partition_id,
        first_index=placed.first_index,
        run_due_ms=placed.dues,
        run_count=placed.counts,
        request_places=placed.request_places or [],
    )


def placed_from_wire(wire: broker_pb2.Placed) -> Placed:
    """The message of the protocol as a core `Placed`."""
    return Placed(
        wire.partition,
        wire.first_index,
        [*wire.run_due_ms],
        [*wire.run_count],
        [*wire.request_places] or None,
    )


def offsets_of(placed: Placed) -> Iterator[bytes]:
    """The 14-byte offsets of the messages of an atom, in the order of the request."""
    index = placed.first_index
    for due_ms, count in zip(placed.dues, placed.counts, strict=True):
        first = offset.make(due_ms, index)
        for number in range(first, first + count):
            yield offset.to_bytes(number)
        index += count


# --- checks -----------------------------------------------------------------------------------


def is_plain(batch: bytes, count: int) -> bool:
    """
    What is one row as it stands: `count` messages of values alone, in the shortest form, and
    nothing beside them. Nothing that a check looks for can be in it.
    """
    if not 0 < count <= limits.ROW_MESSAGE_COUNT_MAX or len(batch) > limits.ROW_BYTES_MAX:
        return False
    try:
        parsed = raw_pb2.ValueBatch.FromString(batch)
    except DecodeError:
        return False
    parsed.DiscardUnknownFields()
    return len(parsed.messages) == count and parsed.SerializeToString() == batch


def encoded_sizes(raws: Sequence[bytes]) -> list[int]:
    """What each message takes within a batch, with its tag and length."""
    sizes = list(map(len, raws))
    if max(sizes, default=0) < len(_ENCODED_BYTES):
        return list(map(_ENCODED_BYTES.__getitem__, sizes))
    return [1 + max(1, -(-size.bit_length() // 7)) + size for size in sizes]


def check_atom_bytes(body_bytes: int, column_count: int, *, field: str) -> None:
    """
    Raises:
        InvalidError: messages and columns together are more than an atom may be.
    """
    size_bytes = body_bytes + COLUMN_ENTRY_BYTES * column_count
    if size_bytes > limits.ATOM_BYTES_MAX:
        columns = f" with {column_count} due times" if column_count else ""
        raise InvalidError(
            f"{field}{columns} is {size_bytes} bytes; the limit is {limits.ATOM_BYTES_MAX}:"
            " send it in parts",
            field=field,
        )


def check_messages(
    body: bytes, raws: Sequence[bytes], *, clustering_key_name: str
) -> raw_pb2.RawColumns:
    """
    Each message by itself: well-formed in both protocols, within the limits.

    Args:
        body: the batch whose messages `raws` are.
        clustering_key_name: what the caller's protocol calls that field, for errors.

    Returns:
        What the messages hold.

    Raises:
        InvalidError: the text names the message's place, counted from 0, field, size and limit.
    """
    biggest = max(map(len, raws))
    joined = b"".join(raws)
    columns = raw_pb2.RawColumns()
    try:
        columns.MergeFromString(joined)
        _check_header_count(len(columns.headers), len(raws))
        messages = broker_pb2.MessageBatch.FromString(body).messages
    except DecodeError as error:
        place = _malformed_place(raws)
        raise InvalidError(
            f"messages[{place}] is malformed, or its id or a header name is not UTF-8",
            field=f"messages[{place}]",
        ) from error
    if columns.channels or columns.produced_at or columns.consume_in:
        _check_compatible(joined)
    may_break = len(columns.headers) > limits.HEADER_COUNT_MAX
    if biggest > (HARMLESS_BYTES_MAX if may_break else limits.KEY_BYTES_MAX):
        for place, (raw, message) in enumerate(zip(raws, messages, strict=True)):
            if len(raw) > HARMLESS_BYTES_MAX:
                _check_message(f"messages[{place}]", len(raw), message, clustering_key_name)
    return columns


def _check_header_count(header_count: int, message_count: int) -> None:
    """
    All headers together, before the deep parse makes an object of each. Few are left to the
    checks of each message, which say more.

    Raises:
        InvalidError: too many even if they were spread evenly.
    """
    high = max(limits.ATOM_MESSAGE_COUNT_MAX, limits.HEADER_COUNT_MAX * message_count)
    limits.check_range(header_count, field="count of headers", low=0, high=high)


def _holds_only_values(batch: bytes, count: int) -> bool:
    """Well-formed messages, none of which holds a field but its value that we know."""
    try:
        parsed = raw_pb2.Valueless.FromString(batch)
    except DecodeError:
        return False
    parsed.DiscardUnknownFields()
    # What is left of a message is its tag and a length of 0.
    return parsed.ByteSize() == 2 * count


def _check_times(
    count: int, due_ms: Sequence[int], delay_ms: Sequence[int]
) -> tuple[list[int], bool]:
    if due_ms and delay_ms:
        raise InvalidError("due_ms and delay_ms are both given; give one", field="delay_ms")
    field = "delay_ms" if delay_ms else "due_ms"
    times = list(delay_ms or due_ms)
    if len(times) not in {0, 1, count}:
        raise InvalidError(
            f"{field} has {len(times)} entries for {count} messages; give none, one, or"
            " one each",
            field=field,
        )
    if times and (min(times) < 0 or max(times) > limits.DUE_MS_MAX):
        for place, time_ms in enumerate(times):
            limits.check_range(
                time_ms, field=f"{field}[{place}]", low=0, high=limits.DUE_MS_MAX
            )
    return times, bool(delay_ms)


def _check_message(
    name: str, raw_bytes: int, message: broker_pb2.Message, clustering_key_name: str
) -> None:
    headers = message.headers
    header_bytes = 0
    if raw_bytes > limits.HEADER_BYTES_MAX:
        header_bytes = sum(len(each.name.encode()) + len(each.value) for each in headers)
    for field, size, limit, unit in (
        ("key", len(message.key), limits.KEY_BYTES_MAX, "bytes"),
        (clustering_key_name, len(message.clustering_key), limits.KEY_BYTES_MAX, "bytes"),
        ("id", len(message.id.encode()), limits.KEY_BYTES_MAX, "bytes"),
        ("value", len(message.value), limits.VALUE_BYTES_MAX, "bytes"),
        ("headers", len(headers), limits.HEADER_COUNT_MAX, "entries"),
        ("headers", header_bytes, limits.HEADER_BYTES_MAX, "bytes"),
    ):
        if size > limit:
            raise InvalidError(
                f"{name}.{field} is {size} {unit}; the limit is {limit}",
                field=f"{name}.{field}",
            )
    if raw_bytes > MESSAGE_BYTES_MAX:
        raise InvalidError(
            f"{name} is {raw_bytes} bytes, unknown fields included; the limit is"
            f" {MESSAGE_BYTES_MAX}",
            field=name,
        )


def _check_compatible(joined: bytes) -> None:
    try:
        compat.Message.FromString(joined)
    except DecodeError as error:
        raise InvalidError(
            "a message holds one of the reserved fields 5 and 10 to 13, and clients of the"
            " compatible protocol could not read it",
            field="batch",
        ) from error


def _malformed_place(raws: Sequence[bytes]) -> int:
    for place, raw in enumerate(raws):
        try:
            broker_pb2.Message.FromString(raw)
        except DecodeError:
            return place
    raise AssertionError("a batch is malformed where one of its messages is")


# --- rows -------------------------------------------------------------------------------------


def _row_ends(ends: Sequence[int], run_ends: Sequence[int]) -> Iterator[int]:
    """Where rows end, as places: at each end of a run, and where a row would be too large."""
    first = 0
    for run_end in run_ends:
        while first < run_end:
            start = ends[first - 1] if first else 0
            after = min(run_end, first + limits.ROW_MESSAGE_COUNT_MAX)
            if ends[after - 1] - start > limits.ROW_BYTES_MAX:
                fitting = bisect_right(ends, start + limits.ROW_BYTES_MAX, first, after)
                after = max(first + 1, fitting)
            yield after
            first = after


class _Head:
    """The row that was cut into last, and where its messages end."""

    __slots__ = ("_row",)

    def __init__(self) -> None:
        self._row: tuple[bytes, list[int]] = (b"", [])

    def ends_of(self, body: bytes) -> list[int]:
        known, ends = self._row
        if body != known:
            sizes = encoded_sizes(raw_pb2.RawBatch.FromString(body).messages[:])
            ends = list(accumulate(sizes))
            self._row = body, ends
        return ends


_head = _Head()
