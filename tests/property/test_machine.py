"""
The core against a model that knows nothing of tiles, floors, cursors or retry rows: a dict of
messages, and for each group a dict of what has become of them. Hypothesis chooses what happens.
"""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
)

from sandglass.core import limits, outcome
from sandglass.core.dispatch import Delivery
from sandglass.core.group import Group
from sandglass.core.message import DEAD_LETTER_CHANNEL
from sandglass.core.offset import INDEX_BITS
from sandglass.core.record import Ending, Move, Record, Settle
from tests.unit.core.drive import Drive, numbers_of, offset

MAX_DELIVERIES = 3
NAMES = ("first", "second")
ENDINGS = (Ending.ACKED, Ending.NACKED, Ending.RELEASED, Ending.DEAD)


@dataclass
class Kept:
    """A message with a group: how it stands, and what was counted."""

    state: str = "unread"
    """unread, held, waiting, acked, dead or expired."""
    token: int = 0
    until_ms: int = 0
    attempts: int = 0
    releases: int = 0


@dataclass
class Model:
    """Messages by number, with their offsets; groups by name."""

    offsets: dict[int, int] = field(default_factory=dict[int, int])
    dead: list[int] = field(default_factory=list[int])
    groups: dict[str, dict[int, Kept]] = field(default_factory=dict[str, dict[int, Kept]])
    last_index: int = 0
    cut: int = 0

    def produce(self, number: int, due_ms: int) -> None:
        self.last_index += 1
        self.offsets[number] = offset(due_ms, self.last_index)
        for kept in self.groups.values():
            kept[number] = Kept()

    def begin(self, name: str, start: int) -> None:
        self.groups[name] = {
            number: Kept() for number, at in self.offsets.items() if at >= max(start, self.cut)
        }

    def fresh(self, name: str, end: int) -> list[int]:
        """What is due for the first time, in order."""
        ready = [
            (self.offsets[number], number)
            for number, kept in self.groups[name].items()
            if kept.state == "unread" and self.offsets[number] < end
        ]
        return [number for _, number in sorted(ready)]

    def again(self, name: str, steady_ms: int) -> set[int]:
        return {
            number
            for number, kept in self.groups[name].items()
            if kept.state == "waiting" and kept.until_ms <= steady_ms
        }

    def end(self, name: str, number: int, ending: Ending, until_ms: int | None) -> None:
        kept = self.groups[name][number]
        if ending is Ending.ACKED:
            kept.state = "acked"
            return
        if ending is Ending.RELEASED:
            kept.releases += 1
            is_dead = kept.releases >= limits.RELEASE_FACTOR * MAX_DELIVERIES
        else:
            kept.attempts += 1
            is_dead = ending is Ending.DEAD or kept.attempts >= MAX_DELIVERIES
        assert is_dead == (until_ms is None)
        if until_ms is None:
            kept.state = "dead"
            self.dead.append(number)
            self.last_index += 1
        else:
            kept.state, kept.until_ms = "waiting", until_ms

    def lose_leases(self) -> None:
        """Another leader: a message that was held is as it was before."""
        for group in self.groups.values():
            for kept in group.values():
                if kept.state == "held":
                    is_new = not kept.attempts and not kept.releases
                    kept.state = "unread" if is_new else "waiting"

    def expire(self, below: int) -> None:
        self.cut = max(self.cut, below)
        for group in self.groups.values():
            for number, kept in group.items():
                is_open = kept.state in {"unread", "held", "waiting"}
                if is_open and self.offsets[number] < self.cut:
                    kept.state = "expired"

    def committed(self, name: str) -> int:
        """No message below it is open."""
        return min(
            (
                self.offsets[number]
                for number, kept in self.groups[name].items()
                if kept.state in {"unread", "held", "waiting"}
            ),
            default=1 << 112,
        )


class CoreMachine(RuleBasedStateMachine):
    deliveries = Bundle("deliveries")

    def __init__(self) -> None:
        super().__init__()
        self.drive = Drive(max_deliveries=MAX_DELIVERIES)
        self.model = Model()
        self.floors: dict[str, int] = {}

    def _group(self, name: str) -> Group:
        return self.drive.partition.group("master", name, self.drive.store)

    def _read_again(self) -> None:
        """Consumers come to a leader's groups."""
        for name in self.model.groups:
            self.drive.read(self._group(name), 100_000, 1 << 30)

    # --- what happens -------------------------------------------------------------------------

    @rule(counts=st.lists(st.integers(1, 4), min_size=1, max_size=3), data=st.data())
    def produce(self, counts: list[int], data: st.DataObject) -> None:
        ahead_ms = st.sampled_from((0, 0, 1, 30, 500))
        dues = [data.draw(ahead_ms) for _ in counts]
        first = self.drive.number + 1
        asked = [self.drive.wall_ms + ms if ms else 0 for ms in dues]
        placed = self.drive.produce(*asked, counts=counts)
        number = first
        assert placed.first_index == self.model.last_index + 1
        for ms, due_ms, count in zip(dues, placed.dues, counts, strict=True):
            assert due_ms == self.drive.wall_ms + ms
            for _ in range(count):
                self.model.produce(number, due_ms)
                number += 1

    @rule(passed_ms=st.sampled_from((1, 1, 20, 100, 400)))
    def wait(self, passed_ms: int) -> None:
        self.drive.go(passed_ms)

    @rule(name=st.sampled_from(NAMES), is_from_now=st.booleans())
    def create_group(self, name: str, is_from_now: bool) -> None:
        if name in self.model.groups:
            return
        group = self.drive.group(name, is_from_now=is_from_now)
        now = offset(self.drive.wall_ms, self.model.last_index + 1)
        assert group.start == (now if is_from_now else 0)
        self.model.begin(name, group.start)
        self.drive.read(group, 100_000, 1 << 30)

    @precondition(lambda self: self.model.groups)
    @rule(target=deliveries)
    def dispatch(self) -> object:
        self._expire_leases()
        made = self.drive.dispatch()
        now_end = (self.drive.wall_ms + 1) << INDEX_BITS
        for name, kept in self.model.groups.items():
            mine = [each for each in made if each.group.name == name]
            fresh = [n for each in mine if not each.lease.is_retry for n in self._numbers(each)]
            again = [n for each in mine if each.lease.is_retry for n in self._numbers(each)]
            assert fresh == self.model.fresh(name, now_end)
            assert len(again) == len(set(again))
            assert set(again) == self.model.again(name, self.drive.steady_ms)
            for each in mine:
                for number in self._numbers(each):
                    assert each.attempt == kept[number].attempts + 1
                    kept[number].state, kept[number].token = "held", each.lease.token
        return multiple(*made)

    def _numbers(self, delivery: Delivery) -> list[int]:
        return numbers_of(delivery.slices)

    @rule(
        delivery=deliveries,
        ending=st.sampled_from(ENDINGS),
        delay_ms=st.sampled_from((0, 0, 40)),
        data=st.data(),
    )
    def settle(
        self, delivery: Delivery, ending: Ending, delay_ms: int, data: st.DataObject
    ) -> None:
        name, numbers = delivery.group.name, self._numbers(delivery)
        kept = self.model.groups[name]
        group = self._group(name)
        lease = group.leases.get(delivery.lease.token)
        open_places = [p for p, _ in enumerate(numbers) if lease and lease.open >> p & 1]
        if not open_places:
            return
        places = data.draw(st.lists(st.sampled_from(open_places), min_size=1, unique=True))
        record = outcome.admit_outcome(
            self.drive.partition,
            group,
            delivery.lease.token,
            [(place, 1) for place in sorted(places)],
            ending,
            moment=self.drive.moment,
            view=self.drive.store,
            delay_ms=delay_ms if ending is Ending.NACKED else 0,
        )
        self.drive.apply(record)
        ended = [numbers[place] for place in sorted(places)]
        assert all(kept[n].state in {"held", "expired"} for n in ended)
        least_ms = self.drive.steady_ms + (delay_ms if ending is Ending.NACKED else 0)
        self._end(name, ended, ending, record, least_ms)

    def _end(
        self, name: str, numbers: list[int], ending: Ending, record: Record, least_ms: int
    ) -> None:
        moves = [each for each in record.operations if isinstance(each, Move)]
        until_ms = moves[0].until_ms if moves else None
        if until_ms is not None:
            assert least_ms <= until_ms <= max(least_ms, self.drive.steady_ms + 1)
        for number in numbers:
            if self.model.groups[name][number].state != "expired":
                self.model.end(name, number, ending, until_ms)

    def _expire_leases(self) -> None:
        partition, drive = self.drive.partition, self.drive
        held = {
            (each.name, number)
            for each in partition.groups.loaded.values()
            for token, lease in each.leases.items()
            if lease.ends_ms <= drive.moment.lease_ms
            for number, kept in self.model.groups[each.name].items()
            if kept.state == "held" and kept.token == token
        }
        for record in outcome.admit_expired(partition, drive.moment, drive.store):
            drive.apply(record)
            for name in NAMES:
                # Leases that end alike share a record.
                ended = sorted(
                    number
                    for each, number in held
                    if each == name and self._is_named(record, name, number)
                )
                held -= {(name, number) for number in ended}
                self._end(name, ended, Ending.TIMED_OUT, record, drive.steady_ms)
        assert not held, "a lease has ended, and no record says so"

    def _is_named(self, record: Record, name: str, number: int) -> bool:
        """Does a record end this message for this group?"""
        at = self.model.offsets[number]
        return any(
            self.drive.partition.groups.loaded[operation.group].name == name
            and low <= at < high
            for operation in record.operations
            if isinstance(operation, Move | Settle)
            for low, high, _ in (*operation.main, *operation.retry)
        )

    @rule(age_ms=st.sampled_from((0, 50, 400)))
    def cut(self, age_ms: int) -> None:
        below = (self.drive.wall_ms - age_ms) << INDEX_BITS
        record = self.drive.partition.admit_cut(below, self.drive.moment)
        if record is not None:
            self.drive.apply(record)
            self.model.expire(below)

    @rule()
    def restart(self) -> None:
        self.drive.restart()
        self.model.lose_leases()
        self._read_again()

    # --- what must hold -----------------------------------------------------------------------

    @invariant()
    def counts_agree(self) -> None:
        for name, kept in self.model.groups.items():
            group = self._group(name)
            states = [each.state for each in kept.values()]
            counted = (group.acked_count, group.dead_count, group.expired_count)
            assert counted == tuple(map(states.count, ("acked", "dead", "expired")))

    @invariant()
    def committed_is_true_and_never_goes_back(self) -> None:
        for name in self.model.groups:
            committed = self.drive.committed(self._group(name))
            assert self.floors.get(name, 0) <= committed <= self.model.committed(name)
            self.floors[name] = committed

    @invariant()
    def dead_letters_stand_once_in_their_channel(self) -> None:
        shown = numbers_of(self.drive.fetch(DEAD_LETTER_CHANNEL))
        # What retention took is at the front: dead letters are placed in order of time.
        assert shown == self.model.dead[len(self.model.dead) - len(shown) :]
        if not self.model.cut:
            assert shown == self.model.dead


CoreMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
test_the_core_does_what_the_model_does = CoreMachine.TestCase
