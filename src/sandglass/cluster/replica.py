"""
A replica of one partition on this node: it follows its log, and leads it when it is its turn.

    FOLLOWING --lead()--> OPENING --own fence read--> LEADING --deposed, or told so--> FOLLOWING
        |
        |--the next entry was trimmed away--> RESTORING --from a snapshot--> FOLLOWING
        |                                         '--none helps--> FROZEN, till there is another
        |--its stream is gone--> FROZEN, till it is there again
        '--the log is not what it was--> FROZEN, till it is again

1. What is applied is what the log's reader accepted, in order, with the reader's mark in the
   same write.
2. A leader serves only after it has read its own fence back and applied everything before it,
   after the promise of the leader before is over, and while its node's lease is valid.
3. One that begins at a snapshot is wiped first, and has no mark before all of it is there: if
   its process ends between, it begins again.
4. One that ends to lead drops all that it held in memory, and begins anew from its store: what
   it had admitted may be in the log or not.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from enum import Enum
from typing import Any

from sandglass.adapters.jetstream import Follower, JetStreamLog, Stream
from sandglass.adapters.memory_log import MemoryLog
from sandglass.adapters.shared_store import StorePart
from sandglass.broker.node_loop import NodeLoop
from sandglass.cluster.snapshots import LedLog, Snapshots
from sandglass.core import limits
from sandglass.core.partition import Slicer
from sandglass.errors import BusyError, NotFoundError, SandglassError, UnavailableError
from sandglass.ports import Clock, Entropy
from sandglass.replication.entry import WRITER_BYTES
from sandglass.replication.reader import Accepted, Frozen, Mark, Reader
from sandglass.replication.writer import Writer
from sandglass.telemetry import Counts

logger = logging.getLogger(__name__)

AGAIN_S = 0.5
REST_MS = 30_000
"""Between two looks at the house of a partition of which nobody wants anything: a second each
for hundreds of them is much."""

FROZEN_S = 10.0
"""Between two looks whether a log is again what it was: an engine that was behind may have said
that it isn't, or somebody brings its data back. To go on is safe: the mark has to fit."""

MISSING_S = 3.0
MISSING_COUNT = 2
"""How often a stream is looked for that is not there; after so many times it is gone."""

YIELD_S = 3.0
"""How long a hand-over may take: without a quorum nothing more becomes durable."""


class State(Enum):
    """What a replica does."""

    STARTING = "starting"
    RESTORING = "restoring"
    FOLLOWING = "following"
    OPENING = "opening"
    LEADING = "leading"
    FROZEN = "frozen"


class Replica:
    """
    `start` once, `stop` once. `on_leading` is awaited when it leads, `on_ended` told when it
    does no longer.
    """

    def __init__(
        self,
        stream: Stream,
        part: StorePart,
        *,
        clock: Clock,
        entropy: Entropy,
        slicer: Slicer,
        stats: Counts,
        stopwatch_ns: Callable[[], int],
        session_grace_ms: int = limits.SESSION_GRACE_MS_DEFAULT,
        may_serve: Callable[[], bool],
        snapshots: Snapshots,
        on_leading: Callable[["Replica"], Coroutine[Any, Any, None]],
        on_ended: Callable[["Replica"], None],
    ) -> None:
        self.stream = stream
        self.number = stream.number
        self.state = State.STARTING
        self.trouble = ""
        """Why it is frozen, or doesn't get on."""
        self.epoch = 0
        """The one that it leads, or wants to."""
        self.engine_count = 0
        """How many engines hold the stream, as it was when reading began or put right since."""
        self.loop: NodeLoop | None = None
        self._part = part
        self._clock = clock
        self._entropy = entropy
        self._slicer = slicer
        self._stats = stats
        self._stopwatch_ns = stopwatch_ns
        self._session_grace_ms = session_grace_ms
        self._may_serve = may_serve
        self._snapshots = snapshots
        self._on_leading = on_leading
        self._on_ended = on_ended
        self._frozen: Frozen | None = None
        self._is_stuck = asyncio.Event()
        self._missing_count = 0
        """How often in a row its stream was not there."""
        self._wanted = asyncio.Event()
        self._unwanted = asyncio.Event()
        self._failed: asyncio.Future[BaseException] | None = None
        self._ended: asyncio.Future[None] | None = None
        self._log: JetStreamLog | None = None
        self._follower: Follower | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def mark(self) -> Mark:
        """Where it stands in its log."""
        if self._log is not None and self.state is State.LEADING:
            return self._log.writer.mark
        return self._follower.reader.mark if self._follower is not None else Mark()

    @property
    def is_current(self) -> bool:
        """It has read what its log held when it began, and could lead."""
        return (
            self.state is State.FOLLOWING
            and self._follower is not None
            and self._follower.is_current
        )

    @property
    def is_called(self) -> bool:
        """It was told to lead, and has not ended that."""
        return self._wanted.is_set()

    def start(self) -> None:
        """Follows its log, from where its store stands."""
        self._task = asyncio.create_task(self._run(), name=f"replica {self.number}")

    async def stop(self) -> None:
        """Hands over what it leads, with exact closed offsets, and ends."""
        await self.yield_()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def lead(self, epoch: int) -> None:
        """It is its turn, in this epoch, which the catalog gave to it alone."""
        assert epoch > self.mark.epoch
        self.epoch = epoch
        self._unwanted.clear()
        self._wanted.set()

    async def yield_(self) -> None:
        """
        Leads no longer: what is queued is finished first, and the offsets are closed exactly.
        """
        self._wanted.clear()
        self._unwanted.set()
        ended = self._ended
        if ended is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(YIELD_S):
                    await asyncio.shield(ended)

    def drop(self) -> None:
        """Leads no longer, at once: another does."""
        self._wanted.clear()
        self._unwanted.set()
        if self._failed is not None and not self._failed.done():
            self._failed.set_result(UnavailableError("another node leads this partition"))

    # --- its life -----------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                await self._follow_and_lead()
                if self._frozen is not None:
                    await self._thaw(self._frozen)
            except NotFoundError as error:
                self._lose_stream(error)
                await asyncio.sleep(MISSING_S)
            except (SandglassError, TimeoutError) as error:
                self._wanted.clear()
                if self.state is not State.FROZEN:
                    self.trouble = str(error)
                logger.warning("partition %d: %s", self.number, error)
                await asyncio.sleep(AGAIN_S)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                logger.exception("partition %d stands still", self.number)
                self._stand_still(f"a defect: {error}")
                return

    def _stand_still(self, trouble: str) -> None:
        """It is frozen, which is said once."""
        if (self.state, self.trouble) != (State.FROZEN, trouble):
            logger.critical("partition %d is frozen here: %s", self.number, trouble)
        self.state, self.trouble = State.FROZEN, trouble

    def _lose_stream(self, error: NotFoundError) -> None:
        """
        Its stream is gone. Where the topic was deleted, this replica ends in a moment; found
        missing a second time, somebody did it by hand: nothing is wiped, and it is waited for.
        """
        self._wanted.clear()
        self._missing_count += 1
        if self._missing_count < MISSING_COUNT:
            logger.warning("partition %d: %s", self.number, error.message)
            return
        self._stand_still(
            f"the engine has no stream {self.stream.name} any more: somebody has deleted it."
            " What it held is in the replicas, and nothing is wiped. Delete the topic, or bring"
            " the engines' data back from a backup"
        )

    async def _thaw(self, frozen: Frozen) -> None:
        """What was trimmed away is in a snapshot; another history has to be looked at again."""
        self._wanted.clear()
        if not frozen.needs_snapshot:
            self._stand_still(frozen.reason)
            await asyncio.sleep(FROZEN_S)
            return
        logger.info("partition %d begins at a snapshot: %s", self.number, frozen.reason)
        self.state = State.RESTORING
        began_ns = self._stopwatch_ns()
        while True:
            _, revision = self._snapshots.kept(self.number)
            restored = await self._snapshots.restore(
                self.number, self._part, await self.stream.state()
            )
            if restored.mark is not None:
                break
            self._stand_still(f"{frozen.reason}, and no snapshot helps: {restored.trouble}")
            await self._snapshots.changed(self.number, revision)
            self.state = State.RESTORING
        logger.info(
            "partition %d begins at position %d, with %d bytes of a snapshot, in %d ms",
            self.number,
            restored.mark.position,
            restored.size_bytes,
            (self._stopwatch_ns() - began_ns) // 1_000_000,
        )

    async def _follow_and_lead(self) -> None:
        self._frozen = None
        if self.state is not State.FROZEN:
            self.state = State.STARTING
        self._is_stuck.clear()
        if self._part.is_unfinished:
            self._part.wipe()
        loop = self.loop = self._new_loop()
        follower = self._follower = Follower(
            self.stream,
            Reader(Mark.decode(self._part.mark)),
            self._on_accepted,
            self._freeze,
            self._is_stuck.set,
        )
        try:
            await follower.open()
            self.engine_count = follower.replica_count
            self._missing_count = 0
            await follower.current()
            if self._frozen is not None:
                return
            self.state, self.trouble = State.FOLLOWING, ""
            await self._first_of(self._wanted)
            if self._frozen is not None:
                return
            if self._is_stuck.is_set():
                await self.stream.state()  # tells that it is gone
                return
            self.state = State.OPENING
            await self._open_epoch(loop, follower)
        finally:
            await follower.close()
        if self._frozen is None:
            await self._lead(loop)

    async def _first_of(self, event: asyncio.Event) -> None:
        """Waits for an event, or for the reader to go no further."""
        waits = [asyncio.create_task(each.wait()) for each in (event, self._is_stuck)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def _new_loop(self) -> NodeLoop:
        loop = NodeLoop(
            MemoryLog(),
            self._part,
            self._clock,
            self._slicer,
            stats=self._stats,
            stopwatch_ns=self._stopwatch_ns,
            may_serve=self._may_serve,
            session_grace_ms=self._session_grace_ms,
            rest_ms=REST_MS,
        )
        loop.open()
        return loop

    async def _on_accepted(self, accepted: Accepted) -> None:
        log, loop = self._log, self.loop
        assert loop is not None
        for position, record in accepted.records():
            loop.applier.replay(position, record)
        while True:
            try:
                loop.applier.write_replayed(accepted.mark.encode())
                break
            except BusyError as error:
                await asyncio.sleep(max(1, error.retry_after_ms) / 1000)
        if log is not None:
            log.observed(accepted)

    def _freeze(self, frozen: Frozen) -> None:
        self._frozen = frozen
        self._is_stuck.set()

    # --- leading ------------------------------------------------------------------------------

    async def _open_epoch(self, loop: NodeLoop, follower: Follower) -> None:
        writer = Writer(
            self._entropy.token_bytes(WRITER_BYTES), self.epoch, follower.reader.mark
        )
        log = self._log = JetStreamLog(self.stream, writer, self._clock)
        record = loop.opening(self.epoch)
        opening = asyncio.create_task(log.open_epoch(record, follower.listen_anew))
        unwanted = asyncio.create_task(self._first_of(self._unwanted))
        try:
            await asyncio.wait({opening, unwanted}, return_when=asyncio.FIRST_COMPLETED)
            if not opening.done():
                raise UnavailableError("another node is to lead this partition")
            opening.result()
        except BaseException:
            self._log = None
            raise
        finally:
            for task in (opening, unwanted):
                task.cancel()
            await asyncio.gather(opening, unwanted, return_exceptions=True)

    async def _lead(self, loop: NodeLoop) -> None:
        log = self._log
        assert log is not None
        failed = self._failed = asyncio.get_running_loop().create_future()
        ended = self._ended = asyncio.get_running_loop().create_future()

        def fail(error: BaseException) -> None:
            if not failed.done():
                failed.set_result(error)

        log.on_deposed = lambda: fail(UnavailableError("another node leads this partition"))
        loop.on_failure = fail
        try:
            log.start()
            await loop.take_over(log, lambda position: log.mark_at(position).encode())
            self.state = State.LEADING
            logger.info("partition %d is led here, in epoch %d", self.number, self.epoch)
            self._snapshots.logs[self.number] = LedLog(
                self.stream, self._part, lambda: self.state is State.LEADING
            )
            await lead_until_over(loop, self._on_leading(self), self._unwanted, failed)
        finally:
            self._snapshots.logs.pop(self.number, None)
            self._on_ended(self)
            self._log = None
            self._wanted.clear()
            ended.set_result(None)
            log.close()
            loop.abandon(
                UnavailableError("another node leads this partition", is_result_unknown=True)
            )


async def lead_until_over(
    loop: NodeLoop,
    beginning: Coroutine[Any, Any, None],
    unwanted: asyncio.Event,
    failed: "asyncio.Future[BaseException]",
) -> None:
    """
    A log is led by `loop`: `beginning` is what comes first, and is cut short where it ends
    before. If it isn't `failed` but `unwanted`, what is queued is finished.

    Raises:
        SandglassError: of the beginning.
        TimeoutError: what was queued could not be finished.
    """
    begun = asyncio.create_task(beginning)
    told = asyncio.create_task(unwanted.wait())
    try:
        # The beginning waits for the log, of which nothing may come any more.
        await asyncio.wait({begun, told, failed}, return_when=asyncio.FIRST_COMPLETED)
        if begun.done():
            begun.result()
            await asyncio.wait({told, failed}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (begun, told):
            task.cancel()
        await asyncio.gather(begun, told, return_exceptions=True)
    if not failed.done():
        async with asyncio.timeout(YIELD_S):
            await loop.stop()
