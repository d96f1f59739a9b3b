"""
Messages for a KV topic: each under its key, with no time of its own.

A batch that was checked becomes entries here. They are taken one by one, since each is a row of
its own; in comprehensions, over what C code has parsed.
"""

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from sandglass.core import limits
from sandglass.core.message import Entries, Entry, EntryKey
from sandglass.core.offset import to_bytes
from sandglass.errors import InvalidError
from sandglass.wire.convert import Checked, check_batch, places_of
from sandglass.wire.v1 import broker_pb2, raw_pb2


def entries_by_partition(
    checked: Checked, topic_name: str, partition_count: int, place: int | None
) -> list[tuple[int, list[int] | None, Entries]]:
    """
    For each partition (its place in the topic, places in the request, its entries).

    Args:
        place: of the partition that was named; None finds each message's by its key. If all go
            to one, the places in the request are None.

    Raises:
        InvalidError: a message without a key, or with a time.
    """
    if any(checked.dues):
        raise InvalidError(
            f"topic '{topic_name}' is a KV topic, where a message has no time of its own:"
            " leave due_ms and delay_ms, or offset and consumeIn, unset",
            field="delay_ms" if checked.is_delay else "due_ms",
        )
    messages = broker_pb2.MessageBatch.FromString(checked.body).messages
    keys = [(message.key, message.clustering_key) for message in messages]
    for number, (key, _) in enumerate(keys):
        if not key:
            raise InvalidError(
                f"ErrNoKeySet: messages[{number}] has no key, and topic '{topic_name}' is a KV"
                " topic",
                field=f"messages[{number}].key",
            )
    if place is not None:
        return [(place, None, _entries(keys, checked.raws))]
    by_partition: dict[int, list[int]] = {}
    for number, found in enumerate(partitions_of(keys, partition_count)):
        by_partition.setdefault(found, []).append(number)
    if len(by_partition) == 1:
        return [(next(iter(by_partition)), None, _entries(keys, checked.raws))]
    return [
        (found, places, _entries([keys[n] for n in places], [checked.raws[n] for n in places]))
        for found, places in sorted(by_partition.items())
    ]


def cut_put(request: bytes) -> tuple[raw_pb2.RawPut, Checked]:
    """
    A serialized `PutRequest`, with its messages checked.

    Raises:
        InvalidError: malformed, no message, a limit broken.
    """
    try:
        alias = raw_pb2.RawPut.FromString(request)
    except DecodeError as error:
        raise InvalidError("request is not a PutRequest") from error
    if not alias.messages:
        raise InvalidError("ErrNoMessageToProduce: messages is empty", field="messages")
    limits.check_count(
        len(alias.messages), field="messages", high=limits.ATOM_MESSAGE_COUNT_MAX
    )
    raws = alias.messages[:]
    body = raw_pb2.RawBatch(messages=raws).SerializeToString()
    return alias, check_batch(body, len(raws), [], [])


def partitions_of(keys: Sequence[EntryKey], partition_count: int) -> list[int]:
    """For each key the place of its partition in the topic's list; the clustering key is not
    asked."""
    return places_of([key for key, _ in keys], partition_count, spread=0)


def check_key(key: bytes, clustering_key: bytes, *, name: str, prefix: str = "") -> EntryKey:
    """
    A key as a request names it; `name` and `prefix` are what the errors call its fields.

    Raises:
        InvalidError: there is none, or one of its parts is too long.
    """
    if not key:
        raise InvalidError(f"ErrNoKeySet: {prefix}key is empty", field=f"{prefix}key")
    for field, part in ((f"{prefix}key", key), (f"{prefix}{name}", clustering_key)):
        if len(part) > limits.KEY_BYTES_MAX:
            raise InvalidError(
                f"{field} is {len(part)} bytes; the limit is {limits.KEY_BYTES_MAX}",
                field=field,
            )
    return key, clustering_key


def entry_to_wire(entry: Entry | None) -> raw_pb2.RawEntry:
    """An entry of the protocol; an empty one for none."""
    if entry is None:
        return raw_pb2.RawEntry()
    return raw_pb2.RawEntry(
        message=entry.message,
        revision=entry.revision,
        offset=to_bytes(entry.offset),
        produced_ms=entry.produced_ms,
    )


def _entries(keys: list[EntryKey], messages: list[bytes]) -> Entries:
    key_bytes = sum(len(key) + len(clustering_key) for key, clustering_key in keys)
    return Entries(keys, messages, key_bytes + sum(map(len, messages)))
