"""
Random histories of one node in virtual time, from a seed.

Producers, consumers of several groups, tail readers, retention and an operator act on the core
through a `SimulatedNode`; syncs take time; the node crashes, stops and starts again; clocks are
stepped. At the end everything heals: what is scheduled comes due, diligent consumers take it,
and nothing may be missing. `History` watches, and the same seed gives the same history.

Time is an event heap: an event is a moment of the monotonic clock and a function.
"""

import hashlib
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

from sandglass.adapters.memory_store import MemoryStore
from sandglass.core import codec, outcome
from sandglass.core.dispatch import Delivery, Moment
from sandglass.core.group import Group
from sandglass.core.lease import Consumer, Places
from sandglass.core.machine import Machine, encode_topic
from sandglass.core.message import DEAD_LETTER_CHANNEL, Batch
from sandglass.core.offset import INDEX_BITS
from sandglass.core.partition import Partition
from sandglass.core.record import DeleteTopic, Ending, PutTopic
from sandglass.core.topic import PartitionRef, Topic, TopicKind, TopicSettings
from sandglass.core.view import Overlay
from sandglass.errors import LeaseLostError
from sandglass.testing.checkers import (
    GroupHistory,
    History,
    Hold,
    PartitionHistory,
    Sent,
    Violation,
    message_bytes,
    take_messages,
)
from sandglass.testing.looks import check_index_order, check_standings
from sandglass.testing.simulated_node import SimulatedNode

START_MS = 1_700_000_000_000
MAIN_MS = 4000
"""Virtual time in which things go wrong; then everything heals."""

DRAIN_EVENT_COUNT_MAX = 20_000
TURNS_A_MOMENT_MAX = 300
CHANNELS = ("master", "side")
STEPS_MS = (-3_600_000, -20_000, -3000, -400, -200, -60, -5, 5, 200, 2000, 7000, 600_000)


@dataclass(slots=True)
class Client:
    """A consumer, its group, and what it was given to take at once."""

    consumer: Consumer
    group: str
    channel: str
    topic: str
    credit_count: int
    credit_bytes: int
    is_diligent: bool = False
    is_gone: bool = False


@dataclass(slots=True)
class Task:
    """A delivery as the consumer sees it."""

    client: Client
    partition: int
    channel: str
    group: str
    group_number: int
    token: int
    numbers: list[int]


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
    violation: str = ""


@dataclass(slots=True)
class Simulation:
    """One history. `run` is the door."""

    seed: int
    chance: random.Random = field(init=False)
    history: History = field(init=False)
    node: SimulatedNode = field(init=False)
    report: Report = field(init=False)
    now_ms: int = 0
    """Monotonic, and virtual."""
    shift_ms: int = 0
    """What the wall clock was stepped by."""
    is_healed: bool = False
    was_deleted: bool = False
    topics: dict[str, Topic] = field(default_factory=dict[str, Topic])
    clients: dict[int, Client] = field(default_factory=dict[int, Client])
    stale: list[Task] = field(default_factory=list[Task])
    moment: Moment = field(init=False)
    _events: list[tuple[int, int, Callable[[], None]]] = field(
        default_factory=list[tuple[int, int, Callable[[], None]]]
    )
    _order: "count[int]" = field(default_factory=count)
    _keys: "count[int]" = field(default_factory=lambda: count(1))
    _numbers: "count[int]" = field(default_factory=lambda: count(1))
    _life: int = 0
    """Counts processes: events of an earlier one are void."""
    _turn_at_ms: int | None = None
    _turns: tuple[int, int] = (0, 0)
    _is_look_wanted: bool = False

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.history = History(self._give_back)
        self.node = SimulatedNode(self.chance, self.history)
        self.report = Report(self.seed)

    def run(self) -> Report:
        """
        Plays the history to its end.

        Raises:
            Violation: an invariant doesn't hold.
            AssertionError: the core has found a rule of its own broken.
        """
        self._start()
        for act, mean_ms in (
            (self._produce, 25),
            (self._read, 60),
            (self._come_and_go, 130),
            (self._repeat_stale, 150),
            (self._look, 250),
            (self._cut, 900),
            (self._step_clock, 700),
            (self._flutter, 300),
            (self._fail, 1000),
            (self._manage, 900),
        ):
            self._often(act, mean_ms)
        self._play(lambda: self.now_ms >= MAIN_MS)
        self._heal()
        self._play(lambda: not self._is_waiting(), event_count_max=DRAIN_EVENT_COUNT_MAX)
        self._finish()
        return self._reported()

    # --- time ---------------------------------------------------------------------------------

    @property
    def wall_ms(self) -> int:
        """What the machine's wall clock shows."""
        return START_MS + self.now_ms + self.shift_ms

    def _after(self, delay_ms: int, act: Callable[[], None], *, is_world: bool = False) -> None:
        """Calls `act` then; unless the process that runs now has ended, or `is_world`."""
        life = self._life

        def fire() -> None:
            if is_world or life == self._life:
                act()

        heappush(self._events, (self.now_ms + delay_ms, next(self._order), fire))

    def _often(self, act: Callable[[], None], mean_ms: int) -> None:
        def fire() -> None:
            if not self.is_healed:
                act()
                self._often(act, mean_ms)

        delay_ms = 1 + int(self.chance.expovariate(1 / mean_ms))
        self._after(delay_ms, fire, is_world=True)

    def _play(self, is_over: Callable[[], bool], event_count_max: int = 1 << 30) -> None:
        for _ in range(event_count_max):
            if is_over() or not self._events:
                return
            at_ms, _, fire = heappop(self._events)
            self.now_ms = max(self.now_ms, at_ms)
            self.report.event_count += 1
            if self.node.is_serving:
                self._see()
            fire()

    def _see(self) -> Moment:
        self.moment = self.node.moment(self.wall_ms, self.now_ms)
        return self.moment

    # --- the node -----------------------------------------------------------------------------

    def _start(self) -> None:
        wait_ms = self.node.wait_ms(self.wall_ms)
        if wait_ms:
            self._after(wait_ms, self._start)
            return
        self.node.lead(self.wall_ms, self.now_ms)
        self.topics = dict(self.node.machine.topics)
        for name, partition_count in (("a", 2), ("b", 1)):
            if name in self.topics:
                self._create_groups(self.topics[name])
            elif not self.was_deleted:
                self._create_topic(name, partition_count, self.chance.choice((1, 2, 3, 5)))
        if self.node.is_serving:
            self._join_topics()
        self._kick()

    def _join_topics(self) -> None:
        for topic in self.topics.values():
            self._join(topic)

    def _kick(self, delay_ms: int = 0) -> None:
        """There is something to do for the node."""
        at_ms = self.now_ms + delay_ms
        if self._turn_at_ms is None or at_ms < self._turn_at_ms:
            self._turn_at_ms = at_ms
            self._after(delay_ms, lambda: self._turn(at_ms))

    def _turn(self, at_ms: int) -> None:
        if self._turn_at_ms != at_ms:
            return
        self._turn_at_ms = None
        before_ms, turns = self._turns
        self._turns = (self.now_ms, turns + 1 if before_ms == self.now_ms else 0)
        if turns > TURNS_A_MOMENT_MAX:
            raise Violation("the node spins: turns without end, and no time passes")
        moment = self._see()
        is_started, deliveries = self.node.turn(moment)
        if is_started:
            self._after(self.chance.choice((0, 1, 1, 2, 5, 15)), self._synced)
        for delivery in deliveries:
            self._deliver(delivery, moment)
        for delivery in {each.consumer.key: each for each in deliveries}.values():
            self._check_credit(delivery)
        wake_ms = self.node.wake_in_ms(moment)
        if wake_ms != 0 and self._is_look_wanted and self.node.is_resting():
            self._is_look_wanted = False
            self._look_at_rest(moment)
        if wake_ms is not None:
            self._kick(wake_ms)

    def _synced(self) -> None:
        was_serving = self.node.is_serving
        self._see()
        self.node.sync_end()
        if self.node.is_serving and not was_serving:
            self._join_topics()
        self._kick()

    def _down(self) -> None:
        self._life += 1
        self._turn_at_ms = None
        for client in self.clients.values():
            client.is_gone = True
        self.clients.clear()
        self.node.load()

    def _fail(self) -> None:
        if self.node.is_serving and self.chance.random() < 0.2:
            self.node.stop(self._see())
            self._restart()
        elif self.node.is_serving or self.chance.random() < 0.3:
            self._crash()

    def _crash(self) -> None:
        if not self.is_healed:
            self.node.crash()
            self.report.crash_count += 1
            self._restart()

    def _restart(self) -> None:
        self._down()
        if self.chance.random() < 0.5:
            self.shift_ms += self.chance.choice((-3_600_000, -300, -100, -30, -5, -1, 50))
        delay_ms = self.chance.choice((0, 5, 100, 400))
        self._after(delay_ms, self._start)
        if self.chance.random() < 0.2:  # it doesn't last
            self._after(delay_ms + self.chance.choice((1, 2, 6, 20)), self._crash)

    def _flutter(self) -> None:
        """The clock is set by a little; now and then it is the last thing that happens."""
        self.shift_ms += self.chance.choice((-12, -6, -3, -1, 1, 4))
        self._kick()
        if self.chance.random() < 0.15:
            self._after(self.chance.choice((2, 8, 15, 25)), self._crash)

    def _step_clock(self) -> None:
        self.shift_ms += self.chance.choice(STEPS_MS)
        self.report.step_count += 1
        self._kick()

    # --- topics and groups --------------------------------------------------------------------

    def _create_topic(self, name: str, partition_count: int, max_deliveries: int) -> None:
        first = len(self.history.partitions) + 1
        refs = tuple(PartitionRef(f"P{first + n}", first + n) for n in range(partition_count))
        settings = TopicSettings(ack_timeout_ms=400, max_deliveries=max_deliveries)
        topic = Topic(name, TopicKind.TIMER, refs, settings=settings)
        for ref in refs:
            self.history.partitions[ref.number] = PartitionHistory(ref.number, max_deliveries)

        def created() -> None:
            self.topics[name] = topic
            self._create_groups(topic)

        put = PutTopic(name, encode_topic(topic))
        moment = self._see()
        self.node.submit(self.node.machine.record([put], moment), moment, created)

    def _create_groups(self, topic: Topic) -> None:
        for ref in topic.partitions:
            for channel in CHANNELS:
                self._create_group(ref.number, channel, "first", is_from_now=False)

    def _create_group(self, number: int, channel: str, name: str, *, is_from_now: bool) -> None:
        partition = self.node.partition(number)
        if partition is None:
            return
        moment = self._see()
        record = partition.admit_group(
            channel, name, is_from_now=is_from_now, moment=moment, view=self.node.view
        )
        if record is not None:
            self.node.submit(record, moment, self._join_all)
            self._kick()

    def _manage(self) -> None:
        """An operator: more groups, more topics, fewer topics."""
        if not self.node.is_serving or not self.topics:
            return
        if self.chance.random() < 0.6:
            topic = self.chance.choice(list(self.topics.values()))
            channel = self.chance.choice(CHANNELS)
            is_from_now = self.chance.random() < 0.6
            for ref in topic.partitions:
                self._create_group(ref.number, channel, "second", is_from_now=is_from_now)
            return
        name = f"c{len(self.history.partitions)}"
        if len(self.topics) < 3:
            self._create_topic(name, 1, self.chance.choice((1, 2, 3)))
        elif "b" in self.topics:
            topic, self.was_deleted = self.topics.pop("b"), True
            delete = DeleteTopic("b", [ref.number for ref in topic.partitions])
            moment = self._see()
            self.node.submit(self.node.machine.record([delete], moment), moment)
        self._kick()

    def _cut(self) -> None:
        found = self._any_partition()
        if found is None or self.chance.random() < 0.4:
            return
        moment = self._see()
        below = self.chance.choice(
            (
                found.closed,
                found.closed + 3,
                moment.wall_ms - self.chance.randint(0, 1500) << INDEX_BITS,
            )
        )
        record = found.admit_cut(below, moment)
        if record is not None:
            self.node.submit(record, moment)
            self._kick()

    def _any_partition(self) -> Partition | None:
        if not self.node.is_serving or not self.node.machine.refs:
            return None
        return self.node.partition(self.chance.choice(list(self.node.machine.refs)))

    # --- producing ----------------------------------------------------------------------------

    def _produce(self) -> None:
        partition = self._any_partition()
        if partition is None:
            return
        chance, moment = self.chance, self._see()
        is_delay = chance.random() < 0.1
        rows = [self._row(is_delay, moment) for _ in range(chance.choice((1, 1, 2, 3)))]
        channel = CHANNELS[0] if chance.random() < 0.75 else CHANNELS[1]
        messages: list[Sent] = []
        bodies: list[bytes] = []
        for due_ms, row_count, width in rows:
            at_ms = moment.wall_ms + due_ms if is_delay and due_ms else due_ms
            bodies.append(b"")
            for _ in range(row_count):
                number = next(self._numbers)
                body = message_bytes(number, width)
                left_ms = at_ms - moment.wall_ms if at_ms else 0
                messages.append(
                    Sent(number, partition.number, channel, at_ms, left_ms, self.now_ms, body)
                )
                bodies[-1] += body
        batch = Batch(
            [row[1] for row in rows],
            [row[0] for row in rows],
            bodies,
            len(messages),
            sum(map(len, bodies)),
            is_delay,
        )
        record, placed = partition.admit_append(channel, batch, moment, self.node.view)
        self.history.produce(placed.first_index, messages)
        self.node.submit(record, moment, lambda: self.history.answer(messages))
        self._kick()

    def _row(self, is_delay: bool, moment: Moment) -> tuple[int, int, int]:
        """(due as asked, count, bytes of a message)"""
        chance = self.chance
        ahead_ms = chance.choice((0, 0, 0, 0, 1, 5, 40, 40, 300, 300, 2500, 100_000))
        if is_delay:
            due_ms = ahead_ms
        elif ahead_ms:
            due_ms = moment.wall_ms + ahead_ms
        else:
            due_ms = moment.wall_ms - 100 if chance.random() < 0.1 else 0
        return due_ms, chance.choice((1, 1, 2, 3, 8)), chance.choice((8, 20, 50))

    def _read(self) -> None:
        """A tail reader comes by; or somebody reads a range again."""
        partition = self._any_partition()
        if partition is None:
            return
        number, node = partition.number, self.node
        moment = self._see()
        if node.is_standing(partition, moment):
            record = partition.admit_promise(moment)
            if record is not None:
                node.submit(record, moment)
                self._kick()
        for name in (*CHANNELS, DEAD_LETTER_CHANNEL):
            channel = self.history.partitions[number].channel(name)
            again = self.chance.random() < 0.3
            low = 0 if again else channel.passed + 1
            high = (1 << 112) - 1
            if again and self.chance.random() < 0.5:
                high = (moment.wall_ms + self.chance.choice((-500, 0))) << INDEX_BITS
            promised = node.promised(moment)
            top = min(high, partition.readable(promised))
            slices = partition.fetch(name, low, high, promised, node.view)
            self.history.read(number, name, low, top, slices)

    # --- consumers ----------------------------------------------------------------------------

    def _join(self, topic: Topic, *, is_diligent: bool = False) -> None:
        """A consumer comes for a group of a topic, in all partitions that have the group."""
        chance = self.chance
        channel = CHANNELS[0] if chance.random() < 0.7 else CHANNELS[1]
        name = chance.choice(("first", "second"))
        if is_diligent:
            for each in CHANNELS:
                for group in ("first", "second"):
                    self._join_group(topic, each, group, 100_000, 1 << 26, is_diligent=True)
            return
        self._join_group(
            topic,
            channel,
            name,
            chance.choice((1, 2, 3, 5, 12, 100)),
            chance.choice((7, 60, 300, 4000, 100_000)),
        )

    def _join_group(
        self,
        topic: Topic,
        channel: str,
        name: str,
        credit_count: int,
        credit_bytes: int,
        *,
        is_diligent: bool = False,
    ) -> None:
        ack_timeout_ms = 0 if is_diligent else self.chance.choice((0, 60, 250))
        consumer = Consumer(next(self._keys), credit_count, credit_bytes, ack_timeout_ms)
        client = Client(
            consumer, name, channel, topic.name, credit_count, credit_bytes, is_diligent
        )
        self.clients[consumer.key] = client
        for partition, group in self._groups_of(client):
            partition.add_consumer(group, consumer)
            self.node.ready[partition.number] = None
        self._kick()

    def _join_all(self) -> None:
        """A group is new: those who want it read it."""
        for client in list(self.clients.values()):
            for partition, group in self._groups_of(client):
                if client.consumer not in group.consumers:
                    partition.add_consumer(group, client.consumer)
                    self.node.ready[partition.number] = None

    def _groups_of(self, client: Client) -> list[tuple[Partition, Group]]:
        found: list[tuple[Partition, Group]] = []
        topic = self.topics.get(client.topic)
        for ref in topic.partitions if topic is not None else ():
            known = self.history.partitions[ref.number].groups.values()
            partition = self.node.partition(ref.number)
            if partition is not None and any(
                (group.channel, group.name) == (client.channel, client.group) for group in known
            ):
                group = partition.group(client.channel, client.group, self.node.view)
                found.append((partition, group))
        return found

    def _come_and_go(self) -> None:
        if not self.node.is_serving or not self.topics:
            return
        if len(self.clients) < 6:
            self._join(self.chance.choice(list(self.topics.values())))
        if len(self.clients) > 3 and self.chance.random() < 0.4:
            self._leave(self.chance.choice(list(self.clients.values())))

    def _leave(self, client: Client) -> None:
        """The session of a consumer breaks."""
        del self.clients[client.consumer.key]
        client.is_gone = True
        moment = self._see()
        for partition, group in self._groups_of(client):
            partition.remove_consumer(group, client.consumer)
            tokens = [
                token
                for token, lease in group.leases.items()
                if lease.consumer == client.consumer.key
            ]
            for token in tokens:
                self._check_begun(partition.number, group, token)
            left = deque(tokens)
            while left:
                for record in outcome.admit_break(
                    partition, group, left, moment, self.node.view
                ):
                    self.node.submit(record, moment)
        self._kick()

    def _check_begun(self, number: int, group: Group, token: int) -> None:
        lease = group.leases[token]
        for hold in self.history.partitions[number].groups[group.number].held.values():
            if hold.token == token and hold.begun != lease.begun:
                raise Violation(f"I8: begun is {lease.begun}, but {hold.begun} was said")

    def _deliver(self, delivery: Delivery, moment: Moment) -> None:
        numbers = self.history.deliver(delivery, moment, self.now_ms)
        group, client = delivery.group, self.clients.get(delivery.consumer.key)
        if client is None:
            return  # it left while the end of its topic was on its way
        task = Task(
            client,
            delivery.partition,
            group.channel,
            group.name,
            group.number,
            delivery.lease.token,
            numbers,
        )
        if client.is_diligent:
            self._after(1, lambda: self._outcome(task, [], Ending.ACKED))
            return
        self._plan_task(task)

    def _check_credit(self, delivery: Delivery) -> None:
        """The last delivery of a turn: one message may go beyond the bytes, alone."""
        consumer, part = delivery.consumer, delivery.slices[-1]
        if consumer.credit_count < 0:
            raise Violation("a consumer was given more than its credit")
        width = len(part.body) // part.row_count
        if consumer.credit_bytes < 0 and (
            delivery.lease.count > 1 or consumer.credit_bytes + width <= 0
        ):
            raise Violation("a consumer was given more bytes than its credit")

    def _plan_task(self, task: Task) -> None:
        """What the consumer will do with a delivery, and when."""
        chance, count = self.chance, len(task.numbers)
        delay_ms = chance.choice((0, 1, 5, 20, 80, 300))
        lot = chance.random()
        if lot < 0.15:
            pass  # it never answers
        elif lot < 0.5:
            self._after(delay_ms, lambda: self._outcome(task, [], Ending.ACKED))
        elif lot < 0.6 and count > 1:
            split = chance.sample(range(count), chance.randint(1, count - 1))
            places = [(place, 1) for place in sorted(split)]
            self._after(delay_ms, lambda: self._outcome(task, places, Ending.ACKED))
            self._after(delay_ms * 2, lambda: self._outcome(task, [], self._any_ending()))
        elif lot < 0.8:
            ending = self._any_ending()
            first = chance.randint(0, count - 1)
            places = [] if chance.random() < 0.5 else [(first, count - first)]
            self._after(delay_ms, lambda: self._outcome(task, places, ending))
        elif lot < 0.9:
            begun = chance.randint(0, count)
            lease_ms = chance.choice((0, 1, 30, 500))
            self._after(delay_ms, lambda: self._extend(task, lease_ms, begun))
            self._after(delay_ms + 40, lambda: self._outcome(task, [], Ending.ACKED))
        else:
            self._after(delay_ms, lambda: self._end_offsets(task))
        if chance.random() < 0.2:
            self.stale.append(task)

    def _any_ending(self) -> Ending:
        return self.chance.choice(
            (Ending.ACKED, Ending.NACKED, Ending.NACKED, Ending.RELEASED, Ending.DEAD)
        )

    # --- outcomes -----------------------------------------------------------------------------

    def _find(self, task: Task) -> tuple[Partition, Group, GroupHistory] | None:
        if not self.node.is_serving:
            return None
        partition = self.node.partition(task.partition)
        if partition is None or self.history.partitions[task.partition].is_deleted:
            return None
        group = partition.group(task.channel, task.group, self.node.view)
        return partition, group, self.history.partitions[task.partition].groups[group.number]

    def _outcome(self, task: Task, places: Places, ending: Ending) -> None:
        found = self._find(task)
        if found is None:
            return
        partition, group, known = found
        moment = self._see()
        named = [
            task.numbers[place]
            for first, count in places or [(0, len(task.numbers))]
            for place in range(first, first + count)
        ]
        held = [n for n in named if n in known.held and known.held[n].token == task.token]
        is_right = bool(held) and (not places or len(held) == len(named))
        delay_ms = self.chance.choice((0, 0, 50, 400)) if ending is Ending.NACKED else 0
        try:
            record = outcome.admit_outcome(
                partition,
                group,
                task.token,
                places,
                ending,
                moment=moment,
                view=self.node.view,
                delay_ms=delay_ms,
            )
        except LeaseLostError:
            if is_right:
                raise Violation(f"I7: a lease on {held} is lost for no reason") from None
            return
        if not is_right:
            raise Violation(f"I7: an outcome for {named} was taken, but {held} is held")
        self.node.submit(record, moment)
        missed = [n for n in held if n not in known.ending]
        if missed:
            raise Violation(f"I7: the outcome for {held} leaves {missed} out")
        if ending is Ending.NACKED:
            known.not_before_ms.update(dict.fromkeys(held, self.now_ms + delay_ms))
        self._kick()

    def _extend(self, task: Task, lease_ms: int, begun: int) -> None:
        found = self._find(task)
        if found is None:
            return
        partition, group, known = found
        holds = [hold for hold in known.held.values() if hold.token == task.token]
        moment = self._see()
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
        self.node.ready[task.partition] = None
        self._kick()

    def _repeat_stale(self) -> None:
        """Somebody comes back to a delivery of long ago, perhaps of another leader."""
        if self.stale:
            task = self.chance.choice(self.stale)
            if self.chance.random() < 0.5:
                self._outcome(task, [(0, 1)], self._any_ending())
            else:
                self._end_offsets(task)

    def _end_offsets(self, task: Task) -> None:
        """Outcomes by offsets, right ones and wrong ones."""
        found = self._find(task)
        if found is None:
            return
        partition, group, known = found
        seen = self.history.partitions[task.partition]
        numbers = self.chance.sample(task.numbers, self.chance.randint(1, len(task.numbers)))
        every = seen.numbers_in(task.channel, group.start, 1 << 112)
        if every and self.chance.random() < 0.5:
            numbers.append(self.chance.choice(every))
        numbers = [number for number in numbers if not self._is_unclear(known, number)]
        if not numbers:
            return
        offsets = [self.history.sent[number].offset for number in numbers]
        extra = [offsets[0], offsets[0] + (1 << 40), 7] if self.chance.random() < 0.5 else []
        is_free = {number: self._may_end(seen, known, number) for number in numbers}
        ending = self.chance.choice((Ending.ACKED, Ending.ACKED, Ending.NACKED))
        moment = self._see()
        held = [number for number in numbers if number in known.held]
        records, ignored_count = outcome.admit_offsets(
            partition, group, offsets + extra, ending, moment, self.node.view
        )
        for record in records:
            self.node.submit(record, moment)
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
        self._kick()

    def _may_end(self, seen: PartitionHistory, known: GroupHistory, number: int) -> bool:
        offset = self.history.sent[number].offset
        if number in known.held:
            return True
        if self.history.is_early(self.history.sent[number], self.now_ms):
            return False
        if known.is_settled(number) or number in known.ending or offset < seen.cut:
            return False
        if number in known.moved:
            return True
        return known.start <= offset <= seen.closed_at_start

    def _is_unclear(self, known: GroupHistory, number: int) -> bool:
        """A scheduled message of which only the core knows whether its wait is over."""
        message = self.history.sent[number]
        if (
            message.left_ms <= 0
            or number in known.held
            or self.history.is_early(message, self.now_ms)
        ):
            return False
        counted = known.attempts.get(number, 0) + known.releases.get(number, 0)
        return number not in known.moved or not counted

    def _give_back(self, group: GroupHistory, hold: Hold) -> None:
        """A message has left a lease: its credit comes back, if its consumer is there still."""
        client = self.clients.get(hold.consumer)
        if client is None:
            return
        client.consumer.credit_count += 1
        client.consumer.credit_bytes += hold.width
        for partition, _ in self._groups_of(client):
            self.node.ready[partition.number] = None
        self._kick()

    # --- looking ------------------------------------------------------------------------------

    def _look(self) -> None:
        """Somebody looks at the groups."""
        if not self.node.is_serving:
            return
        self._is_look_wanted = True
        for known in self._known_groups():
            partition = self.node.partition(known.partition)
            if partition is None:
                continue
            group = partition.group(known.channel, known.name, self.node.view)
            self.history.commit(known, group.committed(self.node.view))
            if not self.node.queue and not self.node.is_syncing:
                counted = (
                    group.acked_count,
                    group.dead_count,
                    group.expired_count,
                    group.retry_count,
                )
                self.history.count(known, counted)
                check_standings(self.history, known, partition, group, self.node.view)
                check_index_order(
                    self.history, partition, self.node.view, chance=self.report.event_count
                )

    def _look_at_rest(self, moment: Moment) -> None:
        """The node waits for something to come; what may be handed out has been."""
        for known in self._known_groups():
            partition = self.node.partition(known.partition)
            if partition is None:
                continue
            group = partition.group(known.channel, known.name, self.node.view)
            if group.has_credit():
                now_ms = max(partition.now_ms, moment.wall_ms)
                self.history.rest(known, now_ms, moment.steady_ms)

    def _known_groups(self) -> list[GroupHistory]:
        return [
            group
            for partition in self.history.partitions.values()
            if not partition.is_deleted
            for group in partition.groups.values()
        ]

    # --- the end ------------------------------------------------------------------------------

    def _heal(self) -> None:
        """Clocks agree again, the node is up, and diligent consumers take everything."""
        self.is_healed = True
        self.shift_ms = max(self.shift_ms, 0) + 4_000_000
        if self.node.is_serving or self.chance.random() < 0.5:
            self.node.crash()
            self._down()
            self._after(0, self._start)
        self._after(1000, self._heal_clients)

    def _heal_clients(self) -> None:
        if not self.node.is_serving:
            self._after(100, self._heal_clients, is_world=True)
            return
        for client in list(self.clients.values()):
            self._leave(client)
        for topic in self.topics.values():
            self._join(topic, is_diligent=True)
        self.history.lateness_from_ms = self.wall_ms + 1000

    def _is_waiting(self) -> bool:
        """There is still something that has to come to an end."""
        if self.history.lateness_from_ms is None:
            return True
        if self.report.event_count % 16:
            return True
        node = self.node
        return bool(node.queue or node.is_syncing or self.history.lost())

    def _finish(self) -> None:
        while self.node.queue or self.node.is_syncing:
            if self.node.is_syncing:
                self.node.sync_end()
            self.node.append()
        self.history.end()
        self._look()
        self.node.stop(self._see())
        self._replay()

    def _replay(self) -> None:
        """The whole log, from nothing, gives the rows that the node has after all its lives."""
        fresh = MemoryStore()
        view = Overlay(fresh)
        machine = Machine.load(take_messages, view)
        position = 0
        for position, raw in self.node.log.read(1):
            view.lay(machine.apply(codec.decode(raw), view))
            if position % 64 == 0:
                fresh.write(view.take(), position)
        fresh.write(view.take(), position)
        self.report.record_count = position
        replayed = dict(fresh.range(b"", b"\xff" * 8))
        lived = dict(self.node.store.range(b"", b"\xff" * 8))
        for key in sorted(replayed.keys() | lived.keys()):
            if replayed.get(key) != lived.get(key):
                raise Violation(
                    f"I16: row {key!r} is {lived.get(key)!r}; replayed {replayed.get(key)!r}"
                )

    def _reported(self) -> Report:
        report, digest = self.report, hashlib.sha256()
        for line in self.history.trace:
            digest.update(line.encode() + b"\n")
        for _, raw in self.node.log.read(1):
            digest.update(raw)
        report.digest = digest.hexdigest()
        report.message_count = len(self.history.answered)
        report.delivered_count = self.history.delivered_count
        return report


def simulate(seed: int) -> Report:
    """One history; what goes wrong stands in its report."""
    simulation = Simulation(seed)
    try:
        return simulation.run()
    except Exception as error:  # noqa: BLE001 - whatever breaks is a finding, with its seed
        simulation.report.violation = f"{type(error).__name__}: {error}"
        return simulation.report
