"""
The node's loop: one append, one sync, one write for all partitions of a turn.

    admit -> append -> sync -> apply -> write -> dispatch -> deliver

Requests are admitted when they come (cheap, in memory) and queue as records. A turn encodes
what is queued, as much as a turn takes, appends it to the log and lets a thread sync it; while
that runs, the next batch queues. What became durable is applied, written to the view in one
write, answered, and then due messages are dispatched. So one sync serves everyone who waited,
and none blocks the loop.

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

What it leaves to others: who consumes (`sandglass.broker.subscription`), names and checks
(`sandglass.broker.broker`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush
from itertools import count, islice

from sandglass.broker import quarantine
from sandglass.core import codec, limits, outcome
from sandglass.core.clock import Timekeeper
from sandglass.core.dispatch import Delivery, Moment
from sandglass.core.machine import Machine, promise_until
from sandglass.core.offset import INDEX_BITS
from sandglass.core.partition import Partition, Slicer
from sandglass.core.record import NODE, Promise, Record
from sandglass.core.retract import retract
from sandglass.core.view import Overlay
from sandglass.errors import (
    BusyError,
    InternalError,
    NoSpaceError,
    NotFoundError,
    SandglassError,
    UnavailableError,
)
from sandglass.ports import Clock, Log, Store
from sandglass.telemetry import Counts

logger = logging.getLogger(__name__)

Done = Callable[[SandglassError | None], None]
"""Told when a record is applied, or why it isn't."""

PROMISE_AHEAD_MS = 20
"""How long before the next due message its promise is made: some syncs."""

STALL_RETRY_MS = 5

LIFE_SIGN_MS = 250
"""While there are leases the loop looks at the clock so often, to know how long a pause was."""

DRIFT_MS = 5
"""Wall and steady time may part by so much before every planned wake is planned anew."""

HOUSEKEEPING_MS = 1000

WAKE_COUNT_MIN = 1000
"""So many planned wakes, stale ones included, aren't worth looking through."""
DELIVERY_PASS_COUNT = 3
"""Passes of the event loop after a turn that handed something out. A request takes several to
come in and be answered: with one a turn, each would cost it a whole turn of a burst."""

_GOLDEN = 0.6180339887498949
"""Steps of it reach everywhere in [0, 1), evenly, however many there are."""


@dataclass(slots=True, eq=False)
class _Waiting:
    record: Record
    done: Done | None
    is_append: bool = False
    """Produced: it can be taken back while the log hasn't got it."""


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
    stopwatch_ns: Callable[[], int] = lambda: 0
    """For measuring; any thread may ask."""

    chance: float = 0.0
    """In [0, 1), of the node's own: from here on, each moment is given another."""

    machine: Machine = field(init=False)
    view: Overlay = field(init=False)
    time: Timekeeper = field(init=False)
    stats: Counts = field(default_factory=Counts)
    reached_ms: int = 0
    """The highest wall clock that was accepted."""
    failure: SandglassError | None = None
    is_stalled: bool = False
    """The view takes nothing just now: producers wait."""
    is_full: bool = False
    """The log can't get another segment: producers wait, outcomes use the reserve."""
    queued_bytes: int = 0
    """Admitted, not yet applied."""
    stopped: dict[int, str] = field(default_factory=dict[int, str])
    """Partitions whose rules were broken: they stand still, the others go on."""

    _queue: list[_Waiting] = field(default_factory=list[_Waiting])
    _syncing: list[_Waiting] = field(default_factory=list[_Waiting])
    _sync: asyncio.Future[int] | None = None
    _ready: dict[int, None] = field(default_factory=dict[int, None])
    _wakes: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])
    _wake_of: dict[int, int] = field(default_factory=dict[int, int])
    _number: "count[int]" = field(default_factory=count)
    _kick: asyncio.Event = field(default_factory=asyncio.Event)
    _applied: int = 0
    _alive_ms: int = 0
    """Steady time at the last sign of life."""
    _planned_ms: int = 0
    """When there will be the next."""
    _drift_ms: int = 0
    """Wall less steady time, when wakes were planned."""
    _append_again_ms: int = 0
    """No room, not even in the reserve: when to try once more."""
    _housekeeping_ms: int = 0
    _promise_queued_ms: int = 0
    _is_voiding: bool = False
    """A record that voids the promise is on its way: until then the promise counts no more."""
    _blocked: set[int] = field(default_factory=set[int])
    """Partitions with something due beyond the promise, or behind a record in flight."""
    _has_delivered: bool = False
    """The last turn handed something out."""
    _is_short_of_files: bool = False
    """What it lacks for another segment is a descriptor, not space."""
    _is_leading: bool = False
    """Its epoch is durable."""
    _is_stopping: bool = False
    _task: asyncio.Task[None] | None = None
    _thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="sandglass-sync")
    )

    # --- start and stop -----------------------------------------------------------------------

    async def start(self) -> None:
        """
        Recovers, waits out the promise of the leader before, and begins to lead.

        Raises:
            CorruptError: log and view don't fit together, or one is damaged.
            UnavailableError: the log takes nothing; its text says why.
        """
        self.view = Overlay(self.store)
        self.machine = Machine.load(self.slicer, self.view)
        self._applied = self.store.applied_position
        self._replay()
        reached_ms, steady_ms = self.machine.clocks(self.view)
        wall_ms = await self._wait_out_promise()
        self.reached_ms = reached_ms
        self.time = Timekeeper.start(
            wall_ms=wall_ms, monotonic_ms=self.clock.monotonic_ms(), steady_ms=steady_ms
        )
        self._alive_ms = self._planned_ms = steady_ms
        moment = self.moment()
        epoch = self.commit(self.machine.lead(moment))
        # What the leader before promised counts as reached: a clock below it stands back.
        self.reached_ms = max(self.reached_ms, self.machine.closing_ms)
        self._task = asyncio.create_task(self._run(), name="sandglass-loop")
        # Tokens carry the epoch: none is given out before it can't be anybody else's.
        await epoch
        self._is_leading = True

    async def stop(self) -> None:
        """Finishes what is queued, closes the offsets exactly, and ends the loop."""
        if self._task is None:
            return
        if self.failure is None:
            self._is_stopping = True
            self._kick.set()
        await asyncio.wait([self._task])
        self._task = None
        self._thread.shutdown()
        if self.failure is None:
            self.failure = UnavailableError("the node has stopped")
            self._refuse_all(self.failure)

    def _replay(self) -> None:
        self.stopped = {number: reason for number, _, reason in quarantine.read(self.view)}
        for position, raw in self.log.read(self._applied + 1):
            self._applied = position
            self._apply(codec.decode(raw))
            if len(self.view.changes.rows) >= limits.REPLAY_ROW_COUNT:
                self._write_all()
        for number in quarantine.release(self.machine, self.view):
            del self.stopped[number]
        self._write_all()

    def _write_all(self) -> None:
        if self.view.changes or self._applied != self.store.applied_position:
            self.store.write(self.view.take(), self._applied)

    async def _wait_out_promise(self) -> int:
        """Until the clock has passed the promise; a clock further behind was stepped back."""
        while True:
            wall_ms = self.clock.wall_ms()
            left_ms = self.machine.promised_ms - wall_ms
            if not 0 < left_ms <= limits.PROMISE_MS:
                return wall_ms
            await asyncio.sleep(left_ms / 1000)

    # --- what the broker uses -----------------------------------------------------------------

    def moment(self) -> Moment:
        """The leader's clocks now. Whoever asks first after a pause finds it taken off."""
        self.chance = (self.chance + _GOLDEN) % 1
        moment = self.time.read(self.clock.wall_ms(), self.clock.monotonic_ms(), self.chance)
        self.reached_ms = max(self.reached_ms, moment.wall_ms)
        if moment.steady_ms - self._planned_ms > limits.PAUSE_MS:
            pause_ms = moment.steady_ms - self._alive_ms
            self.stats.pause_count += 1
            logger.warning("paused for %d ms", pause_ms)
            self.time.pause(pause_ms)
            moment = replace(moment, lease_ms=moment.lease_ms - pause_ms)
        self._alive_ms = moment.steady_ms
        self._planned_ms = max(self._planned_ms, moment.steady_ms)
        return moment

    def partition(self, number: int) -> Partition:
        """
        A partition, to admit something to.

        Raises:
            InternalError: it was stopped, because a rule of it was broken.
            UnavailableError: the node is stopping.
        """
        if self.failure is not None:
            raise self.failure
        error = self._error_of(number)
        if error is not None:
            raise error
        return self.machine.partition(number, self.view)

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
            raise self._no_room()
        if self.is_stalled:
            raise BusyError(
                "the view is behind with its writing", retry_after_ms=limits.BUSY_RETRY_MS
            )
        if self.queued_bytes + size_bytes > limits.IN_FLIGHT_BYTES_MAX:
            raise BusyError(
                f"{self.queued_bytes} bytes are waiting to be written; the limit is"
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
    ) -> None:
        """
        Queues an admitted record; `done` is called once it is applied.

        Args:
            size_bytes: of what was produced, or asked for by clients: it bounds what waits.
            may_use_reserve: on a full disk it isn't taken back. What has no size never is.
        """
        if self.failure is not None:
            if done is not None:
                done(self.failure)
            return
        self.queued_bytes += size_bytes
        is_append = size_bytes > 0 and not may_use_reserve
        self._queue.append(_Waiting(record, _counted(self, done, size_bytes), is_append))
        # While a sync runs nothing can be appended; its end brings a turn.
        if self._sync is None:
            self._kick.set()

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
        if not self.is_behind(moment):
            if self.promised(moment) <= moment.wall_ms << INDEX_BITS:
                await self.commit(self._promise(moment))
            return
        exact = (self.partition(number).admit_promise(moment) for number in numbers)
        await asyncio.gather(*[self.commit(record) for record in exact if record is not None])

    def promised(self, moment: Moment) -> int:
        """
        The offset below which a durable promise covers what is handed out: 0 while the clock
        stands back, and until the record is durable that says so.
        """
        if self._is_voiding or self.is_behind(moment):
            return 0
        return self.machine.promised_ms << INDEX_BITS

    def ready(self, number: int) -> None:
        """A partition may have something to hand out."""
        self._ready[number] = None
        self._kick.set()

    def is_behind(self, moment: Moment) -> bool:
        """The wall clock was stepped back and has not caught up."""
        return moment.wall_ms < self.reached_ms

    # --- the turn -----------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while not (self._is_stopping and self._is_idle()):
                await self._sleep()
                await self._turn()
            await self._finish()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  # the top of the loop: the node stops
            self._fail(error)

    def _is_idle(self) -> bool:
        """All is done that a stop waits for; what a stalled view lacks is in the log."""
        if self._sync is not None or (self.view.changes and not self.is_stalled):
            return False
        return not self._queue or bool(self._append_again_ms)

    async def _sleep(self) -> None:
        delay_ms = self._delay_ms()
        self._planned_ms = self._alive_ms + delay_ms
        if not self._kick.is_set() and delay_ms > 0:
            handle = asyncio.get_running_loop().call_later(delay_ms / 1000, self._kick.set)
            await self._kick.wait()
            handle.cancel()
        else:
            # Let what came in be read, and what goes out be written.
            for _ in range(DELIVERY_PASS_COUNT if self._has_delivered else 1):
                await asyncio.sleep(0)
        self._kick.clear()

    async def _turn(self) -> None:
        self.stats.turn_count += 1
        pause_count = self.stats.pause_count
        moment = self.moment()
        self._planned_ms = moment.steady_ms
        if self.stats.pause_count > pause_count:
            await asyncio.sleep(0)
            moment = self.moment()
        self._follow_clock(moment)
        if self._sync is not None and self._sync.done():
            self.stats.sync_ms.observe(self._sync.result() / 1_000_000)
            synced, self._sync, self._syncing = self._syncing, None, []
            self._append(moment)
            self._land(synced)
        else:
            self._append(moment)
        if self.is_stalled:
            self._write()
        self._dispatch(self.moment())
        if moment.steady_ms >= self._housekeeping_ms:
            self._housekeeping_ms = moment.steady_ms + HOUSEKEEPING_MS
            self._keep_house(moment)

    def _append(self, moment: Moment) -> None:
        """Hands what is queued to the log, with a promise where one is due."""
        if self._sync is not None or moment.steady_ms < self._append_again_ms:
            return
        self._append_again_ms = 0
        self._make_promise(moment)
        raws = self._encoded()
        if not raws:
            return
        try:
            self.log.append(raws)
        except BusyError as error:
            self._take_back(error)
            raws = self._encoded()
            if not raws or not self._append_to_reserve(raws, moment):
                return
        self._syncing, self._queue = self._queue[: len(raws)], self._queue[len(raws) :]
        self.stats.record_count += len(self._syncing)
        self.stats.sync_count += 1
        loop = asyncio.get_running_loop()
        self._sync = loop.run_in_executor(self._thread, self._timed_sync)
        self._sync.add_done_callback(lambda _: self._kick.set())

    def _timed_sync(self) -> int:
        """In the sync thread; how long it took, in ns."""
        began_ns = self.stopwatch_ns()
        self.log.sync()
        return self.stopwatch_ns() - began_ns

    def _encoded(self) -> list[bytes]:
        """The first records of the queue, as many as a turn takes."""
        raws: list[bytes] = []
        size_bytes = 0
        for waiting in self._queue[: limits.TURN_APPEND_COUNT_MAX]:
            raws.append(codec.encode(waiting.record))
            size_bytes += len(raws[-1])
            if size_bytes >= limits.TURN_APPEND_BYTES_MAX:
                break
        return raws

    def _append_to_reserve(self, raws: list[bytes], moment: Moment) -> bool:
        """What no producer waits for; false if there isn't even room for that."""
        try:
            self.log.append(raws, may_use_reserve=True)
        except BusyError as error:
            if not self._is_leading:
                raise  # nobody is served before the epoch is durable, and nobody waits yet
            # What is admitted can't be refused any more: it waits.
            logger.error("no room, not even in the reserve: %s", error)
            self._append_again_ms = moment.steady_ms + HOUSEKEEPING_MS
            return False
        return True

    def _take_back(self, error: BusyError) -> None:
        """Undoes the admission of all batches that the log has no room for, and says so."""
        if not self.is_full:
            logger.warning("no room for another segment: %s", error)
        self.is_full = True
        self._is_short_of_files = not isinstance(error, NoSpaceError)
        refused = [waiting for waiting in self._queue if waiting.is_append]
        self._queue = [waiting for waiting in self._queue if not waiting.is_append]
        records: dict[int, list[Record]] = {}
        for waiting in refused:
            records.setdefault(waiting.record.partition, []).append(waiting.record)
        moved: dict[int, Record] = {}
        for number, each in records.items():
            if number in self.machine.refs and number not in self.stopped:
                moved |= retract(self.machine.partition(number, self.view), each)
        for waiting in self._queue:
            waiting.record = moved.get(id(waiting.record), waiting.record)
        for waiting in refused:
            if waiting.done is not None:
                waiting.done(self._no_room())

    def _no_room(self) -> BusyError:
        if self._is_short_of_files:
            return BusyError("the node has too many files open", retry_after_ms=HOUSEKEEPING_MS)
        return NoSpaceError("the disk is full", retry_after_ms=HOUSEKEEPING_MS)

    def _land(self, synced: list[_Waiting]) -> None:
        """Applies what is durable, writes it, and answers."""
        for waiting in synced:
            self._applied += 1
            self._apply(waiting.record)
        self._write()
        for waiting in synced:
            if waiting.done is not None:
                waiting.done(self._error_of(waiting.record.partition))

    def _apply(self, record: Record) -> None:
        """Carries a record out; those of a partition that has to stop are set aside."""
        number = record.partition
        if number not in self.stopped:
            try:
                self.view.lay(self.machine.apply(record, self.view))
                self.stats.applied(record)
            except AssertionError as error:
                if number == NODE:
                    raise
                self._stop_partition(number, error)
        if number in self.stopped:
            reason = self.stopped[number]
            self.view.lay(quarantine.keep(record, self._applied, reason, self.machine))
        elif number == NODE:
            for active in self._wake_of:
                self._ready[active] = None
        else:
            self._ready[number] = None

    def _stop_partition(self, number: int, error: AssertionError) -> None:
        self.stopped[number] = f"partition {number} stands still: {error}"
        logger.critical("partition %d is stopped: %s", number, error, exc_info=True)
        self.machine.restore(number, self.view)
        self.on_stopped(number, InternalError(self.stopped[number]))

    def _error_of(self, number: int) -> SandglassError | None:
        """Why nothing more comes of this partition; None if something does."""
        if number != NODE and number not in self.machine.refs:
            return NotFoundError(f"partition {number} was deleted with its topic")
        if number in self.stopped:
            return InternalError(self.stopped[number])
        return None

    def _write(self) -> None:
        if not self.view.changes:
            self.is_stalled = False
            return
        changes = self.view.take()
        try:
            self.store.write(changes, self._applied)
            self.is_stalled = False
        except BusyError as error:
            self.stats.stall_count += 1
            self.is_stalled = True
            if isinstance(error, NoSpaceError):
                self.is_full, self._is_short_of_files = True, False
            self.view.lay(changes)

    # --- dispatch -----------------------------------------------------------------------------

    def _follow_clock(self, moment: Moment) -> None:
        """
        Wakes are planned in steady time: when the wall clock was stepped or slewed, they are
        planned anew.
        """
        drift_ms = moment.wall_ms - moment.steady_ms
        if abs(drift_ms - self._drift_ms) >= DRIFT_MS:
            self._drift_ms = drift_ms
            for number in self._wake_of:
                self._ready[number] = None

    def _dispatch(self, moment: Moment) -> None:
        while self._wakes and self._wakes[0][0] <= moment.steady_ms:
            at_ms, _, number = heappop(self._wakes)
            if self._wake_of.get(number) == at_ms:
                self._ready[number] = None
        self._has_delivered = False
        if not self._ready or self._is_stopping:
            return
        numbers = [*islice(self._ready, limits.TURN_PARTITION_COUNT_MAX)]
        for number in numbers:
            del self._ready[number]
        if self._ready:
            self._kick.set()
        promised = self.promised(moment)
        is_behind = self.is_behind(moment)
        for number in numbers:
            if number in self.stopped or number not in self.machine.refs:
                self._wake_of.pop(number, None)
                continue
            partition = self.machine.partition(number, self.view)
            for record in outcome.admit_expired(partition, moment, self.view):
                self.submit(record)
            if is_behind and partition.reading:
                record = partition.admit_promise(moment)
                if record is not None:
                    self.submit(record)
            deliveries, records = partition.dispatch(moment, promised, self.view)
            for record in records:
                self.submit(record)
            if deliveries:
                self._has_delivered = True
                self.on_deliveries(deliveries)
            self.on_dispatched(partition)
            self._plan(partition, moment)

    def _plan(self, partition: Partition, moment: Moment) -> None:
        """When this partition wants its next turn."""
        wall_ms, steady_ms, lease_ms = partition.wake_at()
        at_ms: list[int] = []
        if wall_ms is not None:
            at_ms.append(moment.steady_ms + max(0, wall_ms - moment.wall_ms))
        if steady_ms is not None:
            at_ms.append(steady_ms)
        if lease_ms is not None:
            at_ms.append(moment.steady_ms + max(1, lease_ms - moment.lease_ms))
        number = partition.number
        self._blocked.discard(number)
        if any(group.is_blocked and group.has_credit() for group in partition.reading):
            self._blocked.add(number)
            if self._lacks_promise(moment.wall_ms):
                self._kick.set()
        if not at_ms:
            if partition.reading:
                self._wake_of[number] = -1
            else:
                self._wake_of.pop(number, None)
            return
        wake_ms = min(at_ms)
        if wake_ms <= moment.steady_ms:
            self._ready[number] = None
            self._kick.set()
        if self._wake_of.get(number) != wake_ms:
            self._wake_of[number] = wake_ms
            heappush(self._wakes, (wake_ms, next(self._number), number))
            if len(self._wakes) > WAKE_COUNT_MIN + 2 * len(self._wake_of):
                self._tidy_wakes()

    def _tidy_wakes(self) -> None:
        """Wakes that were planned anew go: they may lie a year ahead, and be many."""
        self._wakes = [
            (at_ms, next(self._number), number)
            for number, at_ms in self._wake_of.items()
            if at_ms >= 0
        ]
        heapify(self._wakes)

    def _delay_ms(self) -> int:
        """How long there is nothing to do."""
        if (
            self._is_stopping
            or (self._queue and self._sync is None and not self._append_again_ms)
            or (self._sync is not None and self._sync.done())
        ):
            return 0
        moment = self.moment()
        if self.is_stalled:
            return STALL_RETRY_MS
        at_ms = self._housekeeping_ms
        if self._append_again_ms:
            at_ms = min(at_ms, self._append_again_ms)
        if self._wake_of:
            at_ms = min(at_ms, moment.steady_ms + LIFE_SIGN_MS)
        if self._wakes:
            wake_ms = self._wakes[0][0]
            if self._lacks_promise(moment.wall_ms + wake_ms - moment.steady_ms):
                wake_ms -= PROMISE_AHEAD_MS
            at_ms = min(at_ms, wake_ms)
        return max(0, at_ms - moment.steady_ms)

    # --- promises and clocks ------------------------------------------------------------------

    def _make_promise(self, moment: Moment) -> None:
        """Queues a promise if one is needed now: see rules 2 and 3."""
        if self.is_behind(moment):
            if (self.machine.promised_ms or self._promise_queued_ms) and not self._is_voiding:
                self._is_voiding = True
                self._promise_queued_ms = 0
                exact = self.machine.record([self.machine.close_exact()], moment)
                self.submit(exact, self._voided)
            return
        if self._is_voiding:
            return
        is_due = bool(self._ready) or bool(self._queue) or bool(self._blocked)
        if not is_due and self._wakes:
            is_due = self._wakes[0][0] <= moment.steady_ms + PROMISE_AHEAD_MS
        if is_due and self._lacks_promise(moment.wall_ms + limits.PROMISE_MS // 2):
            self._queue.insert(self._promise_place(), _Waiting(self._promise(moment), None))

    def _promise_place(self) -> int:
        """
        Before what partitions have queued: behind what several turns take, a promise would be
        over before it is durable. Behind the node's own records: one of this epoch must not be
        taken for one of the epoch before.
        """
        queue = self._queue
        return next(
            (n + 1 for n in reversed(range(len(queue))) if queue[n].record.partition == NODE), 0
        )

    def _lacks_promise(self, wall_ms: int) -> bool:
        return max(self.machine.promised_ms, self._promise_queued_ms) <= wall_ms

    def _promise(self, moment: Moment) -> Record:
        until_ms = promise_until(moment.wall_ms)
        self._promise_queued_ms = max(self._promise_queued_ms, until_ms)
        return self.machine.record([Promise(until_ms)], moment)

    def _voided(self, _: SandglassError | None) -> None:
        self._is_voiding = False

    # --- housekeeping, end --------------------------------------------------------------------

    def _keep_house(self, moment: Moment) -> None:
        self.housekeeping(moment)
        self.log.trim(self.store.flushed_position() + 1)
        self.is_full = False  # the next batch tries the disk anew

    async def _finish(self) -> None:
        moment = self.moment()
        record = self.machine.record([self.machine.close_exact()], moment)
        try:
            self.log.append([codec.encode(record)], may_use_reserve=True)
        except BusyError as error:
            # Nothing is lost: the next start waits the promise out, as after a crash.
            logger.warning("stopping without a last record: %s", error)
            return
        await asyncio.get_running_loop().run_in_executor(self._thread, self.log.sync)
        self._applied += 1
        self.view.lay(self.machine.apply(record, self.view))
        self._write()

    def _fail(self, error: BaseException) -> None:
        """The outcome of a write is unknown, or a rule of the node is broken: stop."""
        is_ours = not isinstance(error, SandglassError)
        logger.critical("the node stops: %s", error, exc_info=error if is_ours else None)
        self.failure = UnavailableError(
            f"the node has stopped: {error}", is_result_unknown=True
        )
        self.failure.__cause__ = error
        self._refuse_all(self.failure)
        self.on_failure(error)

    def _refuse_all(self, error: SandglassError) -> None:
        """Nothing that waits will be applied any more."""
        waiting_before, self._syncing, self._queue = [*self._syncing, *self._queue], [], []
        for waiting in waiting_before:
            if waiting.done is not None:
                waiting.done(error)


def _counted(loop: NodeLoop, done: Done | None, size_bytes: int) -> Done | None:
    """`done`, after the bytes are taken off the count."""
    if not size_bytes:
        return done

    def landed(error: SandglassError | None) -> None:
        loop.queued_bytes -= size_bytes
        if done is not None:
            done(error)

    return landed


def resolve(future: asyncio.Future[None], error: SandglassError | None) -> None:
    """Tells whoever waits how it ended; nobody, if the wait was cancelled."""
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
