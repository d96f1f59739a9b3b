"""KV topics as clients see them: entries, and the requests that ask for them. No I/O here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sandglass.client.encode import encode_message, to_bytes
from sandglass.client.message import Receipt, receipt
from sandglass.client.requests import checked_text
from sandglass.core import limits, offset
from sandglass.errors import InvalidError
from sandglass.wire.v1 import broker_pb2, keyvalue_pb2


@dataclass(frozen=True, slots=True)
class Entry:
    """
    What a KV topic holds under a key: the last message put there.

    `revision` is the index of the put, and only grows for a key; `offset` is 28 hex digits.
    """

    key: bytes
    clustering_key: bytes
    value: bytes
    revision: int
    offset: str
    produced_at: datetime
    headers: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    id: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where keys are looked for: a topic, a channel (`master` if empty), and a partition's id
    (by key if empty)."""

    topic: str
    channel: str
    partition: str


def place_of(topic: str, channel: str, partition: str) -> Place:
    """
    Raises:
        InvalidError: one of them is no text.
    """
    return Place(
        checked_text(topic, "topic"),
        checked_text(channel, "channel"),
        checked_text(partition, "partition"),
    )


def key_of(key: bytes | str, clustering_key: bytes | str) -> keyvalue_pb2.Key:
    """
    A key for a request.

    Raises:
        InvalidError: it is empty, too long, or neither bytes nor text.
    """
    raw = to_bytes(key, field="key")
    clustering = to_bytes(clustering_key, field="clustering_key")
    if not raw:
        raise InvalidError("key is empty; a KV topic holds nothing without one", field="key")
    for name, part in (("key", raw), ("clustering_key", clustering)):
        _check_length(name, part)
    return keyvalue_pb2.Key(key=raw, clustering_key=clustering)


@dataclass(slots=True)
class Scan:
    """
    Where a scan is: `request` asks for the next page, and `is_over` says that there is none.

    `left` are the partitions after that of the request; None until somebody has looked them up.
    """

    request: keyvalue_pb2.ScanRequest
    left: list[str] | None
    is_over: bool = False
    _first: bytes = b""

    def begin(self, partitions: list[str]) -> None:
        """All partitions of the topic are to be gone through, in this order."""
        self.left = partitions[1:]
        self.request.partition = partitions[0]

    def taken(self, reply: keyvalue_pb2.ScanReply) -> list[Entry]:
        """The entries of a page; the next request is for the one after it."""
        if reply.HasField("next"):
            self.request.first.CopyFrom(reply.next)
        elif self.left:
            self.request.partition = self.left.pop(0)
            self.request.first.CopyFrom(keyvalue_pb2.Key(key=self._first))
        else:
            self.is_over = True
        return [entry for each in reply.entries if (entry := entry_of(each)) is not None]


def scan_of(place: Place, key: bytes | str, prefix: bytes | str) -> Scan:
    """
    A scan of the entries of one key, of the keys that begin with a prefix, or of all.

    Raises:
        InvalidError: both are given, or one is too long, or neither bytes nor text.
    """
    raw, begin = to_bytes(key, field="key"), to_bytes(prefix, field="prefix")
    if raw and begin:
        raise InvalidError("key and prefix are both given; give one", field="prefix")
    for name, part in (("key", raw), ("prefix", begin)):
        _check_length(name, part)
    request = keyvalue_pb2.ScanRequest(
        topic=place.topic, channel=place.channel, partition=place.partition, key=raw
    )
    if begin:
        request.first.key = begin
        after = _after_prefix(begin)
        if after:
            request.end.key = after
    return Scan(request, [] if raw or place.partition else None, _first=begin)


def _after_prefix(prefix: bytes) -> bytes:
    """The first key above all that begin with a prefix; empty if there is none."""
    rest = prefix.rstrip(b"\xff")
    return rest[:-1] + bytes([rest[-1] + 1]) if rest else b""


def get_request(place: Place, key: keyvalue_pb2.Key) -> keyvalue_pb2.GetRequest:
    """Asks for one entry."""
    return keyvalue_pb2.GetRequest(
        topic=place.topic, channel=place.channel, partition=place.partition, keys=[key]
    )


def has_request(place: Place, key: keyvalue_pb2.Key) -> keyvalue_pb2.HasRequest:
    """Asks whether there is one."""
    return keyvalue_pb2.HasRequest(
        topic=place.topic, channel=place.channel, partition=place.partition, keys=[key]
    )


def delete_request(place: Place, key: keyvalue_pb2.Key) -> keyvalue_pb2.DeleteRequest:
    """Deletes one."""
    return keyvalue_pb2.DeleteRequest(
        topic=place.topic, channel=place.channel, partition=place.partition, keys=[key]
    )


def put_request(
    place: Place,
    key: keyvalue_pb2.Key,
    value: bytes | str,
    *,
    headers: Mapping[str, bytes | str] | None,
    id: str,  # noqa: A002 - the field's name
) -> keyvalue_pb2.PutRequest:
    """
    Puts one message.

    Raises:
        InvalidError: a part of it is too large or of another type.
    """
    batch = encode_message(value, key.key, key.clustering_key, headers, id)
    return keyvalue_pb2.PutRequest(
        topic=place.topic,
        channel=place.channel,
        partition=place.partition,
        messages=broker_pb2.MessageBatch.FromString(batch).messages,
    )


def entry_of(wire: keyvalue_pb2.Entry) -> Entry | None:
    """The value of an entry on the wire; None if there is none."""
    if not wire.revision:
        return None
    message = wire.message
    return Entry(
        key=message.key,
        clustering_key=message.clustering_key,
        value=message.value,
        revision=wire.revision,
        offset=wire.offset.hex(),
        produced_at=offset.to_datetime(wire.produced_ms),
        headers={header.name: header.value for header in message.headers},
        id=message.id,
    )


def receipt_of(topic: str, reply: keyvalue_pb2.PutReply) -> Receipt:
    """Where the one message of a put went."""
    [placed] = reply.placed
    return receipt(
        topic, placed.partition, due_ms=placed.run_due_ms[0], index=placed.first_index
    )


def _check_length(name: str, part: bytes) -> None:
    if len(part) > limits.KEY_BYTES_MAX:
        raise InvalidError(
            f"{name} is {len(part)} bytes; the limit is {limits.KEY_BYTES_MAX}", field=name
        )
