"""
Queued records on their way into the log: one append and one sync at a time, in a thread.

On a full disk what was produced is taken back, and all else uses the log's reserve.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from sandglass.broker.inbox import Inbox, Waiting
from sandglass.errors import BusyError, NoSpaceError
from sandglass.ports import Log
from sandglass.telemetry import Counts

logger = logging.getLogger(__name__)

TRY_AGAIN_MS = 1000
"""Without any room, not even in the reserve, the log is tried again after so long."""


@dataclass(slots=True)
class LogWriter:
    """Writes the records of one inbox into one log."""

    log: Log
    stats: Counts
    stopwatch_ns: Callable[[], int]
    """For measuring; the sync thread asks it."""
    wake: Callable[[], None]
    """Told, in the loop's thread, when a sync has ended."""

    inbox: Inbox = field(default_factory=Inbox)
    syncing: list[Waiting] = field(default_factory=list[Waiting])
    """Appended, and not yet known to be durable."""
    synced: Callable[[], Awaitable[int]] | None = None
    """Awaits the log, where it isn't synced in a thread."""
    is_full: bool = False
    """The log can't get another segment: producers wait, outcomes use the reserve."""
    is_short_of_files: bool = False
    """What it lacks for another segment is a descriptor, not space."""
    again_ms: int = 0
    """No room, not even in the reserve: when to try once more; 0 if there is."""
    _sync: asyncio.Future[int] | None = None
    _thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="sandglass-sync")
    )

    @property
    def is_syncing(self) -> bool:
        """A sync runs, or its end hasn't been taken: nothing can be appended."""
        return self._sync is not None

    @property
    def is_synced(self) -> bool:
        """A sync has ended: `take_synced`."""
        return self._sync is not None and self._sync.done()

    def take_synced(self) -> list[Waiting]:
        """
        Takes what the sync that has ended made durable.

        Raises:
            SandglassError: the outcome of the write is unknown.
        """
        assert self._sync is not None
        self.stats.sync_ms.observe(self._sync.result() / 1_000_000)
        durable, self._sync, self.syncing = self.syncing, None, []
        return durable

    def append(
        self, steady_ms: int, take_back: Callable[[list[Waiting]], None], *, may_wait: bool
    ) -> None:
        """
        Gives the log what is queued, as much as a turn takes, and begins to sync it.

        Args:
            take_back: given what was produced and finds no room; it is out of the inbox.
            may_wait: where not even the reserve has room, it is tried again later.

        Raises:
            BusyError: there is no room at all, and it may not wait.
        """
        self.again_ms = 0
        raws = self.inbox.encoded()
        if not raws:
            return
        try:
            self.log.append(raws)
        except BusyError as error:
            self.note_no_room(error)
            take_back(self.inbox.take_appends())
            raws = self.inbox.encoded()
            if not raws or not self._append_to_reserve(raws, steady_ms, may_wait=may_wait):
                return
        self.syncing = self.inbox.take(len(raws))
        self.stats.record_count += len(self.syncing)
        self.start_sync()

    def _append_to_reserve(self, raws: list[bytes], steady_ms: int, *, may_wait: bool) -> bool:
        """What no producer waits for; false if there isn't even room for that."""
        try:
            self.log.append(raws, may_use_reserve=True)
        except BusyError as error:
            if not may_wait:
                raise
            # What is admitted can't be refused any more: it waits.
            logger.error("no room, not even in the reserve: %s", error)
            self.again_ms = steady_ms + TRY_AGAIN_MS
            return False
        return True

    async def append_last(self, raw: bytes) -> None:
        """
        Writes one more record, from the reserve if need be, and waits until it is durable.

        Raises:
            BusyError: there is no room.
        """
        self.log.append([raw], may_use_reserve=True)
        await self._begin_sync()

    def note_no_room(self, error: BusyError) -> None:
        """From now on producers are refused, until the house is kept."""
        if not self.is_full:
            logger.warning("no room: %s", error)
        self.is_full = True
        self.is_short_of_files = not isinstance(error, NoSpaceError)

    def no_room(self, retry_after_ms: int = TRY_AGAIN_MS) -> BusyError:
        """What a producer is told."""
        if self.is_short_of_files:
            return BusyError("the node has too many files open", retry_after_ms=retry_after_ms)
        return NoSpaceError("the disk is full", retry_after_ms=retry_after_ms)

    def start_sync(self) -> None:
        """Begins to sync what was appended, if anything."""
        self.stats.sync_count += 1
        self._sync = self._begin_sync()
        self._sync.add_done_callback(lambda _: self.wake())

    def close(self, *, wait: bool = True) -> None:
        """Ends the thread; what it is about is waited for, or not."""
        self._thread.shutdown(wait=wait)

    def _begin_sync(self) -> "asyncio.Future[int]":
        if self.synced is not None:
            return asyncio.ensure_future(self._await_log(self.synced))
        return asyncio.get_running_loop().run_in_executor(self._thread, self._timed_sync)

    async def _await_log(self, synced: Callable[[], Awaitable[int]]) -> int:
        began_ns = self.stopwatch_ns()
        await synced()
        return self.stopwatch_ns() - began_ns

    def _timed_sync(self) -> int:
        """In the sync thread; how long it took, in ns."""
        began_ns = self.stopwatch_ns()
        self.log.sync()
        return self.stopwatch_ns() - began_ns
