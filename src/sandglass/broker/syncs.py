"""
How what a log was given becomes durable.

- `ThreadSync`: a thread syncs the log, one at a time; the log is given nothing meanwhile.
- `Pipeline`: the log sees to it by itself, and is given more meanwhile. What comes while other
  entries are under way is packed: it goes when it is enough for an entry of its own, or has
  waited for some time, or nothing is under way any more. So a lone record goes at once, and
  many small ones share entries.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from sandglass.core import limits
from sandglass.ports import Log, PipelinedLog
from sandglass.telemetry import Counts


class Syncs(Protocol):
    """What `LogWriter` needs to know of it. All calls come from the loop's thread."""

    @property
    def is_under_way(self) -> bool:
        """Something may not be durable yet, or was not taken."""
        ...

    @property
    def is_over(self) -> bool:
        """Something has become durable, or it is known that nothing will: `take`."""
        ...

    def room_bytes(self, queued_bytes: int) -> int:
        """How much the log may be given now, of so much that waits; 0: nothing."""
        ...

    def begin(self) -> None:
        """The log was given something."""
        ...

    def take(self, count: int) -> int:
        """
        Of `count` records that the log was given, and that were not taken: how many of the
        first of them are durable. They are taken.

        Raises:
            SandglassError: the outcome of a write is unknown.
        """
        ...

    def settle(self) -> None:
        """Nothing waits; asked now and then."""
        ...

    async def finish(self) -> None:
        """
        Makes all durable that the log was given.

        Raises:
            SandglassError: the outcome is unknown.
        """
        ...

    def close(self, *, wait: bool) -> None:
        """Ends; what it is about is waited for, or not."""
        ...


@dataclass(slots=True)
class ThreadSync:
    """A sync at a time. `wake` is told, in the loop's thread, when one has ended."""

    log: Log
    stats: Counts
    stopwatch_ns: Callable[[], int]
    """For measuring; the thread asks it."""
    wake: Callable[[], None]
    _future: "asyncio.Future[int] | None" = None
    _count: int = 0
    """Of syncs."""
    _seen_count: int = 0
    """When it was last asked to settle."""
    _settled_count: int = 0
    """With the last sync of nothing."""
    _thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="sandglass-sync")
    )

    @property
    def is_under_way(self) -> bool:
        """See `Syncs`."""
        return self._future is not None

    @property
    def is_over(self) -> bool:
        """See `Syncs`."""
        return self._future is not None and self._future.done()

    def room_bytes(self, queued_bytes: int) -> int:
        """See `Syncs`: as much as a turn takes, while no sync runs."""
        del queued_bytes
        return 0 if self._future is not None else limits.TURN_APPEND_BYTES_MAX

    def begin(self) -> None:
        """See `Syncs`."""
        self._count += 1
        self.stats.sync_count += 1
        self._future = self._begin()
        self._future.add_done_callback(lambda _: self.wake())

    def take(self, count: int) -> int:
        """See `Syncs`: all of them."""
        assert self._future is not None
        self.stats.sync_ms.observe(self._future.result() / 1_000_000)
        self._future = None
        return count

    def settle(self) -> None:
        """
        A log that was quiet since the last time is synced once more, with nothing to sync: it
        notes that all is durable, and what is damaged from then on is no torn tail.
        """
        if self._count == self._settled_count:
            return
        if self._count != self._seen_count:
            self._seen_count = self._count
        elif self._future is None:
            self.begin()
            self._settled_count = self._count

    async def finish(self) -> None:
        """See `Syncs`."""
        await self._begin()

    def close(self, *, wait: bool) -> None:
        """See `Syncs`."""
        self._thread.shutdown(wait=wait)

    async def ended(self) -> None:
        """Waits for the sync that runs, if one does, however it ends."""
        if self._future is not None:
            await asyncio.gather(self._future, return_exceptions=True)

    def _begin(self) -> "asyncio.Future[int]":
        return asyncio.get_running_loop().run_in_executor(self._thread, self._timed)

    def _timed(self) -> int:
        """In the thread; how long it took, in ns."""
        began_ns = self.stopwatch_ns()
        self.log.sync()
        return self.stopwatch_ns() - began_ns


@dataclass(slots=True)
class Pipeline:
    """
    Appends that don't wait for each other. `wake` is told when something has become durable,
    and when what waits has waited long enough.

    Invariant: `taken <= log.durable_position <= log.last_position`.
    """

    log: PipelinedLog
    stats: Counts
    stopwatch_ns: Callable[[], int]
    wake: Callable[[], None]
    taken: int = field(init=False)
    """Up to this position it was told what is durable."""
    _given: deque[tuple[int, int]] = field(default_factory=deque[tuple[int, int]])
    """Each append that isn't taken: its last position, and when it was."""
    _timer: asyncio.TimerHandle | None = None
    """Runs while what waits may have to wait for more."""

    def __post_init__(self) -> None:
        assert self.log.durable_position == self.log.last_position, "somebody else writes it"
        self.taken = self.log.durable_position
        self.log.on_durable = self.wake

    @property
    def is_under_way(self) -> bool:
        """See `Syncs`."""
        return self.log.last_position > self.taken

    @property
    def is_over(self) -> bool:
        """See `Syncs`."""
        return self.log.durable_position > self.taken

    def room_bytes(self, queued_bytes: int) -> int:
        """See `Syncs`; the head of this file says when there is any."""
        room_bytes = self.log.room_bytes
        is_enough = queued_bytes >= limits.ENTRY_BYTES_MIN or self._timer is None
        return room_bytes if is_enough or not self.is_under_way else 0

    def begin(self) -> None:
        """See `Syncs`."""
        self.stats.sync_count += 1
        self._given.append((self.log.last_position, self.stopwatch_ns()))
        self._stop_timer()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(limits.ENTRY_WAIT_MS / 1000, self._waited)

    def take(self, count: int) -> int:
        """See `Syncs`."""
        durable, now_ns = self.log.durable_position, self.stopwatch_ns()
        taken, self.taken = durable - self.taken, durable
        assert taken <= count, "more is durable than the log was given"
        while self._given and self._given[0][0] <= durable:
            self.stats.sync_ms.observe((now_ns - self._given.popleft()[1]) / 1_000_000)
        if not self.is_under_way:
            self._stop_timer()
        return taken

    def settle(self) -> None:
        """See `Syncs`: nothing; the log knows what is durable."""

    async def finish(self) -> None:
        """See `Syncs`."""
        self.taken = await self.log.synced()

    def close(self, *, wait: bool) -> None:
        """See `Syncs`: nothing is waited for."""
        del wait
        self._stop_timer()
        self.log.on_durable = lambda: None

    def _waited(self) -> None:
        self._timer = None
        self.wake()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
