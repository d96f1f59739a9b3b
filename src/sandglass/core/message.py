"""
Messages as the core knows them: rows of opaque bytes, with a count and a due time each.

The core names messages as (row, first, count) and never looks inside. `wire.convert` parses a
batch, checks it, and cuts it into rows before it comes here. In a KV topic a row is an entry:
one message, under its key.
"""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sandglass.core import limits, offset
from sandglass.core.offset import Offset

CHANNEL_DEFAULT: Final = "master"
DEAD_LETTER_CHANNEL: Final = "__death_letter"
"""The name that users of the first Sandglass know. Reserved: nobody produces to it."""

REDRIVE_CHANNEL: Final = "__redrive"
"""Dead letters on their way back: nobody reads it, each group's retry rows lead into it."""

NOW: Final = 0
"""The due time of a row that is due at once."""


@dataclass(frozen=True, slots=True)
class Batch:
    """
    Messages of one request to one partition, cut into rows.

    `bodies[n]` is a serialized `MessageBatch` of `counts[n]` messages (1 to
    `limits.ROW_MESSAGE_COUNT_MAX`), all due at `dues[n]`: Unix ms, or `NOW`; if `is_delay`, the
    numbers are ms from the leader's now instead. Rows are in the order of the request.

    Invariant: the three lists are equally long and not empty; `count == sum(counts)`.
    """

    counts: list[int]
    dues: list[int]
    bodies: list[bytes]
    count: int
    size_bytes: int
    is_delay: bool = False


@dataclass(frozen=True, slots=True)
class Placed:
    """
    Where the messages of one batch went: runs of messages due at one time, `counts[n]` of them
    at `dues[n]`, in request order, with consecutive indexes from `first_index` on.

    `request_places` are their places in the request when it reached several partitions; None
    when all of it went to this one.
    """

    partition_id: str
    first_index: int
    dues: list[int]
    counts: list[int]
    request_places: list[int] | None = None


@dataclass(frozen=True, slots=True)
class DeadLetterOrigin:
    """
    What a dead letter was: where the first of its run stood first, its group with the channel
    that it reads, counted attempts, reason.
    """

    offset: int
    group: str
    attempts: int
    reason: str
    channel: str = CHANNEL_DEFAULT


class Slice(NamedTuple):
    """
    Part of a row, as handed out: `count` messages from place `first` of a row of `row_count`.

    `due_ms` and `first_index` are those of the first message of the slice; `low` is where the
    part of offset space begins that belongs to it, for the core's own use.
    """

    body: bytes
    row_count: int
    first: int
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]  # tuple.count: unused
    due_ms: int
    first_index: int
    produced_ms: int
    origin: DeadLetterOrigin | None = None
    low: int = 0


EntryKey = tuple[bytes, bytes]
"""(key, clustering key): what an entry of a KV topic stands under. The order is theirs."""


@dataclass(frozen=True, slots=True)
class Entries:
    """
    Messages of one request to one partition of a KV topic, in the order of the request.

    Invariant: `keys[n]` is what `messages[n]`, serialized, goes under; neither list is empty.
    """

    keys: list[EntryKey]
    messages: list[bytes]
    size_bytes: int


class Entry(NamedTuple):
    """
    What a KV topic holds under a key: the last message put there, serialized. `revision` is its
    index.
    """

    key: EntryKey
    revision: int
    produced_ms: int
    message: bytes

    @property
    def offset(self) -> Offset:
        """An entry is due when it is produced."""
        return offset.make(self.produced_ms, self.revision)


@dataclass(slots=True)
class Removed:
    """
    What a delete has done: for each of its keys whether there was an entry; the deletions have
    consecutive revisions from `first_revision` on. Filled in when the record is applied.
    """

    first_revision: int = 0
    existed: list[bool] = field(default_factory=list[bool])


def channel_to_write(name: str) -> str:
    """
    A channel as a producer names it; `master` for none.

    Raises:
        InvalidError: not a name. The dead letters' channel is none: nobody produces to it.
    """
    if name in {"", CHANNEL_DEFAULT}:
        return CHANNEL_DEFAULT
    return limits.check_name(name, field="channel")


def channel_to_read(name: str) -> str:
    """
    A channel as a reader names it: as for a producer, or the dead letters.

    Raises:
        InvalidError: not a name.
    """
    return name if name == DEAD_LETTER_CHANNEL else channel_to_write(name)
