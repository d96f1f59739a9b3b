"""
Snapshots of the replicated logs that this node leads, and what its replicas begin at.

Here is when. How, is in `sandglass.replication.making` and `restoring`, and `snapshot_steps`.

1. One is made at a time, when the stream weighs twice `snapshot_bytes`: what the older of two
   generations left, and as much again.
2. Nothing holds the loop for more than a few milliseconds: rows come in slices, with a rest of
   twice the time that they took, and hashing is done in a thread.
3. A stream that was not trimmed behind its older generation, because a node ended between the
   two, is trimmed by the next look.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sandglass.adapters.engine_snapshots import EngineSnapshots
from sandglass.adapters.folder_snapshots import FolderSnapshots
from sandglass.adapters.jetstream import Stream, StreamState
from sandglass.adapters.nats import Connection
from sandglass.adapters.shared_store import StorePart
from sandglass.broker.shared_catalog import LogSeen, SnapshotsSeen
from sandglass.cluster.fetching import Room
from sandglass.cluster.snapshot_steps import SNAPSHOTS, Maker, take
from sandglass.core import limits
from sandglass.core.topic import Topic
from sandglass.errors import SandglassError
from sandglass.ports import Clock, Placement, SnapshotStore
from sandglass.replication import making, restoring
from sandglass.replication.making import Made, Source
from sandglass.replication.reader import Mark
from sandglass.replication.restoring import Restored, Wanted
from sandglass.replication.snapshot import Generations

logger = logging.getLogger(__name__)

LOOK_S: Final = 2.0
AFTER_FAILURE_S: Final = 20.0


@dataclass(slots=True)
class LedLog:
    """A log that this node leads: what a snapshot of it is made of."""

    stream: Stream
    part: StorePart
    is_led: Callable[[], bool]
    looked_sequence: int = -1
    again_s: float = 0.0
    first_sequence: int = 0
    """Where the stream began at the last look."""


@dataclass(slots=True)
class SnapshotCounts:
    """What was done since the process began."""

    made_count: int = 0
    sent_bytes: int = 0
    restored_count: int = 0
    failed_count: int = 0


@dataclass(slots=True)
class Snapshots:
    """`start` once, `stop` once. All calls run in the event loop's thread."""

    placement: Placement
    store_for: Callable[[int], SnapshotStore]
    """Where the objects of logs of a replication factor lie."""

    topic_of: Callable[[int], Topic]
    """The topic of a log's partition."""

    cluster: str
    clock: Clock
    stopwatch_ns: Callable[[], int]
    snapshot_bytes: int = limits.SNAPSHOT_BYTES_DEFAULT
    counts: SnapshotCounts = field(default_factory=SnapshotCounts)
    logs: dict[int, LedLog] = field(default_factory=dict[int, LedLog])
    """Those that this node leads."""
    look_s: float = LOOK_S
    _room: Room = field(default_factory=Room)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Looks at the logs that are led here, again and again."""
        self.placement.follow(self._on_change)
        self._task = asyncio.create_task(self._run(), name="snapshots")

    def seen(self) -> SnapshotsSeen:
        """What metrics show of them."""
        counts = self.counts
        logs: list[LogSeen] = []
        for number, log in self.logs.items():
            with suppress(SandglassError):
                logs.append(self._log_seen(number, log))
        return SnapshotsSeen(
            counts.made_count,
            counts.failed_count,
            counts.sent_bytes,
            counts.restored_count,
            tuple(logs),
        )

    def _log_seen(self, number: int, log: LedLog) -> LogSeen:
        newest = self.kept(number)[0].newest
        age_ms = None if newest is None else max(0, self.clock.wall_ms() - newest.made_ms)
        return LogSeen(self.topic_of(number).name, max(0, log.first_sequence - 1), age_ms)

    def _on_change(self, key: str) -> None:
        if key.startswith(SNAPSHOTS):
            self._news.set()

    async def stop(self) -> None:
        """Lets go of what is being made."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def kept(self, number: int) -> tuple[Generations, int]:
        """
        The generations of a log that are kept, as far as is known here, and the revision of
        their entry.

        Raises:
            CorruptError: the entry cannot be read.
        """
        entry = self.placement.entries.get(f"{SNAPSHOTS}{number}")
        if entry is None:
            return Generations(), 0
        return Generations.decode(entry.value), entry.revision

    async def changed(self, number: int, revision: int) -> None:
        """Waits until the entry of a log is no longer the one of this revision."""
        while self.kept(number)[1] == revision:
            self._news.clear()
            await self._news.wait()

    async def forget(self, number: int, factor: int) -> None:
        """
        A log of this replication factor is deleted: its snapshots go.

        Raises:
            UnavailableError: some may be left.
        """
        await self.placement.delete(f"{SNAPSHOTS}{number}")
        await self.store_for(factor).clear(number)

    def store_of(self, number: int) -> SnapshotStore:
        """
        Where the objects of a log lie.

        Raises:
            NotFoundError: its topic was deleted.
        """
        return self.store_for(self.topic_of(number).replication_factor)

    # --- making -------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self.look_s)
            for number, log in [*self.logs.items()]:
                now_s = asyncio.get_running_loop().time()
                if self.logs.get(number) is not log or now_s < log.again_s:
                    continue
                try:
                    await self._look(number, log)
                except (SandglassError, TimeoutError) as error:
                    if log.is_led():
                        self.counts.failed_count += 1
                        logger.warning("no snapshot of partition %d: %s", number, error)
                    log.again_s = asyncio.get_running_loop().time() + AFTER_FAILURE_S
                except Exception:
                    self.counts.failed_count += 1
                    logger.exception("no snapshots of partition %d any more", number)
                    log.again_s = math.inf

    async def _look(self, number: int, log: LedLog) -> None:
        mark = Mark.decode(log.part.mark)
        if mark.sequence == log.looked_sequence:
            return
        state = await log.stream.state()
        generations, _ = self.kept(number)
        if state.first_sequence < generations.trim_sequence:
            await log.stream.trim(generations.trim_sequence)
        log.first_sequence = max(state.first_sequence, generations.trim_sequence)
        log.looked_sequence = mark.sequence
        if is_due(state, generations, self.snapshot_bytes):
            await self.make(number, log)
            log.looked_sequence = -1

    async def make(self, number: int, log: LedLog) -> Made | None:
        """
        Makes a snapshot of a log; None if one as new is kept, or another was entered meanwhile.

        Raises:
            SandglassError: it came to nothing, and what was sent is there for the next attempt.
        """
        began_ns = self.stopwatch_ns()
        generations, revision = self.kept(number)
        mark = Mark.decode(log.part.mark)
        with closing(log.part.freeze()) as rows:
            source = Source(
                self.cluster,
                number,
                mark,
                self.clock.wall_ms(),
                lambda: rows.take(
                    row_count=limits.SNAPSHOT_SLICE_ROW_COUNT,
                    size_bytes=limits.SNAPSHOT_SLICE_BYTES,
                ),
            )
            maker = Maker(
                log.stream,
                self.store_of(number),
                self.placement,
                is_led=log.is_led,
                stopwatch_ns=self.stopwatch_ns,
            )
            made = await maker.run(making.make(source, generations, revision))
        if made is None:
            return None
        self.counts.made_count += 1
        self.counts.sent_bytes += made.sent_bytes
        log.first_sequence = max(log.first_sequence, made.generations.trim_sequence)
        newest = made.generations.newest
        assert newest is not None
        logger.info(
            "snapshot of partition %d at position %d: %d bytes, %d of them new, in %d ms",
            number,
            newest.position,
            newest.size_bytes,
            made.sent_bytes,
            (self.stopwatch_ns() - began_ns) // 1_000_000,
        )
        return made

    # --- beginning at one ---------------------------------------------------------------------

    async def restore(self, number: int, part: StorePart, state: StreamState) -> Restored:
        """
        Lets a replica begin at a snapshot of its log, whose stream is in this state.

        Raises:
            SandglassError: it couldn't be tried; the replica may be unfinished.
        """
        store = self.store_of(number)
        while True:
            generations, revision = self.kept(number)
            wanted = Wanted(
                self.cluster,
                number,
                part.applied_position,
                state.first_sequence,
                state.identity,
            )
            steps = restoring.restore(wanted, generations)
            restored = await take(steps, number, part, store, self._room)
            if restored.mark is not None:
                self.counts.restored_count += 1
                return restored
            if self.kept(number)[1] == revision:
                return restored


def open_snapshots(
    connection: Connection,
    placement: Placement,
    cluster: str,
    folder: Path | None,
    **others: Any,
) -> Snapshots:
    """Snapshots in the engine, or in a folder that all nodes share."""

    def store_for(factor: int) -> SnapshotStore:
        if folder is not None:
            return FolderSnapshots(folder / cluster)
        return EngineSnapshots(connection, factor)

    return Snapshots(placement, store_for, cluster=cluster, **others)


def is_due(state: StreamState, generations: Generations, snapshot_bytes: int) -> bool:
    """Has the stream grown by so much since the newest generation, as far as can be told?"""
    weight = max(state.size_bytes, state.count * limits.SNAPSHOT_ENTRY_BYTES)
    return weight >= snapshot_bytes * (2 if generations.newest else 1)
