"""
The compatible protocol's messages: in, as batches for the core; out, as bytes for old clients.

Messages are stored as they came. The fields that the broker owns (channel, index, offset,
producedAt) may stand in them, set by a client; on the way out the true ones are appended, and
in protobuf the last one wins. `producedAt` is a message of its own, which is *merged* with an
earlier one: so both of its fields are always written, zero or not.

One request may be several atoms: one for each channel that its messages name (and, in
`surface.produce`, for each partition that their keys reach), and, since an atom's times are
either due times or delays, one more where a request mixes custom offsets with `consumeIn`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from sandglass.core import limits, offset
from sandglass.core.message import CHANNEL_DEFAULT, NOW, Entry, Slice
from sandglass.errors import InvalidError
from sandglass.wire.compat import sandglass_pb2 as compat
from sandglass.wire.convert import (
    Checked,
    check_atom_bytes,
    check_messages,
    encoded_sizes,
    is_plain,
    pick,
    raw_messages,
    slice_body,
)
from sandglass.wire.v1 import raw_pb2

_UNSET_OFFSETS: Final = frozenset(
    {b"", bytes(offset.OFFSET_BYTES), bytes(offset.SANDFLAKE_BYTES)}
)
_TIME_BYTES: Final = 6


@dataclass(frozen=True, slots=True)
class Part:
    """
    Messages of one channel. `places` are theirs in the request; None when it is all of it.
    """

    channel: str
    places: list[int] | None
    checked: Checked


@dataclass(frozen=True, slots=True)
class CompatibleProduce:
    """A checked `ProduceMessageRequest`. Channels are not checked for being names."""

    topic: str
    partition: str
    count: int
    parts: list[Part]


def cut_compatible(request: bytes) -> CompatibleProduce:
    """
    Checks a serialized `ProduceMessageRequest`, and sorts its messages into parts.

    Raises:
        InvalidError: malformed, no message, a limit broken, an offset of a wrong length, a
            negative `consumeIn`, a time after 9999.
    """
    try:
        alias = raw_pb2.RawCompatibleProduce.FromString(request)
    except DecodeError as error:
        raise InvalidError("request is not a ProduceMessageRequest") from error
    if not alias.messages:
        raise InvalidError("ErrNoMessageToProduce: messages is empty", field="messages")
    limits.check_count(
        len(alias.messages), field="messages", high=limits.ATOM_MESSAGE_COUNT_MAX
    )
    raws = alias.messages[:]
    sizes = encoded_sizes(raws)
    check_atom_bytes(sum(sizes), 0, field="messages")
    body = raw_pb2.RawBatch(messages=raws).SerializeToString()
    if is_plain(body, len(raws)):
        checked = Checked(body, raws, sizes, [], is_delay=False, has_keys=False)
        plain = Part(CHANNEL_DEFAULT, None, checked)
        return CompatibleProduce(alias.topic, alias.partition, len(raws), [plain])
    try:
        parsed = compat.ProduceMessageRequest.FromString(request)
    except DecodeError as error:
        raise InvalidError(
            "messages holds one that is malformed, or whose channel is not UTF-8",
            field="messages",
        ) from error
    columns = check_messages(body, raws, clustering_key_name="clusteringKey")
    checked = Checked(body, raws, sizes, [], is_delay=False, has_keys=bool(columns.keys))
    if _is_plain(columns):
        parts = [Part(CHANNEL_DEFAULT, None, checked)]
    else:
        parts = list(_parts(checked, parsed))
    return CompatibleProduce(alias.topic, alias.partition, len(raws), parts)


def compatible_messages(piece: Slice, channel: str) -> Iterator[bytes]:
    """Each message of a slice as a serialized compatible `Message`, as it is sent."""
    body = slice_body(piece.body, piece.row_count, piece.first, piece.count)
    head, due, tail = _head(channel), _due(piece.due_ms), _tail(piece.produced_ms)
    for index, raw in enumerate(raw_messages(body), piece.first_index):
        yield b"".join((raw, head, _varint(index), due, index.to_bytes(8, "big"), tail))


def compatible_entry(entry: Entry, channel: str) -> bytes:
    """An entry of a KV topic as a serialized compatible `Message`; `index` is its revision."""
    index = entry.revision
    due, tail = _due(entry.produced_ms), _tail(entry.produced_ms)
    place = (_varint(index), due, index.to_bytes(8, "big"))
    return b"".join((entry.message, _head(channel), *place, tail))


def _head(channel: str) -> bytes:
    """Channel, and the tag of an index."""
    name = channel.encode()
    return b"\x2a" + _varint(len(name)) + name + b"\x50"


def _due(due_ms: int) -> bytes:
    """An offset without its index."""
    return b"\x5a\x0e" + due_ms.to_bytes(_TIME_BYTES, "big")


def _tail(produced_ms: int) -> bytes:
    seconds, ms = divmod(produced_ms, 1000)
    stamp = b"\x08" + _varint(seconds) + b"\x10" + _varint(ms * 1_000_000)
    return b"\x62" + _varint(len(stamp)) + stamp


def _is_plain(columns: raw_pb2.RawColumns) -> bool:
    """All for now and `master`. What a Go client writes for unset fields counts as unset."""
    return (
        _UNSET_OFFSETS.issuperset(columns.offsets)
        and not any(columns.consume_in)
        and {b"", b"master"}.issuperset(columns.channels)
    )


def _parts(checked: Checked, parsed: compat.ProduceMessageRequest) -> Iterator[Part]:
    dues: list[int] = []
    delays: list[int] = []
    for place, message in enumerate(parsed.messages):
        if message.offset in _UNSET_OFFSETS:
            dues.append(NOW)
            delays.append(_delay_ms(message, place))
        else:
            dues.append(_due_ms(message.offset, place))
            delays.append(0)
    has_dues, has_delays = any(dues), any(delays)
    groups: dict[tuple[str, bool], list[int]] = {}
    for place, message in enumerate(parsed.messages):
        # Messages for now go with either kind, so that only a true mix makes two atoms.
        is_delay = has_delays and (not has_dues or delays[place] > 0)
        channel = message.channel or CHANNEL_DEFAULT
        groups.setdefault((channel, is_delay), []).append(place)
    for (channel, is_delay), places in groups.items():
        some = checked if len(groups) == 1 else pick(checked, places)
        times = delays if is_delay else dues
        timed = Checked(
            body=some.body,
            raws=some.raws,
            sizes=some.sizes,
            dues=_column([times[place] for place in places]),
            is_delay=is_delay,
            has_keys=some.has_keys,
        )
        check_atom_bytes(len(timed.body), len(timed.dues), field="messages")
        yield Part(channel, None if len(groups) == 1 else places, timed)


def _column(times: list[int]) -> list[int]:
    """As a producer would send them: none, one for all, or one each."""
    if any(time_ms != times[0] for time_ms in times):
        return times
    return times[:1] if times[0] else []


def _due_ms(raw: bytes, place: int) -> int:
    """The time part of a custom offset, or of a sandflake ID in its stead."""
    field = f"messages[{place}].offset"
    if len(raw) not in {offset.OFFSET_BYTES, offset.SANDFLAKE_BYTES}:
        raise InvalidError(
            f"{field}: length of offset should be {offset.OFFSET_BYTES} but got {len(raw)}",
            field=field,
        )
    due_ms = int.from_bytes(raw[:_TIME_BYTES], "big")
    return limits.check_range(due_ms, field=f"{field} (ms)", low=0, high=limits.DUE_MS_MAX)


def _delay_ms(message: compat.Message, place: int) -> int:
    """`consumeIn`, rounded up: never early."""
    wait = message.consumeIn
    delay_ms = -((-wait.seconds * 1_000_000_000 - wait.nanos) // 1_000_000)
    return limits.check_range(
        delay_ms, field=f"messages[{place}].consumeIn (ms)", low=0, high=limits.DUE_MS_MAX
    )


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
