"""
The world of a simulation: virtual time, chance, and a node that lives, dies and comes back.

Time is an event heap: an event is a moment of the monotonic clock and a function. What happens
in it is others' business: producers, consumers, an operator. They are told by hooks when the
node begins to serve, hands out, or is gone.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

from sandglass.core.dispatch import Delivery, Moment
from sandglass.core.partition import Partition
from sandglass.core.topic import Topic
from sandglass.testing.checkers import History
from sandglass.testing.seen import GroupHistory, Hold, Violation
from sandglass.testing.simulated_node import SimulatedNode

START_MS = 1_700_000_000_000
CHANNELS = ("master", "side")
IDLE = "idle"
"""A topic in which hardly anything happens."""

TURNS_A_MOMENT_MAX = 300


@dataclass(slots=True)
class Report:
    """What a history was: for people, and to compare two runs."""

    seed: int
    digest: str = ""
    event_count: int = 0
    message_count: int = 0
    delivered_count: int = 0
    record_count: int = 0
    crash_count: int = 0
    step_count: int = 0
    refused_count: int = 0
    """Batches that a full disk had no room for."""
    deleted_count: int = 0
    """Topics."""
    drained_count: int = 0
    resumed_count: int = 0
    """Sessions that broke and came back."""
    dropped_count: int = 0
    """Groups."""
    redriven_count: int = 0
    purged_count: int = 0
    claimed_count: int = 0
    """Messages that sessions held when their node was gone, and still hold."""
    rerouted_count: int = 0
    """Leases with which sessions went on by another way."""
    violation: str = ""


@dataclass(slots=True)
class World:
    """
    See the head of this file. The hooks: `on_serving`, `on_down`, `on_turn`, `on_ended`; and,
    where several nodes share a log, `on_crash` and `on_sync`, which otherwise the world does.
    """

    seed: int
    on_serving: Callable[[], None] = lambda: None
    on_down: Callable[[], None] = lambda: None
    on_turn: Callable[[list[Delivery], Moment], None] = lambda *_: None
    on_ended: Callable[[GroupHistory, Hold], None] = lambda *_: None
    on_crash: Callable[[], None] | None = None
    """Ends the process that serves."""
    on_sync: Callable[[], None] | None = None
    """The node has handed records to the log: sees to it that `synced` is called."""
    chance: random.Random = field(init=False)
    history: History = field(init=False)
    node: SimulatedNode = field(init=False)
    report: Report = field(init=False)
    now_ms: int = 0
    """Monotonic, and virtual."""
    shift_ms: int = 0
    """What the wall clock was stepped by."""
    is_healed: bool = False
    topics: dict[str, Topic] = field(default_factory=dict[str, Topic])
    moment: Moment = field(init=False)
    _events: list[tuple[int, int, Callable[[], None]]] = field(
        default_factory=list[tuple[int, int, Callable[[], None]]]
    )
    _order: "count[int]" = field(default_factory=count)
    _life: int = 0
    """Counts processes: events of an earlier one are void."""
    _turn_at_ms: int | None = None
    _turns: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.history = History(self._ended)
        self.node = SimulatedNode(self.chance, self.history)
        self.report = Report(self.seed)

    def _ended(self, group: GroupHistory, hold: Hold) -> None:
        self.on_ended(group, hold)

    # --- time ---------------------------------------------------------------------------------

    @property
    def wall_ms(self) -> int:
        """What the machine's wall clock shows."""
        return START_MS + self.now_ms + self.shift_ms

    def after(self, delay_ms: int, act: Callable[[], None], *, is_world: bool = False) -> None:
        """Calls `act` then; unless the process that runs now has ended, or `is_world`."""
        life = self._life

        def fire() -> None:
            if is_world or life == self._life:
                act()

        heappush(self._events, (self.now_ms + delay_ms, next(self._order), fire))

    def often(self, act: Callable[[], None], mean_ms: int) -> None:
        """Calls `act` again and again, until things heal."""

        def fire() -> None:
            if not self.is_healed:
                act()
                self.often(act, mean_ms)

        delay_ms = 1 + int(self.chance.expovariate(1 / mean_ms))
        self.after(delay_ms, fire, is_world=True)

    def play(self, is_over: Callable[[], bool], event_count_max: int = 1 << 30) -> None:
        """Lets events happen until `is_over`, or there are none."""
        for _ in range(event_count_max):
            if is_over() or not self._events:
                return
            at_ms, _, fire = heappop(self._events)
            self.now_ms = max(self.now_ms, at_ms)
            self.report.event_count += 1
            if self.node.is_serving:
                self.see()
            fire()

    def see(self) -> Moment:
        """The leader's clocks now."""
        self.moment = self.node.moment(self.wall_ms, self.now_ms)
        return self.moment

    def pause(self, for_ms: int) -> None:
        """The process stands still; then it finds that time has passed."""
        self.now_ms += for_ms
        if self.node.is_serving:
            self.node.time.pause(for_ms)

    # --- the node -----------------------------------------------------------------------------

    def start(self) -> None:
        """A process begins, and waits for the promise of the one before."""
        wait_ms = self.node.wait_ms(self.wall_ms)
        if wait_ms:
            self.after(wait_ms, self.start)
            return
        self.node.lead(self.wall_ms, self.now_ms)
        self.topics = dict(self.node.machine.topics)
        if self.node.is_serving:
            self.on_serving()
        self.kick()

    def kick(self, delay_ms: int = 0) -> None:
        """There is something to do for the node."""
        at_ms = self.now_ms + delay_ms
        if self._turn_at_ms is None or at_ms < self._turn_at_ms:
            self._turn_at_ms = at_ms
            self.after(delay_ms, lambda: self._turn(at_ms))

    def _turn(self, at_ms: int) -> None:
        if self._turn_at_ms != at_ms:
            return
        self._turn_at_ms = None
        before_ms, turns = self._turns
        self._turns = (self.now_ms, turns + 1 if before_ms == self.now_ms else 0)
        if turns > TURNS_A_MOMENT_MAX:
            raise Violation("the node spins: turns without end, and no time passes")
        moment = self.see()
        is_started, deliveries = self.node.turn(moment)
        if is_started and self.on_sync is not None:
            self.on_sync()
        elif is_started:
            self.after(self.chance.choice((0, 1, 1, 2, 5, 15)), self.synced)
        self.on_turn(deliveries, moment)
        wake_ms = self.node.wake_in_ms(moment)
        if wake_ms is not None:
            self.kick(wake_ms)

    def synced(self) -> None:
        """What the node handed to the log is durable."""
        was_serving = self.node.is_serving
        self.see()
        self.node.sync_end()
        if self.node.is_serving and not was_serving:
            self.on_serving()
        self.kick()

    def fail(self) -> None:
        """The process ends, cleanly now and then."""
        if self.node.is_serving and self.chance.random() < 0.2:
            self.node.stop(self.see())
            self._restart()
        elif self.node.is_serving or self.chance.random() < 0.3:
            self.crash()

    def crash(self) -> None:
        """The process ends, here and now."""
        if self.is_healed:
            return
        if self.on_crash is not None:
            self.on_crash()
        else:
            self.node.crash()
            self.report.crash_count += 1
            self._restart()

    def down(self) -> None:
        """No process runs; the next finds what is on the disk."""
        self.leave()
        self.node.load()

    def leave(self) -> None:
        """Clients have lost their node: what they were about to do with it doesn't happen."""
        self._life += 1
        self._turn_at_ms = None
        self.on_down()

    def meet(self, node: SimulatedNode) -> None:
        """Clients find a node that serves, another one perhaps."""
        self.leave()
        self.node = node
        self.topics = dict(node.machine.topics)
        self.on_serving()
        self.kick()

    def _restart(self) -> None:
        self.down()
        if self.chance.random() < 0.5:
            self.shift_ms += self.chance.choice((-3_600_000, -300, -100, -30, -5, -1, 50))
        delay_ms = self.chance.choice((0, 5, 100, 400))
        self.after(delay_ms, self.start)
        if self.chance.random() < 0.2:  # it doesn't last
            self.after(delay_ms + self.chance.choice((1, 2, 6, 20)), self.crash)

    # --- finding ------------------------------------------------------------------------------

    def any_partition(self) -> Partition | None:
        """One that is served now, if any is; hardly ever one of the topic `idle`."""
        numbers = [
            number
            for number, (topic, _) in self.node.machine.refs.items()
            if topic.name != IDLE or self.chance.random() < 0.1
        ]
        if not self.node.is_serving or not numbers:
            return None
        return self.node.partition(self.chance.choice(numbers))

    def partition_of(self, name: str) -> Partition | None:
        """The first partition of a topic, if that is there and served."""
        topic = self.node.machine.topics.get(name)
        if topic is None or not self.node.is_serving:
            return None
        return self.node.partition(topic.partitions[0].number)

    def known_groups(self) -> list[GroupHistory]:
        """Those of topics that exist."""
        return [
            group
            for partition in self.history.partitions.values()
            if not partition.is_deleted
            for group in partition.groups.values()
            if not group.is_going
        ]
