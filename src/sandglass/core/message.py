"""
Messages as the core knows them: rows of opaque bytes, with a count and a due time each.

The core names messages as (row, first, count) and never looks inside. `wire.convert` parses a
batch, checks it, and cuts it into rows before it comes here.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

from sandglass.core import limits

CHANNEL_DEFAULT: Final = "master"
DEAD_LETTER_CHANNEL: Final = "__death_letter"
"""The name that users of the first Sandglass know. Reserved: nobody produces to it."""

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
    """What a dead letter was: first offset of its run, its group, counted attempts, reason."""

    offset: int
    group: str
    attempts: int
    reason: str


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
