"""
The broker's ports: what it needs of the outside, and no more.

Each has a memory adapter that passes the same conformance suite as the real one. All methods
are called from the node's one loop thread, unless their text says otherwise.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sandglass.core.view import Changes, Row, View


class Log(Protocol):
    """
    The truth: records in order, made durable. Positions count records: 1, 2, 3, ...

    Invariant: `last_position >= durable_position`; nothing at or below the latter is ever lost.
    """

    @property
    def first_position(self) -> int:
        """The lowest position still held; `last_position + 1` when none is."""
        ...

    @property
    def last_position(self) -> int:
        """The highest position given out; 0 before the first."""
        ...

    @property
    def durable_position(self) -> int:
        """The highest position that survives a power cut."""
        ...

    def append(self, records: Sequence[bytes], *, may_use_reserve: bool = False) -> int:
        """
        Takes records for the next `sync` and returns the last one's position.

        Costs no system call on the common path. The records are atomic together: after a crash
        all or none of one call are there.

        Args:
            records: without any, nothing happens.
            may_use_reserve: for what helps to make room (acknowledgements, cuts, marks): on a
                full disk it goes into a reserve that others don't get.

        Raises:
            NoSpaceError: there is no room; nothing was taken, and a later call may succeed.
            BusyError: the same, for want of something else than space.
            UnavailableError: the log is closed, or a write has failed; nothing was taken.
        """
        ...

    def sync(self) -> int:
        """
        Writes and makes durable what was appended before the call; returns `durable_position`.
        With nothing to write, it may note that all is durable: for a log that is quiet.

        Blocking, and safe to call in another thread while `append` goes on; one at a time.

        Raises:
            UnavailableError: a write failed, now or before. With `is_result_unknown`, what was
                appended may be there or not. The log takes nothing more: stop, open it anew.
        """
        ...

    def read(self, position: int) -> Iterator[tuple[int, bytes]]:
        """
        Durable records from `position` on, in order.

        Raises:
            OutOfRangeError: `position` was trimmed away.
            CorruptError: damage; the message names file and place.
        """
        ...

    def trim(self, position: int) -> None:
        """
        Records below `position` are no longer needed; whole segments go when it suits.

        `first_position` says which are still there. The last segment stays.
        """
        ...

    def close(self) -> None:
        """
        Releases files and locks, without making anything durable: what was not synced is gone.

        It waits for a running `sync`, and is the clean stop: the log notes that it is whole.

        Raises:
            UnavailableError: the note could not be written; nothing durable is lost for that.
        """
        ...


class PipelinedLog(Log, Protocol):
    """
    A log that makes durable by itself what it is given, in order, and takes more meanwhile.
    Nobody calls its `sync`.
    """

    on_durable: Callable[[], None]
    """Told when `durable_position` has gone up, or there is more room."""

    @property
    def room_bytes(self) -> int:
        """How much it would send on at once; what it is given beyond that waits in it."""
        ...

    async def synced(self) -> int:
        """
        Waits until what was appended is durable; returns `durable_position`.

        Raises:
            UnavailableError: it takes nothing more; what isn't durable may be there or not.
        """
        ...


class Store(View, Protocol):
    """
    The view: ordered rows that `apply` makes. After a crash it is an exact prefix of what was
    written; the rest comes from the log.
    """

    @property
    def applied_position(self) -> int:
        """The position that the last write carried; 0 in a new store."""
        ...

    def write(self, changes: Changes, applied_position: int) -> None:
        """
        Carries out `changes.cuts`, then `changes.rows`, with the position: all in one write.

        Raises:
            BusyError: the store is stalled; nothing was written, repeat after `retry_after_ms`.
            NoSpaceError: no room; nothing was written.
            UnavailableError: nothing can be written; nothing was.
            CorruptError: the store is damaged.
        """
        ...

    def flushed_position(self) -> int:
        """
        A position up to which the rows survive a power cut, so that the log can be trimmed.

        Starts a flush in the background where that helps; never blocks.
        """
        ...

    def close(self) -> None:
        """Flushes what is in memory, and releases files and locks."""
        ...


class FrozenRows(Protocol):
    """
    Rows of one moment, whatever is written after it: for a snapshot, which takes a while. It
    holds space in the store, so `close` it.
    """

    def take(self, *, row_count: int, size_bytes: int) -> list[Row]:
        """
        The next rows, ascending: up to so many, or until they have so many bytes; none at the
        end.

        Raises:
            UnavailableError: the store, or this, was closed.
            CorruptError: a row cannot be read. Never a silent end.
        """
        ...

    def close(self) -> None:
        """Lets go; a second time does nothing."""
        ...


class SnapshotStore(Protocol):
    """
    Where the snapshots of replicated logs lie: objects, each of a log and under a name, that
    never change. Names are of `[a-z0-9-]`, at most 100 characters; an object has 8 MB at most.

    It need not be sure of what it keeps: who reads checks what comes.
    """

    async def put(self, log: int, name: str, raw: bytes) -> None:
        """
        Keeps an object, durably, once this returns; it may have been there.

        Raises:
            UnavailableError: no answer; it may be there or not. Putting it again is harmless.
            NoSpaceError: there is no room.
        """
        ...

    async def get(self, log: int, name: str) -> bytes | None:
        """
        An object; None if it isn't there.

        Raises:
            UnavailableError: no answer.
        """
        ...

    async def names(self, log: int) -> frozenset[str]:
        """
        The names of all objects of a log, those of every `put` that has returned included.

        Raises:
            UnavailableError: no answer.
        """
        ...

    async def delete(self, log: int, names: Iterable[str]) -> None:
        """
        Takes objects away; those that aren't there are no error.

        Raises:
            UnavailableError: no answer; some may be gone.
        """
        ...

    async def clear(self, log: int) -> None:
        """
        Takes all objects of a log away.

        Raises:
            UnavailableError: no answer; some may be gone.
        """
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A value of `Placement`, and its revision: each change gives a higher one."""

    key: str
    value: bytes
    revision: int


class Placement(Protocol):
    """
    What the members of a cluster agree on: small values under keys, changed by compare-and-set.

    Keys are words joined by dots, each of `[A-Za-z0-9_=-]`.
    """

    @property
    def entries(self) -> Mapping[str, Entry]:
        """What is known here; it may be behind, and never goes back for a key."""
        ...

    @property
    def revision(self) -> int:
        """The highest that is known here; what came before it may still be on its way."""
        ...

    async def reached(self, revision: int) -> None:
        """Returns once all that had changed at a revision, wherever it was made, is known."""
        ...

    def follow(self, on_change: Callable[[str], None]) -> None:
        """From here on `on_change` is told each key whose entry has changed, or is gone."""
        ...

    async def set(self, key: str, value: bytes, revision: int | None = None) -> int:
        """
        Puts a value; returns its revision.

        Args:
            revision: of the entry that it replaces; 0 where there must be none; None for
                whatever there is.

        Raises:
            ConflictError: the entry is of another revision.
            UnavailableError: no quorum, or no answer; with `is_result_unknown` it may be there.
        """
        ...

    async def delete(self, key: str, revision: int | None = None) -> None:
        """
        Takes an entry away; see `set`.

        Raises:
            ConflictError, UnavailableError: as `set` does.
        """
        ...


class Clock(Protocol):
    """The two clocks of the machine."""

    def wall_ms(self) -> int:
        """Unix time in milliseconds; it may be stepped."""
        ...

    def monotonic_ms(self) -> int:
        """Milliseconds since some moment; it never steps."""
        ...


class Entropy(Protocol):
    """Where chance comes from: the operating system's, or a seed's in tests."""

    def token_bytes(self, count: int) -> bytes:
        """`count` random bytes that nobody can guess."""
        ...
