"""
A member of a simulated cluster: a process with a view of its own that tails the stream, watches
the leader's lease, takes over when that is over, and leads until it is deposed.

It keeps the rules of a host of `sandglass.replication`:

1. It applies what its reader accepts, and writes rows and mark together, after whole entries.
2. It campaigns once the key's revision has stood for a lease; with the key it has an epoch. It
   reads the stream to its end, publishes its fence, and serves when it has read that back, what
   it had read before still stands there, and its clock has passed the promise.
3. Before anything leaves, its lease is looked at.
4. In doubt it sends once more what had no answer, then reads the log. Deposed, or frozen, it
   forgets what it was about to do, and begins again from its view.
5. It hands over by closing its offsets exactly, and giving the key back once that is committed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ParamSpec

from sandglass.core import codec, limits
from sandglass.core.dispatch import Moment
from sandglass.core.machine import promise_left_ms, promise_until
from sandglass.core.record import Promise
from sandglass.replication.lease import HeldLease, LeaseWatch
from sandglass.replication.reader import Accepted, Mark, Reader
from sandglass.replication.writer import Outgoing, Phase, Writer, next_epoch
from sandglass.testing.oracle import Oracle, Term
from sandglass.testing.simulated_engine import Answer, Engine, Key
from sandglass.testing.simulated_log import ReplicatedLog
from sandglass.testing.simulated_node import SimulatedNode
from sandglass.testing.simulated_replica import Replica
from sandglass.testing.simulated_snapshots import Library
from sandglass.testing.world import START_MS, World

ANSWER_MS = 250
"""Without an answer for so long, something is wrong."""

LOOK_MS = 60

P = ParamSpec("P")


@dataclass(slots=True)
class Member:
    """
    One process, life after life.

    `rate` is how fast its monotonic clock runs as the lease sees it, and `shift_ms` what its
    wall clock is off by.
    """

    number: int
    world: World
    engine: Engine
    oracle: Oracle
    library: Library
    rate: float = 1.0
    shift_ms: int = 0
    on_serving: Callable[["Member"], None] = lambda _: None
    on_synced: Callable[["Member"], None] = lambda _: None
    replica: Replica = field(init=False)
    is_up: bool = False
    is_paused: bool = False
    is_met: bool = False
    """Clients know that it serves."""
    watch: LeaseWatch = field(default_factory=LeaseWatch)
    lease: HeldLease = field(default_factory=HeldLease)
    writer: Writer | None = None
    node: SimulatedNode | None = None
    """While it leads."""
    _life: int = 0
    _restoring_life: int = -1
    """In which it began at a snapshot, and isn't done."""
    _term: int = 0
    """Counts campaigns: what belongs to an earlier one is void."""
    _key: Key = field(default_factory=Key)
    _epoch: int = 0
    """Of the key that it holds; 0: it holds none."""
    _revision: int = 0
    """Of the key as it wrote it last."""
    _is_tailing: bool = False
    _is_doubting: bool = False
    _has_retried: bool = False
    _doubt_count: int = 0
    _inbox: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])

    def __post_init__(self) -> None:
        self.replica = Replica(self.number, self.engine, self.oracle)

    # --- life ---------------------------------------------------------------------------------

    @property
    def wall_ms(self) -> int:
        """What its wall clock shows; who sets the leader's sets the world's."""
        if self.node is not None and self.node is self.world.node:
            self.shift_ms = self.world.shift_ms
        return START_MS + self.world.now_ms + self.shift_ms

    @property
    def lease_ms(self) -> int:
        """Its monotonic clock, as the lease sees it."""
        return int(self.world.now_ms * self.rate)

    def start(self) -> None:
        """A process begins, with what the last one left."""
        self.is_up, self.is_paused = True, False
        self._inbox.clear()
        self.watch, self._key = LeaseWatch(), Key(holder=-1)
        self._load()
        self.engine.tell(self, self._see_key)
        self._look()

    def _load(self) -> None:
        """A replica, as its view is."""
        self.replica.load()
        self._drop_key()
        self._tail_soon()

    def _drop_key(self) -> None:
        self._term += 1
        self.lease = HeldLease()
        if self.node is not None:
            self.node.is_open = False
            if self.node is self.world.node:
                self.world.leave()
        self.node = self.writer = None
        self.is_met = False
        self._epoch = 0
        self._is_doubting = self._has_retried = False

    def crash(self) -> None:
        """The process ends, here and now."""
        self._life += 1
        self.is_up = self.is_paused = False
        self.replica.crash()
        self._drop_key()
        self._is_tailing = False

    def pause(self, for_ms: int) -> None:
        """The process stands still for so long."""
        self.is_paused, self.is_met = True, False
        life = self._life

        def resume() -> None:
            if life == self._life:
                self._resume(for_ms)

        self.world.after(for_ms, resume, is_world=True)

    def _resume(self, for_ms: int) -> None:
        self.is_paused = False
        if self.node is not None:
            self.node.time.pause(for_ms)
            self._turn()  # what it was about to do, before it hears of anything
        inbox, self._inbox = self._inbox, []
        for act in inbox:
            act()
        self._meet()

    def hear(self, act: Callable[[], None]) -> Callable[[], None]:
        """`act` for this life; it waits while the process stands still."""
        life = self._life

        def heard() -> None:
            if life != self._life or not self.is_up:
                return
            if self.is_paused:
                self._inbox.append(heard)
            else:
                act()

        return heard

    def later(self, delay_ms: int, act: Callable[[], None]) -> None:
        """Calls `act` then, in this life."""
        self.world.after(delay_ms, self.hear(act), is_world=True)

    def _after_in_term(self, delay_ms: int, act: Callable[[], None]) -> None:
        self.later(delay_ms, self._in_term(act))

    def _in_term(self, act: Callable[P, None]) -> Callable[P, None]:
        term = self._term

        def acted(*args: P.args, **kwargs: P.kwargs) -> None:
            if term == self._term:
                act(*args, **kwargs)

        return acted

    # --- a replica ----------------------------------------------------------------------------

    def _tail_soon(self) -> None:
        if not self._is_tailing:
            self._is_tailing = True
            self.later(self.world.chance.choice((1, 2, 5, 20)), self.tail)

    def stored(self) -> None:
        """There is something new in the stream."""
        if self.is_up and self.node is None:
            self._tail_soon()

    def tail(self) -> None:
        """Reads on, some of it or all."""
        self._is_tailing = False
        if (
            self.node is not None
            or self.replica.reader.frozen
            or self.number in self.engine.cut
        ):
            return
        stream = self.engine.stream
        end = stream.last_sequence
        if self.world.chance.random() < 0.3:
            end = min(end, self.replica.reader.sequence + self.world.chance.randint(1, 6))
        self.replica.read(self.replica.reader, end, self._apply)
        if self.replica.reader.frozen is not None:
            self._unfreeze()
        elif self.replica.reader.sequence < stream.last_sequence:
            self._tail_soon()

    def _apply(self, accepted: Accepted) -> None:
        self.replica.apply(accepted)
        if self.writer is not None:
            self._observe(accepted)

    @property
    def mark(self) -> Mark:
        """What it has read, or knows to be committed."""
        is_leading = self.node is not None and self.writer is not None
        return self.writer.mark if is_leading and self.writer else self.replica.reader.mark

    def scribble(self) -> None:
        """A record that says nothing new, if it leads."""
        if self.node is not None and self.node.is_serving:
            moment = self.node.moment(self.wall_ms, self.world.now_ms)
            promise = Promise(promise_until(self.wall_ms))
            self.node.submit(self.node.machine.record([promise], moment), moment)
            self._turn()

    def _unfreeze(self) -> None:
        frozen = self.replica.reader.frozen
        assert frozen is not None
        if not frozen.needs_snapshot:
            self._stand_still(self.replica.reader)
        elif self._restoring_life != self._life:
            self._restoring_life = self._life
            self._drop_key()
            self.library.restore(self)

    def living(self) -> Callable[[], bool]:
        """Tells whether this life of it goes on."""
        life = self._life
        return lambda: life == self._life

    def restored(self) -> None:
        """Its replica stands at a snapshot."""
        self._restoring_life = -1
        self._load()

    def stuck(self) -> None:
        """No snapshot helps."""
        self._stand_still(self.replica.reader)

    # --- the key ------------------------------------------------------------------------------

    def _see_key(self, key: Key) -> None:
        if key.revision >= self._key.revision:
            self._key = key
            self.watch.saw(key.revision, self.lease_ms)

    def watched(self) -> None:
        """The key has changed."""
        if self.is_up:
            self.engine.tell(self, self._see_key)

    def _look(self) -> None:
        """At the lease, again and again."""
        if self.world.chance.random() < 0.002:
            self.watch.restarted()
            self.engine.tell(self, self._see_key)
        if not self._epoch and self.replica.reader.frozen is None:
            is_free = self._key.holder == 0
            if self.watch.is_over(self.lease_ms) or is_free:
                self._campaign()
        if self.node is None:
            self._tail_soon()
        else:
            assert self.writer is not None
            self._look_at_stream(self.writer.mark)
        self.later(LOOK_MS + self.world.chance.randint(0, 30), self._look)

    def _look_at_stream(self, mark: Mark) -> bool:
        """Is it still the one that was read up to this mark? If not, it stands still."""
        reader = Reader(mark)
        self.replica.read(reader, 0, lambda _: None)
        if reader.frozen is not None and not reader.frozen.needs_snapshot:
            self._stand_still(reader)
            return False
        return True

    def _stand_still(self, reader: Reader) -> None:
        assert reader.frozen is not None
        self.oracle.freeze(self.number, reader.frozen)
        self._drop_key()
        self.replica.reader = reader

    def _campaign(self) -> None:
        self._term += 1
        self._epoch = next_epoch(catalog_epoch=self._key.epoch, mark=self.replica.reader.mark)
        sent_ms = self.lease.sending(self.lease_ms)
        wanted = Key(0, self.number, self._epoch)

        def answered(is_written: bool, key: Key) -> None:
            self._see_key(key)
            if not is_written:
                self._drop_key()
                return
            self.lease.renewed(sent_ms)
            self._revision = key.revision
            self._after_in_term(self.lease.renew_in_ms(self.lease_ms), self._renew)
            self._ask_end()

        self.engine.put(self, self._key.revision, wanted, self._in_term(answered))
        self._after_in_term(ANSWER_MS, self._give_up_campaign)

    def _give_up_campaign(self) -> None:
        if self.node is None and not self.lease.is_valid(self.lease_ms):
            self._drop_key()

    def _renew(self) -> None:
        """Only what it wrote itself: renewing another's revision would steal the key."""
        sent_ms = self.lease.sending(self.lease_ms)

        def answered(is_written: bool, key: Key) -> None:
            self._see_key(key)
            is_own = key.holder == self.number and key.epoch == self._epoch
            if is_own:  # an earlier renewal, of which it didn't hear, perhaps
                self._revision = key.revision
            if is_written:
                self.lease.renewed(sent_ms)
                self._meet()
                if self.is_met and self.node is self.world.node:
                    self.world.kick()
            elif not is_own:
                self.lease.given_up()
                # What it has under way goes on for a while.
                delay_ms = self.world.chance.choice((0, 300, 1000))
                self._after_in_term(delay_ms, self._step_down)

        wanted = Key(0, self.number, self._epoch)
        self.engine.put(self, self._revision, wanted, self._in_term(answered))
        self._after_in_term(limits.LEADER_RENEW_MS, self._renew)

    # --- taking over --------------------------------------------------------------------------

    def _ask_end(self) -> None:
        if self.writer is not None:
            return
        self.engine.ask_end(self, self._in_term(self._reach))
        self._after_in_term(ANSWER_MS, self._ask_end)

    def _reach(self, end: int) -> None:
        """Reads to the end as it was told, then publishes the fence."""
        if self.writer is not None:
            return
        self.replica.subscribe_anew()
        self.replica.read(self.replica.reader, end, self._apply)
        if self.replica.reader.frozen is not None:
            self._unfreeze()
        elif self.replica.reader.mark.epoch >= self._epoch:
            self._drop_key()
        elif self.replica.reader.sequence >= end:
            identity = self.oracle.draw_writer()
            self.writer = Writer(identity, self._epoch, self.replica.reader.mark)
            self._fence()

    def _fence(self) -> None:
        writer = self.writer
        if writer is None or writer.phase is not Phase.FENCING:
            return
        # If the engine lost what stood at the mark, this fence may have taken the place.
        self.replica.subscribe_anew()
        self.replica.read(self.replica.reader, 0, self._apply)
        if self.replica.reader.frozen is not None:
            self._unfreeze()
            return
        _, steady_ms = self.replica.machine.clocks(self.replica.view)
        moment = Moment(self.wall_ms, steady_ms, steady_ms)
        opening = codec.encode(self.replica.machine.opening(self._epoch, moment))
        self.engine.publish(self, writer.fence(opening), self._fence_answered)
        self._after_in_term(ANSWER_MS, self._fence)

    def _fence_answered(self, _: Answer) -> None:
        """It says nothing: only what is read back counts."""
        if self.node is None:
            self._tail_soon()

    def _observe(self, accepted: Accepted) -> None:
        writer = self.writer
        assert writer is not None
        was_fencing, before = writer.phase is Phase.FENCING, writer.mark
        writer.observe(accepted)
        if writer.phase is Phase.DEPOSED:
            self._drop_key()
        elif was_fencing and writer.phase is Phase.LEADING and self._look_at_stream(before):
            self._await_promise()

    def _await_promise(self) -> None:
        left_ms = promise_left_ms(self.replica.machine.promised_ms, self.wall_ms)
        self._after_in_term(left_ms, self._serve)

    def _serve(self) -> None:
        writer = self.writer
        assert writer is not None
        if self.replica.reader.mark != writer.mark:
            self._drop_key()  # another's fence was read meanwhile
            return
        if not self.lease.is_valid(self.lease_ms):
            self._after_in_term(ANSWER_MS, self._serve)
            return
        if promise_left_ms(self.replica.machine.promised_ms, self.wall_ms):
            self._await_promise()
            return
        self.replica.write()
        log = ReplicatedLog(writer)
        node = SimulatedNode(
            self.world.chance,
            Term(self.oracle, writer.mark.position),
            log=log,
            store=self.replica.store,
        )
        node.has_room = log.has_room
        node.may_serve = self._may_serve
        node.mark = self._mark
        node.take_over(self.wall_ms, self.world.now_ms)
        self.node = node
        self._meet()
        self._idle()

    def _meet(self) -> None:
        """Clients find out that it serves; it may be once more."""
        if self.node is not None and not self.is_met and self.node.is_serving:
            self.is_met = True
            self.on_serving(self)

    def _mark(self) -> bytes:
        assert self.writer is not None
        return self.writer.mark.encode()

    def _may_serve(self) -> bool:
        return not self.is_paused and self.lease.is_valid(self.lease_ms)

    # --- leading ------------------------------------------------------------------------------

    def _idle(self) -> None:
        """A turn now and then, though nobody asks for one."""
        if self.node is not None:
            if self.node is not self.world.node:
                self._turn()
            self._after_in_term(60, self._idle)

    def _turn(self) -> None:
        """A turn that no client has asked for; what leaves goes to those who are there."""
        node = self.node
        if node is None:
            return
        moment = node.moment(self.wall_ms, self.world.now_ms)
        is_started, deliveries = node.turn(moment)
        if is_started:
            self.sync()
        for delivery in deliveries if not self.oracle.is_damaged else ():
            self.world.history.deliver(delivery, moment, self.world.now_ms)

    def sync(self) -> None:
        """The node has handed records to its log."""
        assert self.writer is not None
        self.oracle.overlapped_count += self.writer.oldest is not None
        self._publish(self.writer.pack())

    def _publish(self, outgoing: list[Outgoing]) -> None:
        for each in outgoing:
            self.engine.publish(self, each, self._in_term_answer(each))
            self._after_in_term(ANSWER_MS, self._silence_of(each))

    def _in_term_answer(self, outgoing: Outgoing) -> Callable[[Answer], None]:
        term = self._term

        def answered(answer: Answer) -> None:
            if term == self._term and self.writer is not None:
                if answer.sequence:
                    self.writer.acknowledged(outgoing, answer.sequence)
                else:
                    self.writer.failed(outgoing, "wrong last sequence")
                self._landed()

        return answered

    def _silence_of(self, outgoing: Outgoing) -> Callable[[], None]:
        def silent() -> None:
            assert self.writer is not None
            self.writer.failed(outgoing, "no answer")
            if self.writer.phase is Phase.DOUBT:
                self._landed()

        return silent

    def _landed(self) -> None:
        """Something came back: what is committed is applied, and more goes out."""
        writer, node = self.writer, self.node
        if writer is None or node is None:
            return
        self._publish(writer.pack())
        log = node.log
        assert isinstance(log, ReplicatedLog)
        if node.is_syncing and log.is_synced:
            self.on_synced(self)
        if writer.phase is Phase.DOUBT and not self._is_doubting:
            self._is_doubting = True
            self.oracle.torn_count += any(flight.is_stored for flight in writer._flights)
            self._after_in_term(self.world.chance.choice((0, 2, 10)), self._doubt)

    def _doubt(self) -> None:
        writer = self.writer
        assert writer is not None
        self._is_doubting = False
        if writer.phase is not Phase.DOUBT:
            return
        is_silence = "no answer" in writer.doubt
        if is_silence and not self._has_retried:
            self._has_retried = True
            again = writer.retry(age_ms=2 * ANSWER_MS)
            if again is not None:
                self._publish(again)
                self._landed()
                return
        self._is_doubting = True
        self._doubt_count += 1
        asked = self._doubt_count

        def answered(end: int) -> None:
            if asked == self._doubt_count and writer.phase is Phase.DOUBT:
                self._resolve(end)

        self.engine.ask_end(self, self._in_term(answered))
        self._after_in_term(ANSWER_MS, self._doubt)

    def _resolve(self, end: int) -> None:
        writer = self.writer
        assert writer is not None
        reader = Reader(writer.mark)
        self.replica.read(reader, end, writer.observe)
        frozen = reader.frozen
        if frozen is not None and not frozen.needs_snapshot:
            self._stand_still(reader)
            return
        if frozen is not None or writer.phase is Phase.DEPOSED:
            self._step_down()
            return
        self._has_retried = self._is_doubting = False
        self._publish(writer.resolve(reader))
        self._landed()

    def _step_down(self) -> None:
        """What it was about to do is forgotten: it begins again from its view."""
        self._load()

    # --- handing over -------------------------------------------------------------------------

    def hand_over(self) -> None:
        """Closes its offsets exactly, and gives the key back once that is committed."""
        node = self.node
        if node is None or not node.is_serving:
            return
        moment = node.moment(self.wall_ms, self.world.now_ms)
        node.is_open = False
        exact = node.machine.record([node.machine.close_exact()], moment)
        node.submit(exact, moment, self._in_term(self._give_back))
        self._turn()

    def _give_back(self) -> None:
        self._after_in_term(0, self._give_key_back)

    def _give_key_back(self) -> None:
        self.oracle.handed_over_count += 1
        free = Key(0, 0, self._epoch)
        self.engine.put(self, self._revision, free, lambda *_: None)
        self._load()
