"""
Bad luck on demand: clocks that are stepped, logs and stores that fail, a disk that is full.

`FaultyLog` and `FaultyStore` wrap an adapter of the port, and pass everything on until they are
told to fail. `FaultyDisk` does the same to the files of a node in another process: what it does
is told by names in a directory.
"""

import errno
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from sandglass.adapters.files import Files
from sandglass.adapters.system import SystemClock
from sandglass.core.view import Changes, Row
from sandglass.errors import BusyError, NoSpaceError, SandglassError, UnavailableError
from sandglass.ports import Clock, Log, Store

EPOCH_MS: Final = 1_700_000_000_000
LATE_SYNC_S_MAX: Final = 30.0


class ManualClock:
    """A `Clock` that stands still until it is told to go on."""

    def __init__(self, wall_ms: int = EPOCH_MS) -> None:
        self._wall_ms = wall_ms
        self._monotonic_ms = 0

    def wall_ms(self) -> int:
        """Unix time in milliseconds."""
        return self._wall_ms

    def monotonic_ms(self) -> int:
        """Milliseconds since it was made."""
        return self._monotonic_ms

    def advance(self, by_ms: int) -> None:
        """Time passes."""
        assert by_ms >= 0, "time passes forwards; see `step`"
        self._wall_ms += by_ms
        self._monotonic_ms += by_ms

    def step(self, by_ms: int) -> None:
        """Somebody sets the wall clock, forward or back."""
        self._wall_ms += by_ms


class SteppedClock:
    """The machine's clock, whose wall time can be set."""

    def __init__(self, base: Clock | None = None) -> None:
        self._base = base or SystemClock()
        self._offset_ms = 0

    def wall_ms(self) -> int:
        """Unix time in milliseconds, as it was set."""
        return self._base.wall_ms() + self._offset_ms

    def monotonic_ms(self) -> int:
        """The machine's."""
        return self._base.monotonic_ms()

    def step(self, by_ms: int) -> None:
        """Somebody sets the wall clock, forward or back."""
        self._offset_ms += by_ms


class FaultyLog:
    """
    A `Log` over another one.

    Attributes:
        is_full: appends find no room; those who may use the reserve still do.
        is_short_of_files: it is descriptors that are missing, not space.
        has_reserve: without it, nobody finds room on a full disk.
    """

    def __init__(self, base: Log) -> None:
        self.base = base
        self.is_full = False
        self.has_reserve = True
        self.is_short_of_files = False
        self._is_failing = False
        self._may_sync = threading.Event()
        self._may_sync.set()

    @property
    def first_position(self) -> int:
        """See `Log`."""
        return self.base.first_position

    @property
    def last_position(self) -> int:
        """See `Log`."""
        return self.base.last_position

    @property
    def durable_position(self) -> int:
        """See `Log`."""
        return self.base.durable_position

    def append(self, records: Sequence[bytes], *, may_use_reserve: bool = False) -> int:
        """See `Log`."""
        if records and self.is_full and not (may_use_reserve and self.has_reserve):
            kind = BusyError if self.is_short_of_files else NoSpaceError
            raise kind("no segment can be made, says the test", retry_after_ms=1000)
        return self.base.append(records, may_use_reserve=may_use_reserve)

    def sync(self) -> int:
        """See `Log`."""
        if not self._may_sync.wait(LATE_SYNC_S_MAX):
            raise UnavailableError("the test never let the sync go on", is_result_unknown=True)
        if self._is_failing:
            raise UnavailableError("the sync failed, says the test", is_result_unknown=True)
        return self.base.sync()

    def read(self, position: int) -> Iterator[tuple[int, bytes]]:
        """See `Log`."""
        return self.base.read(position)

    def trim(self, position: int) -> None:
        """See `Log`."""
        self.base.trim(position)

    def close(self) -> None:
        """See `Log`."""
        self._may_sync.set()
        self.base.close()

    def fail_sync(self) -> None:
        """Every sync from now on fails."""
        self._is_failing = True

    def hold_sync(self) -> None:
        """Syncs wait from now on."""
        self._may_sync.clear()

    def release_sync(self) -> None:
        """They go on."""
        self._may_sync.set()


class FaultyStore:
    """
    A `Store` over another one.

    Attributes:
        error: what `write` raises from now on; None for nothing.
        write_count: how often it was tried.
    """

    def __init__(self, base: Store) -> None:
        self.base = base
        self.error: SandglassError | None = None
        self.write_count = 0

    @property
    def applied_position(self) -> int:
        """See `Store`."""
        return self.base.applied_position

    def get(self, key: bytes) -> bytes | None:
        """See `View`."""
        return self.base.get(key)

    def has(self, key: bytes) -> bool:
        """See `View`."""
        return self.base.has(key)

    def range(self, first: bytes, end: bytes) -> Iterator[Row]:
        """See `View`."""
        return self.base.range(first, end)

    def last(self, first: bytes, end: bytes) -> Row | None:
        """See `View`."""
        return self.base.last(first, end)

    def write(self, changes: Changes, applied_position: int) -> None:
        """See `Store`."""
        self.write_count += 1
        if self.error is not None:
            raise self.error
        self.base.write(changes, applied_position)

    def flushed_position(self) -> int:
        """See `Store`."""
        return self.base.flushed_position()

    def close(self) -> None:
        """See `Store`."""
        self.base.close()

    def stall(self) -> None:
        """It takes nothing, and says that it is behind."""
        self.error = BusyError("the store is stalled, says the test", retry_after_ms=5)

    def fill(self) -> None:
        """It takes nothing, and says that the disk is full."""
        self.error = NoSpaceError("the store is full, says the test", retry_after_ms=5)

    def heal(self) -> None:
        """It takes everything again."""
        self.error = None


class FaultyDisk(Files):
    """
    Files whose faults are switched on by names in a directory: `full` (no space for another
    segment), `sync` (an fdatasync fails).
    """

    def __init__(self, switches: Path) -> None:
        self._switches = switches

    def allocate(self, fd: int, size_bytes: int) -> None:
        """See `Files`."""
        self._fail("full", errno.ENOSPC)
        super().allocate(fd, size_bytes)

    def sync(self, fd: int) -> None:
        """See `Files`."""
        self._fail("sync", errno.EIO)
        super().sync(fd)

    def _fail(self, name: str, number: int) -> None:
        if (self._switches / name).exists():
            raise OSError(number, os.strerror(number))
