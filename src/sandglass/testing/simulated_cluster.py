"""
Random histories of a cluster in virtual time, from a seed: members that share a replicated log.

The clients are those of the simulation of one node, and so are the checkers; they meet whoever
leads. Members crash, stand still for longer than a lease and go on, are cut off, lose their
data, hand over; their clocks are set, and run at different rates; the engine elects, loses what
it is sent, answers late. Snapshots are made, and the stream is trimmed behind them. At the end
all heals, as there, and every member has the same rows as the log replayed from nothing.

In some histories the engine breaks its word at the end instead: what was stored is gone, or the
stream is another one. Then whoever had read more has to be frozen, and nobody may believe it.
"""

import hashlib
from dataclasses import dataclass, field
from unittest.mock import patch

from sandglass.core import limits
from sandglass.core.dispatch import Delivery, Moment
from sandglass.core.lease import TOKEN_BITS
from sandglass.core.topic import Topic
from sandglass.testing.oracle import Oracle
from sandglass.testing.seen import Violation
from sandglass.testing.simulated_claims import Claims
from sandglass.testing.simulated_consumers import Consumers
from sandglass.testing.simulated_engine import Engine, Key
from sandglass.testing.simulated_groups import Groups
from sandglass.testing.simulated_letters import Letters
from sandglass.testing.simulated_member import Member
from sandglass.testing.simulated_onlooker import Onlooker
from sandglass.testing.simulated_operator import Operator
from sandglass.testing.simulated_outcomes import Outcomes
from sandglass.testing.simulated_producers import Producers
from sandglass.testing.simulated_snapshots import Library
from sandglass.testing.world import IDLE, World

MEMBER_COUNT = 3
MAIN_MS = 8000
DAMAGE_EVERY = 6
"""One history of so many ends with an engine that breaks its word."""

DAMAGE_MS = 8000
DRAIN_EVENT_COUNT_MAX = 20_000
ENTRY_BYTES = 100
"""Records are packed into entries of this size: several for most syncs."""

PART_BYTES = 4000
SLICE_ROW_COUNT = 60

STEPS_MS = (-5000, -400, -200, -60, -5, 5, 200, 2000, 7000)

RATES = (0.97, 1.0, 1.03)
"""Of the clock that leases go by: they part by less than the margin within a lease."""


@dataclass(slots=True)
class ClusterReport:
    """What a history was: for people, and to compare two runs."""

    seed: int
    digest: str = ""
    event_count: int = 0
    message_count: int = 0
    delivered_count: int = 0
    record_count: int = 0
    entry_count: int = 0
    """Messages of the stream, those that didn't count included."""
    stale_count: int = 0
    early_count: int = 0
    epoch_count: int = 0
    crash_count: int = 0
    restored_count: int = 0
    snapshot_count: int = 0
    lost_count: int = 0
    """Objects of snapshots that were lost."""
    handed_over_count: int = 0
    overlapped_count: int = 0
    """Times that a leader published while other entries of it were under way."""
    torn_count: int = 0
    """Doubts in which a later entry was known to be stored, and an earlier one not."""
    claimed_count: int = 0
    """Messages that sessions held under one leader, and went on to hold under the next."""
    outdated_count: int = 0
    """Deliveries that came to a client after one of a later epoch."""
    frozen_count: int = 0
    violation: str = ""


@dataclass(slots=True)
class ClusterSimulation:
    """One history. `run` is the door."""

    seed: int
    world: World = field(init=False)
    engine: Engine = field(init=False)
    oracle: Oracle = field(init=False)
    library: Library = field(init=False)
    members: list[Member] = field(default_factory=list[Member])
    consumers: Consumers = field(init=False)
    producers: Producers = field(init=False)
    operator: Operator = field(init=False)
    onlooker: Onlooker = field(init=False)
    claims: Claims = field(init=False)
    report: ClusterReport = field(init=False)
    _seen_epochs: dict[int, int] = field(default_factory=dict[int, int])

    def __post_init__(self) -> None:
        self.world = World(self.seed)
        self.engine = Engine(self.world)
        self.oracle = Oracle(self.world.chance, self.world.history)
        self.oracle.look(self.engine.stream.name)
        self.library = Library(self.world, self.engine, self.oracle)
        self.report = ClusterReport(self.seed)
        outcomes = Outcomes(self.world)
        self.consumers = Consumers(self.world, outcomes)
        self.producers = Producers(self.world)
        self.operator = Operator(self.world, self.consumers, self.producers)
        self.onlooker = Onlooker(self.world)
        self.claims = Claims(self.world, self.consumers, outcomes)
        groups, letters = Groups(self.world, self.consumers, self.operator), Letters(self.world)
        chance = self.world.chance
        self.members = [
            Member(
                number,
                self.world,
                self.engine,
                self.oracle,
                self.library,
                chance.choice(RATES),
                chance.choice((0, 0, 3, -40, 700)),
                self._met,
                self._synced,
            )
            for number in range(1, MEMBER_COUNT + 1)
        ]
        self.engine.stream.is_fit_first = chance.random() < 0.3
        self.engine.on_stored = self._stored
        self.engine.on_held = self._held
        self.engine.on_key = self._key_changed
        self.world.on_crash = self._crash_leader
        self.world.on_sync = self._sync
        self.world.on_serving = self._serving
        self.world.on_down = self.consumers.forget_all
        self.world.on_turn = self._turned
        self.world.on_ended = self.consumers.give_back
        for act, mean_ms in (
            (self.producers.produce, 110),
            (self.operator.rush, 900),
            (self.producers.read, 200),
            (self.consumers.come_and_go, 400),
            (outcomes.repeat_stale, 500),
            (self.onlooker.look, 500),
            (self.operator.cut, 3000),
            (self._step_clock, 4000),
            (self.operator.act, 2500),
            (groups.seek, 2500),
            (letters.take, 1200),
            (groups.drop, 4000),
            (groups.set, 3000),
            (self._crash_any, 3500),
            (self._pause_leader, 3000),
            (self._pause_any, 6000),
            (self._cut_off, 5000),
            (self._cut_off_key, 4000),
            (self._hold, 1500),
            (self._elect, 5000),
            (self._hand_over, 4000),
            (self._snapshot, 900),
            (self.library.lose, 1500),
        ):
            self.world.often(act, mean_ms)

    def run(self) -> ClusterReport:
        """
        Plays the history to its end.

        Raises:
            Violation: an invariant doesn't hold.
            AssertionError: core or protocol has found a rule of its own broken.
        """
        world = self.world
        for member in self.members:
            member.start()
        world.play(lambda: world.now_ms >= MAIN_MS)
        if self.seed % DAMAGE_EVERY == DAMAGE_EVERY - 1:
            self._damage()
        else:
            self._heal()
            world.play(lambda: not self._is_waiting(), event_count_max=DRAIN_EVENT_COUNT_MAX)
            self._finish()
        return self._reported()

    # --- between members and clients ----------------------------------------------------------

    @property
    def leader(self) -> Member | None:
        """Whom clients have met."""
        for member in self.members:
            if member.node is not None and member.node is self.world.node:
                return member
        return None

    def _met(self, member: Member) -> None:
        """A member serves: anew, or once more."""
        assert member.node is not None
        for other in self.members:
            if other is not member and other.node is not None and other.node.is_serving:
                raise Violation(
                    f"I12: members {other.number} and {member.number} serve at a time"
                )
        if self.oracle.is_damaged:
            return  # nobody is there any more
        self.world.shift_ms = member.shift_ms
        is_new = member.node is not self.world.node
        if not is_new:
            for partition in member.node.machine.partitions.values():
                for group in list(partition.reading):
                    for consumer in list(group.consumers):
                        partition.remove_consumer(group, consumer)
        self.world.meet(member.node)
        if is_new:
            self.operator.begin()

    def _serving(self) -> None:
        self.claims.come_back()
        for topic in self.world.topics.values():
            self._join(topic)

    def _join(self, topic: Topic) -> None:
        if topic.name != IDLE or self.world.chance.random() < 0.5:
            self.consumers.join(topic)

    def _sync(self) -> None:
        leader = self.leader
        if leader is not None:  # else it has stepped down, with what was queued
            leader.sync()

    def _synced(self, member: Member) -> None:
        assert member.node is not None
        if member.node is self.world.node:
            self.world.synced()
        else:
            member.node.sync_end()

    def _turned(self, deliveries: list[Delivery], moment: Moment) -> None:
        if self.oracle.is_damaged:
            return
        for delivery in deliveries:
            self.consumers.deliver(delivery, moment)
            if self.world.chance.random() < 0.1:
                self._send_late(delivery)
        self.consumers.check_credit(deliveries)
        if self.world.node.is_serving:
            self.consumers.look_at_lines(deliveries)
            self.consumers.look_at_drains(moment)
        if self.onlooker.rest(moment):
            self.consumers.check_drains(moment)

    def _send_late(self, delivery: Delivery) -> None:
        """Its frame comes to the client a second time, or only now."""
        delay_ms = self.world.chance.choice((5, 500, 3000))
        self.world.after(delay_ms, lambda: self._arrive(delivery), is_world=True)

    def _arrive(self, delivery: Delivery) -> None:
        epoch = delivery.lease.token >> TOKEN_BITS
        seen = self.world.history.partitions[delivery.partition].last_epoch
        if is_outdated(epoch, seen):
            self.report.outdated_count += 1
        elif epoch < seen:
            raise Violation(f"I12: a client takes a delivery of {epoch} after one of {seen}")

    def _stored(self, sequence: int, raw: bytes) -> None:
        self.oracle.stored(sequence, raw)
        for member in self.members:
            member.stored()

    def _key_changed(self, _: Key) -> None:
        for member in self.members:
            member.watched()

    # --- bad luck -----------------------------------------------------------------------------

    def _crash_leader(self) -> None:
        if self.leader is not None:
            self._crash(self.leader)

    def _crash_any(self) -> None:
        self._crash(self.world.chance.choice(self.members))

    def _crash(self, member: Member) -> None:
        if not member.is_up:
            return
        self.report.crash_count += 1
        if member is self.leader:
            self.world.leave()
        member.crash()
        chance = self.world.chance
        if chance.random() < 0.15:
            member.replica.wipe()
        if chance.random() < 0.3:
            member.shift_ms += chance.choice(STEPS_MS)
        delay_ms = chance.choice((1, 50, 600, 2500))
        self.world.after(delay_ms, lambda: self._restart(member), is_world=True)

    def _restart(self, member: Member) -> None:
        if not member.is_up:
            member.start()

    def _pause_leader(self) -> None:
        if self.leader is not None:
            self._pause(self.leader)

    def _pause_any(self) -> None:
        self._pause(self.world.chance.choice(self.members))

    def _pause(self, member: Member) -> None:
        if member.is_up and not member.is_paused:
            if member is self.leader:
                self.world.leave()
            member.pause(self.world.chance.choice((40, 300, 1500, 2600, 4500)))

    def _cut_off(self) -> None:
        number = self.world.chance.choice(self.members).number
        self.engine.cut.add(number)
        delay_ms = self.world.chance.choice((100, 1000, 3500))
        self.world.after(delay_ms, lambda: self.engine.cut.discard(number), is_world=True)

    def _cut_off_key(self) -> None:
        self._cut_off_key_of((self.leader or self.world.chance.choice(self.members)).number)

    def _cut_off_key_of(self, number: int) -> None:
        self.engine.keyless.add(number)
        delay_ms = self.world.chance.choice((800, 2500, 5000))
        self.world.after(delay_ms, lambda: self.engine.keyless.discard(number), is_world=True)

    def _hold(self) -> None:
        """What the leader, or a candidate, publishes waits for long enough to depose it."""
        busy = [each for each in self.members if each.writer is not None]
        if not busy:
            return
        number = self.world.chance.choice(busy).number
        self.engine.hold(number)
        self._held(number)

    def _held(self, number: int) -> None:
        """Most of the time, the key is out of its reach, too."""
        delay_ms = self.world.chance.choice((300, 3000, 4500))
        self.world.after(delay_ms, lambda: self.engine.release(number), is_world=True)
        if self.world.chance.random() < 0.8:
            self._cut_off_key_of(number)

    def _step_clock(self) -> None:
        """Of whoever leads; by no more than what the end of a history can wait out."""
        self.world.shift_ms += self.world.chance.choice(STEPS_MS)
        if self.world.node.is_serving:
            self.world.kick()

    def _elect(self) -> None:
        self.engine.elect(self.world.chance.choice((100, 700, 2500)))

    def _hand_over(self) -> None:
        if self.leader is not None:
            self.leader.hand_over()

    def _snapshot(self) -> None:
        """The leader makes one, or somebody else, or two do: it makes no difference."""
        chance = self.world.chance
        makers = chance.sample(self.members, chance.choice((1, 2)))
        if self.leader is not None and chance.random() < 0.5:
            makers = [self.leader]
        for member in makers:
            if member.is_up and not member.is_paused:
                if chance.random() < 0.1 and member.replica.store.applied_position:
                    self.oracle.check_rows(member.number, member.replica.store)
                self.library.make(member)

    # --- the end ------------------------------------------------------------------------------

    def _calm(self) -> None:
        """Nothing goes wrong any more."""
        self.world.is_healed = self.engine.is_calm = True
        self.engine.cut.clear()
        self.engine.keyless.clear()
        for number in list(self.engine.held):
            self.engine.release(number)
        self.engine.electing_until_ms = 0

    def _heal(self) -> None:
        """Clocks agree again, members are up, and diligent consumers take everything."""
        self._calm()
        self.world.leave()
        shift_ms = max(0, *(member.shift_ms for member in self.members)) + 4_000_000
        for member in self.members:
            member.crash()
            member.shift_ms = shift_ms
            member.start()
        self.world.after(3000, self._heal_clients, is_world=True)

    def _heal_clients(self) -> None:
        world = self.world
        if self.leader is None or not world.node.is_serving or world.node.queue:
            world.after(100, self._heal_clients, is_world=True)
            return
        for client in list(self.consumers.clients.values()):
            self.consumers.leave(client)
        for topic in world.topics.values():
            self.consumers.join_diligent(topic)
        world.history.lateness_from_ms = world.wall_ms + 1000

    def _is_waiting(self) -> bool:
        """There is still something that has to come to an end."""
        world = self.world
        if world.history.lateness_from_ms is None or world.report.event_count % 32:
            return True
        return bool(world.node.queue or world.node.is_syncing or world.history.lost())

    def _finish(self) -> None:
        if self.world.history.lateness_from_ms is None:
            raise Violation("I4: nobody leads, though nothing is wrong")
        self.world.history.end()
        self.onlooker.look()
        self.library.check_all()
        for member in self.members:
            member.crash()
            member.start()
            if member.replica.reader.sequence + 1 < self.engine.stream.first_sequence:
                self.library.restore_now(member.replica)
                member.replica.load()
            member.replica.catch_up()
            if member.replica.store.applied_position != len(self.oracle.records):
                raise Violation(f"I16: member {member.number} ends at another position")
            self.oracle.check_rows(member.number, member.replica.store)

    def _damage(self) -> None:
        """The engine breaks its word. Clients are gone: the members have to find out."""
        world, chance = self.world, self.world.chance
        self._calm()
        world.leave()
        for member in self.members:
            self._restart(member)
        self.library.is_closed = True
        stream, end = self.engine.stream, 0
        if chance.random() < 0.7:
            self.engine.rewind(chance.randint(1, 6))
            end = stream.last_sequence
        else:
            self.engine.make_anew()
        misled = [each for each in self.members if each.mark.sequence > end]
        if misled and chance.random() < 0.5:
            misled = [chance.choice(misled)]
            self._let_grow(misled[0], end)
        else:
            for member in self.members:
                member.replica.subscribe_anew()
        self.oracle.is_damaged = True
        self.oracle.look(self.engine.stream.name, self.engine.stream.raws)
        self.world.after(200, self._scribble, is_world=True)
        world.play(lambda: world.now_ms >= MAIN_MS + DAMAGE_MS)
        for member in misled:
            is_there = self.oracle.marks.get(member.mark.position) == member.mark
            # Where a fence took a lost place, all others are frozen: that is loud enough.
            is_there |= self.oracle.reader.frozen is not None
            if member.number not in self.oracle.frozen and not is_there:
                raise Violation(
                    f"I12: member {member.number} had read more than there is, and goes on"
                )
        self.report.frozen_count = len(self.oracle.frozen)

    def _let_grow(self, witness: Member, end: int) -> None:
        """Only one had read more, and it stands still while others write on."""
        self.library.drop_beyond(end)
        for member in self.members:
            if member is not witness:
                member.crash()
                member.replica.wipe()
                member.start()
        witness.pause(5000)

    def _scribble(self) -> None:
        """Leaders write something."""
        for member in self.members:
            member.scribble()
        self.world.after(100, self._scribble, is_world=True)

    def _reported(self) -> ClusterReport:
        report, world, oracle = self.report, self.world, self.oracle
        digest = hashlib.sha256()
        for line in world.history.trace:
            digest.update(line.encode() + b"\n")
        for raw in self.engine.stream.raws:
            digest.update(raw)
        report.digest = digest.hexdigest()
        report.event_count = world.report.event_count
        report.message_count = len(world.history.answered)
        report.delivered_count = world.history.delivered_count
        report.record_count = len(oracle.records)
        report.entry_count = self.engine.stream.last_sequence
        report.stale_count = oracle.reader.dropped.stale
        report.early_count = oracle.reader.dropped.early
        report.epoch_count = oracle.reader.mark.epoch
        report.claimed_count = world.report.claimed_count
        report.restored_count = oracle.restored_count
        report.snapshot_count = self.library.made_count
        report.lost_count = self.library.lost_count
        report.handed_over_count = oracle.handed_over_count
        report.overlapped_count = oracle.overlapped_count
        report.torn_count = oracle.torn_count
        return report


def is_outdated(epoch: int, seen_epoch: int) -> bool:
    """A client drops a delivery of a lower epoch than one it has seen of that partition."""
    return epoch < seen_epoch


def simulate_cluster(seed: int) -> ClusterReport:
    """One history; what goes wrong stands in its report."""
    simulation = ClusterSimulation(seed)
    try:
        with patch.multiple(
            limits,
            ENTRY_BYTES_TARGET=ENTRY_BYTES,
            SNAPSHOT_PART_BYTES_TARGET=PART_BYTES,
            SNAPSHOT_SLICE_ROW_COUNT=SLICE_ROW_COUNT,
        ):
            return simulation.run()
    except Exception as error:  # noqa: BLE001 - whatever breaks is a finding, with its seed
        simulation.report.violation = f"{type(error).__name__}: {error}"
        return simulation.report
