"""
The log in memory: for tests, simulation and trial runs.

It keeps the promises of the `Log` port as the file does, the loss of what was not synced in a
crash included. Besides the port it has what tests need: `crash`, `reopen`, a sync in two
halves, a failing sync, and a disk that is full.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from sandglass.adapters.files import NO_SPACE_RETRY_MS
from sandglass.errors import NoSpaceError, OutOfRangeError, UnavailableError


class MemoryLog:
    """
    `Log` as a list of batches.

    Attributes:
        capacity_bytes: what the batches held may take together; None for no bound.
        reserve_bytes: what may be taken beyond it by those who may use the reserve.
    """

    def __init__(self, *, capacity_bytes: int | None = None, reserve_bytes: int = 0) -> None:
        self.capacity_bytes = capacity_bytes
        self.reserve_bytes = reserve_bytes
        self._batches: list[tuple[int, tuple[bytes, ...]]] = []
        self._held_bytes = 0
        self._first = 1
        self._last = 0
        self._durable = 0
        self._syncing: int | None = None
        self._is_sync_failing = False
        self._refusal = ""

    # --- the port ---------------------------------------------------------------------------

    @property
    def first_position(self) -> int:
        """The lowest position still held; `last_position + 1` when none is."""
        return self._first

    @property
    def last_position(self) -> int:
        """The highest position given out; 0 before the first."""
        return self._last

    @property
    def durable_position(self) -> int:
        """The highest position that survives a crash."""
        return self._durable

    def append(self, records: Sequence[bytes], *, may_use_reserve: bool = False) -> int:
        """Takes records for the next `sync`; see `Log.append`."""
        self._check_alive()
        if not records:
            return self._last
        size = sum(map(len, records))
        if self.capacity_bytes is not None:
            room = self.capacity_bytes + (self.reserve_bytes if may_use_reserve else 0)
            if self._held_bytes + size > room:
                raise NoSpaceError(
                    f"no space for {size} bytes in the log", retry_after_ms=NO_SPACE_RETRY_MS
                )
        self._batches.append((self._last + 1, tuple(records)))
        self._held_bytes += size
        self._last += len(records)
        return self._last

    def sync(self) -> int:
        """Makes durable what was appended before the call; see `Log.sync`."""
        self.sync_start()
        return self.sync_end()

    def read(self, position: int) -> Iterator[tuple[int, bytes]]:
        """Durable records from `position` on; see `Log.read`."""
        if position < self._first:
            raise OutOfRangeError(
                f"position {position} is no longer kept; the log starts at {self._first}"
            )
        return self._read(position)

    def trim(self, position: int) -> None:
        """Lets durable batches below `position` go."""
        count = 0
        for first, records in self._batches:
            after = first + len(records)
            if after > min(position, self._durable + 1):
                break
            self._held_bytes -= sum(map(len, records))
            self._first = after
            count += 1
        del self._batches[:count]

    def close(self) -> None:
        """Drops what is not durable; the rest is there again after `reopen`."""
        self.crash()
        self._refusal = "the log is closed"

    # --- for tests --------------------------------------------------------------------------

    def sync_start(self) -> None:
        """The first half of a sync: takes what was appended so far."""
        self._check_alive()
        assert self._syncing is None, "one sync at a time"
        self._syncing = self._last

    def sync_end(self) -> int:
        """The second half: it is durable now, what was appended between the halves is not."""
        assert self._syncing is not None, "sync_start comes first"
        if self._is_sync_failing:
            self._refusal = "the log takes nothing since a write failed"
            raise UnavailableError(
                "a write of the log failed, its outcome is unknown", is_result_unknown=True
            )
        self._durable, self._syncing = self._syncing, None
        return self._durable

    def fail_sync(self) -> None:
        """The next sync fails, and the log takes nothing until it crashes and is reopened."""
        self._is_sync_failing = True

    def crash(self, kept_batch_count: int = 0) -> None:
        """
        The process ends. Of the batches that were not durable the first `kept_batch_count` are
        kept, at most all, and the others are gone. `reopen` it afterwards.
        """
        kept = sum(1 for first, _ in self._batches if first <= self._durable) + kept_batch_count
        while len(self._batches) > kept:
            first, records = self._batches.pop()
            self._held_bytes -= sum(map(len, records))
            self._last = first - 1
        self._durable = self._last
        self._syncing = None
        self._is_sync_failing = False
        self._refusal = "the process has ended"

    def reopen(self) -> None:
        """A new process takes the log over."""
        assert self._refusal, "it is open"
        self._refusal = ""

    def _check_alive(self) -> None:
        if self._refusal:
            raise UnavailableError(self._refusal)

    def _read(self, position: int) -> Iterator[tuple[int, bytes]]:
        while True:
            found = self._batch_at(position)
            if found is None:
                return
            first, records = found
            for place, record in enumerate(records, first):
                if place >= position:
                    yield place, record
            position = first + len(records)

    def _batch_at(self, position: int) -> tuple[int, tuple[bytes, ...]] | None:
        if position < self._first:
            raise OutOfRangeError(f"trimmed while it was read; it starts at {self._first}")
        if position > self._durable:
            return None
        at = bisect_right(self._batches, position, key=lambda batch: batch[0])
        return self._batches[at - 1]
