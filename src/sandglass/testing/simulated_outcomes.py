"""
What simulated consumers say of the messages that they were given: the right outcomes, late
ones, wrong ones, under a token or by offset. Each answer of the core is checked on the spot.
"""

from dataclasses import dataclass, field

from sandglass.core import outcome
from sandglass.core.group import Group
from sandglass.core.lease import Lease, Places
from sandglass.core.partition import Partition
from sandglass.core.record import Ending
from sandglass.errors import LeaseLostError
from sandglass.testing.seen import GroupHistory, PartitionHistory, Violation
from sandglass.testing.world import World


@dataclass(slots=True)
class Task:
    """A delivery as the consumer sees it."""

    partition: int
    channel: str
    group: str
    token: int
    numbers: list[int]
    generation: int = 1
    lease: Lease | None = None
    """As it was handed out."""


@dataclass(slots=True)
class Outcomes:
    """Acts for consumers, by chance."""

    world: World
    stale: list[Task] = field(default_factory=list[Task])

    def ack(self, task: Task) -> None:
        """All of it is done."""
        self._outcome(task, [], Ending.ACKED)

    def plan(self, task: Task) -> None:
        """What the consumer will do with a delivery, and when."""
        chance, count = self.world.chance, len(task.numbers)
        delay_ms = chance.choice((0, 1, 5, 20, 80, 300))
        lot = chance.random()
        if lot < 0.15:
            pass  # it never answers
        elif lot < 0.5:
            self.world.after(delay_ms, lambda: self._outcome(task, [], Ending.ACKED))
        elif lot < 0.6 and count > 1:
            split = chance.sample(range(count), chance.randint(1, count - 1))
            places = [(place, 1) for place in sorted(split)]
            self.world.after(delay_ms, lambda: self._outcome(task, places, Ending.ACKED))
            self.world.after(delay_ms * 2, lambda: self._outcome(task, [], self._any_ending()))
        elif lot < 0.8:
            ending = self._any_ending()
            first = chance.randint(0, count - 1)
            places = [] if chance.random() < 0.5 else [(first, count - first)]
            self.world.after(delay_ms, lambda: self._outcome(task, places, ending))
        elif lot < 0.9:
            begun = chance.randint(0, count)
            lease_ms = chance.choice((0, 1, 30, 500))
            self.world.after(delay_ms, lambda: self._extend(task, lease_ms, begun))
            self.world.after(delay_ms + 40, lambda: self._outcome(task, [], Ending.ACKED))
        else:
            self.world.after(delay_ms, lambda: self._end_offsets(task))
        if chance.random() < 0.2:
            self.stale.append(task)

    # --- outcomes -----------------------------------------------------------------------------

    def _any_ending(self) -> Ending:
        return self.world.chance.choice(
            (Ending.ACKED, Ending.NACKED, Ending.NACKED, Ending.RELEASED, Ending.DEAD)
        )

    def _find(self, task: Task) -> tuple[Partition, Group, GroupHistory] | None:
        if not self.world.node.is_serving:
            return None
        partition = self.world.node.partition(task.partition)
        if partition is None or self.world.history.partitions[task.partition].is_deleted:
            return None
        known = self.world.history.partitions[task.partition].find_group(
            task.channel, task.group
        )
        if known is None:
            return None
        group = partition.group(task.channel, task.group, self.world.node.view)
        return partition, group, known

    def _outcome(self, task: Task, places: Places, ending: Ending) -> None:
        found = self._find(task)
        if found is None:
            return
        partition, group, known = found
        moment = self.world.see()
        named = [
            task.numbers[place]
            for first, count in places or [(0, len(task.numbers))]
            for place in range(first, first + count)
        ]
        token = known.renewed.get(task.token, task.token)
        held = [n for n in named if n in known.held and known.held[n].token == token]
        is_right = bool(held) and (not places or len(held) == len(named))
        delay_ms = None
        if ending is Ending.NACKED:
            delay_ms = self.world.chance.choice((None, 0, 50, 400))
        try:
            record = outcome.admit_outcome(
                partition,
                group,
                task.token,
                places,
                ending,
                moment=moment,
                view=self.world.node.view,
                delay_ms=delay_ms,
            )
        except LeaseLostError:
            if is_right:
                raise Violation(f"I7: a lease on {held} is lost for no reason") from None
            return
        if not is_right:
            raise Violation(f"I7: an outcome for {named} was taken, but {held} is held")
        self.world.node.submit(record, moment)
        missed = [n for n in held if n not in known.ending]
        if missed:
            raise Violation(f"I7: the outcome for {held} leaves {missed} out")
        if ending is Ending.NACKED:
            for number in held:
                attempt = known.attempts.get(number, 0) + 1
                least_ms = known.backoff.delay_ms(attempt, 1) if delay_ms is None else delay_ms
                known.not_before_ms[number] = self.world.now_ms + least_ms
        self.world.kick()

    def _extend(self, task: Task, lease_ms: int, begun: int) -> None:
        found = self._find(task)
        if found is None:
            return
        partition, group, known = found
        token = known.renewed.get(task.token, task.token)
        holds = [hold for hold in known.held.values() if hold.token == token]
        moment = self.world.see()
        try:
            ends_ms = partition.extend(
                group, task.token, lease_ms=lease_ms, begun=begun, moment=moment
            )
        except LeaseLostError:
            if holds:
                raise Violation(f"I7: the lease on {holds} is lost for no reason") from None
            return
        for hold in holds:
            hold.ends_ms, hold.begun = ends_ms, max(hold.begun, begun)
        self.world.node.ready[task.partition] = None
        self.world.kick()

    def repeat_stale(self) -> None:
        """Somebody comes back to a delivery of long ago, perhaps of another leader."""
        if self.stale:
            task = self.world.chance.choice(self.stale)
            if self.world.chance.random() < 0.5:
                self._outcome(task, [(0, 1)], self._any_ending())
            else:
                self._end_offsets(task)

    def _end_offsets(self, task: Task) -> None:
        """Outcomes by offsets, right ones and wrong ones."""
        found = self._find(task)
        if found is None:
            return
        partition, group, known = found
        seen = self.world.history.partitions[task.partition]
        chance = self.world.chance
        numbers = chance.sample(task.numbers, chance.randint(1, len(task.numbers)))
        every = seen.numbers_in(task.channel, group.start, 1 << 112)
        if every and chance.random() < 0.5:
            numbers.append(chance.choice(every))
        numbers = [number for number in numbers if not self._is_unclear(known, number)]
        if not numbers:
            return
        offsets = [self.world.history.sent[number].offset for number in numbers]
        extra = [offsets[0], offsets[0] + (1 << 40), 7] if chance.random() < 0.5 else []
        is_free = {number: self._may_end(seen, known, number) for number in numbers}
        ending = chance.choice((Ending.ACKED, Ending.ACKED, Ending.NACKED))
        moment = self.world.see()
        held = [number for number in numbers if number in known.held]
        records, ignored_count = outcome.admit_offsets(
            partition, group, offsets + extra, ending, moment, self.world.node.view
        )
        for record in records:
            self.world.node.submit(record, moment)
        before = [number for number in numbers if number in known.ending]
        taken = [number for number in dict.fromkeys(before) if is_free[number]]
        for number in taken:
            known.not_before_ms.pop(number, None)
        if len(offsets + extra) - ignored_count != len(taken):
            raise Violation(
                f"I7: {ignored_count} of {len(offsets + extra)} outcomes by offset were"
                f" ignored, but {taken} of {numbers} were free to take, in group {known.name}"
            )
        for number in held:
            if number not in known.ending:
                raise Violation(f"I7: the outcome for {number}, which is held, is ignored")
        self.world.kick()

    def _may_end(self, seen: PartitionHistory, known: GroupHistory, number: int) -> bool:
        offset = self.world.history.sent[number].offset
        message = self.world.history.sent[number]
        if known.seeks or number in seen.going or not seen.is_there(known, message):
            return False
        if number in known.held:
            return True
        if self.world.history.is_early(self.world.history.sent[number], self.world.now_ms):
            return False
        if known.is_settled(number) or number in known.ending or offset < seen.cut:
            return False
        if number in known.moved:
            return True
        return known.start <= offset <= seen.closed_at_start

    def _is_unclear(self, known: GroupHistory, number: int) -> bool:
        """A scheduled message of which only the core knows whether its wait is over."""
        message = self.world.history.sent[number]
        counted = known.attempts.get(number, 0) + known.releases.get(number, 0)
        if message.offset in known.redriven:
            return number in known.moved and not counted
        if (
            message.left_ms <= 0
            or number in known.held
            or self.world.history.is_early(message, self.world.now_ms)
        ):
            return False
        return number not in known.moved or not counted
