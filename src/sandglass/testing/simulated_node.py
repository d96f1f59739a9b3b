"""
A node for the simulation: what a host does with the core, in one thread and without waiting.

It keeps the rules of a host, in the smallest form:

1. Nothing is applied before it is durable. While one sync runs, the next records queue; unless
   the log takes more meanwhile: then what is durable of it is applied, in order.
2. Nothing is handed out before the record that opens the leader's epoch is durable, nor beyond
   a durable promise. A promise is made when there is work, or something stands blocked.
3. While the wall clock stands behind what was reached, the closed offsets are written exactly,
   once, and from that moment on the promise counts for nothing. Then, and where a partition's
   now is ahead of the clock since its leader began, each partition promises what exists.
4. A partition is looked at when a record of it, a promise, credit or its wake-up says so, and
   at no other time: a wake-up that the core forgets shows as a message that never comes. One
   that nobody reads doesn't even see the clock.
5. On a full disk producers' batches are taken back, and all else goes into a reserve; where
   there is none, it waits.

A crash keeps any first part of what was not synced, and any first part of what was not flushed.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from sandglass.adapters.memory_log import MemoryLog
from sandglass.adapters.memory_store import MemoryStore
from sandglass.core import codec, keys, limits, outcome
from sandglass.core.clock import Timekeeper
from sandglass.core.dispatch import Delivery, Moment
from sandglass.core.machine import Machine, promise_left_ms, promise_until
from sandglass.core.offset import INDEX_BITS
from sandglass.core.partition import Partition
from sandglass.core.record import NODE, Append, Promise, Put, Record
from sandglass.core.retract import retract
from sandglass.core.view import Overlay
from sandglass.testing.seen import take_messages

GRACE_MS = 120
"""So long a leader that begins waits for sessions."""

ROOM_RETRY_MS = 10
"""How long to wait where the disk has no room, before trying once more."""

_GOLDEN = 0.6180339887498949
"""Steps of it reach everywhere in [0, 1), evenly."""

Landed = Callable[[], None]


@dataclass(slots=True)
class Waiting:
    """A record on its way, and who is to be told when it is applied."""

    record: Record
    done: Landed | None
    position: int = 0

    @property
    def is_produced(self) -> bool:
        """A producer's batch: it may be taken back."""
        return any(
            isinstance(each, Put) or (isinstance(each, Append) and not each.origin)
            for each in self.record.operations
        )


class Observer(Protocol):
    """Sees every record of a node."""

    def see(self, wall_ms: int, monotonic_ms: int) -> None:
        """The leader's wall clock shows this."""
        ...

    def begin_epoch(self, closed: dict[int, int]) -> None:
        """A leader starts with these closed offsets; what the one before held is gone."""
        ...

    def admit(self, record: Record, moment: Moment) -> None:
        """A record is on its way."""
        ...

    def land(self, record: Record) -> None:
        """It is in the log for good."""
        ...

    def lose(self, record: Record) -> None:
        """It will never be in the log."""
        ...


class SimulatedLog(Protocol):
    """What of a log a turn needs; the two halves of a sync are the world's business."""

    @property
    def last_position(self) -> int:
        """The highest position given out."""
        ...

    def append(self, records: Sequence[bytes]) -> int:
        """Takes records; returns the last one's position."""
        ...

    def read(self, position: int) -> Iterator[tuple[int, bytes]]:
        """Durable records from `position` on."""
        ...

    def sync_start(self) -> None:
        """Begins to make durable what was appended so far."""
        ...

    def sync_end(self) -> int:
        """It is; returns the highest position that is durable."""
        ...


class SimulatedNode:
    """One log, one store, and the machine between them; `history` sees every record."""

    def __init__(
        self,
        chance: random.Random,
        history: Observer,
        *,
        log: "SimulatedLog | None" = None,
        store: MemoryStore | None = None,
    ) -> None:
        self.chance = chance
        self.history = history
        self.log: SimulatedLog = log or MemoryLog()
        self.store = store or MemoryStore(flush_write_count=8)
        self.is_open = False
        """It has begun to lead."""
        self.may_serve: Callable[[], bool] = lambda: True
        """Asked whenever something could leave: a lease may say no."""
        self.mark: Callable[[], bytes] | None = None
        """What stands beside the rows of each write, if something does."""
        self.is_full = False
        """The disk has no room for another segment."""
        self.has_reserve = True
        self.refused_count = 0
        self.has_room: Callable[[], bool] = lambda: False
        """The log takes more, though not all is durable that it was given."""
        self.spread = 0.0
        """In [0, 1): the chance of each moment, as the node's loop gives it."""
        self.load()

    @property
    def is_serving(self) -> bool:
        """Clients may be served."""
        return self.is_open and self.may_serve()

    # --- start and end ------------------------------------------------------------------------

    def load(self) -> None:
        """What a process does first: the view, then the rest of the log."""
        self.view = Overlay(self.store)
        self.machine = Machine.load(take_messages, self.view)
        self.machine.session_grace_ms = GRACE_MS
        self.applied = self.store.applied_position
        for position, raw in self.log.read(self.applied + 1):
            self.view.lay(self.machine.apply(codec.decode(raw), self.view))
            self.applied = position
        self.queue: list[Waiting] = []
        self.syncing: list[Waiting] = []
        self.is_syncing = False
        self.ready: dict[int, None] = {}
        self.wakes: dict[int, tuple[int | None, int | None, int | None]] = {}
        self.is_voiding = False
        self.promise_queued_ms = 0
        self.dispatched: list[int] = []
        """The partitions that the last turn looked at."""
        self._write()

    def wait_ms(self, wall_ms: int) -> int:
        """How long to wait for the promise of the leader before."""
        return promise_left_ms(self.machine.promised_ms, wall_ms)

    def lead(self, wall_ms: int, monotonic_ms: int) -> None:
        """Begins to lead; serves once that is durable."""
        reached_ms, moment = self._start_clocks(wall_ms, monotonic_ms)
        record = self.machine.lead(moment)
        self._begin(max(reached_ms, wall_ms))
        self.submit(record, moment, self._serve)

    def take_over(self, wall_ms: int, monotonic_ms: int) -> None:
        """Leads and serves: the record that opens its epoch has been applied."""
        reached_ms, moment = self._start_clocks(wall_ms, monotonic_ms)
        self.machine.take_over(moment)
        self._begin(max(reached_ms, wall_ms))
        self._serve()

    def _start_clocks(self, wall_ms: int, monotonic_ms: int) -> tuple[int, Moment]:
        reached_ms, steady_ms = self.machine.clocks(self.view)
        self.time = Timekeeper.start(
            wall_ms=wall_ms, monotonic_ms=monotonic_ms, steady_ms=steady_ms
        )
        return reached_ms, self.moment(wall_ms, monotonic_ms)

    def _begin(self, reached_ms: int) -> None:
        # What the leader before promised counts as reached: a clock below it stands back.
        self.reached_ms = max(reached_ms, self.machine.closing_ms)
        self.history.begin_epoch(
            {
                number: self.machine.partition(number, self.view).closed
                for number in self.machine.refs
            }
        )

    def _serve(self) -> None:
        self.is_open = True

    def crash(self) -> None:
        """The process ends, here and now."""
        assert isinstance(self.log, MemoryLog), "what several share doesn't end with one"
        self.is_open = False
        batches = len(self.syncing)
        self.log.crash(self.chance.randint(0, batches))
        self.store.crash(self.chance.randint(0, self.store.unflushed_write_count))
        for waiting in self.syncing:
            if waiting.position <= self.log.last_position:
                self.history.land(waiting.record)
            else:
                self.history.lose(waiting.record)
        for waiting in self.queue:
            self.history.lose(waiting.record)
        self.log.reopen()
        self.store.reopen()

    def stop(self, moment: Moment) -> None:
        """A clean stop: what is queued is finished, and the offsets are closed exactly."""
        assert isinstance(self.log, MemoryLog), "what several share doesn't end with one"
        self.is_full = False
        while self.queue or self.is_syncing:
            if self.is_syncing:
                self.sync_end()
            self.append()
        self.submit(self.machine.record([self.machine.close_exact()], moment), moment)
        self.append()
        self.sync_end()
        self._write()
        self.is_open = False
        self.log.close()
        self.store.close()
        self.log.reopen()
        self.store.reopen()

    # --- the turn -----------------------------------------------------------------------------

    def moment(self, wall_ms: int, monotonic_ms: int) -> Moment:
        """The leader's clocks."""
        self.spread = (self.spread + _GOLDEN) % 1
        moment = self.time.read(wall_ms, monotonic_ms, self.spread)
        self.history.see(moment.wall_ms, monotonic_ms)
        return moment

    def submit(self, record: Record, moment: Moment, done: Landed | None = None) -> None:
        """Queues an admitted record."""
        self.history.admit(record, moment)
        self.queue.append(Waiting(record, done))

    def turn(self, moment: Moment) -> tuple[bool, list[Delivery]]:
        """Appends what is queued and dispatches; did a sync start?"""
        self.reached_ms = max(self.reached_ms, moment.wall_ms)
        self._make_promise(moment)
        is_started = self.append()
        return is_started, self._dispatch(moment) if self.is_serving else []

    def append(self) -> bool:
        """Hands what is queued to the log; True if a sync starts with it."""
        if not self.queue or not self._may_append():
            return False
        if self.is_full:
            self._take_back()
            if not self.queue or not self.has_reserve:
                return False
        given, self.queue = self.queue, []
        self.syncing += given
        for waiting in given:
            raw = codec.encode(waiting.record)
            assert codec.decode(raw) == waiting.record, "a record is read otherwise"
            waiting.position = self.log.append([raw])
        self.log.sync_start()
        self.is_syncing = True
        return True

    def _may_append(self) -> bool:
        return not self.is_syncing or self.has_room()

    def _take_back(self) -> None:
        """Batches that were admitted, and that the log has no room for, never were there."""
        refused = [waiting.record for waiting in self.queue if waiting.is_produced]
        self.queue = [waiting for waiting in self.queue if not waiting.is_produced]
        self.refused_count += len(refused)
        moved: dict[int, Record] = {}
        for number in {record.partition: None for record in refused}:
            partition = self.partition(number)
            if partition is not None:
                mine = [record for record in refused if record.partition == number]
                moved |= retract(partition, mine)
        for record in refused:
            self.history.lose(record)
        for waiting in self.queue:
            waiting.record = moved.get(id(waiting.record), waiting.record)

    def sync_end(self) -> None:
        """A sync is over: what it covered is applied, written, and answered."""
        durable = self.log.sync_end()
        landed = [waiting for waiting in self.syncing if waiting.position <= durable]
        self.syncing = self.syncing[len(landed) :]
        self.is_syncing = bool(self.syncing)
        for waiting in landed:
            assert waiting.position == self.applied + 1, "a record is left out"
            self.applied = waiting.position
            self.history.land(waiting.record)
            self._apply(waiting.record)
        if self.chance.random() < 0.8:  # else the store is stalled
            self._write()
        for waiting in landed:
            if waiting.done is not None:
                waiting.done()

    def _apply(self, record: Record) -> None:
        self.view.lay(self.machine.apply(record, self.view))
        if record.partition == NODE:
            self.ready.update(dict.fromkeys(self.wakes))
        else:
            self.ready[record.partition] = None

    def _write(self) -> None:
        if self.view.changes:
            if self.mark is not None:
                self.view.changes.rows[keys.MARK_KEY] = self.mark()
            self.store.write(self.view.take(), self.applied)
            self.store.flushed_position()

    # --- dispatch -----------------------------------------------------------------------------

    def is_behind(self, moment: Moment) -> bool:
        """The clock was stepped back."""
        return moment.wall_ms < self.reached_ms

    def is_standing(self, partition: Partition, moment: Moment) -> bool:
        """Now is ahead of the clock, here or for the node: what exists is promised exactly."""
        return self.is_behind(moment) or partition.now_ms > moment.wall_ms

    def promised(self, moment: Moment) -> int:
        """The offset below which a durable promise covers what is handed out."""
        if self.is_voiding or self.is_behind(moment):
            return 0
        return self.machine.promised_ms << INDEX_BITS

    def partition(self, number: int) -> Partition | None:
        """A partition, if its topic exists."""
        if number not in self.machine.refs:
            return None
        return self.machine.partition(number, self.view)

    def _dispatch(self, moment: Moment) -> list[Delivery]:
        for number in list(self.wakes):
            if self._left_ms(number, moment) == 0:
                del self.wakes[number]
                self.ready[number] = None
        numbers, self.ready = self.ready, {}
        self.dispatched = list(numbers)
        deliveries: list[Delivery] = []
        for number in numbers:
            partition = self.partition(number)
            if partition is None:
                continue
            for record in outcome.admit_expired(partition, moment, self.view):
                self.submit(record, moment)
            if self.is_standing(partition, moment) and partition.reading:
                record = partition.admit_promise(moment)
                if record is not None:
                    self.submit(record, moment)
            handed_out, records = partition.dispatch(moment, self.promised(moment), self.view)
            for record in records:
                self.submit(record, moment)
            deliveries += handed_out
            at_ms = partition.wake_at()
            if partition.reading or at_ms != (None, None, None):
                self.wakes[number] = at_ms
            else:
                self.wakes.pop(number, None)
        return deliveries

    def _left_ms(self, number: int, moment: Moment) -> int | None:
        """How long a partition can do without a turn; None for ever."""
        wall_ms, steady_ms, lease_ms = self.wakes[number]
        waits_ms = [
            at_ms - now_ms
            for at_ms, now_ms in (
                (wall_ms, moment.wall_ms),
                (steady_ms, moment.steady_ms),
                (lease_ms, moment.lease_ms),
            )
            if at_ms is not None
        ]
        return max(0, min(waits_ms)) if waits_ms else None

    def _is_blocked(self) -> bool:
        return any(
            group.is_blocked
            for partition in self.machine.partitions.values()
            for group in partition.reading
        )

    def wake_in_ms(self, moment: Moment) -> int | None:
        """When to take the next turn, by itself."""
        if self.queue and self.is_full and not self.is_syncing:
            return ROOM_RETRY_MS
        if self.queue and self._may_append():
            return 0
        if not self.is_serving:
            return None
        if self.ready:
            return 0
        if self._is_blocked() and not self.is_syncing and self._lacks_promise(moment):
            return 0
        waits_ms = [self._left_ms(number, moment) for number in self.wakes]
        return min((left_ms for left_ms in waits_ms if left_ms is not None), default=None)

    def is_resting(self) -> bool:
        """Nothing is on its way, and nothing is to be looked at."""
        return self.is_serving and not (self.queue or self.is_syncing or self.ready)

    # --- promises -----------------------------------------------------------------------------

    def _make_promise(self, moment: Moment) -> None:
        if not self.is_serving:
            return
        if self.is_behind(moment):
            if (self.machine.promised_ms or self.promise_queued_ms) and not self.is_voiding:
                self.is_voiding = True
                self.promise_queued_ms = 0
                exact = self.machine.record([self.machine.close_exact()], moment)
                self.submit(exact, moment, self._voided)
            return
        is_wanted = self.ready or self.queue or self._is_blocked() or self._is_due(moment)
        if is_wanted and self._lacks_promise(moment) and not self.is_voiding:
            self.promise_queued_ms = promise_until(moment.wall_ms)
            promise = self.machine.record([Promise(self.promise_queued_ms)], moment)
            self.submit(promise, moment)

    def _voided(self) -> None:
        self.is_voiding = False

    def _is_due(self, moment: Moment) -> bool:
        return any(self._left_ms(number, moment) == 0 for number in self.wakes)

    def _lacks_promise(self, moment: Moment) -> bool:
        if self.is_behind(moment):
            return False
        covered_ms = max(self.machine.promised_ms, self.promise_queued_ms)
        is_short = covered_ms <= moment.wall_ms + limits.PROMISE_MS // 2
        return is_short and covered_ms < promise_until(moment.wall_ms)
