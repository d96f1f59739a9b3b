"""
The node's loop: one append, one sync, one write for all partitions of a turn.

    admit -> append -> sync -> apply -> write -> dispatch -> deliver

Requests are admitted when they come (cheap, in memory) and queue as records. What is produced
waits for the next turn, which admits requests to one channel together
(`sandglass.broker.intake`). A turn encodes what is queued, as much as a turn takes, appends it
to the log and lets a thread sync it; while that runs, the next batch queues. What became
durable is applied, written to the view in one write, answered, and then due messages are
dispatched. So one sync serves everyone who waited, and none blocks the loop.

Rules that this file keeps for the core:

1. Nothing is applied before it is durable: `last >= durable >= applied`.
2. Nothing is handed out beyond a durable promise. One is made with the batch that needs it, or
   shortly before the next message is due, while the node is busy.
3. A clock that was stepped back: the closed offsets are written exactly, at once, which voids
   the promise; until the clock has caught up, each partition promises what exists and no more.
4. After a pause of the process, what came in is taken before anything expires: the pause, from
   the last sign of life before it, is added to every lease.
5. The log's reserve is not for producers: on a full disk their batches are taken back, and all
   else goes on.
6. A partition of which a rule is broken stops alone, for good: `sandglass.broker.quarantine`.
   One whose rows in the view cannot be read stops alone, too, until the next start.

What it leaves to others: what waits for a turn (`sandglass.broker.turn_queue`), when it begins
(`sandglass.broker.pace`), who consumes (`sandglass.broker.subscription`), names and checks
(`sandglass.broker.broker`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from sandglass.broker.agenda import Agenda
from sandglass.broker.applier import Applier
from sandglass.broker.inbox import Done, Waiting, resolve
from sandglass.broker.intake import Told
from sandglass.broker.leader_clock import LeaderClock
from sandglass.broker.log_writer import LogWriter
from sandglass.broker.pace import HOUSEKEEPING_MS, Pace
from sandglass.broker.promises import Promises
from sandglass.broker.turn_queue import TurnQueue
from sandglass.core import codec, limits, outcome
from sandglass.core.dispatch import Delivery, Moment
from sandglass.core.machine import Machine
from sandglass.core.message import Batch
from sandglass.core.offset import INDEX_BITS
from sandglass.core.partition import Partition, Slicer
from sandglass.core.record import Record
from sandglass.core.view import Overlay
from sandglass.errors import (
    BusyError,
    CorruptError,
    NoSpaceError,
    NotLeaderError,
    SandglassError,
    UnavailableError,
)
from sandglass.ports import Clock, Log, PipelinedLog, Store
from sandglass.telemetry import Counts

logger = logging.getLogger(__name__)

DISPATCH_NS = 3_000_000
"""So long partitions have their turns, one after the other, before others have the loop."""

ANSWER_PASS_COUNT = 2
"""Passes until answers are written: one wakes the writer of a session, which lets it end so
that all of its answers share a frame, and writes in the next."""


@dataclass(slots=True)
class NodeLoop:
    """
    One log, one store, and the machine between them. All methods run in the event loop's
    thread.

    `on_deliveries` is given what a dispatch hands out; `on_dispatched` each partition that had
    a turn; `on_stopped` each that stands still from now on, and why; `on_failure` the error
    after which the node has to stop.
    """

    log: Log
    store: Store
    clock: Clock
    slicer: Slicer
    on_deliveries: Callable[[list[Delivery]], None] = lambda _: None
    on_dispatched: Callable[[Partition], None] = lambda _: None
    on_stopped: Callable[[int, SandglassError], None] = lambda *_: None
    on_failure: Callable[[BaseException], None] = lambda _: None
    housekeeping: Callable[[Moment], None] = lambda _: None
    may_serve: Callable[[], bool] = lambda: True
    """Asked in each turn before anything is handed out, and before anything is read."""
    stopwatch_ns: Callable[[], int] = lambda: 0
    """For measuring, and to end a turn that takes long; any thread may ask."""

    session_grace_ms: int = limits.SESSION_GRACE_MS_DEFAULT
    """So long, when it begins to lead, groups wait for sessions that were attached to them."""

    rest_ms: int = HOUSEKEEPING_MS
    """Between two looks at the house while nothing happens in it."""

    chance: float = 0.0
    """In [0, 1), of the node's own: the first that a moment is given comes after it."""

    machine: Machine = field(init=False)
    view: Overlay = field(init=False)
    clocks: LeaderClock = field(init=False)
    applier: Applier = field(init=False)
    """A replica that follows its log hands it the records."""
    stats: Counts = field(default_factory=Counts)
    failure: SandglassError | None = None
    stopped: dict[int, str] = field(default_factory=dict[int, str])
    """Partitions whose rules were broken, or whose rows cannot be read, and how: they stand
    still, the others go on."""

    sealing: set[int] = field(default_factory=set[int])
    """Partitions that are about to be sealed: their last records are on their way."""

    left: set[int] = field(default_factory=set[int])
    """Partitions that went to other logs: who asks for one by its number here comes late."""

    stuck_error: Callable[[int], SandglassError | None] = lambda _: None
    """Why a partition that is on its way doesn't get on, if it doesn't."""

    _agenda: Agenda = field(default_factory=Agenda)
    _promises: Promises = field(init=False)
    _writer: LogWriter = field(init=False)
    _queue: TurnQueue = field(init=False)
    _pace: Pace = field(init=False)
    _kick: asyncio.Event = field(default_factory=asyncio.Event)
    _is_leading: bool = False
    """Its epoch is durable."""
    _is_stopping: bool = False
    _task: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self._writer = LogWriter(self.log, self.stats, self.stopwatch_ns, self._kick.set)
        self._queue = TurnQueue(self._writer)
        self.applier = Applier(self.store, self.slicer, self.stats, self._agenda)
        self.applier.on_stopped = self._tell_stopped

    @property
    def queued_bytes(self) -> int:
        """What has come in and is not yet applied."""
        return self._queue.size_bytes

    @property
    def is_stalled(self) -> bool:
        """The view takes nothing just now: producers wait."""
        return self.applier.is_stalled

    @property
    def is_full(self) -> bool:
        """The log can't get another segment: producers wait, outcomes use the reserve."""
        return self._writer.is_full

    # --- start and stop -----------------------------------------------------------------------

    async def start(self) -> None:
        """
        Recovers, waits out the promise of the leader before, and begins to lead.

        Raises:
            CorruptError: log and view don't fit together, or one is damaged.
            UnavailableError: the log takes nothing; its text says why.
        """
        self.recover()
        await self._start_clocks()
        epoch = self.commit(self.machine.lead(self.moment()))
        self._begin()
        # Tokens carry the epoch: none is given out before it can't be anybody else's.
        await epoch
        self._is_leading = True

    def recover(self) -> None:
        """Finds what the store holds, and carries out what the log has beyond."""
        self.open()
        self.applier.recover(self.log)

    def open(self) -> None:
        """Finds what the store holds. Leads nothing yet: a replica follows its log so."""
        self.applier.open()
        self.view, self.machine = self.applier.view, self.applier.machine
        self.machine.session_grace_ms = self.session_grace_ms
        self.stopped = self.applier.stopped
        self._promises = Promises(self.machine)

    def opening(self, epoch: int) -> bytes:
        """
        The record that opens an epoch, for the fence of a replicated log: it carries the clocks
        as they were logged, for others may still write.
        """
        reached_ms, steady_ms = self.machine.clocks(self.view)
        return codec.encode(self.machine.opening(epoch, Moment(reached_ms, steady_ms, 0)))

    async def take_over(self, log: PipelinedLog, mark_at: Callable[[int], bytes]) -> None:
        """
        Begins to lead a replicated log, whose last record applied opened the epoch.

        Args:
            mark_at: what the store keeps beside an applied position at which the log was
                durable.
        """
        self.log = log
        self._writer.take_over(log)
        self.applier.mark_at = mark_at
        await self._start_clocks()
        self.machine.take_over(self.moment())
        self._begin()
        self._is_leading = True

    async def _start_clocks(self) -> None:
        reached_ms, steady_ms = self.machine.clocks(self.view)
        clocks = LeaderClock(self.clock, self.stats, self.chance)
        wall_ms = await clocks.wait_out(self.machine.promised_ms)
        clocks.start(wall_ms=wall_ms, steady_ms=steady_ms, reached_ms=reached_ms)
        self.clocks = clocks

    def _begin(self) -> None:
        # What the leader before promised counts as reached: a clock below it stands back.
        self.clocks.reached_ms = max(self.clocks.reached_ms, self.machine.closing_ms)
        self._pace = Pace(
            self._queue,
            self.applier,
            self._agenda,
            self._promises,
            self.clocks,
            self._kick,
            self.rest_ms,
        )
        self._task = asyncio.create_task(self._run(), name="sandglass-loop")

    def abandon(self, error: SandglassError) -> None:
        """Leads no longer, at once; who waits is told. Nothing more is written."""
        if self._task is not None:
            self._task.cancel()
        self._writer.close(wait=False)
        if self.failure is None:
            self.failure = error
        self._queue.refuse_all(error)

    async def stop(self) -> None:
        """Finishes what is queued, closes the offsets exactly, and ends the loop."""
        if self._task is None:
            return
        if self.failure is None:
            self._is_stopping = True
            self._kick.set()
        await asyncio.wait([self._task])
        self._task = None
        self._writer.close()
        if self.failure is None:
            self.failure = UnavailableError("the node has stopped")
            self._queue.refuse_all(self.failure)

    # --- what the broker uses -----------------------------------------------------------------

    def moment(self) -> Moment:
        """The leader's clocks now."""
        return self.clocks.moment()

    def partition(self, number: int) -> Partition:
        """
        A partition, to admit something to.

        Raises:
            InternalError: it was stopped, because a rule of it was broken.
            CorruptError: it was stopped, because its rows cannot be read.
            NotLeaderError: it is on its way to another log.
            UnavailableError: the node is stopping.
        """
        if self.failure is not None:
            raise self.failure
        if not self.may_serve():
            raise UnavailableError(
                "the lease of this node is not renewed just now",
                retry_after_ms=limits.BUSY_RETRY_MS,
            )
        if self.is_moving(number):
            raise self.on_its_way(number)
        error = self.applier.error_of(number)
        if error is not None:
            raise error
        return self.machine.partition(number, self.view)

    def is_moving(self, number: int) -> bool:
        """Is a partition on its way to another log, or to this one; or has it left?"""
        found = self.machine.refs.get(number)
        is_away = number in self.sealing or number in self.left
        return is_away or (found is not None and found[0].is_moving)

    def on_its_way(self, number: int) -> SandglassError:
        """Why nobody is served a partition that `is_moving`."""
        return self.stuck_error(number) or NotLeaderError(
            f"partition {number} is on its way to another log",
            retry_after_ms=limits.BUSY_RETRY_MS,
        )

    def check_room(self, size_bytes: int, *, may_use_reserve: bool = False) -> None:
        """
        Is there room for a produced batch? For what helps to make room there is some longer.

        Raises:
            BusyError: too much is in flight, the view is behind, or too many files are open.
            NoSpaceError: the disk is full.
        """
        if self._is_stopping:
            raise UnavailableError("the node is stopping", retry_after_ms=limits.BUSY_RETRY_MS)
        if self.is_full and not may_use_reserve:
            raise self._writer.no_room()
        if self.is_stalled:
            raise BusyError(
                "the view is behind with its writing", retry_after_ms=limits.BUSY_RETRY_MS
            )
        queued_bytes = self._queue.size_bytes
        if queued_bytes + size_bytes > limits.IN_FLIGHT_BYTES_MAX:
            raise BusyError(
                f"{queued_bytes} bytes are waiting to be written; the limit is"
                f" {limits.IN_FLIGHT_BYTES_MAX}",
                retry_after_ms=limits.BUSY_RETRY_MS,
            )

    def submit(
        self,
        record: Record,
        done: Done | None = None,
        size_bytes: int = 0,
        *,
        may_use_reserve: bool = False,
        answer_count: int = 1,
    ) -> None:
        """
        Queues an admitted record; `done` is called once it is applied.

        Args:
            size_bytes: of what was produced, or asked for by clients: it bounds what waits.
            may_use_reserve: on a full disk it isn't taken back. What has no size never is.
            answer_count: how many requests `done` answers.
        """
        if self.failure is not None:
            if done is not None:
                done(self.failure)
            return
        self._queue.add(
            record,
            done,
            size_bytes,
            may_use_reserve=may_use_reserve,
            answer_count=answer_count,
        )
        self._want_turn()

    def produce(self, number: int, channel: str, batch: Batch, told: Told) -> None:
        """Takes in a batch that there is room for; the next turn admits it."""
        self._queue.put(number, channel, batch, told)
        self._want_turn()

    def commit(self, record: Record, landed: Done | None = None) -> Awaitable[None]:
        """
        Queues an admitted record, at once; what it returns waits until the record is applied.
        Cancelling the wait doesn't undo the record, and `landed` is told nevertheless.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: SandglassError | None) -> None:
            if landed is not None:
                landed(error)
            resolve(future, error)

        self.submit(record, done)
        return asyncio.shield(future)

    async def freshen(self, numbers: Iterable[int]) -> None:
        """
        Waits until promises cover this moment, so that a read of these partitions sees all that
        was answered.
        """
        moment = self.moment()
        if not self.clocks.is_behind(moment):
            if self.promised(moment) <= moment.wall_ms << INDEX_BITS:
                await self.commit(self._promises.make(moment))
            return
        exact = (self.partition(number).admit_promise(moment) for number in numbers)
        await asyncio.gather(*[self.commit(record) for record in exact if record is not None])

    def promised(self, moment: Moment) -> int:
        """
        The offset below which a durable promise covers what is handed out: 0 while the clock
        stands back, and until the record is durable that says so.
        """
        return 0 if self.clocks.is_behind(moment) else self._promises.offset()

    def ready(self, number: int) -> None:
        """A partition may have something to hand out."""
        self._agenda.add(number)
        self._kick.set()

    # --- the turn -----------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while not (self._is_stopping and self._is_idle()):
                await self._pace.wait(is_stopping=self._is_stopping)
                await self._turn()
            await self._finish()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  # the top of the loop: the node stops
            self._fail(error)

    def _want_turn(self) -> None:
        # While nothing can be appended, whatever changes that brings a turn.
        if self._queue.room_bytes():
            self._kick.set()

    def _is_idle(self) -> bool:
        """All is done that a stop waits for; what a stalled view lacks is in the log."""
        if self._writer.is_syncing or (self.view.changes and not self.is_stalled):
            return False
        return not self._queue or bool(self._writer.again_ms)

    async def _turn(self) -> None:
        self.stats.turn_count += 1
        pause_count = self.stats.pause_count
        moment = self.moment()
        self.clocks.planned_ms = moment.steady_ms
        if self.stats.pause_count > pause_count:
            await asyncio.sleep(0)
            moment = self.moment()
        if self._writer.is_synced:
            self._queue.take_synced()
            if not self._queue.lacks_requests():
                self._append(moment)
            self._land()
            # The answers leave before more is handed out.
            for _ in range(ANSWER_PASS_COUNT):
                await asyncio.sleep(0)
        else:
            self._append(moment)
        if self.is_stalled:
            self._write()
        self._dispatch(self.moment())
        if self._pace.is_house_due(moment):
            self._keep_house(moment)

    def _append(self, moment: Moment) -> None:
        """Hands what is queued to the log, with a promise where one is due."""
        writer = self._writer
        room_bytes = self._queue.room_bytes()
        if not room_bytes or moment.steady_ms < writer.again_ms:
            return
        self._admit(moment)
        self._make_promise(moment)
        # Nobody is served before the epoch is durable: then it is better to give up.
        writer.append(
            moment.steady_ms,
            self._take_back,
            room_bytes=room_bytes,
            may_wait=self._is_leading,
        )

    def _admit(self, moment: Moment) -> None:
        """Makes records of what was taken in."""
        for run in self._queue.take_runs():
            try:
                record, placed = self.partition(run.partition).admit_append(
                    run.channel, run.batch(), moment, self.view
                )
            except SandglassError as error:
                run.refuse(error)
            except AssertionError as error:
                self.applier.stop_partition(run.partition, error)
                run.refuse(self.applier.stopped_error(run.partition))
            else:
                self._queue.add_run(run, record, placed)
                self._want_turn()

    def _take_back(self, refused: list[Waiting]) -> None:
        """Undoes the admission of what the log has no room for, and says so."""
        self._writer.inbox.retract(
            refused,
            {
                number: self.machine.partition(number, self.view)
                for number in dict.fromkeys(waiting.record.partition for waiting in refused)
                if number in self.machine.refs and number not in self.stopped
            },
        )
        for waiting in refused:
            self._queue.tell(waiting, self._writer.no_room())

    def _land(self) -> None:
        """Applies what is durable, writes it, and answers."""
        for waiting in self._queue.landing:
            self.applier.apply(waiting.record)
        self._write()
        for waiting in self._queue.take_landed():
            self._queue.tell(waiting, self.applier.error_of(waiting.record.partition))

    def _tell_stopped(self, number: int, error: SandglassError) -> None:
        self.on_stopped(number, error)

    def _write(self) -> None:
        error = self.applier.write()
        if isinstance(error, NoSpaceError):
            self._writer.note_no_room(error)

    # --- dispatch -----------------------------------------------------------------------------

    def _dispatch(self, moment: Moment) -> None:
        """Gives partitions their turn: at least one, and more while there is time."""
        agenda = self._agenda
        agenda.look(moment)
        self._pace.has_delivered = False
        if not agenda.ready or self._is_stopping or not self.may_serve():
            return
        promised = self.promised(moment)
        until_ns = self.stopwatch_ns() + DISPATCH_NS
        for _ in range(min(len(agenda.ready), limits.TURN_PARTITION_COUNT_MAX)):
            number = agenda.take()
            is_gone = number in self.stopped or number not in self.machine.refs
            if is_gone or self.is_moving(number):
                agenda.forget(number)
                continue
            try:
                partition = self.machine.partition(number, self.view)
                self._dispatch_one(partition, moment, promised)
            except CorruptError as error:
                agenda.forget(number)
                self.applier.stop_partition(number, error)
            if self.stopwatch_ns() > until_ns:
                break
        if agenda.ready or (agenda.blocked and self._promises.lacks(moment.wall_ms)):
            self._kick.set()

    def _dispatch_one(self, partition: Partition, moment: Moment, promised: int) -> None:
        for record in outcome.admit_expired(partition, moment, self.view):
            self.submit(record)
        if self.clocks.is_behind(moment) and partition.reading:
            record = partition.admit_promise(moment)
            if record is not None:
                self.submit(record)
        deliveries, records = partition.dispatch(moment, promised, self.view)
        for record in records:
            self.submit(record)
        if deliveries:
            self._pace.has_delivered = True
            self.on_deliveries(deliveries)
        self.on_dispatched(partition)
        self._agenda.plan(partition, moment)

    # --- promises and clocks ------------------------------------------------------------------

    def _make_promise(self, moment: Moment) -> None:
        """Queues a promise if one is needed now: see rules 2 and 3."""
        if self.clocks.is_behind(moment):
            exact = self._promises.void(moment)
            if exact is not None:
                self.submit(exact, self._promises.voided)
        elif self._promises.is_due(self._agenda, moment, is_busy=bool(self._writer.inbox)):
            self._writer.inbox.add_promise(self._promises.make(moment))

    # --- housekeeping, end --------------------------------------------------------------------

    def _keep_house(self, moment: Moment) -> None:
        self.housekeeping(moment)
        self.log.trim(self.store.flushed_position() + 1)
        self._pace.house_kept(moment)
        self._writer.is_full = False  # the next batch tries the disk anew
        self._writer.settle()

    async def _finish(self) -> None:
        moment = self.moment()
        record = self.machine.record([self.machine.close_exact()], moment)
        try:
            await self._writer.append_last(codec.encode(record))
        except BusyError as error:
            # Nothing is lost: the next start waits the promise out, as after a crash.
            logger.warning("stopping without a last record: %s", error)
            return
        self.applier.apply(record)
        self._write()

    def _fail(self, error: BaseException) -> None:
        """The outcome of a write is unknown, or a rule of the node is broken: stop."""
        is_ours = not isinstance(error, SandglassError)
        logger.critical("the node stops: %s", error, exc_info=error if is_ours else None)
        self.failure = UnavailableError(
            f"the node has stopped: {error}", is_result_unknown=True
        )
        self.failure.__cause__ = error
        self._queue.refuse_all(self.failure)
        self.on_failure(error)
