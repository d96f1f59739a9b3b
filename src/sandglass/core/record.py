"""
Records: what is written to the log.

A record names its partition (0 is the node itself) and carries a head (the leader's clocks and
closed offset when it was admitted) and a list of operations, which are carried out together or
not at all. Every durable change is a record made by the leader, so replay gives the same bytes.

Ranges in operations are half-open `[low, high)` parts of offset space that was closed when they
were made: nothing can appear in them, so each is an exact name for the messages that it holds.
"""

from dataclasses import dataclass
from enum import IntEnum

from sandglass.core.message import DeadLetterOrigin, EntryKey
from sandglass.core.offset import INDEX_BITS

NODE: int = 0
"""The partition number of records that concern the node: epochs, promises, topics."""

Range = tuple[int, int, int]
"""(low, high, count of messages)."""


class Ending(IntEnum):
    """How messages left a lease."""

    ACKED = 1
    DEAD = 2
    EXPIRED = 3
    """Retention had removed them."""

    NACKED = 4
    TIMED_OUT = 5
    BROKEN = 6
    """The consumer's session broke after it had begun on them."""

    RELEASED = 7
    CLOCK = 8
    """Not handed out: their time, or their wait, is not over yet."""


@dataclass(frozen=True, slots=True)
class Head:
    """The leader's state at admission: none of these ever goes back."""

    epoch: int
    closed: int
    now_ms: int
    reached_ms: int
    steady_ms: int


@dataclass(frozen=True, slots=True)
class Append:
    """
    New messages of one channel, in rows, with final offsets.

    `waits` holds, for each row, 0 or the steady time before which it isn't handed out; empty if
    no row has one. `origin` makes them dead letters. Rows due by their producer's word are
    `scheduled`: all, none, or one flag each.
    """

    channel: str
    first_index: int
    produced_ms: int
    dues: list[int]
    counts: list[int]
    bodies: list[bytes]
    scheduled: list[bool]
    waits: list[int]
    origin: DeadLetterOrigin | None = None


@dataclass(frozen=True, slots=True)
class Put:
    """
    Entries of one channel of a KV topic, with consecutive indexes. Each replaces what stood
    under its key; of equal keys the last one stays.
    """

    channel: str
    first_index: int
    produced_ms: int
    keys: list[EntryKey]
    messages: list[bytes]


@dataclass(frozen=True, slots=True)
class Delete:
    """
    Keys of a KV topic that hold nothing from here on. Each takes an index, whether it held
    anything or not: so the revisions of a key only grow.
    """

    channel: str
    first_index: int
    produced_ms: int
    keys: list[EntryKey]


@dataclass(frozen=True, slots=True)
class Settle:
    """
    Messages that are done with for a group, for good.

    `main` were in the main order, `retry` in retry rows.
    """

    group: int
    ending: Ending
    main: list[Range]
    retry: list[Range]


@dataclass(frozen=True, slots=True)
class Move:
    """Messages that leave the main order, or their retry row, for a retry row."""

    group: int
    ending: Ending
    until_ms: int
    attempts: int
    releases: int
    main: list[Range]
    retry: list[Range]


@dataclass(frozen=True, slots=True)
class CreateGroup:
    """A group begins to read a channel at `start`."""

    group: int
    channel: str
    name: str
    start: int


@dataclass(frozen=True, slots=True)
class SeekGroup:
    """A group reads from `start` on, in a new generation; what it held and had done is gone."""

    group: int
    start: int


@dataclass(frozen=True, slots=True)
class DropGroup:
    """A group of one channel goes, with all its state."""

    group: int


@dataclass(frozen=True, slots=True)
class Attach:
    """A session reads a group from here on: a leader that begins waits for it."""

    group: int
    session: str
    owner: str
    """Whose token opened it, by name: nobody else comes back as it."""


@dataclass(frozen=True, slots=True)
class Detach:
    """Sessions that read a group no longer, or have not come back in time."""

    group: int
    sessions: list[str]


@dataclass(frozen=True, slots=True)
class Redrive:
    """
    Dead letters come back to their group: under the new offsets of `append`, each in a retry
    row due at `until_ms` (steady), with no attempt counted.
    """

    group: int
    until_ms: int
    append: Append


@dataclass(frozen=True, slots=True)
class Purge:
    """Dead letters that go: redriven, or thrown away."""

    ranges: list[Range]


@dataclass(frozen=True, slots=True)
class Cut:
    """Retention: everything below `below` goes, in all channels."""

    below: int


@dataclass(frozen=True, slots=True)
class PromiseExact:
    """While the clock stands still, nothing above `offset` is handed out before the next."""

    offset: int


@dataclass(frozen=True, slots=True)
class OpenEpoch:
    """A node starts to lead its partitions. `epoch` is above every earlier one."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Promise:
    """Nothing due at or after `until_ms` is handed out before a later promise is durable."""

    until_ms: int


@dataclass(frozen=True, slots=True)
class CloseExact:
    """The closed offsets as they are, by partition number; voids the promise."""

    closed: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class PutTopic:
    """A topic is created or changed; `value` is its row as the catalog encodes it."""

    name: str
    value: bytes


@dataclass(frozen=True, slots=True)
class DeleteTopic:
    """A topic goes, with all that its partitions hold."""

    name: str
    partitions: list[int]


@dataclass(frozen=True, slots=True)
class PutRows:
    """Rows of a partition that comes from another log, as they stand there; None deletes."""

    partition: int
    rows: list[tuple[bytes, bytes | None]]


@dataclass(frozen=True, slots=True)
class PutGroup:
    """A group of the catalog is created or changed; `value` is its row."""

    topic: str
    name: str
    value: bytes


@dataclass(frozen=True, slots=True)
class DeleteGroup:
    """A group leaves the catalog; its parts are gone already."""

    topic: str
    name: str


Indexed = Append | Put | Delete
"""What takes indexes, `first_index` and those after it."""

Operation = (
    Indexed
    | Settle
    | Move
    | CreateGroup
    | SeekGroup
    | DropGroup
    | Attach
    | Detach
    | Redrive
    | Purge
    | Cut
    | PromiseExact
    | OpenEpoch
    | Promise
    | CloseExact
    | PutTopic
    | DeleteTopic
    | PutRows
    | PutGroup
    | DeleteGroup
)


def index_count(operation: Operation) -> int:
    """How many indexes an operation takes."""
    match operation:
        case Append():
            return sum(operation.counts)
        case Redrive():
            return index_count(operation.append)
        case Put() | Delete():
            return len(operation.keys)
        case _:
            return 0


def row_count(operation: Operation) -> int:
    """About how many rows of the view applying it makes or looks for: its cost goes by that."""
    match operation:
        case Append():
            return len(operation.dues)
        case Put() | Delete():
            return len(operation.keys)
        case Settle() | Move():
            return len(operation.main) + len(operation.retry)
        case PutRows():
            return len(operation.rows)
        case _:
            return 1


def bodies_of(operation: Operation) -> list[bytes]:
    """The batches or messages that an operation brings."""
    match operation:
        case Append():
            return operation.bodies
        case Redrive():
            return operation.append.bodies
        case Put():
            return operation.messages
        case _:
            return []


def indexed_of(operation: Operation) -> Indexed | None:
    """What of an operation takes indexes, if anything does."""
    if isinstance(operation, Redrive):
        return operation.append
    return operation if isinstance(operation, Indexed) else None


def lowest_offset(operation: Indexed) -> int:
    """The lowest offset that it gives to anything."""
    is_append = isinstance(operation, Append)
    due_ms = min(operation.dues) if is_append else operation.produced_ms
    return due_ms << INDEX_BITS | operation.first_index


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of the log."""

    partition: int
    head: Head
    operations: list[Operation]

    @property
    def body_bytes(self) -> int:
        """How large the batches and messages are that it carries."""
        return sum(sum(map(len, bodies_of(each))) for each in self.operations)
