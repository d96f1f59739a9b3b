"""
Queued records on their way into the log: many in one append, in order, and back when they are
durable. How they become that: `sandglass.broker.syncs`.

On a full disk what was produced is taken back, and all else uses the log's reserve.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from sandglass.broker.inbox import Inbox, Waiting
from sandglass.broker.syncs import Pipeline, Syncs, ThreadSync
from sandglass.errors import BusyError, NoSpaceError
from sandglass.ports import Log, PipelinedLog
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
    """For measuring; another thread may ask it."""
    wake: Callable[[], None]
    """Told, in the loop's thread, when something has become durable, or may be appended."""

    inbox: Inbox = field(default_factory=Inbox)
    syncing: list[Waiting] = field(default_factory=list[Waiting])
    """Appended, and not yet known to be durable."""
    syncs: Syncs = field(init=False)
    is_full: bool = False
    """The log can't get another segment: producers wait, outcomes use the reserve."""
    is_short_of_files: bool = False
    """What it lacks for another segment is a descriptor, not space."""
    again_ms: int = 0
    """No room, not even in the reserve: when to try once more; 0 if there is."""

    def __post_init__(self) -> None:
        self.syncs = ThreadSync(self.log, self.stats, self.stopwatch_ns, self.wake)

    def take_over(self, log: PipelinedLog) -> None:
        """From here on this log is written, which takes more while entries are under way."""
        assert not self.syncs.is_under_way, "the log before isn't done"
        self.syncs.close(wait=False)
        self.log = log
        self.syncs = Pipeline(log, self.stats, self.stopwatch_ns, self.wake)

    @property
    def is_syncing(self) -> bool:
        """Something was appended, and it isn't taken that it is durable."""
        return self.syncs.is_under_way

    @property
    def is_synced(self) -> bool:
        """Something has become durable: `take_synced`."""
        return self.syncs.is_over

    def room_bytes(self, intake_bytes: int) -> int:
        """How much may be appended just now, where beside the inbox so much waits; or 0."""
        return self.syncs.room_bytes(intake_bytes + self.inbox.size_bytes)

    def take_synced(self) -> list[Waiting]:
        """
        Takes what has become durable, in order.

        Raises:
            SandglassError: the outcome of the write is unknown.
        """
        count = self.syncs.take(len(self.syncing))
        durable, self.syncing = self.syncing[:count], self.syncing[count:]
        return durable

    def append(
        self,
        steady_ms: int,
        take_back: Callable[[list[Waiting]], None],
        *,
        room_bytes: int,
        may_wait: bool,
    ) -> None:
        """
        Gives the log what is queued, as much as a turn takes, and sees to it that it becomes
        durable.

        Args:
            room_bytes: so much, and the record that goes beyond it.
            take_back: given what was produced and finds no room; it is out of the inbox.
            may_wait: where not even the reserve has room, it is tried again later.

        Raises:
            BusyError: there is no room at all, and it may not wait.
        """
        self.again_ms = 0
        raws = self.inbox.encoded(room_bytes)
        if not raws:
            return
        try:
            self.log.append(raws)
        except BusyError as error:
            self.note_no_room(error)
            take_back(self.inbox.take_appends())
            raws = self.inbox.encoded(room_bytes)
            if not raws or not self._append_to_reserve(raws, steady_ms, may_wait=may_wait):
                return
        self.syncing += self.inbox.take(len(raws))
        self.stats.record_count += len(raws)
        self.syncs.begin()

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
        await self.syncs.finish()

    def settle(self) -> None:
        """Asked now and then: a log that is quiet may note that it is."""
        if not self.inbox:
            self.syncs.settle()

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

    def close(self, *, wait: bool = True) -> None:
        """Ends; what it is about is waited for, or not."""
        self.syncs.close(wait=wait)
